# SPDX-License-Identifier: MIT
"""The time for which a machine has been silent."""

from __future__ import annotations

import time
from collections.abc import Callable

# The machine is looked at at least so often.
TICK = 1.0


class Silence:
    """The time since the last sign of life, as far as this process itself ran.

    A host that was suspended, or so busy that this process did not run, is no silence of the machine. So of the time between
    two looks at the clock at most two ticks count.

    :param limit: seconds
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self._clock = limit, clock
        self._seconds = 0.0
        self._last = clock()

    def end(self) -> None:
        """Note a sign of life."""
        self._last = self._clock()
        self._seconds = 0.0

    def is_too_long(self) -> bool:
        """Look at the clock, and return whether the silence has reached the limit."""
        now = self._clock()
        self._seconds += min(now - self._last, 2 * TICK)
        self._last = now
        return self._seconds >= self.limit
