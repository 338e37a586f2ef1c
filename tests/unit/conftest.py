"""What the unit tests share: an example of hypothesis may take its time, for a busy host says nothing of the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
