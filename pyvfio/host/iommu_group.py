# SPDX-License-Identifier: MIT
"""IOMMU groups: the devices that an IOMMU cannot tell apart, and the addresses that it reserves."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.errors import BadReply, HostError
from pyvfio.host import diagnosis
from pyvfio.host.discovery import no_group
from pyvfio.host.nodes import find
from pyvfio.host.sysfs import attribute, entries, link_name, linked
from pyvfio.iova import IovaRange
from pyvfio.kernel import Kernel, resolve

_ROOT = "/sys/kernel/iommu_groups"


class ReservedRegion(NamedTuple):
    """A range of IOVAs that is reserved in a group.

    :ivar range: the addresses
    :ivar type: `direct` (claimed by the firmware, always mapped one to one), `direct-relaxable` (likewise, but free for VFIO),
        `reserved` (never translated), `msi` (interrupt messages, or a window kept for them)
    """

    range: IovaRange
    type: str


class GroupInfo(NamedTuple):
    """An IOMMU group, as sysfs described it when it was looked at.

    :ivar number: as in `/dev/vfio/N`
    :ivar name: set by few drivers; `vfio-noiommu` both for emulated devices and in no-IOMMU mode, so it does not distinguish them
    :ivar type: the type of the default domain: `DMA`, `DMA-FQ`, `identity`, ...; None if the kernel shows none
    :ivar members: every device in it, address -> driver or None
    :ivar reserved_regions: in the order of their addresses; empty for emulated devices
    """

    number: int
    name: str | None
    type: str | None
    members: dict[str, str | None]
    reserved_regions: tuple[ReservedRegion, ...]

    @property
    def in_the_way(self) -> dict[str, str]:
        """The members whose drivers are likely to keep VFIO from the group, address -> driver.

        The kernel alone decides (VFIO_GROUP_GET_STATUS); this list explains its answer.
        """
        return diagnosis.in_the_way(self.members)


def group(number: int, kernel: Kernel | str | None = None) -> GroupInfo:
    """Return a group, given its number.

    :param number: the group's number
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises TypeError: number is not an integer
    :raises OSError: ENODEV, there is no such group
    """
    kernel = resolve(kernel)
    root = _root(kernel, number, "number")
    kind = attribute(kernel, f"{root}/type")
    return GroupInfo(
        number,
        attribute(kernel, f"{root}/name"),
        None if kind == "unknown" else kind,
        _members(kernel, root),
        _reserved(kernel, root),
    )


def groups(kernel: Kernel | str | None = None) -> list[GroupInfo]:
    """Return all groups, by number. One that goes away meanwhile is left out.

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    """
    kernel = resolve(kernel)
    found = []
    for number in sorted(int(name) for name in entries(kernel, _ROOT)):
        try:
            found.append(group(number, kernel))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
    return found


def group_members(where: int | str, kernel: Kernel | str | None = None) -> dict[str, str | None]:
    """Return the devices of a group, given its number or one of them: address -> driver, or None without a driver.

    :param where: the group's number, or the address ("0000:00:03.0") or name of one of its devices
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENODEV, no such group or device, or a device in no group
    """
    kernel = resolve(kernel)
    return _members(kernel, _root(kernel, where))


def reserved_regions(where: int | str, kernel: Kernel | str | None = None) -> list[ReservedRegion]:
    """Return the reserved regions of a group, given its number or one of its devices, sorted by address.

    VFIO_IOMMU_GET_INFO and IOMMU_IOAS_IOVA_RANGES leave them out of the usable ranges, except those of type `direct-relaxable`. Emulated
    devices have none.

    :param where: the group's number, or the address ("0000:00:03.0") or name of one of its devices
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises OSError: ENODEV, no such group or device, or a device in no group
    """
    kernel = resolve(kernel)
    return list(_reserved(kernel, _root(kernel, where)))


def _root(kernel: Kernel, where: int | str, name: str = "where") -> str:
    if isinstance(where, str):
        found = find(where, kernel)
        if found.group is None:
            raise diagnosis.error(no_group(kernel, found.address))
        where = found.group
    where = arguments.integer(where, name, 0)
    root = f"{_ROOT}/{where}"
    if not kernel.exists(root):
        raise HostError(errno.ENODEV, f"no IOMMU group {where}; there are {len(entries(kernel, _ROOT))} groups")
    return root


def _members(kernel: Kernel, root: str) -> dict[str, str | None]:
    members = {}
    for name in entries(kernel, f"{root}/devices"):
        # Take the name of the link's target: the link's own name has a suffix if two buses use the same name.
        if (path := linked(kernel, f"{root}/devices/{name}")) is not None:
            members[os.path.basename(path)] = link_name(kernel, f"{path}/driver")
    return members


def _reserved(kernel: Kernel, root: str) -> tuple[ReservedRegion, ...]:
    regions = []
    for line in (attribute(kernel, f"{root}/reserved_regions") or "").splitlines():
        try:
            start, last, kind = line.split()
            regions.append(ReservedRegion(IovaRange(int(start, 16), int(last, 16)), kind))
        except ValueError:
            raise BadReply(f"{root}/reserved_regions: not a region: {line!r}") from None
    return tuple(sorted(regions))
