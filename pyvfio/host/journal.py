# SPDX-License-Identifier: MIT
"""The journal of changed bindings: one small file for each device, with the binding before and the program's process.

A program holds the file locked (flock) while it keeps the device bound. The lock ends with the program, however that ends; the file's
content stays until the device is restored. A forked child closes its copy of the file, so that it does not keep the lock of a parent
that was killed. The directory is on a file system that a reboot empties, as a reboot undoes the bindings. A device that is bound at each
boot has a second file, in a directory that survives a reboot.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from types import TracebackType
from typing import NamedTuple, Self

from pyvfio._core.weak import WeakTable
from pyvfio.errors import BadReply, Closed
from pyvfio.host import diagnosis
from pyvfio.host.nodes import Nodes, canonical
from pyvfio.host.sysfs import checked_name, entries
from pyvfio.kernel import Kernel, new_door, resolve

DIRECTORY = "/run/pyvfio"
#: files of the same kind, of devices that are bound at each boot
BOOT_DIRECTORY = "/var/lib/pyvfio"
# The largest entry has four names of at most 255 bytes.
_MOST = 4096

_live: WeakTable[Journal, None] = WeakTable()


class JournalEntry(NamedTuple):
    """A binding that a program changed, or keeps others from changing.

    :ivar driver: the driver that the device was bound to
    :ivar previous_driver: the driver before that; None for none
    :ivar previous_override: its `driver_override` before
    :ivar pid: the program's process
    :ivar at_boot: the file by which the device is bound at each boot; None if it is not
    """

    bus: str
    address: str
    driver: str
    previous_driver: str | None
    previous_override: str | None
    pid: int
    at_boot: str | None = None


class Journal:
    """A device's file in the journal, locked. Without close() the lock ends with the object, and the file stays, even an empty one.

    :ivar left: the entry that an earlier program has left: it was killed, or it left the device bound on purpose, or the device is bound
        at each boot. None if there is no entry
    :ivar boot: the entry of a device that is bound at each boot
    :raises OSError: EBUSY, a program holds it; EACCES without root
    :raises BadReply: the file does not hold an entry
    """

    def __init__(self, kernel: Kernel, nodes: Nodes) -> None:
        self._kernel = kernel
        self._path = f"{DIRECTORY}/{nodes.bus}:{nodes.address}"
        # A door without a name gives no ResourceWarning when it is collected: a program may drop a Binding to leave the device bound.
        self._door = new_door(kernel)
        self._forked = False
        self._entry = False
        self.left: JournalEntry | None = None
        self.boot: JournalEntry | None = None
        _live[self] = None
        try:
            self._lock(nodes.address)
            self.left = self._read()
            self._entry = self.left is not None
            self.boot = boot_entry(kernel, nodes)
            if self.left is None:
                self.left = self.boot
        except BaseException:
            self._leave()
            raise

    def _lock(self, address: str) -> None:
        while True:
            self._door.take(self._kernel.create, self._path)
            try:
                self._kernel.flock(self._door.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._entry = True  # not ours to remove
                raise diagnosis.error(diagnosis.kept_bound(address, self._holder())) from None
            if self._kernel.is_at(self._door.fd, self._path):
                return
            # The file's last owner removed it between create() and flock(): try again.
            self._leave()

    def _holder(self) -> int | None:
        try:
            entry = self._read()
        except BadReply:
            return None
        if entry is None:
            return None
        # If that process has ended, the lock is held by a child that it forked without Python's knowledge.
        alive = entry.pid == os.getpid() or self._kernel.exists(f"/proc/{entry.pid}")
        return entry.pid if alive else None

    def _read(self) -> JournalEntry | None:
        return _parse(self._path, self._kernel.pread(self._door.fd, _MOST, 0))

    def record(self, entry: JournalEntry) -> None:
        """Record a change that is about to be made.

        :raises OSError: ENOSPC, the file system is full; the file is as it was
        """
        line = json.dumps(entry._asdict()).encode() + b"\n"
        # One write, then the truncation: at any moment the file starts with one whole line, the old or the new.
        written = self._kernel.pwrite(self._door.fd, line, 0)
        if written != len(line):
            if not self._entry:
                self._kernel.truncate(self._door.fd, 0)
            raise diagnosis.error(diagnosis.journal_full(self._path))
        self._kernel.truncate(self._door.fd, len(line))
        self._entry = True

    def clear(self) -> None:
        """Drop the entry, since the device is restored; close() removes the file."""
        self._entry = False

    def close(self) -> None:
        """Release the lock. A file without an entry is removed, which is safe while it is locked: see :meth:`_lock`."""
        self._leave()

    def _leave(self) -> None:
        door, self._door = self._door, new_door(self._kernel)
        if door.fd < 0:
            return
        try:
            if not self._entry and not self._forked and self._kernel.is_at(door.fd, self._path):
                self._kernel.unlink(self._path)
        finally:
            door.shut()

    def check_owner(self) -> None:
        """Check that this process holds the lock.

        :raises Closed: this is a forked child, in which the lock is not held
        """
        if self._forked:
            raise Closed(f"{self._path} was locked before the fork: the parent alone can restore the device")

    @property
    def forked(self) -> bool:
        """Whether this is a forked child of the process that locked the file."""
        return self._forked

    def _in_child(self) -> None:
        self._forked = True
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _after_fork() -> None:
    # A flock belongs to the open file description, which the child shares. The child closes its copy, so that the lock ends with the parent.
    for journal in _live:
        journal._in_child()


os.register_at_fork(after_in_child=_after_fork)


def bindings(kernel: Kernel | str | None = None) -> list[JournalEntry]:
    """Return the journal's entries: bindings that running programs keep, and those that ended programs have left.

    A file that holds no entry is left out with a :class:`RuntimeWarning` that names it.

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: EACCES, since the journal is root's
    """
    found = []
    for entry in journaled(resolve(kernel)):
        if isinstance(entry, JournalEntry):
            found.append(entry)
        else:
            warnings.warn(str(entry), RuntimeWarning, stacklevel=2)
    return found


def journaled(kernel: Kernel) -> list[JournalEntry | BadReply]:
    """Return the journal's entries, and an exception for each damaged file. For a device with a file in both directories it is the one in
    :data:`DIRECTORY`.
    """
    found: list[JournalEntry | BadReply] = []
    names = dict.fromkeys(entries(kernel, BOOT_DIRECTORY), BOOT_DIRECTORY)
    names |= dict.fromkeys(entries(kernel, DIRECTORY), DIRECTORY)
    for name, directory in names.items():
        path = f"{directory}/{name}"
        try:
            entry = _parse(path, kernel.read_file(path))
        except FileNotFoundError:
            continue
        except BadReply as damaged:
            found.append(damaged)
            continue
        if entry is not None:
            found.append(entry)
    return found


def boot_entry(kernel: Kernel, nodes: Nodes) -> JournalEntry | None:
    """Return the entry of a device that is bound at each boot; None if it is not.

    :raises BadReply: the file does not hold an entry
    """
    path = f"{BOOT_DIRECTORY}/{nodes.bus}:{nodes.address}"
    try:
        return _parse(path, kernel.read_file(path))
    except FileNotFoundError:
        return None


def _parse(path: str, content: bytes) -> JournalEntry | None:
    line, newline, _ = content.partition(b"\n")
    if not newline and len(content) < _MOST and not content.startswith(b"\0"):
        return None  # empty, or its writer was killed before anything was changed
    try:
        return _checked(json.loads(line))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise BadReply(
            f"{path} is damaged and holds no entry of pyvfio's journal ({why}); "
            "look at the device's driver and driver_override, then remove the file"
        ) from None


def _checked(values: object) -> JournalEntry:
    """Return the entry of a decoded line, after checking its names, which will be written to sysfs."""
    if not isinstance(values, dict):
        raise TypeError("not an object")
    # Ignore unknown keys, which a newer version has written.
    entry = JournalEntry(**{name: values[name] for name in JournalEntry._fields if name in values or name != "at_boot"})
    if type(entry.pid) is not int or None in (entry.bus, entry.driver):
        raise TypeError("bus, driver or pid is missing")
    for name, kind in (
        (entry.bus, "bus"),
        (entry.driver, "driver"),
        (entry.previous_driver, "driver"),
        (entry.previous_override, "driver"),
    ):
        if name is not None:
            checked_name(name, kind)
    canonical(entry.address)
    if entry.at_boot is not None and not _binds_at_boot(entry.at_boot, entry.bus, entry.address):
        raise ValueError("at_boot names another file")
    return entry


def _binds_at_boot(path: object, bus: str, address: str) -> bool:
    """Whether a path is that of a file that binds this device at boot. Checked since the file will be removed."""
    return path in (f"/etc/driverctl.d/{bus}-{address}", f"/etc/udev/rules.d/05-pyvfio-{bus}-{address}.rules")
