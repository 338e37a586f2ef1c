"""The two ways in: :func:`open` for one device, :func:`address_space` for several that share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.kernel import Kernel
    from pyvfio.space import AddressSpace

#: every way of talking to the kernel, best first
MODES = ("type1v2", "type1")


def address_space(mode: str | None = None, *, kernel: Kernel | None = None) -> AddressSpace:
    """A new, empty address space; `attach` devices to it.

    :param mode: `type1v2` or `type1`; None for the best that this host has
    :param kernel: see :mod:`pyvfio.kernel`
    :raises ValueError: there is no such mode
    :raises Unsupported: the kernel lacks it
    :raises OSError: ENOENT without VFIO, EACCES
    """
    from pyvfio.container import Container

    if mode is not None and mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of {', '.join(MODES)}")
    return Container(mode or MODES[0], kernel=kernel)


def open(where: str, *, mode: str | None = None, kernel: Kernel | None = None) -> Device:
    """Open a device with an address space of its own, which closes with it.

    :param where: its address, "0000:00:03.0", or its name on another bus
    :param mode: see :func:`address_space`
    :raises NotViable: another device of its group is bound to a driver that is not VFIO's
    :raises Unsupported: it is in no IOMMU group, or the kernel lacks the mode
    :raises OSError: see :meth:`pyvfio.Container.attach`
    """
    space = address_space(mode, kernel=kernel)
    try:
        device = space.attach(where)
        device._owned = space
        return device
    except BaseException:
        space.close()
        raise
