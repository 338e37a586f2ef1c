"""Migration: the states of a device, and the stream that carries what is in it from one device to another."""

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
from pyvfio._core.resource import Resource
from pyvfio.errors import BadReply, Closed, Error, InvalidRequest, Unsupported
from pyvfio.feature import Feature, FeatureFacts

if TYPE_CHECKING:
    from pyvfio.device import Device

_STATE = "struct vfio_device_feature_mig_state"
#: bytes that :meth:`Migration.save` and its kin move at once
_PIECE = 1 << 20


class State(enum.IntEnum):
    """`enum vfio_device_mig_state`. Since Linux 5.18; PRE_COPY and PRE_COPY_P2P since 6.2."""

    ERROR = lib.VFIO_DEVICE_STATE_ERROR
    STOP = lib.VFIO_DEVICE_STATE_STOP
    RUNNING = lib.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = lib.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = lib.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = lib.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = lib.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = lib.VFIO_DEVICE_STATE_PRE_COPY_P2P


#: These share one stream: going from one to another of them goes on with it.
SAVING = frozenset({State.PRE_COPY, State.PRE_COPY_P2P, State.STOP_COPY})

_STOP_COPY, _P2P, _PRE_COPY = lib.VFIO_MIGRATION_STOP_COPY, lib.VFIO_MIGRATION_P2P, lib.VFIO_MIGRATION_PRE_COPY
_ALL = _STOP_COPY | _P2P | _PRE_COPY
#: what a device must have for a state, besides STOP_COPY
_OPTIONAL = {State.RUNNING_P2P: _P2P, State.PRE_COPY: _PRE_COPY, State.PRE_COPY_P2P: _P2P | _PRE_COPY}
#: the single steps that there are
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

    :ivar errno: the kernel's answer
    :ivar origin: the state before, :ivar target: the one that was asked for
    :ivar now: the state after; None if it could not be found out
    :ivar there: whether the device has the state that was asked for
    """

    errno: int
    origin: str
    target: str
    now: str | None
    there: bool


def _not_changed(facts: Change) -> Reason:
    if not facts.there:
        return Reason(f"the device has no {facts.target}", ("Migration.states has the states of the device",))
    texts: list[str] = []
    if facts.origin == "RESUMING" and facts.errno == errno.EINVAL and facts.now in ("RESUMING", "ERROR"):
        texts.append("the data that was written to its stream is incomplete or damaged, or of another kind of device")
    if facts.now is not None:
        texts.append(f"it is {'still ' if facts.now == facts.origin else ''}in {facts.now} now")
    return Reason("; ".join(texts) or None, _way_out(facts))


def _way_out(facts: Change) -> tuple[str, ...]:
    if facts.now == "ERROR":
        return ("only a reset takes it out of ERROR: Device.reset()",)
    if facts.now == "RESUMING":
        return ("a load that cannot be finished is ended by a reset: Device.reset()",)
    if facts.now is None:
        return ()
    if facts.now == facts.origin:
        return ("nothing has changed: it can be asked again",)
    return (f"from {facts.now} it can be asked for {facts.target} again, or for {facts.origin}",)


def _cannot_migrate(facts: FeatureFacts) -> Reason:
    return Reason(f"{facts.address} cannot be migrated: its driver lacks the feature MIGRATION", unsupported=True)


#: errnos of the device's driver for each state
_CHANGE_ERRNOS: dict[State, tuple[int, ...]] = {
    State.STOP: (errno.EIO, errno.EINVAL, errno.ENOTRECOVERABLE),
    State.PRE_COPY: (errno.EIO, errno.EINVAL),
    State.PRE_COPY_P2P: (errno.EIO, errno.EINVAL),
    State.ERROR: (errno.EINVAL,),
}


GET_MIGRATION = Feature("GET MIGRATION", errnos={errno.ENOTTY: _cannot_migrate})
GET_STATE = Feature("GET MIG_DEVICE_STATE", errnos={errno.EIO: "the device does not answer"})
SET_STATE = {
    state: Feature(
        f"SET MIG_DEVICE_STATE {state.name}",
        errnos=dict.fromkeys(_CHANGE_ERRNOS.get(state, (errno.EIO,)), _not_changed),
        default=_not_changed,
        succeeds=state != State.ERROR,
    )
    for state in State
}
GET_DATA_SIZE = Feature("GET MIG_DATA_SIZE", errnos={errno.EIO: "the device does not answer"})
SET_PRECOPY_INFO_V2 = Feature("SET MIG_PRECOPY_INFOv2")
GET_PRECOPY_INFO = Request(
    "VFIO_MIG_GET_PRECOPY_INFO",
    "migration",
    "struct vfio_precopy_info",
    errnos={
        errno.EINVAL: "it is answered in PRE_COPY and PRE_COPY_P2P only",
        errno.ENOTTY: "the device is loading its state, or has no pre-copy",
        errno.ENODEV: "the session of the stream is over",
        errno.EIO: "the device does not answer",
    },
)
_OVER = "the session of the stream is over: the device was reset, or has left the states that it belongs to"
READ = Call("read", otherwise={errno.ENODEV: _OVER})
WRITE = Call(
    "write",
    otherwise={
        errno.ENODEV: _OVER,
        errno.EINVAL: Reason(
            "the device does not accept the data: it is damaged, comes twice, or was not saved by a device of its kind",
            ("a load is ended by a reset: Device.reset()",),
        ),
    },
)


def states(flags: int = _ALL) -> frozenset[State]:
    """The states of a device with these VFIO_MIGRATION_* flags; any of them may also end in ERROR."""
    if not flags & _STOP_COPY:
        return frozenset()
    return frozenset(state for state in State if state and not _OPTIONAL.get(state, 0) & ~flags)


def path(origin: State, target: State, flags: int = _ALL) -> tuple[State, ...]:
    """The states that the kernel takes a device through when it is asked for `target`, that one the last.

    The shortest way that enters the saving states, or RESUMING, at its end alone, or stays in one session; states that the device lacks are
    passed over. That is the rule of include/uapi/linux/vfio.h, the one departure from its letter being vfio_mig_get_next_state()'s own:
    PRE_COPY goes to STOP_COPY by PRE_COPY_P2P.

    :param flags: VFIO_MIGRATION_* of the device
    :returns: nothing when it is there already
    :raises ValueError: there is no way: into or out of ERROR, from STOP_COPY to pre-copy, or the device lacks one of the two
    """
    there = states(flags)
    if origin not in there or target not in there:
        raise ValueError(f"a device with migration flags {flags:#x} is not asked from {origin.name} to {target.name}")
    ways: deque[tuple[State, ...]] = deque([(origin,)])
    while ways:
        way = ways.popleft()
        if way[-1] == target:
            return tuple(state for state in way[1:] if state in there)
        # Between the ends: nothing that has a stream, unless both ends share it.
        if way[-1] != origin and (way[-1] == State.RESUMING or (way[-1] in SAVING and not {origin, target} <= SAVING)):
            continue
        ways.extend((*way, state) for state in _STEPS[way[-1]] if state not in way and not _blocked(origin, state))
    raise ValueError(f"there is no way from {origin.name} to {target.name}")


def _blocked(origin: State, target: State) -> bool:
    """The kernel does not go back from STOP_COPY to pre-copy, although a detour would lead there."""
    return origin == State.STOP_COPY and target in SAVING


class PrecopyInfo(NamedTuple):
    """VFIO_MIG_GET_PRECOPY_INFO: `struct vfio_precopy_info`, estimates of what the device has to send while it runs.

    :ivar initial_bytes: of the first pass; better not stop the device before this is 0
    :ivar dirty_bytes: of what has changed since it was sent
    :ivar reinit: a new first pass has begun, see :meth:`Migration.allow_reinit`
    """

    initial_bytes: int
    dirty_bytes: int
    reinit: bool

    @property
    def pending(self) -> int:
        """All of it, in bytes."""
        return self.initial_bytes + self.dirty_bytes


class Sink(Protocol):
    """The destination of a stream: a file, a socket's file, another device's stream. Short writes are fine."""

    def write(self, data: Any, /) -> int | None: ...


class Source(Protocol):
    """The source of a stream."""

    def read(self, size: int, /) -> bytes | None: ...


class Stream(io.RawIOBase):
    """The data of a migration, as a file: read while the device saves, written while it resumes.

    Opaque bytes in a fixed order; the pieces they are read and written in mean nothing. As with any raw file, a read or write may
    move less than it was asked to.

    It is the migration's (:attr:`Migration.stream`) and closed with its session: when the device leaves the states that share it, or is
    closed. Calls may block for as long as the device takes; other threads go on.
    """

    def __init__(self, fd: Fd, *, saving: bool) -> None:
        super().__init__()
        self._fd = fd
        self._saving = saving

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
        """Whether the device saves."""
        return self._saving

    def writable(self) -> bool:
        """Whether the device resumes."""
        return not self._saving

    def readinto(self, buffer: Any, /) -> int | None:
        """Read the next of the device's state.

        :returns: bytes; 0 at the end of the stream, which is in STOP_COPY when all is sent; None when there is nothing for now (ENOMSG, in
            pre-copy: more may come), or if it was made non-blocking
        :raises io.UnsupportedOperation: the device is resuming
        :raises OSError: as the device says
        """
        if not self._saving:
            raise io.UnsupportedOperation(f"{self.name} is for writing: the device is loading its state")
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
        """Give the device the next of what another has saved.

        What is wrong with the data may show here, or only when the device is to leave RESUMING.

        :returns: bytes taken; None when it takes nothing now, if it was made non-blocking
        :raises io.UnsupportedOperation: the device is saving
        :raises OSError: the device refuses the data, most often with EINVAL
        """
        if self._saving:
            raise io.UnsupportedOperation(f"{self.name} is for reading: the device is saving its state")
        try:
            return self._fd.call(self._fd.kernel.write, data)
        except BlockingIOError:
            return None
        except OSError as error:
            raise WRITE.explain(self.name, error, {"size": memoryview(data).nbytes}) from None

    def poll(self, timeout: float | None = None) -> bool:
        """Wait until a read, or a write, would not have to.

        :param timeout: seconds; None waits for ever
        :returns: whether that is so; a stream whose session is over is ready too
        """
        event = select.POLLIN if self._saving else select.POLLOUT
        return self._fd.poll(event, timeout) != 0

    def precopy_info(self) -> Any:
        """VFIO_MIG_GET_PRECOPY_INFO: `struct vfio_precopy_info`; see :attr:`Migration.precopy_info`."""
        return GET_PRECOPY_INFO.call(self._fd)

    def close(self) -> None:
        try:
            self._fd.close()
        finally:
            super().close()

    def __repr__(self) -> str:
        return f"<Stream {self.name}, {'saving' if self._saving else 'resuming'}{' (closed)' if self.closed else ''}>"


class Migration(Resource):
    """A device's side of a migration: its state, to be read and set, and the stream of its data. Since Linux 5.18.

    ::

        for left in source.migration.pre_copy(file):        # while it runs, for as long as that is worth it
            if left.pending < 1 << 20:
                break
        source.migration.save(file)                         # stops it

        target.migration.load(file)                         # another device of the same kind
        target.migration.state = State.RUNNING

    One thread at a time sets the state; the stream may be another's. What the device writes to memory is not in the stream: see
    :class:`pyvfio.DirtyLog`, which may run meanwhile.

    :raises Unsupported: the device's driver cannot migrate it

    :ivar flags: VFIO_MIGRATION_*, from VFIO_DEVICE_FEATURE_MIGRATION
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._device = device
        self._stream: Stream | None = None
        self._reinit = False
        self.flags = int(GET_MIGRATION.get(device.file, "struct vfio_device_feature_migration").flags)

    @property
    def has_p2p(self) -> bool:
        """Whether it has the P2P states, in which a device starts no DMA to other devices.

        Of several devices, bring all into a P2P state before the first into STOP or STOP_COPY.
        """
        return bool(self.flags & _P2P)

    @property
    def has_pre_copy(self) -> bool:
        """Whether it can send state while it runs."""
        return bool(self.flags & _PRE_COPY)

    @property
    def states(self) -> frozenset[State]:
        """The states that it can be asked for."""
        return states(self.flags)

    # The state.

    @property
    def state(self) -> State:
        """VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, `struct vfio_device_feature_mig_state`. To be read, and set.

        Any state can be asked for: the kernel takes the device there through the states between, :func:`path`. Entering a saving state, or RESUMING, opens
        :attr:`stream`; leaving them closes it. It returns when the device is there.

        If a step fails, the device stays in the state before that step, or goes to ERROR; the error says which, and so does this
        property (the answer of the failed request does not). From ERROR only :meth:`Device.reset` leads out, and so it does from RESUMING
        with a stream that is not whole. Leaving RESUMING is when the device checks what it was given.

        :raises InvalidRequest: ERROR cannot be asked for, is not left, and STOP_COPY does not go back to pre-copy. (Older kernels, 6.12.95 and 6.1.192
            among them, loop for ever over the first and the last.)
        :raises OSError: EINVAL a state that the device lacks (:attr:`states`), or leaving RESUMING with a stream that is cut, damaged, or
            another kind of device's; else as the device says
        """
        answer = GET_STATE.get(self._device.file, _STATE)
        try:
            state = State(answer.device_state)
        except ValueError:
            raise BadReply(
                f"{self._device.address} reports migration state {answer.device_state}, which does not exist"
            ) from None
        self._settle(state)
        return state

    @state.setter
    def state(self, target: State) -> None:
        target = member(target, "state", State)
        origin = self.state
        self._refuse(origin, target)
        begun = self._change(origin, target)
        if begun is not None:
            ended, self._stream = self._stream, begun
            if ended is not None:
                ended.close()
        self._settle(target)

    def _refuse(self, origin: State, target: State) -> None:
        address = self._device.address
        if origin == State.ERROR:
            raise InvalidRequest(f"{address} is in ERROR; only a reset takes it out: Device.reset()")
        if target == State.ERROR:
            raise InvalidRequest(f"{address}: ERROR cannot be asked for; a device enters it by itself")
        if _blocked(origin, target) and target != origin:
            raise InvalidRequest(
                f"{address}: it cannot go from STOP_COPY back to {target.name}; set RUNNING and begin again from there"
            )

    def _change(self, origin: State, target: State) -> Stream | None:
        """Make the request, and return the stream if it opened one."""
        kernel = self._device.file.kernel
        change = ffi.new(f"{_STATE} *", {"device_state": target, "data_fd": -1})
        between: tuple[State, ...] = ()
        with suppress(ValueError):
            between = path(origin, target, self.flags)[:-1]
        arguments = {"from": origin.name, "by": ", ".join(state.name for state in between) or None}
        try:
            SET_STATE[target].exchange(
                self._device.file, change, arguments, lambda number: self._changed(number, origin, target)
            )
            if change.data_fd < 0:
                return None
            fd = Fd(kernel, change.data_fd, "migration", f"{self._device.address}'s migration stream")
        except BaseException:
            if change.data_fd >= 0:
                kernel.close(change.data_fd)
            raise
        return Stream(fd, saving=target in SAVING)

    def _settle(self, state: State) -> None:
        """Close the stream if its session is over: in the kernel nothing can be done with it any more."""
        stream = self._stream
        if stream is not None and (state not in SAVING if stream.readable() else state != State.RESUMING):
            self._stream = None
            stream.close()

    def _changed(self, number: int, origin: State, target: State) -> Change:
        """Ask where the device is after a failed change."""
        now: State | None = None
        with suppress(OSError):  # it is the first failure that matters
            now = self.state
        return Change(number, origin.name, target.name, now.name if now is not None else None, target in self.states)

    @property
    def stream(self) -> Stream:
        """The data of the session that is open, in PRE_COPY, PRE_COPY_P2P, STOP_COPY and RESUMING.

        :raises Closed: there is none in the state that the device is in
        """
        state = self.state
        if self._stream is None:
            raise Closed(f"{self._device.address} has no open migration stream: it is in {state.name}")
        return self._stream

    # What there is to send.

    @property
    def data_size(self) -> int:
        """VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: an estimate of the bytes that STOP_COPY would send. Since Linux 6.2.

        :raises Unsupported: the kernel lacks it
        """
        struct_ = "struct vfio_device_feature_mig_data_size"
        return int(GET_DATA_SIZE.get(self._device.file, struct_).stop_copy_length)

    @property
    def precopy_info(self) -> PrecopyInfo:
        """VFIO_MIG_GET_PRECOPY_INFO: what there is to send before the device need be stopped. Since Linux 6.2.

        :raises Closed: no session is open
        :raises OSError: EINVAL but in PRE_COPY and PRE_COPY_P2P; ENOTTY while resuming
        """
        stream = self._stream if self._stream is not None else self.stream
        info = stream.precopy_info()
        # Without the opt-in drivers may leave anything in the flags.
        reinit = self._reinit and bool(info.flags & lib.VFIO_PRECOPY_INFO_REINIT)
        return PrecopyInfo(info.initial_bytes, info.dirty_bytes, reinit)

    def allow_reinit(self) -> None:
        """VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: let the device begin a new first pass in pre-copy, when it was reconfigured for example.

        :attr:`precopy_info` then says so, once. Without, such a device reports its state as dirty. It stays so until the device is closed. Since
        Linux 7; 6.12 lacks it.

        :raises Unsupported: the kernel lacks it, or the device has no pre-copy
        """
        if not self.has_pre_copy:
            raise Unsupported(f"{self._device.address} has no pre-copy")
        SET_PRECOPY_INFO_V2.exchange(self._device.file)
        self._reinit = True

    # Whole transfers.

    def pre_copy(self, into: Sink) -> Iterator[PrecopyInfo]:
        """Send state while the device runs, one piece in each iteration of a `for`; `break` stops it.

        It puts the device into PRE_COPY, unless it is there or in PRE_COPY_P2P, and leaves it there. It never ends by itself: a device may write for
        ever as fast as it is read. :meth:`save` goes on in the same stream.

        :param into: takes the bytes; it must block when it is full
        :returns: what there is left to send, before each piece
        :raises Unsupported: the device has no pre-copy
        :raises OSError: as the device says
        """
        _method(into, "into", "write")
        if not self.has_pre_copy:
            raise Unsupported(f"{self._device.address} has no pre-copy: save() stops it and sends everything")
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
        """Stop the device (STOP_COPY) and send what is in it: after :meth:`pre_copy`, what is left.

        It stays in STOP_COPY. If the other side fails, `state = State.RUNNING` lets it go on; else close it.

        :param into: takes the bytes; it must block when it is full
        :returns: bytes sent
        :raises OSError: as the device says
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
        """Load what a device of the same kind has saved (RESUMING), and check it (STOP). Then `state = State.RUNNING` lets it go on.

        If it fails, :meth:`Device.reset` takes the device back to RUNNING, with nothing loaded.

        :param source: gives the bytes, b"" at the end
        :returns: bytes loaded
        :raises OSError: the device refuses the data, most often with EINVAL
        """
        read = _method(source, "source", "read")
        self.state = State.RESUMING
        stream = self.stream
        loaded = 0
        while (data := read(_PIECE)) != b"":
            if data is None:
                raise BlockingIOError(
                    errno.EAGAIN,
                    f"{source!r} has nothing to read now; a migration must read from a file that blocks. The device is in RESUMING: "
                    "Device.reset() gives the load up",
                )
            _write(stream, octets(data, "what source.read() returned"))
            loaded += len(data)
        self.state = State.STOP
        return loaded

    def _release(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _has_gone(self) -> bool:
        return self._stream is None or self._stream.closed

    def __repr__(self) -> str:
        words = [
            word
            for bit, word in ((_STOP_COPY, "STOP_COPY"), (_P2P, "P2P"), (_PRE_COPY, "PRE_COPY"))
            if self.flags & bit
        ]
        return f"<Migration of {self._device.address}: {', '.join(words)}{' (closed)' if self.closed else ''}>"


def _method(file: object, name: str, method: str) -> Callable[..., Any]:
    """Return a method of a file that was given, before anything is done to the device."""
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
                f"{into!r} accepts nothing now; the file that a migration writes to must block when it is full",
            )
        if not 0 < taken <= len(view):
            raise Error(errno.EIO, f"{into!r} says that it took {taken} of {len(view)} bytes; the stream is not whole")
        view = view[taken:]
