# SPDX-License-Identifier: MIT
"""The entry points: :func:`open` for one device, :func:`address_space` for several devices that share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from pyvfio._core import arguments
from pyvfio.errors import InvalidRequest, Unsupported
from pyvfio.host import diagnosis
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

Mode = Literal["iommufd", "type1v2", "iommufd-type1v2", "iommufd-type1", "type1", "noiommu", "iommufd-noiommu"]
#: prefix of the name of a vfio-user server's device
VFIO_USER = "vfio-user:"
#: all modes, in the order of preference
MODES: tuple[Mode, ...] = get_args(Mode)


def address_space(mode: Mode | None = None, *, kernel: Kernel | str | None = None) -> AddressSpace:
    """Make an empty address space, to attach devices to.

    :param mode: `iommufd` (devices by cdev), `type1v2` or `type1` (by group), `iommufd-type1v2` or `iommufd-type1` (by group, with
        iommufd's compatibility layer as the container), `noiommu` or `iommufd-noiommu` (by group, for devices without an IOMMU);
        None for `iommufd` where the host has cdevs, else `type1v2`
    :param kernel: see :mod:`pyvfio.kernel`
    :raises ValueError: there is no such mode
    :raises Unsupported: the kernel lacks it
    :raises OSError: ENOENT without VFIO, EACCES
    """
    kernel = resolve(kernel)
    if mode is None:
        mode = "iommufd" if kernel.exists("/dev/iommu") and kernel.exists("/dev/vfio/devices") else "type1v2"
    arguments.choice(mode, "mode", MODES)
    if mode.startswith("iommufd") and not kernel.exists("/dev/iommu"):
        raise Unsupported(f"mode {mode}: {diagnosis.iommufd_missing().reason}")
    if mode == "iommufd":
        return owned(kernel)
    return Container(mode, kernel=kernel)


def open(
    where: str,
    /,
    *,
    mode: Mode | None = None,
    vf_token: UUID | str | bytes | None = None,
    no_iommu: bool = False,
    kernel: Kernel | str | None = None,
) -> Device:
    """Open a device together with a new address space, which closes with it.

    :param where: the device's address, "0000:00:03.0", its name on another bus, or "vfio-user:PATH" for the device of a vfio-user server
    :param mode: see :func:`address_space`
    :param vf_token: the UUID that was set with :meth:`Device.set_vf_token`, if the device requires one
    :param no_iommu: open a device without an IOMMU, whose DMA reaches all memory of the host (:class:`NoIommuWarning`). By cdev,
        since Linux 7.3, memory can be mapped and :meth:`Ioas.physical_address` returns its addresses; by group nothing can be mapped
    :raises InvalidRequest: the device has no IOMMU and `no_iommu=True` was not given
    :raises NotViable: another device of its group is bound to a driver that is not VFIO's
    :raises Unsupported: the device is not in an IOMMU group, or the kernel does not support the mode
    :raises OSError: see :meth:`pyvfio.Container.attach`
    """
    if str(where).startswith(VFIO_USER):
        kernel = resolve(str(where))
        if kernel.address is None:
            raise InvalidRequest(
                f"{where}: this kernel has no device of that name; open one of its own by address, with kernel="
            )
        where = kernel.address
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
    """Return an Ioas in a new Iommufd, which closes with the Ioas."""
    iommufd = Iommufd(kernel=kernel)
    try:
        ioas = iommufd.ioas()
        ioas._owned = iommufd
        return ioas
    except BaseException:
        iommufd.close()
        raise
