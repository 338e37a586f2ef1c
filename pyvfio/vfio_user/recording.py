# SPDX-License-Identifier: MIT
"""Messages of a connection as lines of JSON: the sender of each, its bytes, and the number of its descriptors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from pyvfio.vfio_user.connection import name_of
from pyvfio.vfio_user.protocol import HEADER, Message


class Recorded(NamedTuple):
    """One message of a recording.

    :ivar sent: whether the recording side sent it
    :ivar data: header and body
    :ivar fds: the number of descriptors that came with it
    """

    sent: bool
    data: bytes
    fds: int


class Recorder:
    """An observer of a connection that writes a line for each message: `{"sent": ..., "command": ..., "bytes": ..., "fds": ...}`.

    :param file: the file to write to; several connections may share it
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def __call__(self, sent: bool, message: Message) -> None:
        """Write a message."""
        size = HEADER.size + len(message.body)
        head = HEADER.pack(message.id, message.command, size, message.flags, message.error)
        line = {
            "sent": sent,
            "command": name_of(message.command),
            "bytes": (head + message.body).hex(),
            "fds": len(message.fds),
        }
        text = json.dumps(line) + "\n"
        with self._lock:
            self._file.write(text)


def load(lines: Iterable[str]) -> Iterator[Recorded]:
    """Read a recording.

    :raises ValueError: a line is not one of a recording
    """
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            yield Recorded(bool(entry["sent"]), bytes.fromhex(entry["bytes"]), int(entry["fds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is not a recorded message: {error}") from None
