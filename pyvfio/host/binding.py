# SPDX-License-Identifier: MIT
"""Bind devices to a driver, and restore the drivers that they had before."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from pyvfio._core import arguments
from pyvfio.errors import BadReply, HostError
from pyvfio.host import diagnosis
from pyvfio.host.at_boot import BootChanges, boot_file
from pyvfio.host.discovery import HostDevice, device, no_group
from pyvfio.host.holders import holders_of
from pyvfio.host.in_use import refuse_if_in_use
from pyvfio.host.journal import Journal, JournalEntry, journaled
from pyvfio.host.nodes import Nodes
from pyvfio.host.sysfs import attribute, checked_name, entries, write_within
from pyvfio.kernel import Kernel, resolve

#: seconds that a process which has the device open gets to close it when it is to be unbound
TIMEOUT = 10.0
#: the driver of a device that was unbound, in the journal and in :attr:`Binding.driver`
NO_DRIVER = "none"
#: seconds that a driver gets to start a device
PROBE_TIMEOUT = 60.0


class Write(NamedTuple):
    """One write: to an attribute in sysfs, or of a whole file that binds a device at boot."""

    path: str
    text: str

    def __str__(self) -> str:
        if "\n" in self.text:
            return f"printf %s {shlex.quote(self.text)} > {self.path}"
        return f"echo {self.text!r} > {self.path}" if self.text else f"echo > {self.path}"


class _State(NamedTuple):
    driver: str | None
    override: str | None


class _Change:
    """The binding of one device: its lock in the journal, its state before, and its state to be.

    :ivar before: the state that restore() restores
    :ivar found: the state that a failed bind() goes back to: `before`, or the state since the last boot of a device bound at boot
    :ivar journal: the device's file in the journal; None with `dry_run`, and after an attempt to restore the device
    :ivar entry: the entry that this binding wrote to the journal; None with `dry_run`
    """

    def __init__(
        self,
        journal: Journal | None,
        entry: JournalEntry | None,
        device: HostDevice,
        before: _State,
        to: _State,
        found: _State | None = None,
    ) -> None:
        self.journal = journal
        self.entry = entry
        self.device = device
        self.before = before
        self.found = found or before
        self.to = to
        self.restored = False


class Binding:
    """Devices that :func:`bind` has bound to a driver.

    At the end of a `with` they are restored. Without `with` they stay bound, after the end of the program too; then
    :meth:`restore`, or :func:`pyvfio.host.restore` in any program, puts them back, and :func:`pyvfio.host.bindings` lists them. For as
    long as this object lives, no other program can bind or restore the devices by these functions.

    :ivar driver: the driver
    :ivar devices: each device as it was after binding, with its nodes, in the order given
    :ivar writes: the writes that were made; with `dry_run`, those that would be made
    :ivar dry_run: whether nothing was written
    """

    def __init__(
        self,
        kernel: Kernel,
        changes: list[_Change],
        driver: str,
        writes: Sequence[Write],
        *,
        timeout: float,
        dry_run: bool,
    ) -> None:
        self._kernel = kernel
        self._changes = changes
        self._timeout = timeout
        self._restored = False
        self.driver = driver
        self.devices = tuple(change.device for change in changes)
        self.writes = tuple(writes)
        self.dry_run = dry_run

    @property
    def device(self) -> HostDevice:
        """The device, if there is only one.

        :raises ValueError: there are several: see :attr:`devices`
        """
        if len(self.devices) != 1:
            raise ValueError(f"{len(self.devices)} devices are bound: use Binding.devices")
        return self.devices[0]

    @property
    def address(self) -> str:
        """The address of the device, if there is only one."""
        return self.device.address

    @property
    def restored(self) -> bool:
        """Whether the devices have been restored."""
        return self._restored

    def restore(self) -> None:
        """Give each device the driver and driver_override back that it had before, the last device first. No effect if that is done.

        The devices must be closed. One that this process has open is not touched, since the kernel would wait for a close that could never
        come; other processes are sent the device's request interrupt, and have the `timeout` of :func:`bind` to close it. In both cases the
        device stays bound and in the journal, and this can be called again: it restores the devices that are left.

        :raises OSError: EBUSY, this process has it open, or another program has bound it since; any errno of the driver
        :raises TimeoutError: another process did not close it
        :raises Closed: this is a forked child of the process that bound it
        """
        if self._restored or self.dry_run:
            return
        for change in self._changes:
            if change.journal is not None:
                change.journal.check_owner()
        failures: list[OSError] = []
        for change in reversed(self._changes):
            try:
                self._restore(change)
            except OSError as failure:
                failures.append(failure)
        if failures:
            raise _first(failures)
        self._restored = True

    def _restore(self, change: _Change) -> None:
        if change.restored:
            return
        journal, change.journal = change.journal, None
        # An attempt that fails gives up the lock, so that pyvfio.host.restore() can finish it too.
        with journal or _journal(self._kernel, change.device.nodes) as held:
            # Another entry means that another program restored the device, and bound it again.
            if journal is not None or held.left == change.entry:
                _put_back(self._kernel, held, change.device, change.before, self._timeout)
                if change.entry is not None:
                    BootChanges(self._kernel).disable(change.entry)
        change.restored = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if any(change.journal is not None and change.journal.forked for change in self._changes):
            return  # a forked child has nothing to restore
        if error is None:
            self.restore()
            return
        try:
            self.restore()
        except Exception as failure:
            error.add_note(f"{', '.join(one.address for one in self.devices)}: not restored: {failure}")

    def __repr__(self) -> str:
        state = "dry run" if self.dry_run else "restored" if self._restored else "bound"
        were = ", ".join(
            f"{change.device.address} (was {change.before.driver or 'unbound'})" for change in self._changes
        )
        return f"<Binding to {self.driver}, {state}: {were}>"


def bind(
    where: str | HostDevice | Iterable[str | HostDevice],
    /,
    driver: str,
    *,
    allow_in_use: Collection[str] = (),
    timeout: float = TIMEOUT,
    at_boot: bool = False,
    dry_run: bool = False,
    kernel: Kernel | str | None = None,
) -> Binding:
    """Bind a device, or several, to a driver. ::

        with pyvfio.host.bind("0000:41:10.1", "vfio-pci"):
            ...  # restored at the end
        pyvfio.host.bind("0000:41:10.1", "vfio-pci")  # stays bound
        # and is bound at each boot
        pyvfio.host.bind("0000:41:10.1", "vfio-pci", at_boot=True)

    This writes `driver_override` and the drivers' `unbind` and `bind` in sysfs, on any bus that has them (PCI, platform, ...). It binds
    only the given devices; `host.group(number).in_the_way` names other members that keep VFIO from the group. A device that has the driver
    already is left alone, now and at the end. Of several devices all are bound or none.

    Any device can be bound to VFIO's drivers and pci-stub; every other driver only gets devices of its own list.

    With `at_boot` the device is also bound at each boot, until :func:`restore` or :meth:`Binding.restore` restores it, before or after a
    reboot. A file in /etc/driverctl.d does that if driverctl is installed, otherwise a rule for udev in /etc/udev/rules.d.

    :param where: addresses, or what :func:`device` and :func:`devices` return
    :param driver: for example `vfio-pci`; it must be loaded
    :param allow_in_use: names of uses that may break, as :func:`uses` and the text of the refusal have them
    :param timeout: seconds to wait for each device's unbind, now and when it is restored
    :param at_boot: whether to bind the device at each boot too
    :param dry_run: check everything and write nothing; :attr:`Binding.writes` lists what would be written
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises ValueError: not a valid device or driver name; a device is given twice
    :raises OSError: ENODEV, no such device, or no IOMMU group and a VFIO driver; ENOENT, no such driver; EBUSY, the device is in use by
        the system, or a process has it open or bound; EACCES without root; any errno of the driver
    :raises TimeoutError: another process did not close the device
    """
    kernel = resolve(kernel)
    checked_name(driver, "driver")
    at_boot = arguments.boolean(at_boot, "at_boot")
    timeout = arguments.seconds(timeout, "timeout")
    dry_run = arguments.boolean(dry_run, "dry_run")
    found = [device(_address(one), kernel) for one in _several(where)]
    if len({one.path for one in found}) != len(found):
        raise ValueError("where has a device twice")
    changes: list[_Change] = []
    writes: list[Write] = []
    boot = BootChanges(kernel)
    try:
        for one in found:
            # One by one, not by extend(): after an exception the changes before it must be in the list, to be rolled back.
            changes.append(_prepare(kernel, one, driver, allow_in_use, at_boot=at_boot, dry_run=dry_run))  # noqa: PERF401 (rolled back)
        for change in changes:
            if change.device.driver == driver:
                continue
            if dry_run:
                writes += _writes(change.device, change.to)
            else:
                writes += _move(kernel, change.device.nodes, change.to, timeout)
                change.device = device(change.device.address, kernel)
        for change in changes if at_boot else ():
            file = boot_file(kernel, change.device.bus, change.device.address, driver)
            writes.append(Write(file.path, file.content or ""))
            if change.entry is not None:
                boot.enable(change.entry, file)
    except BaseException as error:
        boot.take_back(error)
        _roll_back(kernel, changes, timeout, error)
        raise
    return Binding(kernel, changes, driver, writes, timeout=timeout, dry_run=dry_run)


def _several(where: object) -> list[Any]:
    if isinstance(where, str | HostDevice):
        return [where]
    if not isinstance(where, Iterable):
        raise arguments.wrong_type(where, "where", "a device's address, a HostDevice, or several of them")
    if not (several := list(where)):
        raise ValueError("where has no device")
    return several


def _address(one: str | HostDevice) -> str:
    return one.address if isinstance(one, HostDevice) else one


def _prepare(
    kernel: Kernel, found: HostDevice, driver: str, allow_in_use: Collection[str], *, at_boot: bool, dry_run: bool
) -> _Change:
    """Lock a device's file in the journal, check that the device can be bound, and record the change in the journal."""
    to = _State(driver, driver if _takes_anything(driver) else None)
    if dry_run:
        if found.driver != driver:
            _check(kernel, found, driver, allow_in_use)
        return _Change(None, None, found, _State(found.driver, found.driver_override), to)
    journal = _journal(kernel, found.nodes)
    try:
        # Another program may have changed it before the file was locked.
        found = device(found.address, kernel)
        before = _State(found.driver, found.driver_override)
        # restore() leaves a device that is bound at each boot as it is after boot, unless this call itself changes the binding at boot.
        left = journal.boot if at_boot and journal.boot is not None else journal.left
        if left is not None and (at_boot or left.at_boot is None) and _is_as_left(found, left):
            before = _State(left.previous_driver, left.previous_override)
        if found.driver != driver:
            _check(kernel, found, driver, allow_in_use)
        file = boot_file(kernel, found.bus, found.address, driver).path if at_boot else None
        entry = JournalEntry(found.bus, found.address, driver, *before, os.getpid(), file)
        journal.record(entry)
    except BaseException:
        journal.close()
        raise
    as_found = None if journal.boot is None else _State(found.driver, found.driver_override)
    return _Change(journal, entry, found, before, to, as_found)


def _roll_back(kernel: Kernel, changes: list[_Change], timeout: float, error: BaseException) -> None:
    for change in reversed(changes):
        if change.journal is None:
            continue
        try:
            with change.journal:
                _put_back(kernel, change.journal, change.device, change.found, timeout)
        except Exception as failure:
            error.add_note(f"{change.device.address} was not restored: {failure}")


def _takes_anything(driver: str) -> bool:
    """Whether a driver may be given a device that is not in its own list, as `driver_override` does.

    Other drivers rely on their list: e1000e's probe of another device causes an oops.
    """
    return "vfio" in driver or driver == "pci-stub"


def restore(
    where: str | HostDevice | None = None, *, timeout: float = TIMEOUT, kernel: Kernel | str | None = None
) -> list[str]:
    """Restore the devices that ended programs have left bound; return their addresses.

    These are programs that were killed, and programs that called :func:`bind` without `with`. If they did so with `at_boot`, it may have
    been before the last boot; such a device is no longer bound at boot. A device that a running program keeps bound is left alone, and so
    is one that has been bound to another driver since.

    :param where: only this device
    :param timeout: seconds to wait for each device's unbinding
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: as for :meth:`Binding.restore`; everything else has been restored
    :raises BadReply: a file of the journal is damaged; everything else has been restored
    """
    kernel = resolve(kernel)
    timeout = arguments.seconds(timeout, "timeout")
    only = None if where is None else device(_address(where), kernel).address
    restored: list[str] = []
    failures: list[OSError | BadReply] = []
    for entry in journaled(kernel):
        if isinstance(entry, BadReply):
            # The message names the file, bus:address. The colon is compared too, since another domain's address may have the same end.
            if only is None or f":{only}" in str(entry):
                failures.append(entry)
            continue
        if only is not None and entry.address != only:
            continue
        try:
            if _restore(kernel, entry, timeout):
                restored.append(entry.address)
        except (OSError, BadReply) as failure:
            failures.append(failure)
    if failures:
        raise _first(failures)
    return restored


def _first(failures: Sequence[OSError | BadReply]) -> Exception:
    for other in failures[1:]:
        failures[0].add_note(f"besides: {other}")
    return failures[0]


def _restore(kernel: Kernel, entry: JournalEntry, timeout: float) -> bool:
    try:
        journal = _journal(kernel, Nodes(entry.address, entry.bus, "", None, None, None, None))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False  # its program is alive
        raise
    with journal:
        left = journal.left
        if left is None:
            return False  # restored since
        try:
            found = device(left.address, kernel)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            journal.clear()
            return _leave_at_boot(kernel, left)
        if not _is_as_left(found, left):
            journal.clear()
            return _leave_at_boot(kernel, left)
        _put_back(kernel, journal, found, _State(left.previous_driver, left.previous_override), timeout)
        _leave_at_boot(kernel, left)
        return True


def _leave_at_boot(kernel: Kernel, left: JournalEntry) -> bool:
    """Stop binding a device at boot; return whether it was bound at boot."""
    BootChanges(kernel).disable(left)
    return left.at_boot is not None


def _is_as_left(found: HostDevice, left: JournalEntry) -> bool:
    """Whether a device is in a state in which a killed program can have left it, not in one made by others."""
    # It may have ended between the attach to the previous driver and the write of the previous override.
    attached = found.driver == left.previous_driver and found.driver_override != left.previous_override
    return found.driver in (left.driver, None) or found.driver_override == left.driver or attached


def _journal(kernel: Kernel, nodes: Nodes) -> Journal:
    try:
        return Journal(kernel, nodes)
    except PermissionError as error:
        if error.errno == errno.EPERM:
            raise HostError(
                errno.EPERM,
                f"binding {nodes.address}: the journal is not safe: {error.filename}: {error.strerror}",
            ) from error
        raise HostError(
            errno.EACCES, f"binding {nodes.address} takes root: {error.strerror} ({error.filename})"
        ) from error


def _check(kernel: Kernel, found: HostDevice, driver: str, allow_in_use: Collection[str]) -> None:
    """Refuse a binding that cannot work, or that would harm the running system, before anything is changed."""
    name = found.address
    if not kernel.exists(f"{found.path}/driver_override"):
        raise HostError(
            errno.EOPNOTSUPP,
            f"{name}: devices of the {found.bus} bus cannot be given a driver (no driver_override)",
        )
    missing = diagnosis.driver_missing(driver, found.bus, entries(kernel, f"/sys/bus/{found.bus}/drivers"))
    if missing is not None:
        raise diagnosis.error(missing)
    no_iommu = attribute(kernel, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y"
    if "vfio" in driver and found.group is None and not no_iommu:
        raise diagnosis.error(no_group(kernel, name))
    if "vfio" in driver and found.is_bridge:
        raise diagnosis.error(diagnosis.bridge(name, found.class_code))
    refuse_if_in_use(kernel, found, allow_in_use)
    if holders := holders_of(found.nodes, kernel):
        raise diagnosis.error(diagnosis.held(name, [str(holder) for holder in holders]))


def _put_back(kernel: Kernel, journal: Journal, found: HostDevice, before: _State, timeout: float) -> None:
    try:
        _move(kernel, found.nodes, before, timeout)
    except OSError:
        if kernel.exists(f"{found.path}/subsystem"):
            raise
        # It was unplugged: there is nothing left to restore.
    journal.clear()


def _move(kernel: Kernel, nodes: Nodes, to: _State, timeout: float) -> list[Write]:
    """Give a device a driver and an override, whatever it has now; return the writes that were made."""
    found = device(nodes.address, kernel)
    if found.driver is None and (holders := holders_of(found.nodes, kernel)):
        # An unbind is in progress: any other write about the device would wait for it to end.
        raise HostError(
            errno.EBUSY,
            f"{found.address} is still being unbound from a VFIO driver: it is open in {'; '.join(map(str, holders))}",
        )
    writes = _writes(found, to)
    for index, write in enumerate(writes):
        try:
            _make(kernel, found, write, timeout)
        except BaseException:
            # Remove an override that was set for this attach only.
            if writes[index + 1 :] and write.path.endswith("/bind"):
                with suppress(OSError):
                    _make(kernel, found, writes[-1], timeout)
            raise
    return writes


def _writes(found: HostDevice, to: _State) -> list[Write]:
    """Return the writes that bring a device to a driver and an override.

    While the device has no driver, its override admits only the driver that it is to get. VFIO's drivers match by the override only. If
    the device was bound to one without an override (by `new_id`, or with an override that was cleared later, as dpdk-devbind does), the
    override is set for the attach and removed after it.
    """
    writes: list[Write] = []
    override = found.driver_override
    attaches = to.driver is not None and found.driver != to.driver

    def set_override(value: str | None) -> None:
        nonlocal override
        if override != value:
            writes.append(Write(f"{found.path}/driver_override", value or ""))
            override = value

    lent = to.override
    if attaches and to.driver is not None and to.override != to.driver:
        lent = to.driver if _takes_anything(to.driver) else None
    if lent is not None:
        set_override(lent)
    if found.driver is not None and found.driver != to.driver:
        writes.append(Write(f"/sys/bus/{found.bus}/drivers/{found.driver}/unbind", found.address))
    if lent is None:
        set_override(None)
    if attaches:
        writes.append(Write(f"/sys/bus/{found.bus}/drivers/{to.driver}/bind", found.address))
    set_override(to.override)
    return writes


def _make(kernel: Kernel, found: HostDevice, write: Write, timeout: float) -> None:
    """Make one write."""
    directory, _, file = write.path.rpartition("/")
    if file == "unbind":
        _unbind(kernel, found, write, timeout)
    elif file == "bind":
        _attach(kernel, found, os.path.basename(directory), write)
    else:
        _set_override(kernel, found, write, timeout)


def _set_override(kernel: Kernel, found: HostDevice, write: Write, timeout: float) -> None:
    doing = f"setting the driver_override of {found.address} to {write.text or None}"
    try:
        # The write takes the device's lock, which a driver that is probing the device holds.
        write_within(kernel, write.path, f"{write.text}\n", timeout)
    except TimeoutError as error:
        raise HostError(
            errno.ETIMEDOUT, f"{doing}: not done after {timeout:g} s: a driver is still being bound to it or unbound"
        ) from error
    except OSError as error:
        raise _failed(error, doing) from error


def _unbind(kernel: Kernel, found: HostDevice, write: Write, timeout: float) -> None:
    doing = f"unbinding {found.address} from {found.driver}"
    own = [holder for holder in holders_of(found.nodes, kernel) if holder.pid == os.getpid()]
    if own:
        # The kernel would wait, uninterruptible, for a close that only the waiting process can make.
        raise HostError(errno.EBUSY, f"{doing}: it is still open in {own[0]}; close it first")
    try:
        write_within(kernel, write.path, write.text, timeout)
    except TimeoutError as error:
        # VFIO removes the device's node before it waits, so search for the nodes that the device had before.
        holders = "; ".join(map(str, holders_of(found.nodes, kernel))) or "a process that cannot be seen from here"
        raise HostError(
            errno.ETIMEDOUT,
            f"{doing}: not done after {timeout:g} s, it is open in {holders}. The kernel goes on once "
            f"that is closed; then pyvfio.host.restore({found.address!r}) does the rest",
        ) from error
    except OSError as error:
        if device(found.address, kernel).driver is None:
            return  # it has lost its driver meanwhile
        raise _failed(error, doing) from error


def _attach(kernel: Kernel, found: HostDevice, driver: str, write: Write) -> None:
    doing = f"binding {found.address} to {driver}"
    try:
        write_within(kernel, write.path, write.text, PROBE_TIMEOUT)
    except TimeoutError as error:
        raise HostError(errno.ETIMEDOUT, f"{doing}: not done after {PROBE_TIMEOUT:g} s") from error
    except OSError as error:
        now = device(found.address, kernel)
        if now.driver == driver:
            return  # the kernel did it by itself, when the override changed or a module was loaded
        raise _failed(error, doing, _why_not(now, driver, error)) from error


def _why_not(found: HostDevice, driver: str, error: OSError) -> str | None:
    if error.errno == errno.ENOENT:
        return f"the driver is not loaded (modprobe {driver})"
    if error.errno == errno.ENODEV:
        return "it is not in that driver's list of devices"
    if error.errno == errno.EBUSY and found.driver is not None:
        return f"it is bound to {found.driver}"
    if error.errno == errno.EINVAL and "vfio" in driver and found.group is None:
        return "it is in no IOMMU group"
    return None


def _failed(error: OSError, doing: str, why: str | None = None) -> OSError:
    if why is None and error.errno in (errno.EACCES, errno.EPERM):
        why = diagnosis.not_root(os.geteuid()).reason
    return HostError(error.errno or errno.EIO, f"{doing}: {error.strerror}" + (f": {why}" if why else ""))


def unbind(
    where: str | HostDevice | Iterable[str | HostDevice],
    /,
    *,
    allow_in_use: Collection[str] = (),
    timeout: float = TIMEOUT,
    dry_run: bool = False,
    kernel: Kernel | str | None = None,
) -> Binding:
    """Unbind a device, or several, from their drivers; see :func:`bind` for the parameters and the cases that are refused.

    The result restores them as that of :func:`bind` does. The kernel may bind a driver to such a device again: when a module is loaded, or
    the bus is scanned.

    :param where: one device's address or several
    :param allow_in_use: as for :func:`bind`
    :param timeout: as for :func:`bind`
    :param dry_run: as for :func:`bind`
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises ValueError: not a valid device name; a device is given twice
    :raises OSError: ENODEV, no such device; EBUSY, it is in use by the system, or open or bound in a process; EACCES without root
    :raises TimeoutError: another process did not close the device
    """
    kernel = resolve(kernel)
    timeout = arguments.seconds(timeout, "timeout")
    dry_run = arguments.boolean(dry_run, "dry_run")
    found = [device(_address(one), kernel) for one in _several(where)]
    if len({one.path for one in found}) != len(found):
        raise ValueError("where has a device twice")
    changes: list[_Change] = []
    writes: list[Write] = []
    try:
        for one in found:
            changes.append(_prepare_unbound(kernel, one, allow_in_use, dry_run=dry_run))  # noqa: PERF401 (rolled back)
        for change in changes:
            if change.device.driver is None:
                continue
            if dry_run:
                writes += _writes(change.device, change.to)
            else:
                writes += _move(kernel, change.device.nodes, change.to, timeout)
                change.device = device(change.device.address, kernel)
    except BaseException as error:
        _roll_back(kernel, changes, timeout, error)
        raise
    return Binding(kernel, changes, NO_DRIVER, writes, timeout=timeout, dry_run=dry_run)


def _prepare_unbound(kernel: Kernel, found: HostDevice, allow_in_use: Collection[str], *, dry_run: bool) -> _Change:
    """Lock a device's file in the journal, check that the device can be unbound, and record the change in the journal."""
    to = _State(None, None)
    journal = None if dry_run else _journal(kernel, found.nodes)
    try:
        found = device(found.address, kernel)
        before = _State(found.driver, found.driver_override)
        if journal is not None and journal.left is not None and _is_as_left(found, journal.left):
            before = _State(journal.left.previous_driver, journal.left.previous_override)
        if found.driver is not None:
            refuse_if_in_use(kernel, found, allow_in_use)
            if holders := holders_of(found.nodes, kernel):
                raise diagnosis.error(diagnosis.held(found.address, [str(holder) for holder in holders]))
        entry = JournalEntry(found.bus, found.address, NO_DRIVER, *before, os.getpid())
        if journal is not None:
            journal.record(entry)
    except BaseException:
        if journal is not None:
            journal.close()
        raise
    return _Change(journal, None if journal is None else entry, found, before, to)
