# SPDX-License-Identifier: MIT
"""Creating and removing virtual functions through the driver of their physical function."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from pyvfio._core import arguments
from pyvfio.errors import HostError, Unsupported
from pyvfio.host import diagnosis
from pyvfio.host.discovery import HostDevice, device
from pyvfio.host.holders import holders_of
from pyvfio.host.in_use import refuse_if_in_use
from pyvfio.host.sysfs import write_within
from pyvfio.kernel import Kernel, resolve

#: seconds to wait: a physical function's driver may have to start the firmware of all virtual functions
TIMEOUT = 30.0


def create_vfs(
    where: str,
    /,
    count: int,
    *,
    probe: bool = True,
    timeout: float = TIMEOUT,
    kernel: Kernel | str | None = None,
) -> list[HostDevice]:
    """Create virtual functions of a physical function (`sriov_numvfs` in sysfs); return them in order.

    Where vfio-pci is the physical function's driver, its module's parameter `enable_sriov` must be Y.

    :param where: the physical function's address
    :param count: the number of virtual functions, 1 to the device's `total_vfs`
    :param probe: whether the kernel looks for drivers for them; with False they stay unbound. The physical function's
        `sriov_drivers_autoprobe` keeps the choice, since drivers may be probed long after this returns
    :param timeout: seconds to wait for the driver
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises Unsupported: the device has no SR-IOV
    :raises ValueError: `count` is not between 1 and `total_vfs`
    :raises OSError: EBUSY, it has some already (they can only be removed all at once); ENOENT, its driver
        creates none; ENODEV, no such device; EACCES without root
    """
    kernel = resolve(kernel)
    count = arguments.integer(count, "count")
    probe = arguments.boolean(probe, "probe")
    timeout = arguments.seconds(timeout, "timeout")
    found = device(where, kernel)
    if found.total_vfs is None:
        raise Unsupported(f"{found.address} has no SR-IOV capability, so it cannot have virtual functions")
    if not 0 < count <= found.total_vfs:
        raise ValueError(f"count must be 1 to {found.total_vfs}, the total_vfs of {found.address}, not {count}")
    if have := len(found.virtual_functions):
        raise HostError(
            errno.EBUSY,
            f"{found.address} has {have} virtual functions; call pyvfio.host.remove_vfs({found.address!r}) first",
        )
    probing = f"{found.path}/sriov_drivers_autoprobe"
    try:
        before = kernel.read_file(probing)
        kernel.write_file(probing, b"1" if probe else b"0")
    except OSError as error:
        raise HostError(
            error.errno or errno.EIO, f"creating virtual functions of {found.address}: {error.strerror}"
        ) from error
    try:
        _set(kernel, found, count, timeout)
    except BaseException:
        kernel.write_file(probing, before)
        raise
    return [device(name, kernel) for name in device(found.address, kernel).virtual_functions]


def remove_vfs(
    where: str,
    /,
    *,
    allow_in_use: Collection[str] = (),
    timeout: float = TIMEOUT,
    kernel: Kernel | str | None = None,
) -> None:
    """Remove all virtual functions of a physical function. No effect if there are none.

    :param where: the physical function's address
    :param allow_in_use: as for :func:`pyvfio.host.bind`
    :param timeout: seconds for the kernel to remove them
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: EBUSY, one of them is open in this process, or in use by the system; ENODEV, no such
        device; EACCES without root
    :raises TimeoutError: another process has one open; the kernel has sent it the request interrupt, and waits for its close
    """
    kernel = resolve(kernel)
    timeout = arguments.seconds(timeout, "timeout")
    found = device(where, kernel)
    if not found.virtual_functions:
        return
    for name in found.virtual_functions:
        function = device(name, kernel)
        refuse_if_in_use(kernel, function, allow_in_use)
        own = [holder for holder in holders_of(function.nodes, kernel) if holder.pid == os.getpid()]
        if own:
            raise HostError(errno.EBUSY, f"{name} is still open in {own[0]}; close it first")
    _set(kernel, found, 0, timeout)


def _set(kernel: Kernel, found: HostDevice, count: int, timeout: float) -> None:
    doing = f"setting the number of virtual functions of {found.address} to {count}"
    try:
        write_within(kernel, f"{found.path}/sriov_numvfs", str(count), timeout)
    except TimeoutError as error:
        raise HostError(errno.ETIMEDOUT, f"{doing}: not done after {timeout:g} s") from error
    except OSError as error:
        finding = diagnosis.no_virtual_functions(
            found.address, error.errno or 0, count=count, driver=found.driver, there=len(found.virtual_functions)
        )
        raise HostError(
            error.errno or errno.EIO,
            f"{doing}: {error.strerror}{f': {finding}' if finding else ''}",
            reason=finding.reason if finding else None,
            advice=(finding.cure,) if finding and finding.cure else (),
        ) from error
