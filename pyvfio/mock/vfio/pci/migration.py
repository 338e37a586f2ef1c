# SPDX-License-Identifier: MIT
"""Migration of a PCI function by a variant driver (mlx5_vfio_pci, pds_vfio_pci): the stream holds its registers.

The states and the behaviour of the descriptor are those of Linux 7.3. The format of the stream is the mock's own, as a
real device's format is its vendor's own.
"""

from __future__ import annotations

import errno
import struct
import zlib
from typing import TYPE_CHECKING

from pyvfio._abi import ffi, lib
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request
from pyvfio.mock.vfio.migration import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    STOP_COPY,
    Migration,
    next_state,
)
from pyvfio.mock.vfio.migration_file import MigrationFile

if TYPE_CHECKING:
    from pyvfio.mock.vfio.pci.device import PciDevice

_SAVING = (PRE_COPY, PRE_COPY_P2P, STOP_COPY)
#: header of a record: magic, vendor ID, device ID, length of the state that follows, its CRC-32
_HEAD = struct.Struct("<4sHHQI")
_MAGIC = b"PVMG"


class Saving(MigrationFile):
    """The descriptor of a migration that saves the device's state.

    :ivar pre_copy: the device still runs: its whole state is sent once more after it has stopped
    """

    def __init__(self, device: PciDevice, *, pre_copy: bool) -> None:
        super().__init__(device.kernel)
        self._device = device
        self.pre_copy = pre_copy
        self._buffer = self._record()
        self.show_readable(True)

    def _record(self) -> bytes:
        state = self._device.save_state()
        return _HEAD.pack(_MAGIC, *self._device.ids, len(state), zlib.crc32(state)) + state

    def stop(self) -> None:
        """Append the final state, when the device has stopped."""
        self.pre_copy = False
        self._buffer += self._record()
        self.show_readable(True)

    @property
    def remaining(self) -> int:
        return len(self._buffer)

    def read(self, size: int) -> bytes:
        self.check_alive()
        if not self._buffer and self.pre_copy and size:
            raise Errno(errno.ENOMSG)
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        self.show_readable(bool(self._buffer) or not self.pre_copy)
        return part

    @request(lib.VFIO_MIG_GET_PRECOPY_INFO)
    def _precopy_info(self, argument: int) -> None:
        """Return the bytes that can be read before the device stops (mlx5vf_precopy_ioctl)."""
        info = caller.take("struct vfio_precopy_info", argument)
        if info.argsz < ffi.sizeof("struct vfio_precopy_info"):
            raise Errno(errno.EINVAL)
        self.check_alive()
        if not self.pre_copy:
            raise Errno(errno.EINVAL)
        info.initial_bytes, info.dirty_bytes = self.remaining, 0
        caller.give(argument, info)


class Resuming(MigrationFile):
    """The descriptor of a migration that restores the device's state.

    :ivar state: the last complete record; None before the first
    """

    def __init__(self, device: PciDevice) -> None:
        super().__init__(device.kernel)
        self._device = device
        self.state: bytes | None = None
        self._held = b""

    @property
    def whole(self) -> bool:
        return self.state is not None and not self._held

    def write(self, data: bytes) -> int:
        self.check_alive()
        self._held += data
        while len(self._held) >= _HEAD.size:
            magic, vendor, device, length, checksum = _HEAD.unpack_from(self._held)
            if magic != _MAGIC or (vendor, device) != self._device.ids:
                raise Errno(errno.EINVAL)
            end = _HEAD.size + length
            if len(self._held) < end:
                break
            state, self._held = self._held[_HEAD.size : end], self._held[end:]
            if zlib.crc32(state) != checksum:
                raise Errno(errno.EINVAL)
            self.state = state
        return len(data)


class PciMigration(Migration):
    """The migration of one function.

    :param flags: VFIO_MIGRATION_* of its driver
    """

    def __init__(self, device: PciDevice, flags: int) -> None:
        self.flags = flags
        self._device = device
        self.state: int = RUNNING
        self._file: Saving | Resuming | None = None

    def get_state(self) -> int:
        return self.state

    def set_state(self, wanted: int) -> MigrationFile | None:
        if ERROR in (self.state, wanted):
            raise Errno(errno.EINVAL)
        while self.state != wanted:
            file = self._step(next_state(self.flags, self.state, wanted))
            if file is not None:
                return file
        return None

    def _step(self, new: int) -> MigrationFile | None:
        """Take one arc of the state machine; return the descriptor if the arc starts a stream."""
        old = self.state
        begins = new == RESUMING or (new in _SAVING and old not in _SAVING)
        if new == RESUMING:
            self._file = Resuming(self._device)
        elif begins:
            self._file = Saving(self._device, pre_copy=new != STOP_COPY)
        elif old == RESUMING:
            self._load()
            self._end()
        elif new == STOP_COPY:
            assert isinstance(self._file, Saving)
            self._file.stop()
        elif new not in _SAVING:
            self._end()
        self.state = new
        return self._file if begins else None

    def _load(self) -> None:
        assert isinstance(self._file, Resuming)
        if not self._file.whole or self._file.state is None:
            self._end()
            self.state = ERROR
            raise Errno(errno.EINVAL)
        self._device.restore_state(self._file.state)

    def _end(self) -> None:
        if self._file is not None:
            self._file.end()
            self._file = None

    def data_size(self) -> int:
        if isinstance(self._file, Saving):
            return self._file.remaining + (_HEAD.size + len(self._device.save_state())) * self._file.pre_copy
        return _HEAD.size + len(self._device.save_state())

    @property
    def running(self) -> bool:
        """Whether the device works by itself. In the P2P states it starts no DMA."""
        return self.state in (RUNNING, PRE_COPY)

    def restart(self) -> None:
        """Return to RUNNING from any state, after a reset."""
        self._end()
        self.state = RUNNING

    def close(self) -> None:
        super().close()
        self.restart()
