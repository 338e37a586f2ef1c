"""Binding a device to a driver, and putting back what was there."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyvfio.host.discovery import HostDevice, device, no_group
from pyvfio.host.holders import Holder, holders_of
from pyvfio.host.in_use import refuse_if_in_use
from pyvfio.host.journal import Binding, Journal, bindings
from pyvfio.host.sysfs import attribute, checked_name, write_within
from pyvfio.kernel import Kernel, resolve

#: seconds that a process which has the device open gets to close it when it is to be unbound
TIMEOUT = 10.0
#: seconds that a driver gets to start a device
PROBE_TIMEOUT = 60.0


class _State(NamedTuple):
    driver: str | None
    override: str | None


@contextmanager
def bind(
    address: str,
    driver: str,
    *,
    allow_in_use: Collection[str] = (),
    timeout: float = TIMEOUT,
    kernel: Kernel | str | None = None,
) -> Iterator[HostDevice]:
    """Have a device bound to a driver; at the end, after an exception too, to what it was bound to before.

    By `driver_override` and the drivers' `unbind` and `bind` in sysfs; on any bus that has them (PCI,
    platform, ...). Only this device is bound: what else its group needs is told by
    `host.group(number).in_the_way`. Gives the device as it is then, with its nodes. A device that has the
    driver already is left as it is, then and at the end.

    VFIO's drivers and pci-stub are given any device; every other driver only what is in its own list.

    For as long as it lasts no other program can bind the device by this function. If the program is killed,
    :func:`restore`, or the next `bind` of the device, knows from the journal what was there before.

    At the end the device must be closed. While this process has it open it is not touched (the kernel would
    wait for the close, which could never come); to other processes the kernel sends the device's request
    interrupt, and `timeout` seconds are waited. In both cases the device stays bound, and in the journal.

    :param driver: for example `vfio-pci`; it must be loaded
    :param allow_in_use: names of uses, as in :func:`uses` and in the refusal's text, that the device may be
        taken away from
    :param timeout: seconds to wait for unbinding
    :raises ValueError: a name that can be none
    :raises OSError: ENODEV, no such device, or no IOMMU group and a VFIO driver; ENOENT, no such driver;
        EBUSY, the running system stands on the device, or a process has it open or bound; EACCES, one needs
        to be root; what the driver said
    :raises TimeoutError: another process did not close the device
    """
    kernel = resolve(kernel)
    checked_name(driver, "driver")
    found = device(address, kernel)
    with _journal(kernel, found) as journal:
        # What was read before the lock was got may be another program's doing.
        found = device(found.address, kernel)
        before = _State(found.driver, found.driver_override)
        if journal.left is not None and _is_as_left(found, journal.left):
            before = _State(journal.left.previous_driver, journal.left.previous_override)
        if found.driver != driver:
            _check(kernel, found, driver, allow_in_use)
        journal.record(Binding(found.bus, found.address, driver, *before, os.getpid()))
        owner = os.getpid()
        try:
            if found.driver != driver:
                _move(kernel, found, _State(driver, driver if _takes_anything(driver) else None), timeout)
            yield device(found.address, kernel)
        except BaseException as error:
            if os.getpid() == owner:
                try:
                    _put_back(kernel, journal, found, before, timeout)
                except Exception as failure:
                    error.add_note(f"{found.address} was not put back: {failure}")
            raise
        if os.getpid() == owner:  # a forked child has nothing to put back
            _put_back(kernel, journal, found, before, timeout)


def _takes_anything(driver: str) -> bool:
    """Whether a driver may be given a device that is not in its own list, as `driver_override` does.

    The others believe their list: e1000e's probe of a device that is none of its own is an oops.
    """
    return "vfio" in driver or driver == "pci-stub"


def restore(address: str | None = None, *, timeout: float = TIMEOUT, kernel: Kernel | str | None = None) -> list[str]:
    """Put back what killed programs have left bound; returns the addresses.

    What a running program keeps bound is left alone, and so is a device that somebody has bound to
    something else since.

    :param address: only this device
    :param timeout: seconds to wait for each device's unbinding
    :raises OSError: as for the end of :func:`bind`; everything else has been put back
    """
    kernel = resolve(kernel)
    restored: list[str] = []
    failures: list[OSError] = []
    for binding in bindings(kernel):
        if address is not None and binding.address != device(address, kernel).address:
            continue
        try:
            if _restore(kernel, binding, timeout):
                restored.append(binding.address)
        except OSError as failure:
            failures.append(failure)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"besides: {other}")
        raise failures[0]
    return restored


def _restore(kernel: Kernel, binding: Binding, timeout: float) -> bool:
    try:
        journal = _journal(kernel, HostDevice(binding.address, binding.bus, ""))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False  # its program is alive
        raise
    with journal:
        left = journal.left
        if left is None:
            return False  # put back since
        try:
            found = device(left.address, kernel)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            journal.clear()
            return False
        if not _is_as_left(found, left):
            journal.clear()
            return False
        _put_back(kernel, journal, found, _State(left.previous_driver, left.previous_override), timeout)
        return True


def _is_as_left(found: HostDevice, left: Binding) -> bool:
    """Whether a device is in a state in which a killed `bind` can have left it, not in one made by others."""
    return found.driver in (left.driver, None) or found.driver_override == left.driver


def _journal(kernel: Kernel, found: HostDevice) -> Journal:
    try:
        return Journal(kernel, found)
    except PermissionError as error:
        raise PermissionError(error.errno, f"binding {found.address} takes root: {error.strerror}") from error


def _check(kernel: Kernel, found: HostDevice, driver: str, allow_in_use: Collection[str]) -> None:
    """Refuse what cannot work or would hurt, before anything is changed."""
    name = found.address
    if not kernel.exists(f"{found.path}/driver_override"):
        raise OSError(
            errno.EOPNOTSUPP,
            f"{name}: devices of the {found.bus} bus cannot be given a driver (no driver_override)",
        )
    if not kernel.exists(f"/sys/bus/{found.bus}/drivers/{driver}"):
        raise FileNotFoundError(
            errno.ENOENT, f"no driver {driver} on the {found.bus} bus: load it first (modprobe {driver})"
        )
    no_iommu = attribute(kernel, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y"
    if "vfio" in driver and found.group is None and not no_iommu:
        raise OSError(errno.ENODEV, str(no_group(kernel, name)))
    if "vfio" in driver and found.is_bridge:
        raise OSError(errno.EINVAL, f"{name} is a bridge, and VFIO takes endpoints only")
    refuse_if_in_use(kernel, found, allow_in_use)
    if holders := holders_of(found.nodes, kernel):
        raise OSError(errno.EBUSY, f"{name} is open in {_listed(holders)}")


def _put_back(kernel: Kernel, journal: Journal, found: HostDevice, before: _State, timeout: float) -> None:
    try:
        _move(kernel, found, before, timeout)
    except OSError:
        if kernel.exists(f"{found.path}/subsystem"):
            raise
        # It was unplugged: there is nothing left to put back.
    journal.clear()


def _move(kernel: Kernel, found: HostDevice, to: _State, timeout: float) -> None:
    """From whatever driver and override a device has now, to these."""
    found = device(found.address, kernel)
    if found.driver is None and (holders := holders_of(found.nodes, kernel)):
        # An unbind is under way: whatever else is asked of the device's driver would wait with it.
        raise OSError(
            errno.EBUSY,
            f"{found.address} is still being unbound from a VFIO driver: it is open in {_listed(holders)}",
        )
    # While the device is bound to nothing, its override must let no driver in but the one that it is to get.
    if to.override is not None:
        _override(kernel, found, to.override)
    if found.driver is not None and found.driver != to.driver:
        _unbind(kernel, found, timeout)
    if to.override is None:
        _override(kernel, found, None)
    if to.driver is not None and found.driver != to.driver:
        _attach(kernel, found, to.driver)


def _override(kernel: Kernel, found: HostDevice, override: str | None) -> None:
    if found.driver_override == override:
        return
    try:
        kernel.write_file(f"{found.path}/driver_override", f"{override or ''}\n".encode())
    except OSError as error:
        raise _failed(error, f"setting the driver_override of {found.address} to {override}") from error


def _unbind(kernel: Kernel, found: HostDevice, timeout: float) -> None:
    doing = f"unbinding {found.address} from {found.driver}"
    own = [holder for holder in holders_of(found.nodes, kernel) if holder.pid == os.getpid()]
    if own:
        # The kernel would wait, deaf to SIGKILL, for a close that only the waiting process can make.
        raise OSError(errno.EBUSY, f"{doing}: it is still open in {own[0]}; close it first")
    try:
        write_within(kernel, f"/sys/bus/{found.bus}/drivers/{found.driver}/unbind", found.address, timeout)
    except TimeoutError as error:
        # VFIO takes the device's node away before it waits: who has it open is told by what there was.
        holders = _listed(holders_of(found.nodes, kernel)) or "a process that cannot be seen from here"
        raise TimeoutError(
            error.errno,
            f"{doing}: not done after {timeout:g} s, it is open in {holders}. The kernel goes on once "
            f"that is closed; then pyvfio.host.restore({found.address!r}) does the rest",
        ) from error
    except OSError as error:
        if device(found.address, kernel).driver is None:
            return  # its driver let go of it meanwhile
        raise _failed(error, doing) from error


def _attach(kernel: Kernel, found: HostDevice, driver: str) -> None:
    doing = f"binding {found.address} to {driver}"
    try:
        write_within(kernel, f"/sys/bus/{found.bus}/drivers/{driver}/bind", found.address, PROBE_TIMEOUT)
    except TimeoutError as error:
        raise TimeoutError(error.errno, f"{doing}: not done after {PROBE_TIMEOUT:g} s") from error
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


def _listed(holders: list[Holder]) -> str:
    return "; ".join(map(str, holders))


def _failed(error: OSError, doing: str, why: str | None = None) -> OSError:
    if why is None and error.errno in (errno.EACCES, errno.EPERM):
        why = "it takes root, and a sysfs mounted writable"
    return OSError(error.errno, f"{doing}: {error.strerror}" + (f": {why}" if why else ""))
