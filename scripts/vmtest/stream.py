# SPDX-License-Identifier: MIT
"""Forward the command's output from the guest to this process's own output."""

from __future__ import annotations

import os


class Stream:
    """An output stream of the guest. It ends with a mark."""

    def __init__(self, target: int, end: bytes) -> None:
        self._target, self._end, self._held = target, end, b""
        self.ended = False

    def receive(self, data: bytes) -> None:
        """Forward data, except the mark. Data that may be the beginning of the mark is held back."""
        head, mark, _ = (self._held + data).partition(self._end)
        self._held = b""
        if mark:
            self.ended = True
        else:
            # The mark may arrive in several parts.
            length = next((n for n in range(len(self._end) - 1, 0, -1) if head.endswith(self._end[:n])), 0)
            head, self._held = head[: len(head) - length], head[len(head) - length :]
        while head:
            head = head[os.write(self._target, head) :]
