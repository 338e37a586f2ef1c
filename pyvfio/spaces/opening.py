"""The entry points: :func:`open` for one device, :func:`address_space` for several devices that share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvfio.errors import NO_IOMMUFD, Unsupported
from pyvfio.host.nodes import find
from pyvfio.iommufd.iommufd import Iommufd
from pyvfio.kernel import resolve
from pyvfio.spaces.container import Container

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.device import Device
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace

#: every way of talking to the kernel, best first
MODES = ("iommufd", "type1v2", "iommufd-type1v2", "iommufd-type1", "type1", "noiommu", "iommufd-noiommu")


def address_space(mode: str | None = None, *, kernel: Kernel | str | None = None) -> AddressSpace:
    """A new, empty address space; `attach` devices to it.

    :param mode: `iommufd` (devices by their own files), `type1v2` or `type1` (by group), `iommufd-type1v2` or `iommufd-type1` (by
        group, iommufd standing in for the container); `noiommu` or `iommufd-noiommu` for devices without an IOMMU, likewise by group;
        None for `iommufd` where the host has devices' own files, else `type1v2`
    :param kernel: see :mod:`pyvfio.kernel`
    :raises ValueError: there is no such mode
    :raises Unsupported: the kernel lacks it
    :raises OSError: ENOENT without VFIO, EACCES
    """
    kernel = resolve(kernel)
    if mode is None:
        mode = "iommufd" if kernel.exists("/dev/iommu") and kernel.exists("/dev/vfio/devices") else "type1v2"
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of {', '.join(MODES)}")
    if mode.startswith("iommufd") and not kernel.exists("/dev/iommu"):
        raise Unsupported(f"mode {mode}: {NO_IOMMUFD}")
    if mode == "iommufd":
        return owned(kernel)
    return Container(mode, kernel=kernel)


def open(
    where: str,
    *,
    mode: str | None = None,
    vf_token: UUID | str | bytes | None = None,
    no_iommu: bool = False,
    kernel: Kernel | str | None = None,
) -> Device:
    """Open a device with an address space of its own, which closes with it.

    :param where: its address, "0000:00:03.0", or its name on another bus
    :param mode: see :func:`address_space`
    :param vf_token: what the owner of its physical function, or of its virtual functions, has set; see :meth:`Device.set_vf_token`
    :param no_iommu: take it though no IOMMU keeps its DMA from any of the host's memory (a :class:`NoIommuWarning` says what that means). By
        cdev, since Linux 7.3, what is mapped has physical addresses (:meth:`Ioas.physical_address`); by group nothing can be mapped
    :raises InvalidRequest: it has no IOMMU, and neither `no_iommu` nor `mode` says that this is known
    :raises NotViable: another device of its group is bound to a driver that is not VFIO's
    :raises Unsupported: it is in no IOMMU group, or the kernel lacks the mode
    :raises OSError: see :meth:`pyvfio.Container.attach`
    """
    kernel = resolve(kernel)
    if mode is None and no_iommu:
        found = find(where, kernel)
        if found.no_iommu and found.cdev is None:
            mode = "noiommu"
    space = address_space(mode, kernel=kernel)
    try:
        device = space.attach(where, vf_token=vf_token, no_iommu=no_iommu)
        device._owned = space
        return device
    except BaseException:
        space.close()
        raise


def owned(kernel: Any) -> Ioas:
    """An Ioas in an Iommufd of its own, which closes with it."""
    iommufd = Iommufd(kernel=kernel)
    try:
        ioas = iommufd.ioas()
        ioas._owned = iommufd
        return ioas
    except BaseException:
        iommufd.close()
        raise
