"""Who closes what, and in which order.

Children hold their parents. A parent knows its children weakly and closes them before itself, newest first: devices before
groups before the container.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Resource:
    """Something that is closed once: by `close()`, at the end of a `with`, or by its parent."""

    def __init__(self, parent: Resource | None) -> None:
        self._parents: list[Resource] = []
        self._closed = False
        self._children: dict[int, Callable[[], Resource | None]] = {}
        if parent is not None:
            self._live_under(parent)

    #: whether parents keep it alive: for what has no descriptor of its own that could be closed in its stead
    _held_by_parents = False

    def _live_under(self, parent: Resource) -> None:
        """Be closed before `parent` is. The first to close of several parents closes it."""
        self._parents.append(parent)
        children, key = parent._children, id(self)
        if self._held_by_parents:
            children[key] = lambda: self
            return

        def forget(_: weakref.ref[Resource]) -> None:
            children.pop(key, None)

        children[key] = weakref.ref(self, forget)

    @property
    def closed(self) -> bool:
        """Whether it was closed, by itself or with what it was made from."""
        return self._closed

    def close(self) -> None:
        """Close this and everything made from it. Harmless when already closed.

        Everything is closed even if a part of it fails; then the first failure is raised at the end.
        """
        if self._closed:
            return
        self._closed = True
        failures: list[Exception] = []
        for reference in reversed(list(self._children.values())):
            child = reference()
            if child is not None:
                _attempt(child.close, failures)
        _attempt(self._release, failures)
        self._part()
        if failures:
            for other in failures[1:]:
                failures[0].add_note(f"while closing {self!r}, besides: {other}")
            raise failures[0]

    def _part(self) -> None:
        for parent in self._parents:
            parent._children.pop(id(self), None)

    def _release(self) -> None:
        """What closing this one means, after its children are closed."""

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


def _attempt(action: Callable[[], None], failures: list[Exception]) -> None:
    try:
        action()
    except Exception as failure:
        failures.append(failure)
