# SPDX-License-Identifier: MIT
"""A virtual function of a busy network card, with the DMA logging and the migration of mlx5_vfio_pci or pds_vfio_pci.

Written from the sources of both drivers in Linux 7.3; never compared with a real card.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyvfio.iova import IovaRange
from pyvfio.mock.host.driver import MLX5_VF, NETWORK_DRIVERS, PDS_VF
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.log import LARGEST, Log, LoggedRange
from pyvfio.mock.vfio.logged_ranges import combine
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Bar, Function
from pyvfio.mock.vfio.pci.migration import PciMigration

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

#: frames between two reports, their number of bursts, and bytes of a frame
_FRAMES, _BURSTS, _LARGEST_FRAME = 24, 4, 1514
#: maximum number of mappings that are used as buffers
_BUFFERS = 64
_HEADER = bytes.fromhex("0c42a1000001 0c42a1000002 0800")


class PdsLog(Log):
    """The log of drivers/vfio/pci/pds (since Linux 6.6).

    The requested page size is used as it is, the number of pages of a range is truncated to 32 bits, and a report must
    be within one range.
    """

    def start(self, ranges: list[LoggedRange], page_size: int) -> int:
        if self.active or not page_size:
            raise Errno(errno.EINVAL)
        wanted = [IovaRange(*range_) for range_ in ranges if range_.last != (range_.start - 1) & LARGEST]
        tracked = []
        for range_ in combine(wanted, self.limits.ranges):
            pages = -(-range_.size // page_size) % 2**32
            if pages:
                tracked.append(IovaRange.of(range_.start, pages * page_size))
        self.page_size = 1 << page_size.bit_length() - 1
        self.ranges = tracked
        self.active = True
        return page_size

    def report(self, iova: int, length: int, page_size: int, address: int) -> None:
        if not any(range_.start <= iova and iova + length - 1 <= range_.last for range_ in self.ranges):
            raise Errno(errno.EINVAL)
        super().report(iova, length, page_size, address)


class NetworkFunction(PciDevice):
    """A virtual function that receives all the time, into any writable mapping, without driver and bus master.

    The frames are the same in every run. Before each report of the log, the frames since the last report are written.
    """

    def __init__(self, kernel: Kernel, name: str, **more: Any) -> None:
        ids = MLX5_VF if kernel.profile.name == "mlx5" else PDS_VF
        bars = {0: Bar(1 << 20, wide=True, prefetchable=True, memory=True)}
        function = Function(ids, 0x020000, bars=bars, msix=16, msix_table=(0, 0), express=True, resets=True)
        super().__init__(kernel, name, function=function, **more)
        kind = Log if kernel.profile.name == "mlx5" else PdsLog
        self.log = kind(kernel.profile.log)
        variant = next(driver for driver in NETWORK_DRIVERS[kernel.profile.name] if driver.migrates)
        self.migration = self._migration = PciMigration(self, variant.migrates)
        self._received = 0

    @property
    def bus_master(self) -> bool:
        return True

    def open(self) -> None:
        super().open()
        self._received = 0

    def save_state(self) -> bytes:
        return self._received.to_bytes(8, "little") + super().save_state()

    def restore_state(self, state: bytes) -> None:
        super().restore_state(state[8:])
        self._received = int.from_bytes(state[:8], "little")

    def before_report(self) -> None:
        """Write the frames since the last report: several bursts, each into consecutive buffers."""
        if not self._migration.running:
            return
        buffers = [range_ for _, range_ in zip(range(_BUFFERS), self._buffers(), strict=False)]
        if not buffers:
            return
        for _ in range(_BURSTS):
            buffer = buffers[self._random() % len(buffers)]
            at = buffer.start + self._random() % (buffer.size // 2048) * 2048
            for _ in range(_FRAMES // _BURSTS):
                self._received += 1
                frame = _HEADER + self._received.to_bytes(4, "big") * ((_LARGEST_FRAME - len(_HEADER)) // 4)
                if at + len(frame) - 1 > buffer.last:
                    at = buffer.start
                self.dma_write(at, frame)
                at += 2048

    def _buffers(self) -> Iterator[IovaRange]:
        """Yield the writable mappings that are large enough for a frame."""
        if self.space is not None:
            for start, last in self.space.writable():
                if last - start + 1 >= 2048:
                    yield IovaRange(start, last)

    def _random(self) -> int:
        # splitmix64, seeded with the number of frames received, so that every run is the same.
        self._received += 1
        z = self._received * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31
