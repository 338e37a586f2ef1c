"""igb copies by frames that it sends to itself."""

from __future__ import annotations

from scripts.examples.igb import Igb


class driver(Igb):
    tells = False
