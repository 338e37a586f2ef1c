# SPDX-License-Identifier: MIT
"""Event queues (vEVENTQ): events of a virtual IOMMU for its guest."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._core.request import Request
from pyvfio.errors import BadReply
from pyvfio.iommufd.object import IOMMUFD
from pyvfio.iommufd.queue import Queue

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu

__all__ = ["Event", "EventQueue"]

_HEADER = "struct iommufd_vevent_header"


ALLOC = Request(
    "IOMMU_VEVENTQ_ALLOC",
    "iommufd",
    "struct iommu_veventq_alloc",
    errnos={
        errno.EEXIST: "the virtual IOMMU already has an event queue of that type",
        errno.EINVAL: "the type is IOMMU_VEVENTQ_TYPE_DEFAULT, or the depth is 0 or more than 2^19",
    },
    otherwise={**IOMMUFD, errno.EOPNOTSUPP: "the virtual IOMMU has no events of that type"},
)


class Event(NamedTuple):
    """One event: `struct iommufd_vevent_header` and its data.

    :ivar flags: IOMMU_VEVENTQ_FLAG_*
    :ivar sequence: number of the event, in which lost events are counted
    :ivar data: bytes in the layout of the queue's type; empty for lost events
    """

    flags: int
    sequence: int
    data: bytes

    @property
    def lost(self) -> bool:
        """Whether this record reports that events were dropped because the queue was full."""
        return bool(self.flags & lib.IOMMU_VEVENTQ_FLAG_LOST_EVENTS)


class EventQueue(Queue):
    """A queue of events with a descriptor for select, poll and epoll. Made by :meth:`Viommu.event_queue`."""

    def __init__(self, viommu: Viommu, type: int, depth: int) -> None:
        super().__init__(viommu.iommufd, "event", viommu)
        native = ALLOC.new(viommu_id=viommu.id, type=type, veventq_depth=depth)
        arguments = {"viommu_id": viommu.id, "type": type, "depth": depth}
        self._allocate(ALLOC, native, arguments, out_veventq_id=self._object, out_veventq_fd=self._queue)

    def read(self, event_size: int, timeout: float | None = 0) -> list[Event]:
        """Read the events that have arrived.

        :param event_size: bytes of data behind each header, by the queue's type: 32 for IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
            16 for IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV
        :param timeout: seconds to wait for the first; 0 does not wait, None waits without limit
        :raises BadReply: the kernel returned an incomplete event
        """
        header = ffi.sizeof(_HEADER)
        data = self._wait_and_read(64 * (header + event_size), timeout)
        events: list[Event] = []
        at = 0
        while at < len(data):
            if at + header > len(data):
                raise BadReply(f"{self!r}: an event is cut short")
            native = ffi.from_buffer(f"{_HEADER} *", data[at : at + header])
            size = 0 if native.flags & lib.IOMMU_VEVENTQ_FLAG_LOST_EVENTS else event_size
            if at + header + size > len(data):
                raise BadReply(f"{self!r}: an event is cut short")
            events.append(Event(native.flags, native.sequence, data[at + header : at + header + size]))
            at += header + size
        return events
