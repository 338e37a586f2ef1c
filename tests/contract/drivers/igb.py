# SPDX-License-Identifier: MIT
"""igb copies by frames that it sends to itself."""

from __future__ import annotations

from examples.igb import Igb


class driver(Igb):
    tells = False
