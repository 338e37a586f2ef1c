# SPDX-License-Identifier: MIT
"""Reads of sysfs and procfs, which change under the reader, and the names that may be written to sysfs."""

from __future__ import annotations

import errno
import os
from threading import Thread

from pyvfio._core import arguments
from pyvfio.errors import BadReply
from pyvfio.kernel import Kernel

#: The errnos of a read when the device, or the process, goes away after its directory was found.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESRCH)


def checked_name(name: str, what: str) -> str:
    """Return `name`, if it can be one directory entry of sysfs and nothing else.

    :param what: the kind of object that has the name, for messages
    :raises TypeError: it is not a str
    :raises ValueError: it is empty, a path, starts with a dot, or has characters that no name in sysfs has
    """
    if not isinstance(name, str):
        raise arguments.wrong_type(name, f"the name of a {what}", "a str")
    fits = name.isprintable() and name == name.strip() and "/" not in name
    if not fits or not 0 < len(name) < 256 or name[0] == ".":
        raise ValueError(f"{name!r} is not a valid {what} name")
    return name


def attribute(kernel: Kernel, path: str) -> str | None:
    """Return a text attribute without its newline; None if it does not exist, or no longer."""
    try:
        return kernel.read_file(path).decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        raise


def number(kernel: Kernel, path: str) -> int | None:
    """Return a numeric attribute, decimal or with 0x; None if it does not exist, or no longer.

    :raises BadReply: it is not a number
    """
    if (text := attribute(kernel, path)) is None:
        return None
    try:
        return int(text, 0)
    except ValueError:
        raise BadReply(f"{path} is not a number: {text[:40]!r}") from None


def link_name(kernel: Kernel, path: str) -> str | None:
    """Return the last part of a link's target; None if the link does not exist, or no longer."""
    target = _target(kernel, path)
    return None if target is None else os.path.basename(target)


def linked(kernel: Kernel, path: str) -> str | None:
    """Return the path that a link in a directory of sysfs points to; None if the link does not exist, or no longer.

    The links of buses, groups and classes point into /sys/devices, where no directory is a link, so one readlink is enough.
    """
    target = _target(kernel, path)
    return None if target is None else os.path.normpath(f"{os.path.dirname(path)}/{target}")


def _target(kernel: Kernel, path: str) -> str | None:
    try:
        return kernel.readlink(path)
    except OSError as error:
        if error.errno in (*_VANISHED, errno.EINVAL):
            return None
        raise


def entries(kernel: Kernel, path: str) -> list[str]:
    """Return the names in a directory, sorted; an empty list if the directory does not exist, or no longer."""
    try:
        return sorted(kernel.listdir(path))
    except OSError as error:
        if error.errno in _VANISHED:
            return []
        raise


def write_within(kernel: Kernel, path: str, text: str, timeout: float) -> None:
    """Write to an attribute whose write may wait for other processes: `unbind`, `sriov_numvfs`.

    The write is made in a new thread. If it does not return in time it continues, since the kernel cannot be told to stop.

    :raises TimeoutError: it has not ended after `timeout` seconds
    """
    ended: list[OSError | None] = []

    def write() -> None:
        try:
            kernel.write_file(path, text.encode())
        except OSError as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = Thread(target=write, name=f"pyvfio: {path}", daemon=True)
    thread.start()
    thread.join(timeout)
    if not ended:
        raise TimeoutError(errno.ETIMEDOUT, f"the write has not ended after {timeout:g} s", path)
    if ended[0] is not None:
        raise ended[0]
