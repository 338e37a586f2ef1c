# SPDX-License-Identifier: MIT
"""An owned file descriptor and its ioctl entry point."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeAlias, TypeVar

from pyvfio import _buffer
from pyvfio._abi import ffi
from pyvfio._buffer import Object, after_fork, in_call
from pyvfio._core.weak import WeakTable
from pyvfio.errors import BadReply, Closed
from pyvfio.host import holders
from pyvfio.kernel import Kernel, new_door
from pyvfio.uncopyable import Uncopyable

_T = TypeVar("_T")

_live: WeakTable[Fd, None] = WeakTable()
#: called with each new descriptor, and with each that is to be closed, while a trace is on
connected: Callable[[Fd], None] | None = None
closing: Callable[[Fd], None] | None = None
#: seconds between two checks whether the calls of other threads have ended: the first pause, and the longest
_PAUSES = 0.0001, 0.005


#: a descriptor or id that a request returns: where the kernel writes its 32 bits (NULL for the request's result), and its owner
Received: TypeAlias = "tuple[Any, Fd | Object]"


class Fd(Uncopyable):
    """A descriptor, the kernel that it belongs to, and its door.

    :ivar kind: the kind of descriptor, one of :data:`pyvfio.abi.NAMES`, which determines the requests that it takes
    :ivar name: the name in messages, for example `/dev/vfio/7`
    :ivar door: the native owner, :class:`pyvfio._buffer.Door`; it closes a descriptor that was never closed, with a ResourceWarning

    Calls may be made from any thread. A call in progress keeps the number open. If another thread calls `close()` meanwhile, a wait
    ends at once, and any other call finishes.
    """

    __slots__ = ("__weakref__", "door", "forked", "kernel", "kind")

    def __init__(self, kernel: Kernel, number: int, kind: str, name: str) -> None:
        self._begin(kernel, kind, name)
        self.door.take(int, number)
        self._connect()

    @classmethod
    def take(cls, kernel: Kernel, kind: str, name: str, function: Callable[..., int], *arguments: Any) -> Self:
        """Call a function and own the descriptor that it returns. No signal handler can run in between and lose the descriptor."""
        self = cls.__new__(cls)
        self._begin(kernel, kind, name)
        try:
            self.door.take(function, *arguments)
            self._connect()
        except BaseException:
            self.door.shut()
            raise
        return self

    @classmethod
    def open(cls, kernel: Kernel, path: str, kind: str) -> Self:
        """Open a device file for reading and writing."""
        return cls.take(kernel, kind, path, kernel.open, path)

    @classmethod
    def unopened(cls, kernel: Kernel, kind: str, name: str) -> Self:
        """Return an Fd for a descriptor that a request will return; until then it counts as closed."""
        self = cls.__new__(cls)
        self._begin(kernel, kind, name)
        return self

    def receive(self, request: int, argument: Any, received: Iterable[Received]) -> int:
        """Make a request that returns descriptors and ids, and return its result, or -errno.

        The native call hands them to their owners, so that no signal handler can run in between and lose one.
        """
        received = tuple(received)
        places = tuple(_address(place) for place, _ in received)
        fds = [owner for _, owner in received if isinstance(owner, Fd)]
        try:
            result = _buffer.receive(
                self.door,
                request,
                _address(argument),
                places,
                tuple(owner.door if isinstance(owner, Fd) else owner for _, owner in received),
            )
            for fd in fds:
                if fd.door.fd >= 0:
                    fd._connect()
        except BaseException:
            for fd in fds:
                fd.door.shut()
            raise
        return result

    def check_received(self, request: str) -> None:
        """Check that a request that succeeded has returned the descriptor.

        :raises BadReply: the request returned none
        """
        if self.door.fd < 0:
            raise BadReply(f"{request} succeeded and gave no descriptor")

    def _begin(self, kernel: Kernel, kind: str, name: str) -> None:
        self.kernel = kernel
        self.kind = kind
        self.forked = False
        self.door = new_door(kernel)
        self.door.name = name

    @property
    def name(self) -> str:
        """The name in messages."""
        return str(self.door.name)

    @name.setter
    def name(self, name: str) -> None:
        self.door.name = name

    def reroute(self, function: Any) -> None:
        """Make ioctls through another C function, with the same context; tracing uses it."""
        native = self.door.native
        if native is not None and native.fd >= 0:
            native.ioctl = function
            self.door._connect(native, _address(native))

    def _connect(self) -> None:
        native = self.kernel.door(self.door.fd, self.kind)
        self.door._connect(native, _address(native))
        _live[self] = None
        if connected is not None:
            connected(self)

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed: by this process, or because this is a forked child."""
        return self.door.fd < 0

    def fileno(self) -> int:
        """Return the number of the descriptor.

        :raises Closed: it is closed
        """
        number = self.door.fd
        if number < 0:
            raise self.closed_error()
        return number

    def check_open(self) -> None:
        """Check that the descriptor is open.

        :raises Closed: it is closed, or was opened by the parent of this process
        """
        if self.door.fd < 0:
            raise self.closed_error()

    def closed_error(self) -> Closed:
        """Return the exception for a call on a closed descriptor."""
        if self.forked:
            return Closed(f"{self.name} was opened before the fork: in the child it can only be closed")
        return Closed(f"{self.name} is closed")

    def ioctl(self, request: int, argument: Any = ffi.NULL) -> int:
        """Make an ioctl, and return its result, or -errno (-EBADF once closed). After EINTR it runs signal handlers and repeats the ioctl.

        :raises BaseException: a signal handler or a PythonKernel raised it
        """
        return self.door.ioctl(request, _address(argument))

    def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call a function with the number and the arguments. The number stays open until it returns.

        :raises Closed: this is closed
        """
        try:
            return self.door.call(function, *arguments)
        except OSError:
            self.check_open()
            raise

    def poll(self, events: int, timeout: float | None) -> int:
        """Wait for events as poll(2) does; 0 when `timeout` seconds have passed. None waits for ever.

        :raises Closed: this is closed, or another thread closed it
        """
        if timeout is not None and timeout <= 0:
            ready = self.call(self.kernel.poll, events, timeout)
        else:
            ready = self.call(self.kernel.poll_with_waker, events, timeout, self.door.waker(False))
        self.check_open()
        return ready

    def close(self) -> None:
        """Close the descriptor: later calls fail, waits end. It returns when the calls of other threads have ended.

        It does not wait if a signal handler interrupts it, or if this thread is itself in a call; then the last call to end closes the
        number.
        """
        if closing is not None and self.door.fd >= 0:
            closing(self)
        if self.door.native is not None:
            self.door.native.fd = -1
        if not self.door.shut() and not in_call():
            pause, longest = _PAUSES
            while not self.door.shut():
                time.sleep(pause)
                pause = min(2 * pause, longest)

    def __repr__(self) -> str:
        return f"<Fd {'closed' if self.closed else self.door.fd}: {self.name}>"


def _address(argument: Any) -> int:
    return int(ffi.cast("uintptr_t", argument))


def live() -> list[Fd]:
    """Return the descriptors that are open."""
    return [fd for fd in _live if not fd.closed]


def device_of(number: int) -> str | None:
    """Return the address of the device that a descriptor of this process has open; None if the library did not open it."""
    # The name of a device that was opened with a vf_token has the token after the address.
    return next((fd.name.partition(" ")[0] for fd in _live if fd.kind == "device" and fd.door.fd == number), None)


def _after_fork() -> None:
    # The parent's descriptors stand for mappings of the parent's memory and for its locked pages: the child must not use them.
    after_fork()
    for fd in _live:
        fd.forked = True
        fd.door.native.fd = -1
        fd.door.inherit()


holders.own_device = device_of
os.register_at_fork(after_in_child=_after_fork)
