# SPDX-License-Identifier: MIT
"""e1000e copies by frames that it sends to itself."""

from __future__ import annotations

from examples.e1000e import E1000e


class driver(E1000e):
    tells = False
