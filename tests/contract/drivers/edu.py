# SPDX-License-Identifier: MIT
"""edu copies through its own buffer."""

from __future__ import annotations

from examples.edu import Edu


class driver(Edu):
    tells = False
