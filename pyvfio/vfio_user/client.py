# SPDX-License-Identifier: MIT
"""A client of vfio-user: messages to a server, and the answers to the server's DMA."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple
from weakref import ref

from pyvfio._core import arguments
from pyvfio.errors import BadReply, Closed, Error
from pyvfio.vfio_user import protocol
from pyvfio.vfio_user.connection import Connection, close_all, limit, name_of, released
from pyvfio.vfio_user.protocol import Command, Flags, Message, ProtocolError

#: seconds to wait for an answer
TIMEOUT = 5.0
#: seconds without a call after which a thread watches the connection for requests of the server. It watches at once after a write, which
#: may start the device
_IDLE = 0.001


def _unpack(layout: Struct, body: bytes, command: Command) -> tuple[Any, ...]:
    """Return the members of an answer.

    :raises BadReply: the answer is too short
    """
    if len(body) < layout.size:
        raise BadReply(f"{command.name}: the vfio-user server answers {len(body)} bytes, not {layout.size}")
    return layout.unpack_from(body)


class RegionInfo(NamedTuple):
    """A region as the server describes it."""

    flags: int
    size: int


class Client:
    """A connection to a server.

    A thread that makes a call receives its answer itself, and meanwhile serves the server's requests. Between calls another thread, which
    the client starts, serves them.

    :param path: the path of the server's socket
    :param read: called for the server's DMA_READ: IOVA and size; raises OSError
    :param write: called for DMA_WRITE: IOVA and data; raises OSError
    :param timeout: seconds to wait for an answer, for a connection, and for the rest of a message
    :param lock: a lock that callers hold; it is released while a call waits, so that `read` and `write`, and other threads, can take it
    :raises OSError: ENOENT or ECONNREFUSED, no server listens at the path; ETIMEDOUT, the server does not answer; EPROTO, it speaks
        another version

    In a forked child each call raises :class:`pyvfio.errors.Closed`, and nothing is sent.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        timeout: float = TIMEOUT,
        lock: threading.RLock | None = None,
    ) -> None:
        path = arguments.path(path)
        read, write = arguments.function(read, "read"), arguments.function(write, "write")
        timeout = arguments.seconds(timeout)
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            limit(connected, timeout)
            connected.connect(os.fspath(path))
        except OSError as error:
            connected.close()
            number = errno.ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno
            raise Error(number, f"vfio-user server at {os.fspath(path)}: {os.strerror(number or 0)}") from None
        self._connection = Connection(connected, timeout=timeout)
        self._read, self._write = read, write
        self._timeout = timeout
        self._number = 0
        self._lock = lock
        #: held by the thread that receives
        self._receiving = threading.RLock()
        self._process = os.getpid()
        self._answers: dict[int, Message | None] = {}
        self._gone = False
        self._watch = threading.Event()
        self._last = time.monotonic()
        self.peer = protocol.Capabilities()
        try:
            answer = self.call(Command.VERSION, protocol.pack_version())
            major, minor, self.peer = protocol.unpack_version(answer)
            if major != protocol.MAJOR or minor > protocol.MINOR:
                raise ProtocolError(f"the server speaks version {major}.{minor}")
        except BaseException:
            self.close()
            raise
        threading.Thread(
            target=_serve, args=(ref(self), self._connection, self._watch), name="pyvfio.vfio_user: client", daemon=True
        ).start()

    @property
    def gone(self) -> bool:
        """Whether the connection has ended."""
        return self._gone

    def close(self) -> None:
        """End the connection."""
        self._gone = True
        self._watch.set()
        self._connection.close()

    def call(self, command: Command, body: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message, and return the body of the answer.

        :param command: the command of the message
        :param body: the bytes behind the header
        :param fds: descriptors to send with it
        :raises OSError: the errno of the server's answer; ENODEV, the server has gone; ETIMEDOUT
        :raises Closed: in a forked child
        """
        if os.getpid() != self._process:
            raise Closed(
                f"{name_of(command)}: the connection to the vfio-user server is the parent's; open the device in this process"
            )
        if self._lock is None:
            answer = self._exchange(command, body, fds)
        else:
            with released(self._lock):
                answer = self._exchange(command, body, fds)
        if answer.flags & Flags.ERROR:
            number = answer.error if 0 < answer.error < 4096 else errno.EIO
            raise Error(number, f"{name_of(command)}: the vfio-user server answers: {os.strerror(number)}")
        return answer.body

    def _exchange(self, command: Command, body: bytes, fds: Sequence[int]) -> Message:
        with self._receiving:
            if self._gone:
                raise Error(errno.ENODEV, f"{name_of(command)}: the vfio-user server has gone")
            number = self._number = (self._number + 1) % 0x8000
            self._answers[number] = None
            try:
                self._connection.send(number, command, body, fds)
                answer = self._await(number, command)
                # Serve the messages that came with the answer now: the serving thread is only woken by further bytes.
                while self._connection.has_message:
                    self._take_one()
            except (ConnectionError, ProtocolError) as error:
                self.close()
                raise Error(errno.ENODEV, f"{name_of(command)}: the vfio-user server has gone: {error}") from None
            finally:
                self._answers.pop(number, None)
                self._last = time.monotonic() - (_IDLE if command == Command.REGION_WRITE else 0)
                if not self._watch.is_set():
                    self._watch.set()
        return answer

    def _await(self, number: int, command: Command) -> Message:
        end = 0.0
        try:
            while True:
                self._take_one()
                if (answer := self._answers[number]) is not None:
                    return answer
                # Another message came: the server's DMA, or an answer to a call that has timed out.
                now = time.monotonic()
                end = end or now + self._timeout
                if now > end:
                    raise TimeoutError
        except TimeoutError:
            text = f"{name_of(command)}: the vfio-user server does not answer within {self._timeout:g} s"
            raise Error(errno.ETIMEDOUT, text) from None

    def _take_one(self) -> None:
        """Receive one message: serve a request, or store an answer for the thread that waits for it."""
        message = self._connection.receive()
        if message is None:
            raise ProtocolError("the connection ended")
        if message.fds:
            close_all(message.fds)
        if message.is_reply:
            # Drop an answer to a call that has timed out.
            if self._answers.get(message.id, message) is None:
                self._answers[message.id] = message._replace(fds=[]) if message.fds else message
            return
        try:
            body = self._dma(message)
        except OSError as error:
            self._connection.refuse(message, error.errno or errno.EIO)
        else:
            self._connection.answer(message, body)

    def _dma(self, message: Message) -> bytes:
        """Serve the server's access to memory.

        :raises OSError: the errno for the answer
        """
        if message.command not in (Command.DMA_READ, Command.DMA_WRITE) or len(message.body) < protocol.DMA_ACCESS.size:
            raise Error(errno.EINVAL, "")
        iova, count = protocol.DMA_ACCESS.unpack_from(message.body)
        data = message.body[protocol.DMA_ACCESS.size :]
        head = message.body[: protocol.DMA_ACCESS.size]
        if count > protocol.MAX_DATA or (message.command == Command.DMA_WRITE and len(data) != count):
            raise Error(errno.EINVAL, "")
        if message.command == Command.DMA_READ:
            return head + self._read(iova, count)
        self._write(iova, data)
        return head

    def _serve_between(self) -> float:
        """Serve the requests that the server has sent between calls; return the seconds to wait before the next check."""
        if not self._receiving.acquire(blocking=False):
            return _IDLE
        try:
            while self._connection.wait(0):
                self._take_one()
        except (OSError, ValueError):
            self.close()
        finally:
            self._receiving.release()
        return 0.0

    # The messages.

    def info(self) -> tuple[int, int, int]:
        """Return flags, number of regions, number of interrupts. DEVICE_GET_INFO."""
        size = protocol.DEVICE_INFO.size
        body = self.call(Command.DEVICE_GET_INFO, protocol.DEVICE_INFO.pack(size, 0, 0, 0))
        _, flags, regions, irqs = _unpack(protocol.DEVICE_INFO, body, Command.DEVICE_GET_INFO)
        return flags, regions, irqs

    def region_info(self, index: int) -> RegionInfo:
        """Describe a region. DEVICE_GET_REGION_INFO.

        :param index: the index of the region
        """
        size = protocol.REGION_INFO.size
        body = self.call(Command.DEVICE_GET_REGION_INFO, protocol.REGION_INFO.pack(size, 0, index, 0, 0, 0))
        _, flags, _, _, length, _ = _unpack(protocol.REGION_INFO, body, Command.DEVICE_GET_REGION_INFO)
        return RegionInfo(flags, length)

    def irq_info(self, index: int) -> tuple[int, int]:
        """Return flags and count of a kind of interrupt. DEVICE_GET_IRQ_INFO.

        :param index: the index of the kind of interrupt
        """
        size = protocol.IRQ_INFO.size
        body = self.call(Command.DEVICE_GET_IRQ_INFO, protocol.IRQ_INFO.pack(size, 0, index, 0))
        _, flags, _, count = _unpack(protocol.IRQ_INFO, body, Command.DEVICE_GET_IRQ_INFO)
        return flags, count

    def set_irqs(
        self, flags: int, index: int, start: int, count: int, data: bytes = b"", fds: Sequence[int] = ()
    ) -> None:
        """Set up, mask or trigger interrupts. DEVICE_SET_IRQS.

        :param flags: VFIO_IRQ_SET_DATA_* and VFIO_IRQ_SET_ACTION_*
        :param index: the index of the kind of interrupt
        :param start: the first vector
        :param count: how many vectors
        :param data: a byte for each vector, with DATA_BOOL
        :param fds: an eventfd for each vector, with DATA_EVENTFD
        """
        head = protocol.IRQ_SET.pack(protocol.IRQ_SET.size + len(data), flags, index, start, count)
        self.call(Command.DEVICE_SET_IRQS, head + data, fds)

    def region_read(self, index: int, offset: int, size: int) -> bytes:
        """Read a region. REGION_READ, in as many messages as the server's limit takes.

        :param index: the index of the region
        :param offset: bytes from its start
        :param size: bytes
        """
        parts = []
        for at in range(0, size, self._most):
            count = min(self._most, size - at)
            body = self.call(Command.REGION_READ, protocol.REGION_ACCESS.pack(offset + at, index, count))
            parts.append(body[protocol.REGION_ACCESS.size :])
            if len(parts[-1]) != count:
                break
        return b"".join(parts)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """Write a region. REGION_WRITE.

        :param index: the index of the region
        :param offset: bytes from its start
        :param data: the bytes
        """
        for at in range(0, len(data), self._most):
            part = data[at : at + self._most]
            self.call(Command.REGION_WRITE, protocol.REGION_ACCESS.pack(offset + at, index, len(part)) + part)

    @property
    def _most(self) -> int:
        return max(self.peer.max_data_xfer_size, 1)

    def dma_map(self, iova: int, size: int, flags: int, offset: int = 0, fd: int | None = None) -> None:
        """Let the server access memory. DMA_MAP. Without a descriptor the server accesses it by messages.

        :param iova: the first address
        :param size: bytes
        :param flags: 1 if the server may read, 2 if it may write
        :param offset: where the memory begins in the descriptor's file, bytes
        :param fd: the descriptor of the memory; None if it has none
        """
        body = protocol.DMA_MAP.pack(protocol.DMA_MAP.size, flags, offset, iova, size)
        self.call(Command.DMA_MAP, body, () if fd is None else (fd,))

    def dma_unmap(self, iova: int, size: int) -> None:
        """End the server's access to memory. DMA_UNMAP.

        :param iova: the first address of a mapping
        :param size: its bytes
        """
        self.call(Command.DMA_UNMAP, protocol.DMA_UNMAP.pack(protocol.DMA_UNMAP.size, 0, iova, size))

    def reset(self) -> None:
        """Reset the device. DEVICE_RESET."""
        self.call(Command.DEVICE_RESET)

    def feature(self, flags: int, data: bytes = b"", room: int = 0) -> bytes:
        """Get, set or probe a feature. DEVICE_FEATURE.

        :param flags: the feature's number, with VFIO_DEVICE_FEATURE_GET, SET or PROBE
        :param data: the data of a feature to set
        :param room: the most bytes of data in the answer
        """
        size = protocol.FEATURE.size
        body = self.call(Command.DEVICE_FEATURE, protocol.FEATURE.pack(size + max(len(data), room), flags) + data)
        return body[size:]

    def migration_read(self, size: int) -> bytes:
        """Read the migration stream of a device that saves. MIG_DATA_READ.

        :param size: the most bytes to return
        """
        head = protocol.MIG_DATA.size
        body = self.call(Command.MIG_DATA_READ, protocol.MIG_DATA.pack(head + size, size))
        _, count = _unpack(protocol.MIG_DATA, body, Command.MIG_DATA_READ)
        return body[head : head + count]

    def migration_write(self, data: bytes) -> None:
        """Write to the migration stream of a device that resumes. MIG_DATA_WRITE.

        :param data: the bytes
        """
        for at in range(0, len(data), self._most):
            part = data[at : at + self._most]
            self.call(
                Command.MIG_DATA_WRITE, protocol.MIG_DATA.pack(protocol.MIG_DATA.size + len(part), len(part)) + part
            )


def _serve(client: ref[Client], connection: Connection, watch: threading.Event) -> None:
    """Serve the server's requests between calls, until the connection ends or the program drops the client."""
    while True:
        one = client()
        if one is None:
            connection.close()
            return
        if one.gone:
            return
        idle = time.monotonic() - one._last
        # Hold no reference while waiting: it would keep the client alive, and its server busy, for ever.
        del one
        if idle < _IDLE:
            time.sleep(_IDLE - idle)
            continue
        watch.clear()
        with contextlib.suppress(OSError, ValueError):
            connection.wait(0.1)
        if watch.is_set():
            continue  # the connection ended, or a call came first and has received the message
        one = client()
        pause = one._serve_between() if one is not None else 0.0
        del one
        if pause:
            time.sleep(pause)
