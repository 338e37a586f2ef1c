# SPDX-License-Identifier: MIT
"""The edu driver for the suite: it copies memory through the device's buffer."""

from __future__ import annotations

from examples.edu import Edu


class driver(Edu):
    tells = False
