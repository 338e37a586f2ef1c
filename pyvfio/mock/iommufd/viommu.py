"""Virtual IOMMUs and what belongs to them: no IOMMU of the profiles has them, so what is asked for is refused."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.errno import Errno
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import Command, command
from pyvfio.mock.iommufd.iopt import LAST
from pyvfio.mock.iommufd.object import Object

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context

_MOST_EVENTS = 1 << 19


class Viommu(Object):
    """A virtual IOMMU."""


@command(lib.IOMMU_VIOMMU_ALLOC, "struct iommu_viommu_alloc", "out_viommu_id")
def _alloc(ctx: Context, cmd: Command) -> None:
    if cmd.c.flags or cmd.c.type == lib.IOMMU_VIOMMU_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    ctx.get(cmd.c.dev_id, BoundDevice)
    raise Errno(errno.EOPNOTSUPP)


@command(lib.IOMMU_VDEVICE_ALLOC, "struct iommu_vdevice_alloc", "virt_id")
def _vdevice_alloc(ctx: Context, cmd: Command) -> None:
    ctx.get(cmd.c.viommu_id, Viommu)


@command(lib.IOMMU_VEVENTQ_ALLOC, "struct iommu_veventq_alloc", "out_veventq_fd")
def _veventq_alloc(ctx: Context, cmd: Command) -> None:
    c = cmd.c
    if c.flags or c.__reserved or c.type == lib.IOMMU_VEVENTQ_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    if not 0 < c.veventq_depth <= _MOST_EVENTS:
        raise Errno(errno.EINVAL)
    ctx.get(c.viommu_id, Viommu)


@command(lib.IOMMU_HW_QUEUE_ALLOC, "struct iommu_hw_queue_alloc", "length")
def _hw_queue_alloc(ctx: Context, cmd: Command) -> None:
    c = cmd.c
    if c.flags or c.type == lib.IOMMU_HW_QUEUE_TYPE_DEFAULT:
        raise Errno(errno.EOPNOTSUPP)
    if not c.length:
        raise Errno(errno.EINVAL)
    if c.nesting_parent_iova + c.length - 1 > LAST:
        raise Errno(errno.EOVERFLOW)
    ctx.get(c.viommu_id, Viommu)
