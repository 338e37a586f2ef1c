"""edu copies through its own buffer."""

from __future__ import annotations

from scripts.examples.edu import Edu


class driver(Edu):
    tells = False
