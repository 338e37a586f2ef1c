"""I/O page faults: what devices wanted to reach and could not, to be answered."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core.request import Call
from pyvfio.errors import BadReply
from pyvfio.iommufd.queue import Queue

_RECORD = "struct iommu_hwpt_pgfault"


RESPOND = Call(
    "page response on",
    errnos={
        errno.EINVAL: "no fault that was read has this cookie, or the code is not one that faults are answered with"
    },
)


class Fault(NamedTuple):
    """One fault, `struct iommu_hwpt_pgfault`.

    :ivar flags: IOMMU_PGFAULT_FLAGS_*
    :ivar device_id: of the bound device
    :ivar pasid: with IOMMU_PGFAULT_FLAGS_PASID_VALID
    :ivar group: page request group index; the last of a group has IOMMU_PGFAULT_FLAGS_LAST_PAGE
    :ivar permissions: what was wanted, IOMMU_PGFAULT_PERM_*
    :ivar address: the IOVA
    :ivar length: bytes that the device hints at; 0 for none
    :ivar cookie: names the group in the response
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
        """Whether it is the last of the faults that are answered together (IOMMU_PGFAULT_FLAGS_LAST_PAGE)."""
        return bool(self.flags & lib.IOMMU_PGFAULT_FLAGS_LAST_PAGE)


class FaultQueue(Queue):
    """A queue of faults, with a descriptor of its own for select and its kin. Made by :meth:`Iommufd.fault_queue`."""

    def read(self, timeout: float | None = 0) -> list[Fault]:
        """The faults that have come; whole groups.

        :param timeout: seconds to wait for the first; 0 not at all, None for ever
        """
        size = ffi.sizeof(_RECORD)
        data = self._wait_and_read(64 * size, timeout)
        if len(data) % size:
            raise BadReply(f"{self!r}: {len(data)} bytes are no whole number of faults of {size} bytes")
        records = ffi.from_buffer(f"{_RECORD}[]", data)
        return [Fault(r.flags, r.dev_id, r.pasid, r.grpid, r.perm, r.addr, r.length, r.cookie) for r in records]

    def respond(self, cookie: int, code: int = lib.IOMMUFD_PAGE_RESP_SUCCESS) -> None:
        """Answer a group of faults.

        :param code: IOMMUFD_PAGE_RESP_SUCCESS: try again, it is mapped now; IOMMUFD_PAGE_RESP_INVALID: it will not be
        :raises OSError: EINVAL for a cookie that no fault has, or another code
        """
        response = ffi.new("struct iommu_hwpt_page_response *", {"cookie": cookie, "code": code})
        with RESPOND.explained(self._queue.name, {"cookie": cookie, "code": code}):
            self._queue.call(self._queue.kernel.write, ffi.buffer(response)[:])
