# SPDX-License-Identifier: MIT
"""Fault queues: I/O page faults of devices, and the responses to them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core.request import Call, Request
from pyvfio.errors import BadReply
from pyvfio.iommufd.object import IOMMUFD
from pyvfio.iommufd.queue import Queue

if TYPE_CHECKING:
    from pyvfio.iommufd.iommufd import Iommufd

__all__ = ["Fault", "FaultQueue"]

_RECORD = "struct iommu_hwpt_pgfault"


ALLOC = Request("IOMMU_FAULT_QUEUE_ALLOC", "iommufd", "struct iommu_fault_alloc", otherwise=IOMMUFD)
RESPOND = Call(
    "page response on",
    errnos={errno.EINVAL: "no fault that was read has this cookie, or the code is not IOMMUFD_PAGE_RESP_*"},
)


class Fault(NamedTuple):
    """One fault, `struct iommu_hwpt_pgfault`.

    :ivar flags: IOMMU_PGFAULT_FLAGS_*
    :ivar device_id: id of the bound device
    :ivar pasid: valid with IOMMU_PGFAULT_FLAGS_PASID_VALID
    :ivar group: page request group index; the last fault of a group has IOMMU_PGFAULT_FLAGS_LAST_PAGE
    :ivar permissions: the requested access, IOMMU_PGFAULT_PERM_*
    :ivar address: the IOVA
    :ivar length: hint of the device in bytes; 0 for none
    :ivar cookie: identifies the group in the response
    """

    flags: int
    device_id: int
    pasid: int
    group: int
    permissions: int
    address: int
    length: int
    cookie: int

    @property
    def last(self) -> bool:
        """Whether it is the last fault of its group (IOMMU_PGFAULT_FLAGS_LAST_PAGE)."""
        return bool(self.flags & lib.IOMMU_PGFAULT_FLAGS_LAST_PAGE)


class FaultQueue(Queue):
    """A queue of faults with a descriptor for select, poll and epoll. Made by :meth:`Iommufd.fault_queue`."""

    def __init__(self, iommufd: Iommufd) -> None:
        super().__init__(iommufd, "fault")
        self._allocate(ALLOC, ALLOC.new(), {}, out_fault_id=self._object, out_fault_fd=self._queue)

    def read(self, timeout: float | None = 0) -> list[Fault]:
        """Read the faults that have arrived, in whole groups.

        :param timeout: seconds to wait for the first; 0 does not wait, None waits without limit
        :raises BadReply: the kernel returned an incomplete fault
        """
        size = ffi.sizeof(_RECORD)
        data = self._wait_and_read(64 * size, timeout)
        if len(data) % size:
            raise BadReply(
                f"{self!r}: the kernel returned {len(data)} bytes, which is not a multiple of {size} bytes per fault"
            )
        records = ffi.from_buffer(f"{_RECORD}[]", data)
        return [Fault(r.flags, r.dev_id, r.pasid, r.grpid, r.perm, r.addr, r.length, r.cookie) for r in records]

    def respond(self, cookie: int, code: int = lib.IOMMUFD_PAGE_RESP_SUCCESS) -> None:
        """Respond to a group of faults. `struct iommu_hwpt_page_response`.

        :param cookie: :attr:`Fault.cookie` of the group
        :param code: IOMMUFD_PAGE_RESP_SUCCESS makes the device retry; IOMMUFD_PAGE_RESP_INVALID fails the access
        :raises OSError: EINVAL for a cookie that no fault has, or another code
        """
        response = ffi.new("struct iommu_hwpt_page_response *", {"cookie": cookie, "code": code})
        with RESPOND.explained(self._queue.name, {"cookie": cookie, "code": code}):
            self._queue.call(self._queue.kernel.write, ffi.buffer(response)[:])
