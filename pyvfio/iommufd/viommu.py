# SPDX-License-Identifier: MIT
"""A virtual IOMMU (vIOMMU): the part of a physical IOMMU that a guest uses."""

from __future__ import annotations

import errno
import mmap
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvfio._core.request import Call, Request
from pyvfio.errors import InvalidRequest
from pyvfio.iommufd.bound import BoundDevice, bound_of
from pyvfio.iommufd.hwpt import Hwpt, allocate, invalidate, native_data
from pyvfio.iommufd.object import IOMMUFD, IommufdObject, address

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.iommufd.event_queue import EventQueue
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.hw_queue import HwQueue
    from pyvfio.iommufd.vdevice import Vdevice

__all__ = ["Viommu"]


ALLOC = Request(
    "IOMMU_VIOMMU_ALLOC",
    "iommufd",
    "struct iommu_viommu_alloc",
    errnos={
        errno.EOPNOTSUPP: "the IOMMU does not support virtual IOMMUs of that type",
        errno.EINVAL: "the page table was allocated without IOMMU_HWPT_ALLOC_NEST_PARENT, or the data does not fit the type",
    },
    otherwise=IOMMUFD,
)
MMAP = Call(
    "mmap",
    errnos={errno.ENXIO: "offset= and size= must be those that the kernel reported for the whole area at allocation"},
)


class Viommu(IommufdObject):
    """A virtual IOMMU on top of a page table. Since Linux 6.13.

    :param parent: page table allocated with IOMMU_HWPT_ALLOC_NEST_PARENT
    :param device: a device behind the physical IOMMU
    :param type: IOMMU_VIOMMU_TYPE_*
    :param data: pointer to the C struct of that type, which the kernel may write to, or bytes
    :raises OSError: EOPNOTSUPP if the IOMMU does not support the type; EINVAL if the page table is not a nesting parent

    :ivar parent: the page table
    """

    def __init__(self, parent: Hwpt, device: Device | BoundDevice, type: int, data: Any = None) -> None:
        target = bound_of(device)
        if target.iommufd is not parent.iommufd:
            raise InvalidRequest(
                f"{target!r} is bound to {target.iommufd!r}, not to {parent.iommufd!r}; use objects of one Iommufd"
            )
        fields: dict[str, Any] = {"type": type, "dev_id": target.id, "hwpt_id": parent.id}
        held = None
        if data is not None:
            held, length = native_data(data)
            fields |= {"data_len": length, "data_uptr": address(held)}
        super().__init__(parent.iommufd, parent)
        self.parent = parent
        self.ioas = parent.ioas
        self._allocate(ALLOC, ALLOC.new(**fields), fields, out_viommu_id=self._object)

    def hwpt(
        self,
        device: Device | BoundDevice,
        data_type: int,
        data: Any,
        *,
        flags: int = 0,
        fault_queue: FaultQueue | None = None,
    ) -> Hwpt:
        """Allocate a nested page table in this virtual IOMMU; see :func:`pyvfio.iommufd.hwpt.allocate`.

        :param device: a device bound to this iommufd
        :param data_type: IOMMU_HWPT_DATA_*
        :param data: the struct of that type
        :param flags: IOMMU_HWPT_*
        :param fault_queue: the queue for faults of the devices
        """
        return allocate(self, device, flags=flags, data_type=data_type, data=data, fault_queue=fault_queue)

    def vdevice(self, device: Device | BoundDevice, virtual_id: int) -> Vdevice:
        """Give a device the id that the guest uses for it. IOMMU_VDEVICE_ALLOC, since Linux 6.13.

        :param device: a device bound to this iommufd
        :param virtual_id: for example the stream id or requester id in the guest
        :raises OSError: EEXIST if the device already has a virtual id, or another device has this one
        """
        from pyvfio.iommufd.vdevice import Vdevice

        return Vdevice(self, device, virtual_id)

    def event_queue(self, type: int, depth: int) -> EventQueue:
        """Allocate a queue of events for the guest. IOMMU_VEVENTQ_ALLOC, since Linux 6.15.

        :param type: IOMMU_VEVENTQ_TYPE_*
        :param depth: the number of unread events that the queue holds
        :raises OSError: EEXIST if there is a queue of that type; EOPNOTSUPP if the virtual IOMMU has no such events; EINVAL for
            IOMMU_VEVENTQ_TYPE_DEFAULT, or a depth of 0 or more than 2^19
        """
        from pyvfio.iommufd.event_queue import EventQueue

        return EventQueue(self, type, depth)

    def hw_queue(self, type: int, index: int, iova: int, size: int) -> HwQueue:
        """Let the IOMMU hardware read a queue in guest memory directly. IOMMU_HW_QUEUE_ALLOC, since Linux 6.17.

        :param type: IOMMU_HW_QUEUE_TYPE_*
        :param index: 0 for the first queue; each further one requires the one before it
        :param iova: address of the queue in the address space of the parent page table
        :param size: bytes
        :raises OSError: ENOENT if the queue's memory is not mapped; EEXIST if there is a queue of that index; EOPNOTSUPP, EINVAL
            or EIO if the hardware does not accept the queue
        """
        from pyvfio.iommufd.hw_queue import HwQueue

        return HwQueue(self, type, index, iova, size)

    def mmap(self, offset: int, size: int) -> mmap.mmap:
        """Map hardware registers that the guest may access directly. mmap(2) of the iommufd, since Linux 6.17.

        The virtual IOMMU cannot be destroyed while the map is open.

        :param offset: offset of the area, from the struct of the virtual IOMMU's type that the kernel filled at allocation
        :param size: size of the area in bytes, from the same struct
        :raises OSError: ENXIO for any other offset or size
        """
        with MMAP.explained(repr(self), {"offset": offset, "size": size}):
            return self._fd.call(
                partial(self._fd.kernel.mmap, offset=offset, prot=mmap.PROT_READ | mmap.PROT_WRITE), size
            )

    def invalidate(self, data_type: int, entries: Any) -> int:
        """Invalidate caches of the virtual IOMMU. IOMMU_HWPT_INVALIDATE; see :meth:`Hwpt.invalidate`.

        :param data_type: IOMMU_VIOMMU_INVALIDATE_DATA_*
        :param entries: the commands, an array of that type's struct
        """
        return invalidate(self, data_type, entries)
