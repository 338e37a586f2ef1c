# SPDX-License-Identifier: MIT
"""Regions of PCI functions (vfio_pci_rdwr.c): BARs, whose accesses the device model handles, and config space."""

from __future__ import annotations

import errno
from functools import partial
from typing import ClassVar

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.pci.config import Config
from pyvfio.mock.vfio.pci.function import Function
from pyvfio.mock.vfio.region import MMAP, OFFSET_MASK, OFFSET_SHIFT, READ, WRITE, Region

CONFIG, VGA = lib.VFIO_PCI_CONFIG_REGION_INDEX, lib.VFIO_PCI_VGA_REGION_INDEX
_BARS = range(6)
#: possible bytes of one access
_WIDTHS = (8, 4, 2, 1)


class PciRegions(Device):
    """The regions of a PCI function.

    :ivar function: the description of the function
    :ivar config: the configuration space
    """

    num_regions = lib.VFIO_PCI_NUM_REGIONS
    function: ClassVar[Function]
    config: Config

    def read(self, bar: int, offset: int, width: int) -> int:
        """Return the value of a register: by default the value last written. Subclasses override it.

        :param bar: the index of the BAR
        :param offset: bytes from its start, a multiple of the width
        :param width: 1, 2, 4 or 8 bytes
        """
        return int.from_bytes(self.region_file.read(bar, offset, width), "little")

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        """Write a register: by default, store the value. Subclasses override it.

        :param bar: the index of the BAR
        :param offset: bytes from its start, a multiple of the width
        :param width: 1, 2, 4 or 8 bytes
        :param value: the value, of that width
        """
        self.region_file.write(bar, offset, value.to_bytes(width, "little"))

    def load(self, bar: int, offset: int, width: int) -> int:
        """Read by :meth:`read`; in the BAR added for the MSI-X table, which the model does not know, from memory."""
        read = self.read if bar in self.function.bars else partial(PciRegions.read, self)
        return read(bar, offset, width)

    def store(self, bar: int, offset: int, width: int, value: int) -> None:
        """Write by :meth:`write`; in the BAR added for the MSI-X table, which the model does not know, to memory."""
        write = self.write if bar in self.function.bars else partial(PciRegions.write, self)
        write(bar, offset, width, value)

    def region(self, index: int) -> Region:
        if (bar := self.function.all_bars.get(index)) is not None:
            mappable = bar.memory or self.traps(index)
            has_table = bool(self.function.msix) and index == self.function.table[0]
            return Region(bar.size, READ | WRITE | (MMAP if mappable else 0), msix_mappable=mappable and has_table)
        if index == CONFIG:
            return Region(self.config.size, READ | WRITE)
        if index == VGA or index >= self.num_regions:
            raise Errno(errno.EINVAL)
        return Region()

    def traps(self, index: int) -> bool:
        bar = self.function.all_bars.get(index)
        return bar is not None and not bar.memory and not bar.ports and bar.size >= self.kernel.profile.page_size

    def check_mmap(self, index: int, offset: int, size: int) -> None:
        """Check as the base class does; a BAR of registers has no memory to map.

        :raises Errno: EINVAL
        """
        if self.traps(index):
            raise Errno(errno.EINVAL)
        super().check_mmap(index, offset, size)

    def pread(self, size: int, position: int) -> bytes:
        if not size:
            return b""
        index, offset, size = self._located(position, size)
        return self.config.read(offset, size) if index == CONFIG else self.bar_read(index, offset, size)

    def bar_read(self, index: int, offset: int, size: int) -> bytes:
        """Read a BAR, for a processor or another device."""
        parts = []
        for at, width in self._accesses(index, offset, size):
            hidden = self.hides(index, at, width)
            parts.append(b"\xff" * width if hidden else self.load(index, at, width).to_bytes(width, "little"))
        return b"".join(parts)

    def pwrite(self, data: bytes, position: int) -> int:
        if not data:
            return 0
        index, offset, size = self._located(position, len(data))
        if index == CONFIG:
            self.config.write(offset, data[:size])
        else:
            self.bar_write(index, offset, data[:size])
        return size

    def bar_write(self, index: int, offset: int, data: bytes) -> None:
        """Write a BAR, for a processor or another device."""
        for at, width in self._accesses(index, offset, len(data)):
            if not self.hides(index, at, width):
                self.store(index, at, width, int.from_bytes(data[at - offset : at - offset + width], "little"))

    def _located(self, position: int, size: int) -> tuple[int, int, int]:
        """Return region, offset, and the number of bytes that a transfer moves.

        :raises Errno: EINVAL, no region there; EFAULT, beyond the end of configuration space; EIO, the device does not
            decode memory
        """
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        if index == CONFIG:
            if offset + size > self.config.size:
                raise Errno(errno.EFAULT)
            return index, offset, size
        if index >= self.num_regions or offset >= (there := self.region(index).size):
            raise Errno(errno.EINVAL)
        if index in _BARS and not self.function.all_bars[index].ports and not self.decodes_memory:
            raise Errno(errno.EIO)
        return index, offset, min(size, there - offset)

    def _accesses(self, bar: int, offset: int, size: int) -> list[tuple[int, int]]:
        """Split a transfer into accesses as wide as possible; return their offsets and widths."""
        if size in _WIDTHS and not offset % size:
            return [(offset, size)]  # the common case; the MSI-X table starts and ends at multiples of 8
        accesses, end = [], offset + size
        table = self._table(bar)
        while offset < end:
            # Stop at the edges of the MSI-X table: an access is either hidden or not.
            stop = next((edge for edge in (table.start, table.stop) if offset < edge < end), end)
            width = next(width for width in _WIDTHS if not offset % width and offset + width <= stop)
            accesses.append((offset, width))
            offset += width
        return accesses

    def hides(self, bar: int, offset: int, size: int) -> bool:
        """Whether a part of a BAR overlaps the MSI-X table, which vfio-pci hides."""
        if not self.function.msix:
            return False
        table = self._table(bar)
        return offset < table.stop and offset + size > table.start

    def _table(self, bar: int) -> range:
        """Return the offsets of a BAR that the MSI-X table takes."""
        if not self.function.msix or bar != self.function.table[0]:
            return range(0)
        start = self.function.table[1]
        return range(start, start + 16 * self.function.msix)
