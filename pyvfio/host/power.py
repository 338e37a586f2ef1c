# SPDX-License-Identifier: MIT
"""Reset methods and depth of sleep of PCI functions: files of sysfs, which take root to write."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from pyvfio._core import arguments
from pyvfio.errors import HostError, Unsupported
from pyvfio.host.discovery import HostDevice, device
from pyvfio.kernel import Kernel, resolve


def set_reset_methods(
    where: str, methods: Iterable[str] | None, /, *, kernel: Kernel | str | None = None
) -> tuple[str, ...]:
    """Choose the methods by which the kernel resets a PCI function, in the order in which they are tried (`reset_method`).

    VFIO's resets use them: :meth:`Device.reset`, those at open and close, and function-level resets by configuration space. Whether a
    device has a reset is decided when it is opened. Since Linux 5.15.

    :param where: the function's address
    :param methods: names out of :attr:`HostDevice.reset_methods`; an empty list, so that nothing resets the function; or None for the
        kernel's own choice
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :returns: the methods as they are now
    :raises Unsupported: the function has no reset, or the kernel does not let programs choose
    :raises OSError: EINVAL, the function does not have one of these methods; EACCES without root
    """
    kernel = resolve(kernel)
    found = device(where, kernel)
    names = ["default"] if methods is None else [arguments.string(one, "methods") for one in _each(methods)]
    path = f"{found.path}/reset_method"
    if not kernel.exists(path):
        raise Unsupported(
            f"{found.address} has no reset that could be chosen (no file reset_method in sysfs, which Linux 5.15 has)"
        )
    try:
        kernel.write_file(path, (" ".join(names) or "\n").encode())
    except OSError as error:
        why = ""
        if error.errno == errno.EINVAL:
            why = f": a method is not known, or {found.address} does not have it; it has {', '.join(found.reset_methods) or 'none now'}"
        raise HostError(
            error.errno or errno.EIO,
            f"setting the reset methods of {found.address}: {os.strerror(error.errno or 0)}{why}",
        ) from error
    return device(found.address, kernel).reset_methods


def _each(methods: Iterable[str]) -> Iterable[str]:
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise arguments.wrong_type(methods, "methods", "names such as ['flr', 'bus']")
    return methods


def set_d3cold_allowed(where: str, allowed: bool, /, *, kernel: Kernel | str | None = None) -> HostDevice:
    """Allow or forbid a PCI function to lose its power while it sleeps (`d3cold_allowed`). Some functions do not work after D3cold.

    A function that is bound to vfio-pci and not open sleeps, unless vfio_pci.disable_idle_d3 is Y.

    :param where: the function's address
    :param allowed: whether the device may lose power
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :returns: the function as it is now
    :raises Unsupported: sysfs has no such file, since the device is not a PCI function
    :raises OSError: EACCES without root
    """
    kernel = resolve(kernel)
    found = device(where, kernel)
    allowed = arguments.boolean(allowed, "allowed")
    path = f"{found.path}/d3cold_allowed"
    if not kernel.exists(path):
        raise Unsupported(f"{found.address} has no file d3cold_allowed in sysfs: it is no PCI function")
    try:
        kernel.write_file(path, b"1" if allowed else b"0")
    except OSError as error:
        raise HostError(
            error.errno or errno.EIO, f"setting d3cold_allowed of {found.address}: {os.strerror(error.errno or 0)}"
        ) from error
    return device(found.address, kernel)
