"""A virtual IOMMU: the part of a physical one that a guest is given."""

from __future__ import annotations

import errno
import mmap
from functools import partial
from typing import TYPE_CHECKING, Any

from pyvfio._core.fd import Fd
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


ALLOC = Request(
    "IOMMU_VIOMMU_ALLOC",
    "iommufd",
    "struct iommu_viommu_alloc",
    errnos={
        errno.EOPNOTSUPP: "the IOMMU has no virtual IOMMU of that type",
        errno.EINVAL: "the page table was not made with IOMMU_HWPT_ALLOC_NEST_PARENT, or the data is not of that type",
    },
    otherwise=IOMMUFD,
)
VEVENTQ_ALLOC = Request(
    "IOMMU_VEVENTQ_ALLOC",
    "iommufd",
    "struct iommu_veventq_alloc",
    errnos={
        errno.EEXIST: "the virtual IOMMU has an event queue of that type already",
        errno.EINVAL: "the type is the default one, or the depth is 0 or more than 2^19",
    },
    otherwise={**IOMMUFD, errno.EOPNOTSUPP: "the virtual IOMMU has no events of that type"},
)
MMAP = Call(
    "mmap",
    errnos={
        errno.ENXIO: "offset= and size= must be what the kernel reported for the whole area when the object was made"
    },
)


class Viommu(IommufdObject):
    """A virtual IOMMU on top of a page table. Since Linux 6.13.

    :param parent: page table made with IOMMU_HWPT_ALLOC_NEST_PARENT
    :param device: a device behind the physical IOMMU
    :param type: IOMMU_VIOMMU_TYPE_*
    :param data: pointer to the C struct of that type, which the kernel may write to, or bytes
    :raises OSError: EOPNOTSUPP the IOMMU has no such type; EINVAL the page table is no nesting parent

    :ivar parent: the page table
    """

    def __init__(self, parent: Hwpt, device: Device | BoundDevice, type: int, data: Any = None) -> None:
        target = bound_of(device)
        if target.iommufd is not parent.iommufd:
            raise InvalidRequest(f"{target!r} is bound to {target.iommufd!r}, not to {parent.iommufd!r}")
        fields: dict[str, Any] = {"type": type, "dev_id": target.id, "hwpt_id": parent.id}
        held = None
        if data is not None:
            held, length = native_data(data)
            fields |= {"data_len": length, "data_uptr": address(held)}
        native = ALLOC.call(parent.iommufd.descriptor, **fields)
        super().__init__(parent.iommufd, native.out_viommu_id, parent)
        self.parent = parent
        self.ioas = parent.ioas

    def hwpt(
        self,
        device: Device | BoundDevice,
        data_type: int,
        data: Any,
        *,
        flags: int = 0,
        fault_queue: FaultQueue | None = None,
    ) -> Hwpt:
        """A nested page table in this virtual IOMMU; see :func:`pyvfio.iommufd.hwpt.allocate`."""
        return allocate(self, device, flags=flags, data_type=data_type, data=data, fault_queue=fault_queue)

    def vdevice(self, device: Device | BoundDevice, virtual_id: int) -> Vdevice:
        """IOMMU_VDEVICE_ALLOC: what the guest calls a device (a stream id, a requester id).

        :raises OSError: EEXIST the device, or the name, has one already
        """
        from pyvfio.iommufd.vdevice import Vdevice

        return Vdevice(self, device, virtual_id)

    def event_queue(self, type: int, depth: int) -> EventQueue:
        """IOMMU_VEVENTQ_ALLOC: a queue of events for the guest. Since Linux 6.15.

        :param type: IOMMU_VEVENTQ_TYPE_*
        :param depth: how many events are kept until they are read
        :raises OSError: EEXIST there is one of the type; EOPNOTSUPP the virtual IOMMU has no events; EINVAL for the default type, a depth
            of 0, or one of more than 2^19
        """
        from pyvfio.iommufd.event_queue import EventQueue

        native = VEVENTQ_ALLOC.call(self._fd, viommu_id=self.id, type=type, veventq_depth=depth)
        fd = Fd(self._fd.kernel, native.out_veventq_fd, "event", f"event queue {native.out_veventq_id}")
        return EventQueue(self, native.out_veventq_id, fd)

    def hw_queue(self, type: int, index: int, iova: int, size: int) -> HwQueue:
        """IOMMU_HW_QUEUE_ALLOC: let the hardware read a guest's queue by itself. Since Linux 6.17.

        :param type: IOMMU_HW_QUEUE_TYPE_*
        :param index: 0 for the first; the next can be made when it is there
        :param iova: the queue's memory, in the address space of the parent page table
        :raises OSError: ENOENT nothing is mapped there; EEXIST there is one of the index; EOPNOTSUPP, EINVAL, EIO as the hardware wants
            its queues
        """
        from pyvfio.iommufd.hw_queue import HwQueue

        return HwQueue(self, type, index, iova, size)

    def mmap(self, offset: int, size: int) -> mmap.mmap:
        """Registers of the hardware's own that a guest may use directly. Since Linux 6.17.

        Until it is closed, the virtual IOMMU cannot be destroyed.

        :param offset: where they are, and
        :param size: how large: both as the struct of the virtual IOMMU's type told when it was made
        :raises OSError: ENXIO for any other place, or a part of it
        """
        with MMAP.explained(repr(self), {"offset": offset, "size": size}):
            return self._fd.call(
                partial(self._fd.kernel.mmap, offset=offset, prot=mmap.PROT_READ | mmap.PROT_WRITE), size
            )

    def invalidate(self, data_type: int, entries: Any) -> int:
        """IOMMU_HWPT_INVALIDATE of the virtual IOMMU's caches; see :meth:`Hwpt.invalidate`."""
        return invalidate(self, data_type, entries)
