# SPDX-License-Identifier: MIT
"""Measure for how long a machine has been silent."""

from __future__ import annotations

import time
from collections.abc import Callable

# Maximum interval between two looks at the machine, in seconds.
TICK = 1.0


class Silence:
    """The time since the machine's last sign of life, without time in which this process did not run.

    If the host was suspended, or was so busy that this process did not run, the machine was not necessarily silent. So
    between two looks at the clock at most two ticks count.

    :param limit: seconds of silence that are too long
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
