# SPDX-License-Identifier: MIT
"""The command's output, on its way from the guest to this process's own output."""

from __future__ import annotations

import os


class Stream:
    """Output of the guest up to the mark that ends it."""

    def __init__(self, target: int, end: bytes) -> None:
        self._target, self._end, self._held = target, end, b""
        self.ended = False

    def receive(self, data: bytes) -> None:
        """Pass on what came, but for the mark and what may be the beginning of it."""
        head, mark, _ = (self._held + data).partition(self._end)
        self._held = b""
        if mark:
            self.ended = True
        else:
            # The mark may arrive in two parts.
            length = next((n for n in range(len(self._end) - 1, 0, -1) if head.endswith(self._end[:n])), 0)
            head, self._held = head[: len(head) - length], head[len(head) - length :]
        while head:
            head = head[os.write(self._target, head) :]
