# SPDX-License-Identifier: MIT
"""The data descriptor of a migration: read from the saving device, or written to the resuming device."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.devices.vfio_mock import stream
from pyvfio.mock.devices.vfio_mock.stream import Record
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request
from pyvfio.mock.vfio.migration_file import MigrationFile

if TYPE_CHECKING:
    from pyvfio.mock.devices.vfio_mock.device import VfioMock


class Session(MigrationFile):
    """The data file of a migration session of vfio-mock."""

    def __init__(self, device: VfioMock) -> None:
        super().__init__(device.kernel)
        self.device = device


class Saving(Session):
    """The stream of a saving device.

    :ivar pre_copy: the device still runs, and the pages that it writes will be sent again
    :ivar initial: pages of the first pass that have not been sent
    :ivar dirty: pages that were written after they were sent
    :ivar new_initial: the next VFIO_MIG_GET_PRECOPY_INFO reports new initial data (VFIO_PRECOPY_INFO_REINIT)
    """

    def __init__(self, device: VfioMock, *, pre_copy: bool) -> None:
        super().__init__(device)
        self.pre_copy = pre_copy
        self.initial = set(range(device.states.num_pages))
        self.dirty: set[int] = set()
        self.new_initial = False
        self._buffer = b""
        self._records = 0
        self._tail = [stream.HEADER, stream.REGISTERS, stream.END]
        self.show()

    def show(self) -> None:
        """Make poll report whether there is data to read; in PRE_COPY there may be none at the moment."""
        if not self.ended:
            self.show_readable(
                not self.pre_copy or bool(self._buffer or self.initial or self.dirty) or not self._headed
            )

    @property
    def _headed(self) -> bool:
        return stream.HEADER not in self._tail

    def read(self, size: int) -> bytes:
        self.check_alive()
        self.device.failures.check("MIG_READ")
        parts: list[bytes] = []
        done = 0
        while done < size:
            if not self._buffer:
                record = self._next()
                if record is None:
                    if self.pre_copy and not done:
                        self.show()
                        raise Errno(errno.ENOMSG)
                    break
                self._buffer = record.encoded()
                self._records += 1
            parts.append(self._buffer[: size - done])
            self._buffer = self._buffer[size - done :]
            done += len(parts[-1])
        self.device.states.sent += done
        self.show()
        return b"".join(parts)

    def _next(self) -> Record | None:
        states = self.device.states
        if not self._headed:
            self._tail.pop(0)
            return stream.header(states.sizes)
        if stream.REGISTERS in self._tail and (pages := self.initial or self.dirty):
            number = min(pages)
            self.initial.discard(number)
            self.dirty.discard(number)
            return Record(stream.PAGES, number, states.page(number))
        if self.pre_copy or not self._tail:
            return None
        if self._tail.pop(0) == stream.REGISTERS:
            return Record(stream.REGISTERS, 0, states.packed_registers())
        return Record(stream.END, self._records, bytes(8))

    def remaining(self) -> tuple[int, int]:
        """Return the remaining bytes of the first pass, and the bytes of pages written after they were sent."""
        page = stream.length(stream.PAGES)
        initial = len(self._buffer) + (0 if self._headed else stream.length(stream.HEADER)) + len(self.initial) * page
        return initial, len(self.dirty - self.initial) * page

    @property
    def tail_size(self) -> int:
        """The bytes of the records after the pages."""
        return sum(stream.length(type_) for type_ in self._tail if type_ != stream.HEADER)

    @request(lib.VFIO_MIG_GET_PRECOPY_INFO)
    def _precopy_info(self, argument: int) -> None:
        """Return the bytes that can be read before the device stops (file_ioctl of tests/vfio_mock/migration.c)."""
        info = caller.take("struct vfio_precopy_info", argument)
        if info.argsz < ffi.sizeof("struct vfio_precopy_info"):
            raise Errno(errno.EINVAL)
        self.check_alive()
        if not self.pre_copy:
            raise Errno(errno.EINVAL)
        self.device.failures.check("MIG_PRECOPY_INFO")
        info.initial_bytes, info.dirty_bytes = self.remaining()
        # Without MIG_PRECOPY_INFOv2 the flags stay as the program passed them.
        if self.device.states.second_info:
            info.flags = lib.VFIO_PRECOPY_INFO_REINIT if self.new_initial else 0
            self.new_initial = False
        caller.give(argument, info)


class Resuming(Session):
    """The stream of a resuming device.

    :ivar error: the errno with which the stream was refused; None so far
    :ivar registers: the payload of the REGISTERS record; None before it
    :ivar whole: the END record has arrived, and nothing after it
    """

    def __init__(self, device: VfioMock) -> None:
        super().__init__(device)
        self.error: int | None = None
        self.registers: bytes | None = None
        self._complete = False
        self._records = 0
        self._held = b""

    @property
    def whole(self) -> bool:
        return self._complete and not self._held

    def write(self, data: bytes) -> int:
        self.check_alive()
        self.device.failures.check("MIG_WRITE")
        if self.error is not None:
            raise Errno(self.error)
        done = 0
        while done < len(data):
            size = stream.HEAD if len(self._held) < stream.HEAD else stream.size_by_head(self._held[: stream.HEAD])
            piece = data[done : done + (size or 0) - len(self._held)]
            self._held += piece
            done += len(piece)
            try:
                self._check_held()
            except Errno as error:
                self.error = error.number
                raise
        self.device.states.received += done
        return done

    def _check_held(self) -> None:
        if len(self._held) < stream.HEAD:
            return
        size = stream.size_by_head(self._held[: stream.HEAD])
        if size is None:
            raise Errno(errno.EINVAL)
        if len(self._held) == size:
            record = stream.decoded(self._held)
            self._held = b""
            self._apply(record)

    def _apply(self, record: Record | None) -> None:
        """Apply a complete record; None: its checksum is wrong."""
        states = self.device.states
        if record is None or self._complete or (not self._records) != (record.type == stream.HEADER):
            raise Errno(errno.EINVAL)
        if record.type == stream.HEADER:
            if record != stream.header(states.sizes):
                raise Errno(errno.EINVAL)
        elif record.type == stream.PAGES:
            states.set_page(record.number, record.payload)
        elif record.type == stream.REGISTERS:
            if self.registers is not None:
                raise Errno(errno.EINVAL)
            self.registers = record.payload
        else:
            if self.registers is None or record.number != self._records:
                raise Errno(errno.EINVAL)
            self._complete = True
        self._records += 1
