# SPDX-License-Identifier: MIT
"""The mock's file system in memory: /dev, /sys and the parts of /proc that it models.

It has no access to the real one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeAlias

from pyvfio.mock.machine.errno import Errno

Directory: TypeAlias = "dict[str, Node]"


class Text:
    """An attribute of sysfs.

    :param content: the bytes, or a function that returns them at each read; None: not readable
    :param write: a function called with the written bytes; None: not writable
    """

    def __init__(
        self, content: bytes | Callable[[], bytes] | None = b"", write: Callable[[bytes], None] | None = None
    ) -> None:
        self.content = content
        self.write = write


class Link:
    """A symbolic link, absolute or relative to its directory."""

    def __init__(self, target: str) -> None:
        self.target = target


class Special:
    """A device node, or a regular file.

    :param open: a function that takes the flags of open(2) and returns a descriptor
    :param content: a function that returns the contents of a regular file; None for a device node
    """

    def __init__(self, open: Callable[[int], int], content: Callable[[], bytes] | None = None) -> None:
        self.open = open
        self.content = content


Node: TypeAlias = "Directory | Text | Link | Special"


class Tree:
    """A file system of directories, links, attributes and device nodes. Paths are absolute and normalized."""

    def __init__(self) -> None:
        self._root: Directory = {}

    def add(self, path: str, node: Node) -> None:
        """Add a node, and the directories above it; an existing node is replaced."""
        above, _, name = path.rpartition("/")
        self.directory(above)[name] = node

    def directory(self, path: str) -> Directory:
        """Return a directory, created if needed; links on the path are followed."""
        node: Node = self._root
        parts = [part for part in path.split("/") if part]
        for index, part in enumerate(parts):
            if isinstance(node, dict):
                node = node.setdefault(part, {})
            if isinstance(node, Link):
                node = self._find(self.realpath("/" + "/".join(parts[: index + 1])))
        if not isinstance(node, dict):
            raise Errno(errno.ENOTDIR)
        return node

    def remove(self, path: str) -> None:
        """Remove a node and everything below it; do nothing if it does not exist."""
        above, _, name = path.rpartition("/")
        try:
            directory = self._find(self.realpath(above))
        except Errno:
            return
        if isinstance(directory, dict):
            directory.pop(name, None)

    # File operations. They raise Errno: ENOENT, ENOTDIR, EISDIR, EINVAL, ELOOP, EACCES, ENXIO.

    def exists(self, path: str) -> bool:
        try:
            self._find(self.realpath(path))
        except Errno:
            return False
        return True

    def listdir(self, path: str) -> list[str]:
        node = self._find(self.realpath(path))
        if not isinstance(node, dict):
            raise Errno(errno.ENOTDIR)
        return list(node)

    def readlink(self, path: str) -> str:
        above, _, name = path.rpartition("/")
        directory = self._find(self.realpath(above))
        if isinstance(directory, dict) and not name:
            raise Errno(errno.EINVAL)  # a path with a trailing slash names a directory
        if not isinstance(directory, dict):
            raise Errno(errno.ENOTDIR)
        if name not in directory:
            raise Errno(errno.ENOENT)
        node = directory[name]
        if not isinstance(node, Link):
            raise Errno(errno.EINVAL)
        return node.target

    def read(self, path: str) -> bytes:
        node = self._find(self.realpath(path))
        if isinstance(node, dict):
            raise Errno(errno.EISDIR)
        if isinstance(node, Link) or node.content is None:
            raise Errno(errno.EACCES)
        return node.content() if callable(node.content) else node.content

    def write(self, path: str, data: bytes) -> None:
        node = self._find(self.realpath(path))
        if isinstance(node, dict):
            raise Errno(errno.EISDIR)
        if not isinstance(node, Text) or node.write is None:
            raise Errno(errno.EACCES)
        if data:
            node.write(data)

    def special(self, path: str) -> Special:
        node = self._find(self.realpath(path))
        if not isinstance(node, Special):
            raise Errno(errno.EISDIR if isinstance(node, dict) else errno.ENXIO)
        return node

    def realpath(self, path: str) -> str:
        """Return the path with all links resolved; components that do not exist are kept (os.path.realpath)."""
        done: list[str] = []
        left = [part for part in reversed(path.split("/")) if part]
        followed = 0
        while left:
            part = left.pop()
            if part == "..":
                del done[-1:]
                continue
            done.append(part)
            try:
                node = self._find("/" + "/".join(done))
            except Errno:
                continue
            if isinstance(node, Link):
                followed += 1
                if followed > 40:
                    raise Errno(errno.ELOOP)
                done.clear() if node.target.startswith("/") else done.pop()
                left += [part for part in reversed(node.target.split("/")) if part and part != "."]
        return "/" + "/".join(done)

    def _find(self, path: str) -> Node:
        """Return the node at a path, without following links."""
        node: Node = self._root
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(node, dict):
                raise Errno(errno.ENOTDIR)
            if part not in node:
                raise Errno(errno.ENOENT)
            node = node[part]
        return node


def os_error(error: Errno, path: str) -> OSError:
    """Return the OSError of a failed call by path."""
    return OSError(error.number, os.strerror(error.number), path)
