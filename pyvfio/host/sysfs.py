"""Reading a tree that changes under the reader, and the names that may be written into it."""

from __future__ import annotations

import errno
import os

from pyvfio.kernel import Kernel

#: What a read gives when the device, or the process, goes away after its directory was found.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESRCH)


def checked_name(name: str, what: str) -> str:
    """`name`, if it can be one directory entry of sysfs and nothing else.

    :raises ValueError: it is empty, a path, starts with a dot, or has characters that no name in sysfs has
    """
    fits = name.isprintable() and name == name.strip() and "/" not in name
    if not fits or not 0 < len(name) < 256 or name[0] == ".":
        raise ValueError(f"{name!r} is not the name of a {what}")
    return name


def attribute(kernel: Kernel, path: str) -> str | None:
    """A text attribute without its newline; None where there is none, or no longer."""
    try:
        return kernel.read_file(path).decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        raise


def number(kernel: Kernel, path: str) -> int | None:
    """A numeric attribute, decimal or with 0x; None where there is none, or no longer."""
    text = attribute(kernel, path)
    return None if text is None else int(text, 0)


def link_name(kernel: Kernel, path: str) -> str | None:
    """The last part of what a link points to; None where there is no link, or no longer."""
    target = _target(kernel, path)
    return None if target is None else os.path.basename(target)


def linked(kernel: Kernel, path: str) -> str | None:
    """The path that a link in a directory of sysfs leads to; None where there is no link, or no longer.

    The links of buses, groups and classes lead to /sys/devices, where no directory is a link: one call, and the way is known.
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
    """The names in a directory, sorted; none where there is no directory, or no longer."""
    try:
        return sorted(kernel.listdir(path))
    except OSError as error:
        if error.errno in _VANISHED:
            return []
        raise


def write_within(kernel: Kernel, path: str, text: str, timeout: float) -> None:
    """Write to an attribute whose write may wait for others: `unbind`, `sriov_numvfs`.

    The write is made by a thread of its own. If it does not return in time it goes on: the kernel cannot be
    told to stop.

    :raises TimeoutError: it has not ended after `timeout` seconds
    """
    from threading import Thread

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
        raise TimeoutError(errno.ETIMEDOUT, f"no end of the write after {timeout:g} s", path)
    if ended[0] is not None:
        raise ended[0]
