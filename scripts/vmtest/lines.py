# SPDX-License-Identifier: MIT
"""Read lines from a connected socket."""

from __future__ import annotations

import socket
import time


class Lines:
    """A reader of the lines that QEMU writes to a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def read(self, limit: float) -> bytes:
        """Return the next line without its end.

        :param limit: the time at which to stop waiting, on the clock of `time.monotonic`
        :raises TimeoutError: no complete line arrived until then
        :raises ConnectionError: QEMU has ended
        """
        while b"\n" not in self._rest:
            left = limit - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(left)
            data = self._connection.recv(1 << 16)
            if not data:
                raise ConnectionError("QEMU has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line
