# SPDX-License-Identifier: MIT
"""Bindings that survive a reboot: a file of driverctl's where that is installed, otherwise a rule for udev.

driverctl keeps a file for each device in /etc/driverctl.d, whose content is the driver; its udev rule binds the device when it appears.
Without driverctl a rule of pyvfio's own does that. It sets `driver_override` when the device is announced, which is before udev loads
modules; then it loads the driver, and rebinds the device if another driver was faster.

The state before is recorded in /var/lib/pyvfio, so that :func:`pyvfio.host.restore` can undo the change after the reboot too.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import NamedTuple, Self

from pyvfio.errors import HostError
from pyvfio.host.journal import BOOT_DIRECTORY, JournalEntry
from pyvfio.host.sysfs import entries
from pyvfio.kernel import Kernel

DRIVERCTL_DIRECTORY = "/etc/driverctl.d"
RULES_DIRECTORY = "/etc/udev/rules.d"
#: where packages and administrators put rules, in udev's order
_RULES = (RULES_DIRECTORY, "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")


class File(NamedTuple):
    """A file and its content; None for no file."""

    path: str
    content: str | None

    @classmethod
    def now(cls, kernel: Kernel, path: str) -> Self:
        """Return a file with its present content."""
        try:
            return cls(path, kernel.read_file(path).decode(errors="surrogateescape"))
        except FileNotFoundError:
            return cls(path, None)

    def put(self, kernel: Kernel) -> None:
        """Write the content to the file; remove the file if the content is None.

        :raises OSError: the file system is read-only or full, EACCES without root
        """
        if self.content is None:
            with suppress(FileNotFoundError):
                kernel.unlink(self.path)
            return
        data = self.content.encode(errors="surrogateescape")
        fd = kernel.create(self.path)
        try:
            written = kernel.pwrite(fd, data, 0)
            kernel.truncate(fd, written)
        finally:
            kernel.close(fd)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)


def has_driverctl(kernel: Kernel) -> bool:
    """Whether driverctl's udev rule is installed, without which its files have no effect."""
    return any(name.endswith("driverctl.rules") for directory in _RULES for name in entries(kernel, directory))


def boot_file(kernel: Kernel, bus: str, address: str, driver: str) -> File:
    """Return the file by which a device is bound to a driver at each boot."""
    if has_driverctl(kernel):
        return File(f"{DRIVERCTL_DIRECTORY}/{bus}-{address}", f"{driver}\n")
    return File(f"{RULES_DIRECTORY}/05-pyvfio-{bus}-{address}.rules", _rule(bus, address, driver))


def _rule(bus: str, address: str, driver: str) -> str:
    # To udev, $$ is a dollar sign and %k the device's name.
    device, wanted = f"/sys/bus/{bus}/devices/%k", f"/sys/bus/{bus}/drivers/{driver}"
    rebind = (
        f"[ {device}/driver -ef {wanted} ] && exit; [ -e {device}/driver ] && echo %k >{device}/driver/unbind; "
        f"echo %k >/sys/bus/{bus}/drivers_probe"
    )
    return (
        f"# pyvfio.host.bind(..., at_boot=True) made this; pyvfio.host.restore({address!r}) removes it.\n"
        f'ACTION=="add", SUBSYSTEM=="{bus}", KERNEL=="{address}", ATTR{{driver_override}}="{driver}", '
        f'RUN{{builtin}}+="kmod load {driver}", RUN{{program}}+="/bin/sh -c \'{rebind}\'"\n'
    )


def _record(entry: JournalEntry) -> File:
    return File(f"{BOOT_DIRECTORY}/{entry.bus}:{entry.address}", json.dumps(entry._asdict()) + "\n")


class BootChanges:
    """Changes of files, which can be taken back after a failure."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._before: list[File] = []

    def enable(self, entry: JournalEntry, file: File) -> None:
        """Bind a device at each boot.

        :param entry: the journal's entry for it, with the file's path
        :raises OSError: a file could not be written
        """
        # The record is written first, so that every file that binds has one.
        self._put(_record(entry), f"recording that {entry.address} is bound at boot")
        self._put(file, f"having {entry.address} bound at boot")

    def disable(self, entry: JournalEntry) -> None:
        """Stop binding a device at boot; no effect if it is not bound at boot.

        :raises OSError: a file could not be removed
        """
        if entry.at_boot is None:
            return
        doing = f"having {entry.address} no longer bound at boot"
        # Leave a file alone that somebody else has changed since.
        now = File.now(self._kernel, entry.at_boot)
        if now.content is not None and entry.driver in now.content:
            self._put(now._replace(content=None), doing)
        self._put(_record(entry)._replace(content=None), doing)

    def _put(self, file: File, doing: str) -> None:
        before = File.now(self._kernel, file.path)
        if before == file:
            return
        self._before.append(before)
        try:
            file.put(self._kernel)
        except OSError as error:
            raise HostError(error.errno or errno.EIO, f"{doing}: {file.path}: {error.strerror}") from error

    def take_back(self, error: BaseException) -> None:
        """Restore all files; a failure to do so becomes a note on the exception."""
        for file in reversed(self._before):
            try:
                file.put(self._kernel)
            except OSError as failure:
                error.add_note(f"{file.path} is not as it was: {failure.strerror}")
        self._before.clear()
