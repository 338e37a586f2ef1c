# SPDX-License-Identifier: MIT
"""The igb driver for the suite: it copies memory by frames in loopback."""

from __future__ import annotations

from examples.igb import Igb


class driver(Igb):
    tells = False
