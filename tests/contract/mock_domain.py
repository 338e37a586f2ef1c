# SPDX-License-Identifier: MIT
"""The iommufd selftest driver (CONFIG_IOMMUFD_TEST): devices and page tables without hardware, and requests that inspect them.

The numbers and struct layouts are those of drivers/iommu/iommufd/iommufd_test.h.
"""

from __future__ import annotations

import os
import struct

from pyvfio import DmaBuffer, Iommufd
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core.resource import Resource
from pyvfio.iommufd import BoundDevice, Ioas
from pyvfio.iommufd.hwpt import ALLOC
from pyvfio.iommufd.object import IommufdObject
from pyvfio.memory import address_of

IOMMU_TEST_CMD = ord(";") << 8 | 0x80 + 32
(
    ADD_RESERVED, MOCK_DOMAIN, CHECK_MAP, CHECK_REFS, CREATE_ACCESS, DESTROY_ACCESS_PAGES, ACCESS_PAGES, ACCESS_RW,
    SET_TEMP_MEMORY_LIMIT, DOMAIN_REPLACE, ACCESS_REPLACE_IOAS, DOMAIN_FLAGS, DIRTY, CHECK_IOTLB, TRIGGER_IOPF,
    CHECK_DEV_CACHE, TRIGGER_VEVENT, PASID_ATTACH, PASID_REPLACE, PASID_DETACH, PASID_CHECK_HWPT, DMABUF_GET,
    DMABUF_REVOKE,
) = range(1, 24)  # fmt: skip

APERTURE_START, APERTURE_LAST, PAGE_SIZE = 1 << 24, (1 << 31) - 1, 2048
HUGE_PAGE_SIZE = 512 * PAGE_SIZE
NO_DIRTY, PASID = 1 << 0, 1 << 2
MAX_PASID_LOG2 = 20
#: struct iommu_test_hw_info: flags and a register
HW_INFO_TYPE, HW_INFO = 0xFEEDBEEF, struct.pack("=2I", 0, 0xDEADBEEF)
HWPT_DATA, IOTLB_DEFAULT = 0xDEAD, 0xBADBEEF
#: struct iommu_hwpt_selftest for a nested page table, and for one with large pages
NESTED, HUGE = struct.pack("=2I", IOTLB_DEFAULT, 0), struct.pack("=2I", 0, 1)
INVALIDATE_ALL = 1 << 0
ENTRIES = 4
HWPT_INVALIDATE, VIOMMU_TYPE, VIOMMU_INVALIDATE = 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF
DEV_CACHE_DEFAULT = 0xBADDAD
VEVENTQ_TYPE, HW_QUEUE_TYPE = 0xBEEFBEEF, 0xDEADBEEF
HW_QUEUES = 2
#: The PASID for which the driver makes a replacement fail on purpose.
STUBBORN_PASID = 1024
_NEEDS_PIN = 1 << 0
_WRITE, _SLOW_PATH = 1 << 0, 1 << 2
# struct iommu_test_cmd: four u32, a union of 48 bytes, `last` and padding.
_SIZE = 72


def call(iommufd: Iommufd, op: int, id_: int, union: bytes = b"") -> bytes:
    """Make an IOMMU_TEST_CMD request, and return the union of struct iommu_test_cmd as the kernel left it."""
    command = bytearray(struct.pack("=4I", _SIZE, op, id_, 0) + union.ljust(_SIZE - 16, b"\0"))
    error = iommufd._fd.ioctl(IOMMU_TEST_CMD, ffi.from_buffer(command))
    if error < 0:
        raise OSError(-error, f"IOMMU_TEST_CMD {op}: {os.strerror(-error)}")
    return bytes(command[16:])


class MockDevice(IommufdObject):
    """A device of the selftest driver, attached to an address space or a page table. Destroying it detaches it.

    :ivar hwpt_id: the id of its page table
    """

    def __init__(self, to: IommufdObject, flags: int = 0) -> None:
        self_id, self.hwpt_id, device_id, _ = struct.unpack_from(
            "=4I", call(to.iommufd, DOMAIN_FLAGS, to.id, struct.pack("=4I", 0, 0, 0, flags))
        )
        super().__init__(to.iommufd, to)
        self._object = Object(self_id)
        self.bound = BoundDevice(to.iommufd, device_id, "mock device")
        #: For code that checks whether the device is open. The device belongs to the iommufd's file.
        self.file = to.iommufd.descriptor

    def attach(self, to: IommufdObject) -> None:
        answer = call(self.iommufd, DOMAIN_REPLACE, self._id, struct.pack("=I", to.id))
        (self.hwpt_id,) = struct.unpack_from("=I", answer)
        self._detach_from_parents()
        self._parents.clear()
        self._live_under(to)

    def is_attached_to(self, what: IommufdObject) -> bool:
        return what in self._parents or bool(self.hwpt_id == what.id)

    def attach_to_id(self, number: int) -> None:
        """Attach to the object with this id, whatever its kind."""
        call(self.iommufd, DOMAIN_REPLACE, self._id, struct.pack("=I", number))

    def check_map(self, iova: int, memory: DmaBuffer, offset: int, size: int) -> None:
        """Make the kernel check that the page table maps the pages of the memory."""
        call(self.iommufd, CHECK_MAP, self.hwpt_id, struct.pack("=3Q", iova, size, memory.address + offset))

    def make_dirty(self, hwpt: IommufdObject, iova: int, size: int, page_size: int, bits: bytes) -> int:
        """Set dirty bits as writes of a device would, and return the number of pages that are dirty then."""
        held = ffi.from_buffer(bytearray(bits))
        address = int(ffi.cast("uintptr_t", held))
        union = struct.pack("=I4x5Q", 0, iova, size, page_size, address, 0)
        return int(struct.unpack_from("=I4x5Q", call(self.iommufd, DIRTY, hwpt.id, union))[5])

    def trigger_fault(self, address: int, *, pasid: int = 0, group: int = 1, permissions: int = 1) -> None:
        union = struct.pack("=4IQ", self.bound.id, pasid, group, permissions, address)
        call(self.iommufd, TRIGGER_IOPF, 0, union)

    def trigger_event(self) -> None:
        call(self.iommufd, TRIGGER_VEVENT, 0, struct.pack("=I", self.bound.id))

    def pasid(self, op: int, pasid: int, to: IommufdObject | None = None) -> None:
        call(self.iommufd, op, self._id, struct.pack("=2I", pasid, to.id if to else 0))


class Access(Resource):
    """A kernel driver that accesses an address space without an IOMMU, as drivers of emulated devices do (struct iommufd_access).

    :param pins: whether it pins pages, and unpins them when they are unmapped
    """

    def __init__(self, ioas: Ioas, *, pins: bool = False) -> None:
        super().__init__(ioas)
        answer = call(ioas.iommufd, CREATE_ACCESS, ioas.id, struct.pack("=2I", 0, _NEEDS_PIN if pins else 0))
        self._iommufd = ioas.iommufd
        (self._fd,) = struct.unpack_from("=I", answer)

    def read(self, iova: int, size: int, *, slow: bool = False) -> bytes:
        data = bytearray(size)
        self._move(iova, data, _SLOW_PATH if slow else 0)
        return bytes(data)

    def write(self, iova: int, data: bytes, *, slow: bool = False) -> None:
        self._move(iova, bytearray(data), _WRITE | (_SLOW_PATH if slow else 0))

    def _move(self, iova: int, data: bytearray, flags: int) -> None:
        call(self._iommufd, ACCESS_RW, self._fd, struct.pack("=3QI", iova, len(data), address_of(data), flags))

    def pin(self, iova: int, memory: DmaBuffer, offset: int, size: int) -> int:
        """Pin pages, check that they are those of the memory, and return a number for :meth:`unpin`."""
        union = struct.pack("=2I3Q", 0, 0, iova, size, memory.address + offset)
        return int(struct.unpack_from("=2I", call(self._iommufd, ACCESS_PAGES, self._fd, union))[1])

    def unpin(self, number: int) -> None:
        call(self._iommufd, DESTROY_ACCESS_PAGES, self._fd, struct.pack("=I", number))

    def replace(self, ioas: Ioas) -> None:
        """Switch to another address space."""
        call(self._iommufd, ACCESS_REPLACE_IOAS, self._fd, struct.pack("=I", ioas.id))
        self._live_under(ioas)

    def _release(self) -> None:
        os.close(self._fd)


def dma_buf(iommufd: Iommufd, size: int) -> int:
    """Create a dma-buf that can be mapped, and return its descriptor."""
    # The kernel does not return the descriptor's number. It is the lowest free one.
    number = os.dup(iommufd.fileno())
    os.close(number)
    call(iommufd, DMABUF_GET, 0, struct.pack("=2I", size, os.O_CLOEXEC))
    assert "dmabuf" in os.readlink(f"/proc/self/fd/{number}")
    return number


def revoke(iommufd: Iommufd, fd: int, revoked: bool) -> None:
    """Revoke a dma-buf, which ends its mappings, or allow it to be mapped again."""
    call(iommufd, DMABUF_REVOKE, 0, struct.pack("=iI", fd, revoked))


def allocate_by_id(iommufd: Iommufd, *, device: int, parent: int, fault_queue: int | None = None) -> None:
    """Make an IOMMU_HWPT_ALLOC request with arbitrary ids. It must fail: the new page table would not be destroyed."""
    fields = {"dev_id": device, "pt_id": parent}
    held = ffi.from_buffer(NESTED)
    if fault_queue is not None:
        fields |= {
            "flags": lib.IOMMU_HWPT_FAULT_ID_VALID,
            "fault_id": fault_queue,
            "data_type": HWPT_DATA,
            "data_len": len(NESTED),
            "data_uptr": int(ffi.cast("uintptr_t", held)),
        }
    ALLOC.call(iommufd.descriptor, **fields)


def reserve(ioas: Ioas, start: int, size: int) -> None:
    """Add a reserved region, as attaching a device with one does."""
    call(ioas.iommufd, ADD_RESERVED, ioas.id, struct.pack("=2Q", start, size))


def check_iotlb(hwpt: IommufdObject, index: int, value: int) -> None:
    call(hwpt.iommufd, CHECK_IOTLB, hwpt.id, struct.pack("=2I", index, value))


def check_cache(device: MockDevice, index: int, value: int) -> None:
    call(device.iommufd, CHECK_DEV_CACHE, device.bound.id, struct.pack("=2I", index, value))


def check_refs(iommufd: Iommufd, memory: DmaBuffer, pins: int, offset: int = 0, size: int | None = None) -> None:
    """Make the kernel check how often each page of this process's memory is pinned. It skips huge pages."""
    size = memory.size - offset if size is None else size
    call(iommufd, CHECK_REFS, 0, struct.pack("=2QI", size, memory.address + offset, pins))


def limit_memory(iommufd: Iommufd, size: int) -> None:
    """Limit the kernel's temporary memory, so that large areas take several steps; 0 for the kernel's default."""
    call(iommufd, SET_TEMP_MEMORY_LIMIT, 0, struct.pack("=I", size or 65536))
