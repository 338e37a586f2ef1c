# SPDX-License-Identifier: MIT
"""Migration of vfio-mock: its states, and the device state that the stream carries."""

from __future__ import annotations

import errno
import struct
from mmap import mmap
from typing import TYPE_CHECKING
from weakref import ref

from pyvfio.mock.devices.vfio_mock import stream
from pyvfio.mock.devices.vfio_mock.job import BUSY, FAILED, Job
from pyvfio.mock.devices.vfio_mock.registers import HELD
from pyvfio.mock.devices.vfio_mock.session import Resuming, Saving, Session
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.irq import INTX
from pyvfio.mock.vfio.migration import (
    CAN_P2P,
    CAN_PRE_COPY,
    CAN_STOP_COPY,
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    STOP_COPY,
    Migration,
    next_state,
)

if TYPE_CHECKING:
    from pyvfio.mock.devices.vfio_mock.device import VfioMock

_SAVING = (PRE_COPY, PRE_COPY_P2P, STOP_COPY)
_RUNNING = (RUNNING, PRE_COPY)
#: the memory regions, in the order of their page numbers in the stream
_REGIONS = (1, 2, 3)
_REGISTERS = struct.Struct("<" + "".join({8: "Q", 4: "I", 2: "H", 1: "B"}[one.width] for one in HELD.values()) + "5x")


class MockMigration(Migration):
    """The migration state of one device.

    :ivar path: the states that the last request passed through, 4 bits each, the last one in the lowest bits
    :ivar sent: bytes read from the last stream; `received`: bytes written to it
    """

    flags = CAN_STOP_COPY | CAN_P2P | CAN_PRE_COPY
    state: int
    path: int
    sent: int
    received: int

    def __init__(self, device: VfioMock) -> None:
        self._device = device
        self.state = RUNNING
        self.path = 0
        self.sent = self.received = 0
        self.session: Session | None = None
        #: regions that were mapped during this session: writes to them are not seen
        self._mapped: set[int] = set()
        #: the mappings of programs, by region
        self._mappings: list[tuple[int, ref[mmap]]] = []

    # Contents of the stream.

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self._device.regions[index].size for index in _REGIONS)

    @property
    def num_pages(self) -> int:
        return sum(self.sizes) // stream.PAGE

    def _first_page(self, region: int) -> int:
        return sum(self._device.regions[index].size for index in _REGIONS if index < region) // stream.PAGE

    def _pages(self, region: int) -> range:
        first = self._first_page(region)
        return range(first, first + self._device.regions[region].size // stream.PAGE)

    def _place(self, number: int) -> tuple[int, int]:
        """Return region and offset of a page.

        :raises Errno: EINVAL, there is no such page
        """
        for index in _REGIONS:
            if number in (pages := self._pages(index)):
                return index, (number - pages.start) * stream.PAGE
        raise Errno(errno.EINVAL)

    def page(self, number: int) -> bytes:
        index, offset = self._place(number)
        return self._device.memory(index)[offset : offset + stream.PAGE]

    def set_page(self, number: int, data: bytes) -> None:
        index, offset = self._place(number)
        self._device.memory(index)[offset : offset + stream.PAGE] = data

    def packed_registers(self) -> bytes:
        device = self._device
        held = _REGISTERS.pack(*(device.registers.held[name] for name in HELD))
        return held + device.engine.job.packed() + struct.pack("<Q", device.irqs.asserted)

    def touch(self, region: int, offset: int, size: int) -> None:
        """Note that the device's memory was written."""
        if isinstance(self.session, Saving):
            first = self._first_page(region)
            self.session.dirty.update(
                range(first + offset // stream.PAGE, first + (offset + size - 1) // stream.PAGE + 1)
            )
            self.session.show()

    def mapped(self, region: int, memory: mmap) -> None:
        """Note that a program has mapped a region."""
        self._still_mapped()  # drop the entries of closed mappings
        self._mappings.append((region, ref(memory)))
        self._mapped.add(region)

    def _still_mapped(self) -> set[int]:
        alive = ((region, one) for region, one in self._mappings if (memory := one()) is not None and not memory.closed)
        self._mappings = list(alive)
        return {region for region, _ in self._mappings}

    # The states.

    def get_state(self) -> int:
        self._device.failures.check("MIG_GET_STATE")
        return self.state

    def set_state(self, wanted: int) -> Session | None:
        self.path = 0
        if ERROR in (self.state, wanted):
            raise Errno(errno.EINVAL)
        while self.state != wanted:
            session = self._step(next_state(self.flags, self.state, wanted))
            # An arc that starts a session is the last one of every path.
            if session is not None:
                return session
        return None

    def _step(self, new: int) -> Session | None:
        """Take one arc. A failure leaves the state as it was, or changes it to ERROR."""
        device, old = self._device, self.state
        try:
            device.failures.check("MIG_SET_STATE")
        except Errno as error:
            if error.number == errno.ENOTRECOVERABLE:
                self._lose()
            raise
        session: Session | None = None
        if new in _SAVING and old not in _SAVING:
            session = self.session = Saving(device, pre_copy=new != STOP_COPY)
            self.sent = 0
            self._mapped = self._still_mapped()
        elif new == RESUMING:
            session = self.session = Resuming(device)
            self.received = 0
            device.engine.stop()
            device.engine.reset()
        if new not in _RUNNING:
            device.engine.pause(True)
        if old == RESUMING:
            try:
                self._load()
            except Errno:
                self._lose()
                raise
        if old in _SAVING and new in _SAVING:
            self._change_stage(pre_copy=new != STOP_COPY)
        elif session is None:
            self._end()
        if new in _RUNNING:
            device.engine.pause(False)
        self.state = new
        self.path = (self.path << 4 | new) % 2**64
        return session

    def _end(self) -> None:
        if self.session is not None:
            self.session.end()
            self.session = None

    def _lose(self) -> None:
        self._device.engine.pause(True)
        self._end()
        self.state = ERROR

    def _change_stage(self, *, pre_copy: bool) -> None:
        """Change between PRE_COPY, PRE_COPY_P2P and STOP_COPY within a session."""
        assert isinstance(self.session, Saving)
        if not pre_copy:
            for region in self._mapped:
                self.session.dirty.update(self._pages(region))
        self.session.pre_copy = pre_copy
        self.session.show()

    def _load(self) -> None:
        """Load registers and job from a complete stream. The memory was loaded as its records arrived.

        :raises Errno: EINVAL
        """
        session, device = self.session, self._device
        assert isinstance(session, Resuming)
        if session.error is not None or not session.whole or session.registers is None:
            raise Errno(session.error or errno.EINVAL)
        values = _REGISTERS.unpack_from(session.registers)
        job = Job.unpacked(session.registers[_REGISTERS.size : -8])
        if job.status > FAILED:
            raise Errno(errno.EINVAL)
        if job.status == BUSY:
            try:
                job.check(device.memory_size)
            except Errno:
                raise Errno(errno.EINVAL) from None
        device.engine.stop()
        device.registers.held = dict(zip(HELD, values, strict=True))
        device.engine.job = job
        if job.status == BUSY:
            device.engine.go_on()
        if any(session.registers[-8:]):
            device.irqs.interrupt(INTX)

    def data_size(self) -> int:
        self._device.failures.check("MIG_DATA_SIZE")
        if isinstance(self.session, Saving):
            return sum(self.session.remaining()) + self.session.tail_size
        ends = sum(stream.length(type_) for type_ in (stream.HEADER, stream.REGISTERS, stream.END))
        return ends + self.num_pages * stream.length(stream.PAGES)

    def reinit(self) -> None:
        """Announce new initial data: a new first pass, or all pages dirty for a program without MIG_PRECOPY_INFOv2.

        :raises Errno: EINVAL, not in pre-copy
        """
        session = self.session
        if not isinstance(session, Saving) or not session.pre_copy:
            raise Errno(errno.EINVAL)
        everything = set(range(self.num_pages))
        session.new_initial = self.second_info
        if self.second_info:
            session.initial, session.dirty = everything, set()
        else:
            session.dirty = everything
        session.show()

    def restart(self) -> None:
        """Return to RUNNING, at reset, open and close."""
        self._end()
        self.state = RUNNING
        self._device.engine.pause(False)
