# SPDX-License-Identifier: MIT
"""Resource ownership: a parent closes its children first, newest first.

Children hold their parents; a parent knows its children weakly. So devices are closed before groups, and groups before the
container.

A resource is registered with its parents when its constructor has returned, so that no thread sees a half-built object. `close()`
attempts every step even if one fails or is interrupted, and raises the first failure at the end. A resource that could not be
closed stays open and can be closed again.
"""

from __future__ import annotations

import sys
import time
from _thread import get_ident
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pyvfio._buffer import caller
from pyvfio._core.fd import Fd
from pyvfio._core.weak import WeakTable
from pyvfio.errors import Closed
from pyvfio.uncopyable import Uncopyable

#: seconds between two checks of a resource that another thread is closing
_PAUSE = 0.0005

#: thread -> the thread whose close() it waits for
_waits: dict[int, int] = {}


class _Closer(NamedTuple):
    """A call of close() in progress.

    :ivar caller: the thread that wants the resource closed
    :ivar thread: the thread that runs the call: `caller` itself, or the worker that runs a PythonKernel's methods for it
    """

    caller: int
    thread: int
    frame: FrameType


class Attempts:
    """A series of actions that are all tried; the first failure is raised at the end, with the others as notes."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []

    def do(self, action: Callable[[], object], done: Callable[[], bool] | None = None) -> bool:
        """Call `action`, keep its failure, and return whether it was done.

        A signal handler may raise before the action has done anything, or between two of its steps. Then the action is called a second
        time, so it must be one that can be repeated.

        :param done: returns whether the action has nothing left to do; called after such an interrupt
        """
        try:
            action()
        except Exception as failure:
            self.failures.append(failure)
            return False
        except BaseException as interrupt:
            self.failures.append(interrupt)
            if done is not None and done():
                return True
            if _was_attempted(interrupt):
                return False
            return self._do_again(action)
        return True

    def _do_again(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except BaseException as failure:
            self.failures.append(failure)
            return False
        return True

    def raise_first(self, during: str) -> None:
        """Raise the first failure; one that is not an Exception, such as KeyboardInterrupt, takes precedence."""
        if not self.failures:
            return
        first = next((one for one in self.failures if not isinstance(one, Exception)), self.failures[0])
        for other in self.failures:
            if other is not first:
                first.add_note(f"while {during}, besides: {other!r}")
        raise first


def _was_attempted(failure: BaseException) -> bool:
    """Whether a failure comes from :meth:`Attempts.raise_first`, so that each of its actions has been tried, and repeated if interrupted."""
    at = failure.__traceback__
    while at is not None:
        if at.tb_frame.f_code is Attempts.raise_first.__code__:
            return True
        at = at.tb_next
    return False


class _ResourceType(type):
    """Registers a resource with its parents when its constructor has returned."""

    if not TYPE_CHECKING:  # type checkers take the parameters from the constructor

        def __call__(cls, *args: Any, **more: Any) -> Any:
            self = cls.__new__(cls, *args, **more)
            try:
                self.__init__(*args, **more)
                self._register()
            except BaseException as failure:
                self._abandon(failure)
                raise
            return self


class Resource(Uncopyable, metaclass=_ResourceType):
    """Something that is closed once: by `close()`, at the end of a `with`, or by its parent."""

    #: whether parents keep it alive: for resources without a descriptor of their own, which would be closed when it is collected
    _held_by_parents = False

    def __init__(self, parent: Resource | None) -> None:
        self._parents: list[Resource] = [] if parent is None else [parent]
        self._registered = False
        self._closed = False
        #: the calls of close(). The first of them that still runs closes the resource; the others wait. This takes no lock, which a
        #: call that was ended by an interrupt could leave locked
        self._closers: list[_Closer] = []
        #: the resources made from this one, to be closed before it. The value is the resource itself where parents keep it alive, else None
        self._children: WeakTable[Resource, Resource | None] = WeakTable()

    def _live_under(self, parent: Resource) -> None:
        """Add a parent. The first of several parents to be closed closes this resource."""
        self._parents.append(parent)
        if self._registered:
            self._register_with(parent)

    def _register(self) -> None:
        self._registered = True
        for parent in self._parents:
            self._register_with(parent)

    def _register_with(self, parent: Resource) -> None:
        parent._children[self] = self if self._held_by_parents else None
        if parent._closed:
            # The parent was closed while this resource was made, and has closed its children already.
            raise Closed(f"{parent!r} is closed")

    def _abandon(self, failure: BaseException) -> None:
        """Undo the effects of a constructor that failed."""
        if not hasattr(self, "_children"):
            return
        attempts = Attempts()
        attempts.do(self._undo)
        self._closed = True
        attempts.do(self._detach_from_parents)
        for other in attempts.failures:
            failure.add_note(f"undoing it failed too: {other!r}")

    def _undo(self) -> None:
        """Close the descriptors of a constructor that failed, which may have stopped at any point."""

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with a parent."""
        return self._closed

    def close(self) -> None:
        """Close this and everything made from it. No effect if it is closed already.

        Everything is closed even if a part of it fails or is interrupted; then the first failure is raised at the end. A resource
        that could not be closed can be closed again. If another thread is closing it, wait until that is done.
        """
        claim = _Closer(caller(), get_ident(), sys._getframe())
        attempts = Attempts()
        try:
            if not self._claim(claim):
                return
            try:
                self._close_all(attempts)
            except BaseException as interrupt:
                # A signal handler raised between two steps: do the remaining ones.
                attempts.failures.append(interrupt)
                self._close_all(attempts)
        finally:
            if claim in self._closers:
                self._closers.remove(claim)
        attempts.raise_first(f"closing {self!r}")

    def _close_all(self, attempts: Attempts) -> None:
        closed = self._close_children(attempts)
        released = attempts.do(self._release, self._has_gone)
        if (closed and released) or self._has_gone():
            self._closed = True
            # A child that another thread is making meanwhile is registered by now, or will see `_closed` when it registers.
            self._close_children(attempts)
            attempts.do(self._detach_from_parents)

    def _claim(self, claim: _Closer) -> bool:
        """Wait for the right to close the resource. Return False if it is closed, or if a call further down this thread's stack closes
        it, or a thread that waits for this one.
        """
        me = claim.caller
        while not self._closed:
            self._closers.append(claim)
            first = self._first_closer()
            if first is claim:
                return True
            self._closers.remove(claim)
            if first.caller == me or _would_deadlock(me, first.caller):
                return False
            _waits[me] = first.caller
            try:
                time.sleep(_PAUSE)
            finally:
                _waits.pop(me, None)
        return False

    def _first_closer(self) -> _Closer:
        # A generator would not do: an exception that a signal handler raises while a generator is finalized is lost.
        for one in list(self._closers):
            if _runs(one):
                return one
        raise AssertionError("a close() that looks for the first is one itself")

    def _close_children(self, attempts: Attempts) -> bool:
        """Close the children, newest first, and return whether all of them are closed."""
        open_ = [child for child in reversed(list(self._children)) if not child._closed]
        for child in open_:
            attempts.do(child.close, partial(getattr, child, "_closed"))
        return not [child for child in open_ if not child._closed]

    def _detach_from_parents(self) -> None:
        for parent in self._parents:
            parent._children.discard(self)

    def _release(self) -> None:
        """Release the resource itself, after its children are closed. It may be called again after a failure."""

    def _has_gone(self) -> bool:
        """Whether nothing is left to be closed, although `_release` failed."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception as failure:
            error.add_note(f"closing {self!r} failed too: {failure}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class DescriptorResource(Resource):
    """A resource that owns the descriptor `_fd` and is closed with it."""

    _fd: Fd

    def _undo(self) -> None:
        if "_fd" in self.__dict__:
            self._fd.close()

    def _release(self) -> None:
        self._fd.close()

    def _has_gone(self) -> bool:
        return self._fd.closed


def _runs(claim: _Closer) -> bool:
    """Whether the frame of a claim is on the stack of its thread."""
    at = sys._current_frames().get(claim.thread)
    while at is not None:
        if at is claim.frame:
            return True
        at = at.f_back
    return False


def _would_deadlock(me: int, thread: int) -> bool:
    """Whether a thread waits for this one, directly or through other threads."""
    for _ in range(len(_waits) + 1):
        waited = _waits.get(thread)
        if waited is None:
            return False
        if waited == me:
            return True
        thread = waited
    return False
