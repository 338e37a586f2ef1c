# SPDX-License-Identifier: MIT
"""A server of vfio-user: a device model behind a socket, for QEMU (vfio-user-pci), other hypervisors, or pyvfio itself."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyvfio._abi import ffi, lib
from pyvfio._core import arguments
from pyvfio._core.weak import WeakTable
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.kernel import Kernel
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.feature import ranges_of
from pyvfio.mock.vfio.irq import EVENTFD, take_set
from pyvfio.mock.vfio.log import LoggedRange
from pyvfio.mock.vfio.region import MMAP, OFFSET_SHIFT, Region, chained
from pyvfio.vfio_user import protocol
from pyvfio.vfio_user.connection import Connection, Observer, close_all, name_of, released
from pyvfio.vfio_user.memory import ClientMemory
from pyvfio.vfio_user.protocol import Command, Flags, Message, ProtocolError

if TYPE_CHECKING:
    from pyvfio.mock.vfio.irq import Irqs
    from pyvfio.mock.vfio.log import Log
    from pyvfio.mock.vfio.migration import Migration
    from pyvfio.mock.vfio.region import RegionFile
    from pyvfio.mock.vfio.space import Space

_log = logging.getLogger(__name__)
_CONFIG = lib.VFIO_PCI_CONFIG_REGION_INDEX
_INFO_FLAGS = lib.VFIO_DEVICE_FLAGS_RESET | lib.VFIO_DEVICE_FLAGS_PCI
_GET, _SET, _PROBE = lib.VFIO_DEVICE_FEATURE_GET, lib.VFIO_DEVICE_FEATURE_SET, lib.VFIO_DEVICE_FEATURE_PROBE
#: the most nested reads that are served while a model waits for DMA; further ones are held back
_DEEPEST = 32
#: seconds that a message is held back while a model waits for DMA, if its sender cannot answer DMA while it waits for its own answer
_GRACE = 0.05
#: commands that change nothing in a model, so that they are served while it waits for DMA
_HARMLESS = frozenset(
    {
        Command.REGION_READ,
        Command.DEVICE_GET_INFO,
        Command.DEVICE_GET_REGION_INFO,
        Command.DEVICE_GET_REGION_IO_FDS,
        Command.DEVICE_GET_IRQ_INFO,
        Command.DEVICE_SET_IRQS,
        Command.DMA_MAP,
        Command.DMA_UNMAP,
    }
)
#: the largest bitmap of a report, in bytes
_MOST_BITMAP = protocol.MAX_DATA
#: seconds that a model waits for the client's answer to its DMA
_DMA_TIMEOUT = 30.0


class Model(Protocol):
    """The interface of a device model for a server. :class:`pyvfio.mock.Device` is one.

    The lock of its kernel is held whenever a method is called.
    """

    name: str
    kernel: Kernel
    num_regions: int
    num_irqs: int
    log: Log | None
    migration: Migration | None
    region_file: RegionFile
    space: Space | None

    @property
    def flags(self) -> int:
        """VFIO_DEVICE_FLAGS_*."""

    @property
    def irqs(self) -> Irqs:
        """The interrupts of the device."""

    def open(self) -> None:
        """Begin to serve a client."""

    def region(self, index: int) -> Region:
        """Describe a region; raise Errno(EINVAL) if there is none of that index.

        :param index: the index of the region
        """

    def traps(self, index: int) -> bool:
        """Whether a region has registers, so that each access must reach the model and the region is not shared as memory.

        :param index: the index of the region
        """

    def pread(self, size: int, position: int) -> bytes:
        """Read a region: `position` is its index, shifted by 40 bits, and the offset.

        :param size: bytes
        :param position: the index of the region, shifted by 40 bits, and the offset
        """

    def pwrite(self, data: bytes, position: int) -> int:
        """Write a region.

        :param data: the bytes
        :param position: the index of the region, shifted by 40 bits, and the offset
        """

    def reset(self) -> None:
        """Reset the function."""


def serve(
    device: Model | type[Device],
    path: str | os.PathLike[str],
    *,
    share_memory: bool = True,
    once: bool = False,
    ready: Callable[[], object] | None = None,
) -> None:
    """Serve a device at a UNIX socket until the process ends. One client at a time; the next is accepted when the first has gone.

    The device's registers keep their state from one client to the next; its interrupts, log and mappings end with the client.

    :param device: a device, such as a :class:`pyvfio.mock.Device`, or a class of which one is made
    :param path: the path of the socket; a socket that no process serves any more is replaced
    :param share_memory: whether to map the client's memory if it gives a descriptor. Otherwise all DMA goes by messages, so that the
        client's IOMMU sees each access and logs each fault
    :param once: whether to return when the first client has gone
    :param ready: called when clients can connect
    :raises OSError: EADDRINUSE, another process serves at the path
    """
    server = Server(device, path, share_memory=share_memory)
    try:
        if ready is not None:
            ready()
        while True:
            server.serve_one()
            if once:
                return
    finally:
        server.close()


_live: WeakTable[Server, None] = WeakTable()


def _after_fork() -> None:
    for server in _live:
        server.inherit()


os.register_at_fork(after_in_child=_after_fork)


class Server:
    """A listening socket with a device behind it; see :func:`serve`.

    :param device: as for :func:`serve`
    :param path: the path of the socket
    :param share_memory: as for :func:`serve`
    :param observe: called with each message of a client: whether the server sent it, and the message
    :ivar model: the device
    :ivar path: the path of the socket
    :ivar refused: messages that were answered with an error, and connections that were ended, so far
    """

    def __init__(
        self,
        device: Model | type[Device],
        path: str | os.PathLike[str],
        *,
        share_memory: bool = True,
        observe: Observer | None = None,
    ) -> None:
        self.path = Path(arguments.path(path))
        self._observe = observe if observe is None else arguments.function(observe, "observe")
        self._share = arguments.boolean(share_memory, "share_memory")
        if not (isinstance(device, type) and issubclass(device, Device)) and not hasattr(device, "region_file"):
            raise arguments.wrong_type(device, "device", "a pyvfio.mock.Device, or a class of them")
        if isinstance(device, type):
            device = device(Kernel("intel-57"), "0000:00:0a.0")
        self.model: Model = device
        self.refused = 0
        self._listening = _listen(self.path)
        self._session: Session | None = None
        self._closed = False
        _live[self] = None
        with self.model.kernel.lock:
            self.model.open()

    def inherit(self) -> None:
        """Close the descriptor in a forked child; the parent continues to serve."""
        self._closed = True
        self._listening.close()

    def serve_one(self) -> None:
        """Accept one client, and serve it until it goes.

        :raises OSError: the server was closed
        """
        connected, _ = self._listening.accept()
        self._session = session = Session(self.model, Connection(connected, self._observe), share=self._share)
        if self._closed:  # close() may have come before it could see the session
            session.connection.close()
        try:
            session.run()
        finally:
            self.refused += session.refused
            session.end()
            self._session = None

    def close(self) -> None:
        """Stop listening, and end the connection. Any thread may call it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        session = self._session
        if session is not None:
            session.connection.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        try:
            listening.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            path.unlink()
            listening.bind(str(path))
        listening.listen(4)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_stale(path: Path) -> bool:
    """Whether the path is a socket at which no process listens."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


class _GoneError(Exception):
    """The client of a session has gone. It is not an OSError, since every OSError in a session comes from the model."""


class _BrokenError(_GoneError):
    """The client of a session does not follow the protocol."""


class _Held(NamedTuple):
    """A message that is held back.

    :ivar limit: the time at which it is served even if the model still waits
    """

    message: Message
    limit: float


def _number_of(error: Exception) -> int:
    """Return the errno of the answer to a request for which a model raised this error."""
    number = error.errno if isinstance(error, OSError) else None
    return number if number is not None and 0 < number < 4096 else errno.EIO


def _is_harmless(message: Message) -> bool:
    """Whether a message can be served while a model waits for DMA: it changes no register of a BAR."""
    if message.command == Command.REGION_WRITE and len(message.body) >= protocol.REGION_ACCESS.size:
        return bool(protocol.REGION_ACCESS.unpack_from(message.body)[1] == _CONFIG)
    return message.command in _HARMLESS


class Session:
    """One client: its messages, answered in their order, and its memory.

    While a model waits for an answer to its DMA, reads are served at once, in the same thread. A hypervisor needs that: it answers DMA
    under the same lock that its processor holds while it waits for a register. For the same reason a write to a BAR is answered before the
    model gets it, as on PCI, where such writes are posted. The model gets the write when it has finished its present work, so that no write
    interrupts another. Messages behind such a write wait for it too; a read of a hypervisor waits for :data:`_GRACE` at most. The model's
    lock is free while the model waits, so that its other threads continue.
    """

    def __init__(self, model: Model, connection: Connection, *, share: bool = True) -> None:
        self.model = model
        self.connection = connection
        self.memory = ClientMemory(self, share=share)
        self.refused = 0
        self._peer: protocol.Capabilities | None = None
        #: the sizes of regions, which do not change while a client has the device
        self._sizes: dict[int, int] = {}
        self._depth = 0
        #: the messages that are held back until the model no longer waits for DMA, in order; writes among them are answered already
        self._held: deque[_Held] = deque()
        #: the number of the model's threads that wait for DMA
        self._waiting = 0
        self._number = 0
        self._answers: dict[int, Message | None] = {}
        self._answered = threading.Condition(model.kernel.lock)
        self._thread: int | None = None
        self._over = False
        self._stream: Any = None
        self._handlers: dict[int, Callable[[Message], None]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._get_info,
            Command.DEVICE_GET_REGION_INFO: self._get_region_info,
            Command.DEVICE_GET_REGION_IO_FDS: self._get_region_io_fds,
            Command.DEVICE_GET_IRQ_INFO: self._get_irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._reset,
            Command.DEVICE_FEATURE: self._feature,
            Command.MIG_DATA_READ: self._mig_data_read,
            Command.MIG_DATA_WRITE: self._mig_data_write,
        }

    def run(self) -> None:
        """Serve until the client goes, or breaks the protocol."""
        self._thread = threading.get_ident()
        with self.model.kernel.lock:
            self.model.space = self.memory
        try:
            while self._step():
                pass
        except _BrokenError:
            self.refused += 1
        except _GoneError:
            pass

    def end(self) -> None:
        """Release the client's connection, memory, interrupts and log. The registers keep their values."""
        self.connection.close()
        with self._answered:
            self._over = True
            self._answered.notify_all()
            self.model.space = None
            self.memory.clear()
            self.model.irqs.off()
            if self.model.log is not None:
                self.model.log.off()
            if self.model.migration is not None:
                self.model.migration.close()
            self._stream = None
        for held in self._held:
            close_all(held.message.fds)
        self._held.clear()

    def _step(self) -> bool:
        """Serve one message; False at the end of the connection."""
        if self._held:
            if self._serve_held():
                return True
            # Another thread of the model waits for DMA. No message says when it is done, so check again after a moment.
            if not self.connection.wait(0.001):
                return True
        message = self._receive()
        if message is None:
            return False
        self._take(message)
        return True

    def _receive(self) -> Message | None:
        try:
            return self.connection.receive()
        except ProtocolError as error:
            raise _BrokenError from error
        except OSError as error:
            raise _GoneError from error

    def _answer(self, message: Message, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        try:
            self.connection.answer(message, body, fds)
        except OSError as error:
            raise _GoneError from error

    def _take(self, message: Message) -> None:
        if message.is_reply:
            self._deliver(message)
            return
        with self.model.kernel.lock:
            if self._waiting and (self._held or self._depth >= _DEEPEST or not _is_harmless(message)):
                self._hold(message)
            else:
                self._perform(message)

    def _perform(self, message: Message) -> None:
        self._depth += 1
        try:
            self._serve(message)
        finally:
            self._depth -= 1
            if message.fds:
                close_all(message.fds)

    def _hold(self, message: Message) -> None:
        """Keep a message for later. A write to a BAR is answered now."""
        if len(self._held) >= protocol.MAX_MAPS:
            close_all(message.fds)
            raise _BrokenError("too many messages while a device waits for DMA")
        if message.command == Command.REGION_WRITE and not _is_harmless(message):
            try:
                offset, index, data = self._checked_write(message)
            except (Errno, struct.error) as error:
                close_all(message.fds)
                self._refuse(message, error.number if isinstance(error, Errno) else errno.EINVAL)
                return
            self._answer(message, protocol.REGION_ACCESS.pack(offset, index, len(data)))
            message = message._replace(flags=message.flags | Flags.NO_REPLY)
        patient = self._peer is None or self._peer.answers_dma or not message.wants_reply
        self._held.append(_Held(message, math.inf if patient else time.monotonic() + _GRACE))

    def _serve_held(self) -> bool:
        """Serve the first message that was held back, if no thread of the model waits for DMA; else one that has waited long enough."""
        with self.model.kernel.lock:
            if not self._waiting:
                self._perform(self._held.popleft().message)
                return True
            late = next((held for held in self._held if held.limit <= time.monotonic()), None)
            if late is None or self._depth >= _DEEPEST:
                return False
            self._held.remove(late)
            self._perform(late.message)
            return True

    def _serve(self, message: Message) -> None:
        try:
            if self._peer is None:
                self._version(message)
            elif (handler := self._handlers.get(message.command)) is None:
                raise Errno(errno.EINVAL)
            else:
                handler(message)
        except Errno as error:
            self._refuse(message, error.number)
        except struct.error:
            self._refuse(message, errno.EINVAL)
        except _GoneError:
            raise
        except Exception as error:
            # A bug of the model must not end the server: the client gets an error, and the next request is served.
            _log.exception("%s failed at %s", self.model.name, name_of(message.command))
            self._refuse(message, _number_of(error))

    def _refuse(self, message: Message, number: int) -> None:
        self.refused += 1
        try:
            self.connection.refuse(message, number)
        except OSError as error:
            raise _GoneError from error

    # DMA by messages.

    def read(self, iova: int, size: int) -> bytes:
        """Read the client's memory by DMA_READ.

        :raises Errno: as the client answers; EIO without an answer
        """
        parts = []
        for at in range(iova, iova + size, self._most):
            count = min(self._most, iova + size - at)
            body = self._ask(Command.DMA_READ, protocol.DMA_ACCESS.pack(at, count))
            if len(body) != protocol.DMA_ACCESS.size + count:
                raise Errno(errno.EIO)
            parts.append(body[protocol.DMA_ACCESS.size :])
        return b"".join(parts)

    def write(self, iova: int, data: bytes) -> None:
        """Write the client's memory by DMA_WRITE.

        :raises Errno: as the client answers; EIO without an answer
        """
        for at in range(0, len(data), self._most):
            part = data[at : at + self._most]
            self._ask(Command.DMA_WRITE, protocol.DMA_ACCESS.pack(iova + at, len(part)) + part)

    @property
    def _most(self) -> int:
        most = self._peer.max_data_xfer_size if self._peer is not None else 0
        if not most:
            raise Errno(errno.EIO)
        return most

    def _ask(self, command: Command, body: bytes) -> bytes:
        with self._answered:
            if self._over:
                raise Errno(errno.EIO)
            while self._number in self._answers:
                self._number = (self._number + 1) % 0x10000
            number = self._number
            self._number = (number + 1) % 0x10000
            self._answers[number] = None
            self._waiting += 1
            try:
                try:
                    self.connection.send(number, command, body)
                except OSError:
                    raise Errno(errno.EIO) from None
                answer = self._wait(number)
            finally:
                self._waiting -= 1
                del self._answers[number]
        if answer is None:
            raise Errno(errno.EIO)
        if answer.flags & Flags.ERROR:
            raise Errno(answer.error if 0 < answer.error < 4096 else errno.EIO)
        return answer.body

    def _wait(self, number: int) -> Message | None:
        """Wait for an answer and return it; None if the client has gone or the time is up. The session's own thread serves messages meanwhile;
        other threads wait until it has received the answer.
        """
        if threading.get_ident() != self._thread:
            self._answered.wait_for(lambda: self._answers[number] is not None or self._over, _DMA_TIMEOUT)
            return self._answers[number]
        while self._answers[number] is None:
            if self._held and self._serve_late():
                continue
            try:
                with released(self.model.kernel.lock):
                    message = self._receive()
            except _GoneError:
                self._over = True
                return None
            if message is None:
                self._over = True
                return None
            self._take(message)
        return self._answers[number]

    def _serve_late(self) -> bool:
        """Wait for a new message, or until a message has been held back long enough, and serve that. Return False if there is a new one."""
        limit = min(held.limit for held in self._held)
        if limit == math.inf:
            return False
        with released(self.model.kernel.lock):
            if self.connection.wait(max(limit - time.monotonic(), 0)):
                return False
        return self._serve_held()

    def _deliver(self, message: Message) -> None:
        close_all(message.fds)
        with self._answered:
            if self._answers.get(message.id, message) is None:
                self._answers[message.id] = message._replace(fds=[])
                self._answered.notify_all()

    # The requests.

    def _version(self, message: Message) -> None:
        if message.command != Command.VERSION:
            raise _BrokenError("the first message is not VERSION")
        try:
            major, minor, peer = protocol.unpack_version(message.body)
        except ProtocolError as error:
            raise _BrokenError from error
        if major != protocol.MAJOR:
            self._refuse(message, errno.EINVAL)
            raise _BrokenError(f"version {major}.{minor}; this is {protocol.MAJOR}.{protocol.MINOR}")
        self._peer = peer
        self._answer(message, protocol.pack_version(min(minor, protocol.MINOR)))

    def _dma_map(self, message: Message) -> None:
        argsz, flags, offset, iova, size = protocol.DMA_MAP.unpack_from(message.body)
        if argsz < protocol.DMA_MAP.size or len(message.fds) > 1:
            raise Errno(errno.EINVAL)
        self.memory.map(iova, size, flags, offset, message.fds[0] if message.fds else None)
        self._answer(message)

    def _dma_unmap(self, message: Message) -> None:
        argsz, flags, iova, size = protocol.DMA_UNMAP.unpack_from(message.body)
        if argsz < protocol.DMA_UNMAP.size or flags & ~protocol.UNMAP_ALL:
            raise Errno(errno.EINVAL)
        if flags & protocol.UNMAP_ALL:
            if iova or size:
                raise Errno(errno.EINVAL)
            self.memory.clear()
        else:
            self.memory.unmap(iova, size)
        self._answer(message, protocol.DMA_UNMAP.pack(protocol.DMA_UNMAP.size, flags, iova, size))

    def _get_info(self, message: Message) -> None:
        argsz, *_ = protocol.DEVICE_INFO.unpack_from(message.body)
        if argsz < protocol.DEVICE_INFO.size:
            raise Errno(errno.EINVAL)
        model = self.model
        body = protocol.DEVICE_INFO.pack(
            protocol.DEVICE_INFO.size, model.flags & _INFO_FLAGS, model.num_regions, model.num_irqs
        )
        self._answer(message, body)

    def _get_region_info(self, message: Message) -> None:
        argsz, _, index, *_ = protocol.REGION_INFO.unpack_from(message.body)
        if argsz < protocol.REGION_INFO.size:
            raise Errno(errno.EINVAL)
        region = self._region(index)
        size = protocol.REGION_INFO.size
        flags, capabilities, fds = region.flags, b"", []
        if self.model.traps(index):
            flags &= ~MMAP
        if region.areas:
            capabilities = chained(region.capabilities(), size)
            flags |= lib.VFIO_REGION_INFO_FLAG_CAPS
        fits = argsz >= size + len(capabilities)
        body = protocol.REGION_INFO.pack(
            size + len(capabilities), flags, index, size if capabilities and fits else 0, region.size,
            index << OFFSET_SHIFT if flags & MMAP else 0,
        )  # fmt: skip
        if flags & MMAP and fits:  # without enough room no descriptor is sent: the client asks again with more
            fds.append(self.model.region_file.open())
        try:
            self._answer(message, body + (capabilities if fits else b""), fds)
        finally:
            close_all(fds)

    def _get_region_io_fds(self, message: Message) -> None:
        """Answer that no part of the region has an ioeventfd or ioregionfd: each access is a message, or goes to mapped memory."""
        argsz, flags, index, _ = protocol.REGION_IO_FDS.unpack_from(message.body)
        if argsz < protocol.REGION_IO_FDS.size or flags or index >= self.model.num_regions:
            raise Errno(errno.EINVAL)
        self._answer(message, protocol.REGION_IO_FDS.pack(protocol.REGION_IO_FDS.size, 0, index, 0))

    def _region(self, index: int) -> Region:
        """Describe a region. One that the model refuses, such as VGA with vfio-pci, is reported as empty, since clients ask for every index.

        :raises Errno: EINVAL, the index is not below num_regions
        """
        try:
            return self.model.region(index)
        except Errno:
            if index >= self.model.num_regions:
                raise
            return Region()

    def _get_irq_info(self, message: Message) -> None:
        argsz, _, index, _ = protocol.IRQ_INFO.unpack_from(message.body)
        irqs = self.model.irqs
        if argsz < protocol.IRQ_INFO.size or index >= len(irqs.counts):
            raise Errno(errno.EINVAL)
        body = protocol.IRQ_INFO.pack(protocol.IRQ_INFO.size, irqs.flags(index), index, irqs.counts[index])
        self._answer(message, body)

    def _set_irqs(self, message: Message) -> None:
        argsz, flags, index, start, count = protocol.IRQ_SET.unpack_from(message.body)
        data = message.body[protocol.IRQ_SET.size :]
        if argsz != len(message.body):
            raise Errno(errno.EINVAL)
        if flags & EVENTFD:
            # No descriptors remove the vectors' eventfds; otherwise there is one for each vector.
            if data or count > protocol.MAX_FDS or len(message.fds) not in (0, count):
                raise Errno(errno.EINVAL)
            data = struct.pack(f"={count}i", *(message.fds or [-1] * count))
        elif message.fds:
            raise Errno(errno.EINVAL)
        native = bytearray(protocol.IRQ_SET.pack(protocol.IRQ_SET.size + len(data), flags, index, start, count) + data)
        with _address(native) as address:
            left = self.model.irqs.set(take_set(address, self.model.irqs.counts))
        if left is not None:
            raise Errno(errno.ENOSPC)
        self._answer(message)

    def _region_read(self, message: Message) -> None:
        offset, index, count = protocol.REGION_ACCESS.unpack(message.body)
        self._check_access(index, offset, count)
        data = self.model.pread(count, index << OFFSET_SHIFT | offset)
        self._answer(message, protocol.REGION_ACCESS.pack(offset, index, len(data)) + data)

    def _region_write(self, message: Message) -> None:
        offset, index, data = self._checked_write(message)
        done = protocol.REGION_ACCESS.pack(offset, index, len(data))
        if index == _CONFIG:
            self.model.pwrite(data, index << OFFSET_SHIFT | offset)
            self._answer(message, done)
        else:
            self._answer(message, done)
            self._write_posted(index, offset, data)

    def _checked_write(self, message: Message) -> tuple[int, int, bytes]:
        """Return offset, region and data of a REGION_WRITE.

        :raises Errno: EINVAL
        """
        offset, index, count = protocol.REGION_ACCESS.unpack_from(message.body)
        data = message.body[protocol.REGION_ACCESS.size :]
        if len(data) != count:
            raise Errno(errno.EINVAL)
        self._check_access(index, offset, count)
        return offset, index, data

    def _region_write_multi(self, message: Message) -> None:
        (count,) = protocol.WRITE_COUNT.unpack_from(message.body)
        writes = message.body[protocol.WRITE_COUNT.size :]
        if len(writes) != count * protocol.WRITE.size:
            raise Errno(errno.EINVAL)
        wanted = list(protocol.WRITE.iter_unpack(writes))
        for offset, index, size, _ in wanted:
            if size > 8:
                raise Errno(errno.EINVAL)
            self._check_access(index, offset, size)
        self._answer(message, protocol.WRITE_COUNT.pack(count))
        for offset, index, size, data in wanted:
            self._write_posted(index, offset, data[:size])

    def _write_posted(self, index: int, offset: int, data: bytes) -> None:
        """Write after the answer. A failure is not reported to the client."""
        try:
            self.model.pwrite(data, index << OFFSET_SHIFT | offset)
        except Errno:
            pass
        except _GoneError:
            raise
        except Exception:
            _log.exception("%s failed at a write of region %d, offset %#x", self.model.name, index, offset)

    def _check_access(self, index: int, offset: int, count: int) -> None:
        size = self._sizes.get(index)
        if size is None:
            if index >= self.model.num_regions:
                raise Errno(errno.EINVAL)
            size = self._sizes[index] = self.model.region(index).size
        if count > protocol.MAX_DATA or offset + count > size:
            raise Errno(errno.EINVAL)

    def _reset(self, message: Message) -> None:
        self.model.reset()
        self._stream = None
        self._answer(message)

    # Features. The data are in the message itself, where the kernel's structs have pointers.

    def _feature(self, message: Message) -> None:
        argsz, flags = protocol.FEATURE.unpack_from(message.body)
        data = message.body[protocol.FEATURE.size :]
        number, operations = flags & lib.VFIO_DEVICE_FEATURE_MASK, flags & (_GET | _SET)
        if argsz < protocol.FEATURE.size or flags & ~(lib.VFIO_DEVICE_FEATURE_MASK | _GET | _SET | _PROBE):
            raise Errno(errno.EINVAL)
        own = {
            lib.VFIO_DEVICE_FEATURE_MIGRATION: (_GET, self._migration),
            lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: (_GET | _SET, self._device_state),
            lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: (_SET, self._logging_start),
            lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: (_SET, self._logging_stop),
            lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: (_GET, self._logging_report),
        }.get(number)
        missing = self.model.migration if number <= lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE else self.model.log
        if own is None or missing is None:
            raise Errno(errno.ENOTTY)
        possible, perform = own
        if operations & ~possible:
            raise Errno(errno.EINVAL)
        if flags & _PROBE:
            self._answer(message, message.body)
            return
        if operations not in (_GET, _SET):
            raise Errno(errno.EINVAL)
        answer = perform(data, operations)
        size = protocol.FEATURE.size + len(answer)
        self._answer(message, protocol.FEATURE.pack(size, flags) + (answer if size <= argsz else b""))

    def _migration(self, _: bytes, __: int) -> bytes:
        assert self.model.migration is not None
        return struct.pack("=Q", self.model.migration.flags)

    def _device_state(self, data: bytes, operation: int) -> bytes:
        migration = self.model.migration
        assert migration is not None
        if operation == _SET:
            state, _ = protocol.MIG_STATE.unpack(data)
            self._stream = migration.set_state(state) or self._stream_in(migration.get_state())
        return protocol.MIG_STATE.pack(migration.get_state(), -1)

    def _stream_in(self, state: int) -> Any:
        """Return the stream that continues in a state: the one of PRE_COPY continues in STOP_COPY."""
        saving = (lib.VFIO_DEVICE_STATE_STOP_COPY, lib.VFIO_DEVICE_STATE_PRE_COPY, lib.VFIO_DEVICE_STATE_PRE_COPY_P2P)
        return self._stream if state in (*saving, lib.VFIO_DEVICE_STATE_RESUMING) else None

    def _logging_start(self, data: bytes, _: int) -> bytes:
        log = self.model.log
        assert log is not None
        page_size, count, reserved = protocol.LOGGING_CONTROL.unpack_from(data)
        ranges = data[protocol.LOGGING_CONTROL.size :]
        if len(ranges) != count * protocol.LOGGING_RANGE.size:
            raise Errno(errno.EINVAL)
        # libvfio-user's client sends no ranges, which stand for everything that is mapped now.
        mapped = [LoggedRange(*range_) for range_ in self.memory.writable()]
        page_size = log.start(ranges_of(ranges, page_size) if count else mapped, page_size)
        return protocol.LOGGING_CONTROL.pack(page_size, count, reserved) + ranges

    def _logging_stop(self, data: bytes, _: int) -> bytes:
        assert self.model.log is not None
        self.model.log.stop()
        return data

    def _logging_report(self, data: bytes, _: int) -> bytes:
        log = self.model.log
        assert log is not None
        iova, length, page_size = protocol.LOGGING_REPORT.unpack(data[: protocol.LOGGING_REPORT.size])
        if not page_size or page_size & (page_size - 1) or not length or iova + length > 2**64:
            raise Errno(errno.EINVAL)
        words = -(-length // page_size // 64) or 1
        if words * 8 > _MOST_BITMAP:
            raise Errno(errno.E2BIG)
        bitmap = bytearray(words * 8)
        with _address(bitmap) as address:
            log.report(iova, length, page_size, address)
        return data[: protocol.LOGGING_REPORT.size] + bytes(bitmap)

    def _mig_data_read(self, message: Message) -> None:
        argsz, size = protocol.MIG_DATA.unpack_from(message.body)
        if self._stream is None or argsz < protocol.MIG_DATA.size + size or size > protocol.MAX_DATA:
            raise Errno(errno.EINVAL)
        try:
            data = self._stream.read(size)
        except Errno as error:
            if error.number not in (errno.ENOMSG, errno.EAGAIN):
                raise
            data = b""  # nothing at the moment
        # libvfio-user's client expects as many bytes as it asked for, padding included; `size` says how many are data.
        head = protocol.MIG_DATA.pack(protocol.MIG_DATA.size + size, len(data))
        self._answer(message, head + data.ljust(size, b"\0"))

    def _mig_data_write(self, message: Message) -> None:
        _, size = protocol.MIG_DATA.unpack_from(message.body)
        data = message.body[protocol.MIG_DATA.size :]
        if self._stream is None or len(data) != size:
            raise Errno(errno.EINVAL)
        while data:
            data = data[self._stream.write(data) :]
        self._answer(message)


@contextlib.contextmanager
def _address(buffer: bytearray) -> Iterator[int]:
    """Yield the address of a buffer, which cannot move during the block."""
    with ffi.from_buffer(buffer) as pinned:
        yield int(ffi.cast("uintptr_t", pinned))
