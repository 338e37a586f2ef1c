# SPDX-License-Identifier: MIT
"""One end of a connection: messages with their descriptors, read and written whole."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from pyvfio._core.weak import WeakTable
from pyvfio.vfio_user.protocol import HEADER, MAX_FDS, MAX_MESSAGE, Command, Flags, Message, ProtocolError

if TYPE_CHECKING:
    from threading import RLock

#: a time limit, as a socket's options take it
_TIMEVAL = Struct("@ll")
#: bytes that are received at once; a message may be larger
_BUFFER = 1 << 16
#: offset of a message's size in its header
_SIZE, _SIZE_AT = Struct("=I"), 4
# Plain integers: each operation with the socket module's flags makes a new flag object, which takes a microsecond.
_CLOEXEC, _TRUNCATED, _NO_SIGNAL = map(int, (socket.MSG_CMSG_CLOEXEC, socket.MSG_CTRUNC, socket.MSG_NOSIGNAL))
_ROOM = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


def _numbers(ancillary: Iterable[tuple[int, int, bytes]]) -> Iterator[int]:
    """Yield the descriptors of ancillary data."""
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
            yield from numbers


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors, and ignore failures."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


#: called for each message of a connection: whether it was sent, and the message
Observer = Callable[[bool, Message], object]


@contextlib.contextmanager
def released(lock: RLock | None) -> Iterator[None]:
    """Release a lock during the block, however often this thread holds it, as Condition.wait() does."""
    holder: Any = lock
    state = holder._release_save() if lock is not None and holder._is_owned() else None
    try:
        yield
    finally:
        if state is not None:
            holder._acquire_restore(state)


def limit(which: socket.socket, seconds: float) -> None:
    """Limit the time of a socket's system calls, after which they fail with EAGAIN. The socket stays blocking, so that a send is one piece."""
    whole, rest = divmod(max(seconds, 1e-6), 1)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        which.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(rest * 1e6)))


_live: WeakTable[Connection, None] = WeakTable()


def _after_fork() -> None:
    # Close the child's copy, so that the other side sees the end of the connection when the parent closes it.
    for connection in _live:
        connection.inherit()


os.register_at_fork(after_in_child=_after_fork)


class Connection:
    """A connected UNIX socket. One thread at a time receives, any may send. In a forked child it is closed.

    :param observe: called with each message before it is sent, and after it was received
    :param timeout: seconds to wait for a message, to receive the rest of one that has begun, and to send one; None for ever
    """

    def __init__(
        self, connected: socket.socket, observe: Observer | None = None, *, timeout: float | None = None
    ) -> None:
        self._socket = connected
        self._timeout = timeout
        if timeout is not None:
            limit(connected, timeout)
        self._sending = threading.Lock()
        self._observe = observe
        # The received bytes lie from _at to _end; _fds are the descriptors of the last message in them.
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._at = self._end = 0
        self._fds: list[int] = []
        #: the time by which the message that is being received must be complete; None if no message has begun
        self._limit: float | None = None
        _live[self] = None

    def inherit(self) -> None:
        """Close the descriptor in a forked child. The connection stays open in the parent."""
        self._sending = threading.Lock()
        self._socket.close()
        self._drop_fds()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection, for the other side and for threads that wait here.

        Unread bytes are read and dropped first. Otherwise the other side reads ECONNRESET, at which QEMU 11.1.3 aborts (error_setv).
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
            while not self._is_empty():
                pass
        self._socket.close()
        self._drop_fds()

    def _is_empty(self) -> bool:
        """Read and drop some bytes; return whether there were none."""
        data, ancillary, _, _ = self._socket.recvmsg(1 << 16, _ROOM, socket.MSG_DONTWAIT | _CLOEXEC)
        close_all(_numbers(ancillary))
        return not data

    def wait(self, seconds: float) -> bool:
        """Wait until :meth:`receive` has something to return: bytes, or the end of the connection. Return False after that time.

        :param seconds: how long to wait; 0 does not wait
        """
        if self.has_message:
            return True
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
        except ValueError:
            return True  # another thread has closed it
        return bool(poll.poll(seconds * 1000))

    @property
    def has_message(self) -> bool:
        """Whether a whole message, or one with an invalid size, was received together with an earlier message."""
        left = self._end - self._at
        return left >= HEADER.size and left >= _SIZE.unpack_from(self._buffer, self._at + _SIZE_AT)[0]

    def receive(self) -> Message | None:
        """Return the next message; None if the other side has closed the connection between two messages.

        :raises ProtocolError: the bytes are not a valid message; its descriptors are closed
        :raises TimeoutError: nothing came within the connection's time limit
        :raises OSError: the connection has broken
        """
        self._limit = None
        try:
            while (left := self._end - self._at) < HEADER.size:
                if not self._fill():
                    if left:
                        raise ProtocolError("the connection ended within a message")
                    return None
            number, command, size, flags, error = HEADER.unpack_from(self._buffer, self._at)
            if size < HEADER.size or size > MAX_MESSAGE:
                raise ProtocolError(f"a message of {size} bytes; it has {HEADER.size} to {MAX_MESSAGE}")
            if flags & Flags.TYPE > Flags.REPLY:
                raise ProtocolError(f"a message of the unknown type {flags & Flags.TYPE}")
            begin, end = self._at + HEADER.size, self._at + size
            if end <= self._end:
                body = bytes(self._view[begin:end])
                self._at = end
            else:
                body = self._read_on(begin, size)
            # The descriptors belong to the last message in the buffer.
            fds: list[int] = []
            if self._fds and self._at == self._end:
                fds, self._fds = self._fds, fds
            message = Message(number, command, flags, error, body, fds)
            if self._observe is not None:
                self._observe(False, message)
            return message
        except BaseException:
            self._drop_fds()
            raise

    def _fill(self) -> bool:
        """Receive more bytes behind those in the buffer; return False at the end of the stream."""
        if self._at == self._end:
            self._at = self._end = 0
            self._end = self._receive_into(self._view, begun=False)
            return self._end > 0
        left = self._end - self._at
        self._view[:left] = bytes(self._view[self._at : self._end])
        self._at, self._end = 0, left
        count = self._receive_into(self._view[left:], begun=True)
        self._end += count
        return count > 0

    def _read_on(self, begin: int, size: int) -> bytes:
        """Return a body of which a part is in the buffer. Receive exactly the rest of it, and no byte of the next message."""
        body = bytearray(size - HEADER.size)
        done = self._end - begin
        body[:done] = self._view[begin : self._end]
        self._at = self._end = 0
        with memoryview(body) as view:
            while done < len(body):
                count = self._receive_into(view[done:], begun=True)
                if not count:
                    raise ProtocolError("the connection ended within a message")
                done += count
        return bytes(body)

    def _receive_into(self, buffer: memoryview, *, begun: bool) -> int:
        """Receive bytes and descriptors; return how many bytes, 0 at the end of the stream.

        :param begun: whether a part of the message was received before

        The kernel ends a read after the message that has descriptors, so they belong to the last message that was read.
        """
        if begun and self._timeout is not None:
            now = time.monotonic()
            if self._limit is None:
                self._limit = now + self._timeout
            elif now > self._limit:
                raise self._stalled()
        try:
            count, ancillary, flags, _ = self._socket.recvmsg_into([buffer], _ROOM, _CLOEXEC)
        except BlockingIOError:
            raise (self._stalled() if begun else TimeoutError(errno.ETIMEDOUT, "no message")) from None
        if ancillary:
            self._fds += _numbers(ancillary)
        if flags & _TRUNCATED or len(self._fds) > MAX_FDS:
            raise ProtocolError(f"more than {MAX_FDS} descriptors in one message")
        return count

    def _stalled(self) -> ProtocolError:
        return ProtocolError(f"a message that began did not end within {self._timeout:g} s")

    def _drop_fds(self) -> None:
        fds, self._fds = self._fds, []
        close_all(fds)

    def send(
        self, number: int, command: int, body: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0, error: int = 0
    ) -> None:
        """Send one message in one piece, since QEMU's client rejects a header that arrives in two.

        :raises OSError: EPIPE or ECONNRESET, the other side is gone
        :raises ProtocolError: the other side does not receive
        """
        if self._observe is not None:
            self._observe(True, Message(number, command, flags, error, body, list(fds)))
        data = HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body
        try:
            with self._sending:
                if fds:
                    sent = socket.send_fds(self._socket, [data], list(fds), _NO_SIGNAL)
                else:
                    sent = self._socket.send(data, _NO_SIGNAL)
                while sent < len(data):
                    sent += self._socket.send(memoryview(data)[sent:], _NO_SIGNAL)
        except BlockingIOError:
            raise ProtocolError(f"the other side did not receive a message within {self._timeout:g} s") from None

    def answer(self, to: Message, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Answer a message, if it wants an answer."""
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
