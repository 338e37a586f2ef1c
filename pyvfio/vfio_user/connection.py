# SPDX-License-Identifier: MIT
"""One end of a connection: messages with their descriptors, read and written whole."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from pyvfio.vfio_user.protocol import HEADER, MAX_FDS, MAX_MESSAGE, Command, Flags, Message, ProtocolError

_ROOM = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


def _numbers(ancillary: Iterable[tuple[int, int, bytes]]) -> Iterator[int]:
    """Yield the descriptors of ancillary data."""
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
            yield from numbers


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors, whatever becomes of each."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


#: called for each message of a connection: whether it was sent, and the message
Observer = Callable[[bool, Message], object]


class Connection:
    """A connected UNIX socket. One thread at a time receives, any may send.

    :param observe: called with each message before it is sent, and after it was received
    """

    def __init__(self, connected: socket.socket, observe: Observer | None = None) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        self._observe = observe

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection; the other side, and who waits here, see its end.

        What came and was not read is dropped first. Otherwise the other side reads ECONNRESET, at which QEMU 11.1.3 aborts (error_setv).
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
            while not self._is_empty():
                pass
        self._socket.close()

    def _is_empty(self) -> bool:
        """Drop some of what came; return whether there was nothing."""
        data, ancillary, _, _ = self._socket.recvmsg(1 << 16, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        close_all(_numbers(ancillary))
        return not data

    def receive(self) -> Message | None:
        """Return the next message; None where the other side has closed the connection between two.

        :raises ProtocolError: what came is no message; its descriptors are closed
        :raises OSError: the connection has broken
        """
        fds: list[int] = []
        try:
            header = self._read(HEADER.size, fds)
            if not header:
                return None
            number, command, size, flags, error = HEADER.unpack(header)
            if size < HEADER.size or size > MAX_MESSAGE:
                raise ProtocolError(f"a message of {size} bytes; it has {HEADER.size} to {MAX_MESSAGE}")
            if flags & Flags.TYPE > Flags.REPLY:
                raise ProtocolError(f"a message of the unknown type {flags & Flags.TYPE}")
            body = self._read(size - HEADER.size, fds) if size > HEADER.size else b""
            if len(body) < size - HEADER.size:
                raise ProtocolError("the connection ended within a message")
            message = Message(number, command, flags, error, body, fds)
            if self._observe is not None:
                self._observe(False, message)
            return message
        except BaseException:
            close_all(fds)
            raise

    def _read(self, size: int, fds: list[int]) -> bytes:
        """Return exactly so many bytes, or b"" at the end of the stream."""
        parts: list[bytes] = []
        left = size
        while left:
            data, ancillary, flags, _ = self._socket.recvmsg(left, _ROOM, socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC)
            if ancillary:
                fds += _numbers(ancillary)
            if flags & socket.MSG_CTRUNC or len(fds) > MAX_FDS:
                raise ProtocolError(f"more than {MAX_FDS} descriptors in one message")
            if not data:
                if parts:
                    raise ProtocolError("the connection ended within a message")
                return b""
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def send(
        self, number: int, command: int, body: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0, error: int = 0
    ) -> None:
        """Send one message: in one piece, since QEMU's client takes a header that comes in two for a broken one.

        :raises OSError: EPIPE, ECONNRESET: the other side is gone
        """
        if self._observe is not None:
            self._observe(True, Message(number, command, flags, error, body, list(fds)))
        data = memoryview(HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body)
        with self._sending:
            if fds:
                sent = socket.send_fds(self._socket, [data], list(fds), socket.MSG_NOSIGNAL)
            else:
                sent = self._socket.send(data, socket.MSG_NOSIGNAL)
            while sent < len(data):
                sent += self._socket.send(data[sent:], socket.MSG_NOSIGNAL)

    def answer(self, to: Message, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Answer a message, if it wants that."""
        if to.wants_reply:
            self.send(to.id, to.command, body, fds, flags=Flags.REPLY)

    def refuse(self, to: Message, error: int) -> None:
        """Answer a message with an errno, if it wants an answer."""
        if to.wants_reply:
            self.send(to.id, to.command, flags=Flags.REPLY | Flags.ERROR, error=error)


def name_of(command: int) -> str:
    """Return the name of a command, for messages."""
    try:
        return Command(command).name
    except ValueError:
        return f"command {command}"
