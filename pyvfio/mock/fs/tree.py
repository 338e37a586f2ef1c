# SPDX-License-Identifier: MIT
"""The files that the mock shows by path: /dev, /sys and what else it has of a host. Nothing of the real one is in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeAlias

from pyvfio.mock.machine.errno import Errno

Directory: TypeAlias = "dict[str, Node]"


class Text:
    """An attribute of sysfs: what it says, and what a write to it does.

    :param content: the bytes, or what gives them at each read
    :param write: takes what is written, whole; None for a file that is read only
    """

    def __init__(
        self, content: bytes | Callable[[], bytes] | None = b"", write: Callable[[bytes], None] | None = None
    ) -> None:
        self.content = content
        self.write = write


class Link:
    """A symbolic link, relative to its own directory or absolute."""

    def __init__(self, target: str) -> None:
        self.target = target


class Special:
    """A device node, or a regular file: `open(flags)` returns a descriptor.

    :param content: what a regular file holds; None for a device node
    """

    def __init__(self, open: Callable[[int], int], content: Callable[[], bytes] | None = None) -> None:
        self.open = open
        self.content = content


Node: TypeAlias = "Directory | Text | Link | Special"


class Tree:
    """A file system of directories, links, attributes and device nodes. Paths are absolute and in normal form."""

    def __init__(self) -> None:
        self._root: Directory = {}

    def add(self, path: str, node: Node) -> None:
        """Put a node there, with the directories above it; what was there is replaced."""
        above, _, name = path.rpartition("/")
        self.directory(above)[name] = node

    def directory(self, path: str) -> Directory:
        """The directory there, made if need be; links on the way are followed."""
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
        """Take a node away, with all below it; nothing happens if it is not there."""
        above, _, name = path.rpartition("/")
        try:
            directory = self._find(self.realpath(above))
        except Errno:
            return
        if isinstance(directory, dict):
            directory.pop(name, None)

    # What a kernel is asked. Errors are Errno: ENOENT, ENOTDIR, EINVAL, ELOOP, EACCES.

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
            raise Errno(errno.EINVAL)  # a directory by a path that says so
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
        """The path without links, as far as there are nodes; what is not there is taken as it stands (os.path.realpath)."""
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
        """The node at a path; no link is followed."""
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
    """The exception that a failed call by path raises in Python."""
    return OSError(error.number, os.strerror(error.number), path)
