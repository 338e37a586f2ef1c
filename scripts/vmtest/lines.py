# SPDX-License-Identifier: MIT
"""Lines out of a connected socket."""

from __future__ import annotations

import socket
import time


class Lines:
    """The lines that QEMU says over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def read(self, limit: float) -> bytes:
        """Return the next line without its end.

        :param limit: when to stop waiting, by `time.monotonic`
        :raises TimeoutError: it did not come until then
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
