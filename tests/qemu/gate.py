# SPDX-License-Identifier: MIT
"""A socket between two QEMUs that can hold a migration stream."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Gate:
    """A UNIX socket that forwards data to another socket: `held` bytes, and the rest after the gate is opened.

    While the gate is closed, the source waits in the middle of its first pass over the memory.

    :param path: path of the socket to which the source connects
    :param destination: path of the destination's socket
    :param held: number of bytes that are forwarded before the gate is opened
    :ivar reached: an event that is set when these bytes have been forwarded
    """

    def __init__(self, path: Path, destination: Path, held: int) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._destination, self._left = destination, held
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(1)
        self._thread = threading.Thread(target=self._run, name="tests.qemu.gate", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Forward the rest."""
        self._opened.set()

    def close(self) -> None:
        """Forward the rest, and end after the source."""
        self.open()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=60)
        self._listening.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as there:
            here, _ = self._listening.accept()
            with here:
                there.connect(str(self._destination))
                while data := here.recv(min(self._left, 1 << 16) if self._left else 1 << 16):
                    there.sendall(data)
                    if self._left:
                        self._left -= len(data)
                        if not self._left:
                            self.reached.set()
                            self._opened.wait()
