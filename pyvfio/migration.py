# SPDX-License-Identifier: MIT
"""Migration: the states of a device, and the stream that carries its state to another device."""

from __future__ import annotations

import enum
import errno
import io
import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyvfio._abi import ffi, lib
from pyvfio._core.arguments import member, octets, wrong_type
from pyvfio._core.fd import Fd
from pyvfio._core.request import Call, Reason, Request
from pyvfio._core.resource import Attempts, Resource
from pyvfio.errors import BadReply, Closed, Error, InvalidRequest, RequestError, Unsupported
from pyvfio.feature import Feature, FeatureFacts

if TYPE_CHECKING:
    from pyvfio.device import Device

__all__ = ["SAVING", "Migration", "PrecopyInfo", "Sink", "Source", "State", "Stream", "path", "states"]

_STATE = "struct vfio_device_feature_mig_state"
#: bytes that :meth:`Migration.save`, `load` and `pre_copy` move at a time
_PIECE = 1 << 20


class State(enum.IntEnum):
    """A migration state: `enum vfio_device_mig_state`. Since Linux 5.18; PRE_COPY and PRE_COPY_P2P since 6.2.

    It is the kernel's number, and prints as its name: `print(State.STOP_COPY)` prints STOP_COPY.
    """

    ERROR = lib.VFIO_DEVICE_STATE_ERROR
    STOP = lib.VFIO_DEVICE_STATE_STOP
    RUNNING = lib.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = lib.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = lib.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = lib.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = lib.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = lib.VFIO_DEVICE_STATE_PRE_COPY_P2P

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        # IntEnum.__format__ returns the number; return it only for a format of integers, and the name for all others.
        return format(int(self), spec) if spec[-1:] in tuple("bcdoxXn") else format(self.name, spec)


#: The states that share one stream: it stays open when the device goes from one to another of them.
SAVING = frozenset({State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY})

_STOP_COPY, _P2P, _PRE_COPY = lib.VFIO_MIGRATION_STOP_COPY, lib.VFIO_MIGRATION_P2P, lib.VFIO_MIGRATION_PRE_COPY
_ALL = _STOP_COPY | _P2P | _PRE_COPY
#: state -> the flags that a device needs for it besides STOP_COPY
_OPTIONAL = {State.RUNNING_P2P: _P2P, State.PRE_COPY: _PRE_COPY, State.PRE_COPY_P2P: _P2P | _PRE_COPY}
#: state -> the states that a device can reach from it in a single step
_STEPS: dict[State, tuple[State, ...]] = {
    State.RUNNING: (State.RUNNING_P2P, State.PRE_COPY),
    State.RUNNING_P2P: (State.RUNNING, State.STOP, State.PRE_COPY_P2P),
    State.STOP: (State.RUNNING_P2P, State.STOP_COPY, State.RESUMING),
    State.PRE_COPY: (State.RUNNING, State.PRE_COPY_P2P),
    State.PRE_COPY_P2P: (State.PRE_COPY, State.RUNNING_P2P, State.STOP_COPY),
    State.STOP_COPY: (State.STOP,),
    State.RESUMING: (State.STOP,),
    State.ERROR: (),
}


class Change(NamedTuple):
    """A change of state that failed.

    :ivar errno: the errno of the request
    :ivar origin: the state before
    :ivar target: the requested state
    :ivar now: the state afterwards; None if it could not be read
    :ivar there: whether the device supports the requested state
    """

    errno: int
    origin: str
    target: str
    now: str | None
    there: bool


def _not_changed(facts: Change) -> Reason:
    if not facts.there:
        return Reason(
            f"the device does not support {facts.target}", ("see Migration.states for the states that it supports",)
        )
    texts: list[str] = []
    if facts.origin == "RESUMING" and facts.errno == errno.EINVAL and facts.now in ("RESUMING", "ERROR"):
        texts.append("the data written to its stream is incomplete, damaged, or from another kind of device")
    if facts.now is not None:
        texts.append(f"the device is {'still ' if facts.now == facts.origin else ''}in {facts.now}")
    return Reason("; ".join(texts) or None, _recovery(facts))


def _recovery(facts: Change) -> tuple[str, ...]:
    if facts.now == "ERROR":
        return ("only a reset leaves ERROR: call Device.reset()",)
    if facts.now == "RESUMING":
        return ("to abandon the load, call Device.reset()",)
    if facts.now is None:
        return ()
    if facts.now == facts.origin:
        return ("the state has not changed; the request can be repeated",)
    return (f"from {facts.now} the device can be set to {facts.target} again, or back to {facts.origin}",)


def _cannot_migrate(facts: FeatureFacts) -> Reason:
    return Reason(f"{facts.address} cannot be migrated: its driver does not support MIGRATION", unsupported=True)


#: state -> the errnos with which drivers refuse it
_CHANGE_ERRNOS: dict[State, tuple[int, ...]] = {
    State.STOP: (errno.EIO, errno.EINVAL, errno.ENOTRECOVERABLE),
    State.PRE_COPY: (errno.EIO, errno.EINVAL),
    State.PRE_COPY_P2P: (errno.EIO, errno.EINVAL),
    State.ERROR: (errno.EINVAL,),
}


GET_MIGRATION = Feature("GET MIGRATION", errnos={errno.ENOTTY: _cannot_migrate})
GET_STATE = Feature("GET MIG_DEVICE_STATE", errnos={errno.EIO: "the device does not respond"})
SET_STATE = {
    state: Feature(
        f"SET MIG_DEVICE_STATE {state.name}",
        errnos=dict.fromkeys(_CHANGE_ERRNOS.get(state, (errno.EIO,)), _not_changed),
        default=_not_changed,
        succeeds=state != State.ERROR,
    )
    for state in State
}
GET_DATA_SIZE = Feature("GET MIG_DATA_SIZE", errnos={errno.EIO: "the device does not respond"})
SET_PRECOPY_INFO_V2 = Feature("SET MIG_PRECOPY_INFOv2")
GET_PRECOPY_INFO = Request(
    "VFIO_MIG_GET_PRECOPY_INFO",
    "migration",
    "struct vfio_precopy_info",
    errnos={
        errno.EINVAL: "the request is valid only in PRE_COPY and PRE_COPY_P2P",
        errno.ENOTTY: "the device is loading its state, or does not support pre-copy",
        errno.ENODEV: "the stream has ended",
        errno.EIO: "the device does not respond",
    },
)
_OVER = "the stream has ended: the device was reset, or has left the states that share the stream"
READ = Call("read", otherwise={errno.ENODEV: _OVER})
WRITE = Call(
    "write",
    otherwise={errno.ENODEV: _OVER},
    # Drivers report data that they do not accept by any errno: mtty by EFAULT and ENOMEM.
    default=Reason(
        "the device does not accept the data: it is damaged, comes twice, or was not saved by a device of its kind",
        ("a load is ended by a reset: Device.reset()",),
    ),
)


def states(flags: int = _ALL) -> frozenset[State]:
    """Return the states of a device with these VFIO_MIGRATION_* flags, without ERROR, which no program can request.

    :param flags: VFIO_MIGRATION_* of the device
    """
    if not flags & _STOP_COPY:
        return frozenset()
    return frozenset(state for state in State if state and not _OPTIONAL.get(state, 0) & ~flags)


def path(origin: State, target: State, flags: int = _ALL) -> tuple[State, ...]:
    """Return the states that the kernel takes a device through on the way to `target`, ending with it.

    It is the shortest path that has a saving state or RESUMING only at its ends, or stays within one stream. States that the
    device does not support are skipped. include/uapi/linux/vfio.h states the rule; vfio_mig_get_next_state() departs from it
    in one case, since PRE_COPY goes to STOP_COPY through PRE_COPY_P2P.

    :param origin: the state before
    :param target: the state to reach
    :param flags: VFIO_MIGRATION_* of the device
    :returns: the states after `origin`; empty if origin and target are the same
    :raises ValueError: there is no path: into or out of ERROR, from STOP_COPY to pre-copy, or the device does not support
        origin or target
    """
    there = states(flags)
    if origin not in there or target not in there:
        raise ValueError(f"a device with migration flags {flags:#x} cannot go from {origin.name} to {target.name}")
    ways: deque[tuple[State, ...]] = deque([(origin,)])
    while ways:
        way = ways.popleft()
        if way[-1] == target:
            return tuple(state for state in way[1:] if state in there)
        # No state with a stream between the ends, unless both ends share that stream.
        if way[-1] != origin and (way[-1] == State.RESUMING or (way[-1] in SAVING and not {origin, target} <= SAVING)):
            continue
        ways.extend((*way, state) for state in _STEPS[way[-1]] if state not in way and not _blocked(origin, state))
    raise ValueError(f"there is no path from {origin.name} to {target.name}")


def _blocked(origin: State, target: State) -> bool:
    """Whether the kernel refuses a change although a path exists: it does not go from STOP_COPY back to pre-copy."""
    return origin == State.STOP_COPY and target in SAVING


class PrecopyInfo(NamedTuple):
    """Estimates of the data left to send in pre-copy. VFIO_MIG_GET_PRECOPY_INFO, `struct vfio_precopy_info`.

    :ivar initial_bytes: bytes left of the first pass; the device should not be stopped before this is 0
    :ivar dirty_bytes: bytes that changed after they were sent
    :ivar reinit: whether a new first pass has begun; see :meth:`Migration.allow_reinit`
    """

    initial_bytes: int
    dirty_bytes: int
    reinit: bool

    @property
    def pending(self) -> int:
        """The sum of initial and dirty bytes."""
        return self.initial_bytes + self.dirty_bytes


class Sink(Protocol):
    """The destination of a stream: a file, a socket's file, another device's stream. Short writes are allowed."""

    def write(self, data: Any, /) -> int | None:
        """Write bytes, and return the number written.

        :param data: the bytes
        """


class Source(Protocol):
    """The source of a stream."""

    def read(self, size: int, /) -> bytes | None:
        """Read at most `size` bytes; return b"" at the end.

        :param size: the most bytes to return
        """


class Stream(io.RawIOBase):
    """The migration data of a device as a raw file: read while the device saves, written while it resumes.

    The data is opaque and its order is fixed; the sizes of reads and writes do not matter. As with any raw file, a read or write
    may transfer fewer bytes than requested.

    :attr:`Migration.stream` owns it. It is closed when the device leaves the states that share it, or when the device is closed.
    Calls may block for as long as the device takes; other threads continue.
    """

    # Replaces IOBase.__del__, which calls close() and loses an exception that a signal handler raises in it. The Fd closes its descriptor.
    __del__ = object.__init__

    def __init__(self, fd: Fd, *, saving: bool) -> None:
        super().__init__()
        self._fd = fd
        self._saving = saving

    @property
    def opened(self) -> bool:
        """Whether the stream has an open descriptor. Not part of the API."""
        return not self._fd.closed

    @property
    def name(self) -> str:
        """The name of the stream, for messages."""
        return self._fd.name

    @property
    def mode(self) -> str:
        """`rb` while the device saves, `wb` while it resumes."""
        return "rb" if self._saving else "wb"

    def fileno(self) -> int:
        """Return the descriptor of the stream.

        :raises Closed: it is closed
        """
        return self._fd.fileno()

    def readable(self) -> bool:
        """Whether the stream can be read, since the device is saving its state."""
        return self._saving

    def writable(self) -> bool:
        """Whether the stream can be written, since the device is resuming."""
        return not self._saving

    def readinto(self, buffer: Any, /) -> int | None:
        """Read the next bytes of the device's state.

        :param buffer: writable memory, for at most its size
        :returns: the number of bytes; 0 at the end of the stream, which comes in STOP_COPY when everything was sent; None when no
            data is available now: in pre-copy (ENOMSG, more may follow), or on a non-blocking descriptor (EAGAIN)
        :raises io.UnsupportedOperation: the device is resuming
        :raises OSError: ENODEV if the stream has ended; otherwise from the device's driver
        """
        if not self._saving:
            raise io.UnsupportedOperation(f"{self.name} is not readable: the device is loading its state")
        view = memoryview(buffer).cast("B")
        try:
            data = self._fd.call(self._fd.kernel.read, len(view))
        except OSError as error:
            if error.errno in (errno.ENOMSG, errno.EAGAIN):
                return None
            raise READ.explain(self.name, error, {"size": len(view)}) from None
        view[: len(data)] = data
        return len(data)

    def write(self, data: Any, /) -> int | None:
        """Write the next bytes of the saved state to the device.

        The device may reject bad data here, or only when it leaves RESUMING.

        :param data: the bytes
        :returns: the number of bytes written; None when a non-blocking descriptor accepts none now
        :raises io.UnsupportedOperation: the device is saving
        :raises OSError: EINVAL if the device does not accept the data; ENODEV if the stream has ended; otherwise from the
            device's driver
        """
        if self._saving:
            raise io.UnsupportedOperation(f"{self.name} is not writable: the device is saving its state")
        try:
            return self._fd.call(self._fd.kernel.write, data)
        except BlockingIOError:
            return None
        except OSError as error:
            raise WRITE.explain(self.name, error, {"size": memoryview(data).nbytes}) from None

    def poll(self, timeout: float | None = None) -> bool:
        """Wait until a read or write would not block. poll(2).

        :param timeout: seconds; None waits without limit
        :returns: whether it is ready; a stream that has ended is ready too
        """
        event = select.POLLIN if self._saving else select.POLLOUT
        return self._fd.poll(event, timeout) != 0

    def precopy_info(self) -> Any:
        """Return the `struct vfio_precopy_info` of VFIO_MIG_GET_PRECOPY_INFO; see :attr:`Migration.precopy_info`."""
        return GET_PRECOPY_INFO.call(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        try:
            self._fd.close()
        finally:
            super().close()

    def __repr__(self) -> str:
        return f"<Stream {self.name}, {'saving' if self._saving else 'resuming'}{' (closed)' if self.closed else ''}>"


class Migration(Resource):
    """The migration state and the data stream of a device. VFIO_DEVICE_FEATURE_MIGRATION, since Linux 5.18.

    ::

        for left in source.migration.pre_copy(file):        # the device runs
            if left.pending < 1 << 20:
                break
        source.migration.save(file)                         # the device stops

        target.migration.load(file)                         # another device of the same kind
        target.migration.state = State.RUNNING

    Only one thread at a time may set the state; another may use the stream. The stream does not contain the memory that the device
    writes by DMA; :class:`pyvfio.DirtyLog` logs that at the same time.

    :raises Unsupported: the device's driver does not support migration

    :ivar flags: VFIO_MIGRATION_*, from VFIO_DEVICE_FEATURE_MIGRATION
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._device = device
        self._stream: Stream | None = None
        #: the stream that owns the descriptor if a change of state opens one, until _settle() makes it the current stream
        self._next: Stream | None = None
        self._reinit = False
        self.flags = int(GET_MIGRATION.get(device.file, "struct vfio_device_feature_migration").flags)

    @property
    def has_p2p(self) -> bool:
        """Whether the device has the P2P states, in which it starts no DMA to other devices (VFIO_MIGRATION_P2P).

        With several devices, put all of them into a P2P state before the first into STOP or STOP_COPY.
        """
        return bool(self.flags & _P2P)

    @property
    def has_pre_copy(self) -> bool:
        """Whether the device can send state while it runs (VFIO_MIGRATION_PRE_COPY)."""
        return bool(self.flags & _PRE_COPY)

    @property
    def states(self) -> frozenset[State]:
        """The states that can be requested of the device."""
        return states(self.flags)

    # The state.

    @property
    def state(self) -> State:
        """The migration state, to read and to set. VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, `struct vfio_device_feature_mig_state`.

        Any state can be set: the kernel takes the device through the states between (:func:`path`) and returns when the device is
        in the new state. Entering a saving state or RESUMING opens :attr:`stream`; leaving them closes it.

        If a step fails, the device stays in the state before that step or enters ERROR. The exception says which, and so does this
        property. :meth:`Device.reset` is the only way to leave ERROR, and RESUMING with an incomplete stream. The device checks the
        loaded data when it leaves RESUMING.

        :raises InvalidRequest: to enter or leave ERROR, or to go from STOP_COPY back to pre-copy. Older kernels, among them
            6.12.95 and 6.1.192, loop forever when ERROR or pre-copy after STOP_COPY is requested.
        :raises OSError: EINVAL for a state that the device does not support (:attr:`states`), or on leaving RESUMING with a stream
            that is incomplete, damaged, or from another kind of device; otherwise from the device's driver
        """
        answer = GET_STATE.get(self._device.file, _STATE)
        try:
            state = State(answer.device_state)
        except ValueError:
            raise BadReply(
                f"{self._device.address} reports migration state {answer.device_state}, which is not defined"
            ) from None
        self._settle(state)
        return state

    @state.setter
    def state(self, target: State) -> None:
        target = member(target, "state", State)
        origin = self.state
        self._refuse(origin, target)
        self._change(origin, target)
        self._settle(target)

    def _refuse(self, origin: State, target: State) -> None:
        address = self._device.address
        if origin == State.ERROR:
            raise InvalidRequest(f"{address} is in ERROR; only a reset leaves it: call Device.reset()")
        if target == State.ERROR:
            raise InvalidRequest(
                f"{address}: ERROR cannot be requested; a device enters it when a change of state fails"
            )
        if _blocked(origin, target) and target != origin:
            raise InvalidRequest(
                f"{address} cannot go from STOP_COPY back to {target.name}; set RUNNING first and start again from there"
            )

    def _change(self, origin: State, target: State) -> None:
        """Make the request. If the kernel opens a stream, `_next` owns its descriptor."""
        file = self._device.file
        fd = Fd.unopened(file.kernel, "migration", f"{self._device.address}'s migration stream")
        change = ffi.new(f"{_STATE} *", {"device_state": target, "data_fd": -1})
        between: tuple[State, ...] = ()
        with suppress(ValueError):
            between = path(origin, target, self.flags)[:-1]
        arguments = {"from": origin.name, "by": ", ".join(state.name for state in between) or None}
        self._next = Stream(fd, saving=target in SAVING)
        try:
            SET_STATE[target].receive(
                file,
                change,
                (ffi.offsetof(_STATE, "data_fd"), fd),
                arguments,
                lambda number: self._changed(number, origin, target),
            )
        except RequestError:
            # A descriptor that comes with a failure has no owner.
            if change.data_fd >= 0:
                file.kernel.close(change.data_fd)
            raise

    def _settle(self, state: State) -> None:
        """Make the stream that the kernel has opened the current one. Close a stream whose states the device has left: it has ended."""
        begun = self._next
        if begun is not None and begun.opened:
            ended = self._stream
            if ended is not None and ended is not begun:
                ended.close()
            self._stream = begun
            self._next = None
        stream = self._stream
        if stream is not None and (state not in SAVING if stream.readable() else state != State.RESUMING):
            self._stream = None
            stream.close()

    def _changed(self, number: int, origin: State, target: State) -> Change:
        """Return the facts about a failed change, with the state that the device is in now."""
        now: State | None = None
        with suppress(OSError):  # the first failure is the one to report
            now = self.state
        return Change(number, origin.name, target.name, now.name if now is not None else None, target in self.states)

    @property
    def stream(self) -> Stream:
        """The open data stream, in PRE_COPY, PRE_COPY_P2P, STOP_COPY and RESUMING.

        :raises Closed: the device is in another state
        """
        state = self.state
        if self._stream is None:
            raise Closed(f"{self._device.address} has no open migration stream: it is in {state.name}")
        return self._stream

    # Amount of data.

    @property
    def data_size(self) -> int:
        """An estimate of the bytes that STOP_COPY would send. VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, since Linux 6.2.

        :raises Unsupported: the kernel does not support it
        """
        struct_ = "struct vfio_device_feature_mig_data_size"
        return int(GET_DATA_SIZE.get(self._device.file, struct_).stop_copy_length)

    @property
    def precopy_info(self) -> PrecopyInfo:
        """Estimates of the data left to send in pre-copy. VFIO_MIG_GET_PRECOPY_INFO, since Linux 6.2.

        :raises Closed: no stream is open
        :raises OSError: EINVAL in other states than PRE_COPY and PRE_COPY_P2P; ENOTTY while resuming
        """
        stream = self._stream if self._stream is not None else self.stream
        info = stream.precopy_info()
        # Drivers do not define the flags unless the program opted in.
        reinit = self._reinit and bool(info.flags & lib.VFIO_PRECOPY_INFO_REINIT)
        return PrecopyInfo(info.initial_bytes, info.dirty_bytes, reinit)

    def allow_reinit(self) -> None:
        """Let the device begin a new first pass in pre-copy, for example after it was reconfigured.

        VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2; Linux 7.0 has it, 6.12 does not.

        :attr:`precopy_info` then reports a new pass once, in `reinit`. Without this call such a device reports its state as dirty.
        It stays in effect until the device is closed.

        :raises Unsupported: the kernel or the device does not support it
        """
        if not self.has_pre_copy:
            raise Unsupported(f"{self._device.address} does not support pre-copy")
        SET_PRECOPY_INFO_V2.exchange(self._device.file)
        self._reinit = True

    # Whole transfers.

    def pre_copy(self, into: Sink) -> Iterator[PrecopyInfo]:
        """Send state while the device runs, one chunk per iteration; use `break` to stop.

        It puts the device into PRE_COPY, unless the device is already in PRE_COPY or PRE_COPY_P2P, and leaves it there. It does
        not end by itself, since a running device may change its state as fast as it is sent. :meth:`save` continues the stream.

        :param into: the destination; it must block when it is full
        :returns: before each chunk, the estimate of the data left to send
        :raises Unsupported: the device does not support pre-copy
        :raises OSError: from the device's driver
        """
        _method(into, "into", "write")
        if not self.has_pre_copy:
            raise Unsupported(
                f"{self._device.address} does not support pre-copy; Migration.save() stops it and sends everything"
            )
        return self._pre_copy(into)

    def _pre_copy(self, into: Sink) -> Iterator[PrecopyInfo]:
        if self.state not in (State.PRE_COPY, State.PRE_COPY_P2P):
            self.state = State.PRE_COPY
        stream = self.stream
        while True:
            yield self.precopy_info
            if data := stream.read(_PIECE):
                _write(into, data)
            else:
                stream.poll(0.1)

    def save(self, into: Sink) -> int:
        """Stop the device (STOP_COPY) and send its state; after :meth:`pre_copy`, the rest of it.

        The device stays in STOP_COPY. If the other side fails, `state = State.RUNNING` lets the device continue; otherwise close it.

        :param into: the destination; it must block when it is full
        :returns: bytes sent
        :raises OSError: from the device's driver
        """
        _method(into, "into", "write")
        self.state = State.STOP_COPY
        stream = self.stream
        sent = 0
        while (data := stream.read(_PIECE)) != b"":
            if data is None:
                stream.poll()
                continue
            _write(into, data)
            sent += len(data)
        return sent

    def load(self, source: Source) -> int:
        """Load the state that a device of the same kind has saved (RESUMING), and let the device check it (STOP).

        Afterwards `state = State.RUNNING` starts the device. If loading fails, :meth:`Device.reset` takes the device back to
        RUNNING, with nothing loaded.

        :param source: the source; its `read` returns b"" at the end
        :returns: bytes loaded
        :raises OSError: EINVAL if the device does not accept the data; otherwise from the device's driver
        """
        read = _method(source, "source", "read")
        self.state = State.RESUMING
        stream = self.stream
        loaded = 0
        while (data := read(_PIECE)) != b"":
            if data is None:
                raise BlockingIOError(
                    errno.EAGAIN,
                    f"{source!r} has no data now; a migration must read from a blocking file. The device is in RESUMING; to "
                    "abandon the load, call Device.reset()",
                )
            _write(stream, octets(data, "what source.read() returned"))
            loaded += len(data)
        self.state = State.STOP
        return loaded

    def _release(self) -> None:
        attempts = Attempts()
        for stream in (self._next, self._stream):
            if stream is not None:
                attempts.do(stream.close)
        attempts.raise_first(f"closing {self!r}")

    def _has_gone(self) -> bool:
        return all(stream is None or stream.closed for stream in (self._next, self._stream))

    def __repr__(self) -> str:
        words = [
            word
            for bit, word in ((_STOP_COPY, "STOP_COPY"), (_P2P, "P2P"), (_PRE_COPY, "PRE_COPY"))
            if self.flags & bit
        ]
        return f"<Migration of {self._device.address}: {', '.join(words)}{' (closed)' if self.closed else ''}>"


def _method(file: object, name: str, method: str) -> Callable[..., Any]:
    """Return a method of a file argument, checked before the device changes state."""
    found: Callable[..., Any] | None = getattr(file, method, None)
    if not callable(found):
        raise wrong_type(file, name, f"an object with a {method}() method, such as a binary file")
    return found


def _write(into: Sink, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        taken = into.write(view)
        if taken is None:
            raise BlockingIOError(
                errno.EAGAIN,
                f"{into!r} accepts no data now; a migration must write to a file that blocks when it is full",
            )
        if not 0 < taken <= len(view):
            raise Error(
                errno.EIO,
                f"{into!r}.write() returned {taken} for {len(view)} bytes; the migration stream is incomplete",
            )
        view = view[taken:]
