# SPDX-License-Identifier: MIT
"""The way of a migration from one QEMU to another, which can be held."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Gate:
    """A UNIX socket that passes on what it gets to another: so many bytes, and the rest when the gate is opened.

    The source waits meanwhile, in the middle of its first pass over the memory.

    :param path: of the socket, for the source to connect to
    :param destination: of the destination's
    :param held: bytes that pass before the gate is opened
    :ivar reached: set when they have passed
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
        """Let the rest pass."""
        self._opened.set()

    def close(self) -> None:
        """Let the rest pass, and end when the source has."""
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
