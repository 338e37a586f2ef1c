# SPDX-License-Identifier: MIT
"""Regions of a device, accessed by pread(2), pwrite(2) and mmap(2) of the device's descriptor."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Window
from pyvfio._core import capability, html
from pyvfio._core.arguments import choice, integer, octets, seconds_or_none, u64, wrong_type
from pyvfio._core.device_file import DeviceFile
from pyvfio._core.flags import names
from pyvfio._core.indexed import Indexed
from pyvfio._core.request import Arguments, Call, Reason, Request
from pyvfio._core.resource import Resource
from pyvfio._core.sizes import about
from pyvfio._core.sizes import size as bytes_
from pyvfio._core.weak import WeakTable
from pyvfio.errors import BadReply, Closed, Error, InvalidRequest, Unsupported
from pyvfio.memory import address_of

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.dma_buf import DmaBuf

__all__ = ["PCI_NAMES", "Area", "Region", "RegionInfo", "RegionMapping", "Regions", "Registers", "TrappedMapping"]

#: names of vfio-pci's fixed regions
PCI_NAMES = ("BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "CONFIG", "VGA")


def _no_answer(is_pci: bool) -> Reason | None:
    if not is_pci:
        return None
    return Reason(
        "the device does not decode memory now, or is asleep or gone",
        ("device.config.memory_enabled = True lets it decode",),
    )


PREAD = Call("pread", otherwise={errno.EIO: _no_answer})
PWRITE = Call("pwrite", otherwise={errno.EIO: _no_answer})
MMAP = Call("mmap", otherwise={errno.EIO: _no_answer})
GET_REGION_INFO = Request(
    "VFIO_DEVICE_GET_REGION_INFO",
    "device",
    "struct vfio_region_info",
    errnos={errno.EINVAL: "the device has no region of that index"},
)
IOEVENTFD = Request(
    "VFIO_DEVICE_IOEVENTFD",
    "device",
    "struct vfio_device_ioeventfd",
    otherwise={
        errno.EINVAL: "only BARs have ioeventfds, and not where the MSI-X table is; vfio-pci has none of 8 bytes on some machines",
        errno.ENOTTY: "the device's driver has no ioeventfds",
        errno.EEXIST: "there is an ioeventfd with this offset, width and value already: remove_ioeventfd() comes first",
        errno.ENODEV: "there is no ioeventfd with this offset, width and value",
        errno.ENOSPC: "the device has as many ioeventfds as the kernel allows",
    },
)


class Area(NamedTuple):
    """A part of a region: offset and size in bytes."""

    offset: int
    size: int


class RegionInfo(NamedTuple):
    """The properties of a region. VFIO_DEVICE_GET_REGION_INFO, `struct vfio_region_info` with its capabilities.

    :ivar offset: where the region starts in the device's file
    :ivar areas: the parts that can be mapped: the sparse areas, or the whole region; empty if mmap is not possible
    :ivar type: (type, subtype) of a device-specific region, or None
    :ivar msix_mappable: whether the MSI-X table in the region may be mapped too
    """

    index: int  # type: ignore[assignment]  # the kernel's word; tuple.index is of no use here
    flags: int
    size: int
    offset: int
    areas: tuple[Area, ...]
    type: tuple[int, int] | None
    msix_mappable: bool
    capabilities: tuple[capability.Capability, ...]

    def __repr__(self) -> str:
        shown = {
            **self._asdict(),
            "flags": names(self.flags, "VFIO_REGION_INFO_FLAG_"),
            "size": hex(self.size),
            "offset": hex(self.offset),
        }
        return f"RegionInfo({', '.join(f'{name}={value}' for name, value in shown.items())})"


class Registers:
    """Loads and stores of exactly 8, 16, 32 or 64 bits, at naturally aligned offsets, in the machine's byte order."""

    def read8(self, offset: SupportsIndex, /) -> int:
        """Load 8 bits.

        :param offset: bytes from the start
        """
        return self._load(offset, 1)

    def read16(self, offset: SupportsIndex, /) -> int:
        """Load 16 bits.

        :param offset: bytes from the start, a multiple of the width
        """
        return self._load(offset, 2)

    def read32(self, offset: SupportsIndex, /) -> int:
        """Load 32 bits.

        :param offset: bytes from the start, a multiple of the width
        """
        return self._load(offset, 4)

    def read64(self, offset: SupportsIndex, /) -> int:
        """Load 64 bits by one access, never by two.

        :param offset: bytes from the start, a multiple of the width
        """
        return self._load(offset, 8)

    def write8(self, offset: SupportsIndex, value: SupportsIndex, /) -> None:
        """Store 8 bits.

        :param offset: bytes from the start
        :param value: 0 to 2^8 - 1
        """
        self._store(offset, 1, value)

    def write16(self, offset: SupportsIndex, value: SupportsIndex, /) -> None:
        """Store 16 bits.

        :param offset: bytes from the start, a multiple of the width
        :param value: 0 to 2^16 - 1
        """
        self._store(offset, 2, value)

    def write32(self, offset: SupportsIndex, value: SupportsIndex, /) -> None:
        """Store 32 bits.

        :param offset: bytes from the start, a multiple of the width
        :param value: 0 to 2^32 - 1
        """
        self._store(offset, 4, value)

    def write64(self, offset: SupportsIndex, value: SupportsIndex, /) -> None:
        """Store 64 bits by one access, never by two.

        :param offset: bytes from the start, a multiple of the width
        :param value: 0 to 2^64 - 1
        """
        self._store(offset, 8, value)

    def poll(self, offset: int, mask: int, value: int, timeout: float | None, *, width: int = 32) -> int:
        """Read a register until the bits of a mask have a value.

        It reads without a pause for the first millisecond, then at growing intervals of up to a millisecond.

        :param offset: bytes from the start, a multiple of the width
        :param mask: the bits to compare
        :param value: the value to wait for, with no bits outside the mask
        :param timeout: seconds; None waits for ever, 0 reads once
        :param width: the width of the register: 8, 16, 32 or 64 bits
        :returns: the value read last
        :raises TimeoutError: the bits did not get that value within the timeout
        :raises Closed: another thread closed the device
        """
        offset = integer(offset, "offset")
        mask, value = u64(mask, "mask"), u64(value, "value")
        timeout = seconds_or_none(timeout)
        width = choice(width, "width", (8, 16, 32, 64))
        if value & ~mask:
            raise ValueError(f"value {value:#x} has bits outside of mask {mask:#x}: no register ever has it")
        read: Callable[[int], int] = getattr(self, f"read{width}")
        begun = time.monotonic()
        pause = 1e-5
        while (found := read(offset)) & mask != value:
            waited = time.monotonic() - begun
            if timeout is not None and waited >= timeout:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"{self!r}: offset {offset:#x} is {found:#x}; its bits {mask:#x} were not {value:#x} within {timeout} seconds",
                )
            if waited > 1e-3:
                time.sleep(pause)
                pause = min(2 * pause, 1e-3)
        return found

    def _load(self, offset: SupportsIndex, width: int) -> int:
        raise NotImplementedError

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        raise NotImplementedError

    def _check_access(self, offset: SupportsIndex, width: int, size: int) -> int:
        """Return the offset of an access as a plain integer, if the access is aligned and lies within `size`."""
        offset = integer(offset, "offset")
        if offset % width:
            raise InvalidRequest(f"{self!r}: offset {offset:#x} is not a multiple of the width of {width} bytes")
        if offset < 0 or offset + width > size:
            raise InvalidRequest(f"{self!r}: {width} bytes at offset {offset:#x} lie outside; it has {size:#x} bytes")
        return offset


class Region(Registers):
    """One region of a device.

    The register methods read and write through the kernel. PCI devices have no 64-bit methods here: vfio-pci makes one access or two,
    depending on its release and the machine. Map the region for 64-bit accesses (:meth:`mmap`).

    :ivar device: the device that it belongs to
    :ivar info: its properties, as the kernel reports them
    :ivar name: `BAR0` to `BAR5`, `ROM`, `CONFIG` or `VGA` for PCI; its number on other buses
    :ivar size: bytes; 0 for a region that the device lacks
    """

    def __init__(self, device: Device, info: RegionInfo, name: str) -> None:
        self.device = device
        self.info = info
        self.name = name
        self.size = info.size
        self._file = device.file

    @property
    def readable(self) -> bool:
        """Whether it can be read (VFIO_REGION_INFO_FLAG_READ)."""
        return bool(self.info.flags & lib.VFIO_REGION_INFO_FLAG_READ)

    @property
    def writable(self) -> bool:
        """Whether it can be written (VFIO_REGION_INFO_FLAG_WRITE)."""
        return bool(self.info.flags & lib.VFIO_REGION_INFO_FLAG_WRITE)

    @property
    def mmappable(self) -> bool:
        """Whether a part of the region can be mapped; :attr:`RegionInfo.areas` lists the parts."""
        return bool(self.info.areas)

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes. After a short read it reads the rest.

        The kernel chooses the width of each access; for registers use :meth:`read32` and the other widths.

        :param offset: bytes from the start of the region
        :param size: bytes
        :raises OSError: EINVAL for a region that cannot be read, or outside it; EIO when the device does not answer
        """
        offset, size = self._check_range("read", offset, size, self.readable)
        fd, kernel = self._file.fd, self._file.kernel
        parts: list[bytes] = []
        done = 0
        while done < size:
            with self._explained(PREAD, offset + done, size - done):
                part = fd.call(kernel.pread, size - done, self.info.offset + offset + done)
            if not part:
                raise self._stopped(PREAD, offset, done, size)
            parts.append(part)
            done += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: Any) -> None:
        """Write bytes. After a short write it writes the rest.

        :param offset: bytes from the start of the region
        :param data: the bytes
        :raises OSError: EINVAL for a region that cannot be written, or outside it; EIO when the device does not answer
        """
        view = octets(data, "data")
        size = len(view)
        offset, size = self._check_range("write", offset, size, self.writable)
        fd, kernel = self._file.fd, self._file.kernel
        done = 0
        while done < size:
            with self._explained(PWRITE, offset + done, size - done):
                count = fd.call(kernel.pwrite, view[done:], self.info.offset + offset + done)
            if not count:
                raise self._stopped(PWRITE, offset, done, size)
            done += count

    def mmap(self, offset: int = 0, size: int | None = None) -> RegionMapping:
        """Map the region, or a part of it, into this process. mmap(2) of the device's descriptor.

        :param offset: bytes from the region's start, a multiple of the page size
        :param size: bytes; None for the rest of the mappable area that `offset` lies in
        :raises Unsupported: the region, or that part of it, cannot be mapped
        :raises OSError: as mmap(2)
        """
        offset = integer(offset, "offset")
        size = None if size is None else integer(size, "size")
        areas = self.info.areas
        if not areas:
            raise Unsupported(f"{self!r} cannot be mapped; use its read and write methods, which go through the kernel")
        # No generator, which next() would leave unfinished: an exception that is raised while it is closed would be lost.
        found = [a for a in areas if a.offset <= offset < a.offset + a.size]
        area = found[0] if found else None
        if area is not None and size is None:
            size = area.offset + area.size - offset
        if area is None or size is None or size <= 0 or offset + size > area.offset + area.size:
            parts = ", ".join(f"[{a.offset:#x}, {a.offset + a.size - 1:#x}]" for a in areas)
            raise Unsupported(f"{self!r}: only {parts} can be mapped, not {size or 0:#x} bytes at {offset:#x}")
        if offset % mmap.PAGESIZE:
            raise InvalidRequest(
                f"{self!r}: offset {offset:#x} is not a multiple of the page size, {bytes_(mmap.PAGESIZE)}"
            )
        if self._file.fd.call(self._file.kernel.traps, self.info.offset + offset):
            return TrappedMapping(self, offset, size)
        prot = (mmap.PROT_READ if self.readable else 0) | (mmap.PROT_WRITE if self.writable else 0)
        fd = self._file.fd
        with self._explained(MMAP, offset, size):
            memory = fd.call(partial(fd.kernel.mmap, offset=self.info.offset + offset, prot=prot), size)
        return RegionMapping(self, offset, size, memory)

    def dma_buf(self, areas: Iterable[Area] | None = None) -> DmaBuf:
        """Export the region or parts of it as a dma-buf, for DMA by other devices. BARs only.

        VFIO_DEVICE_FEATURE_DMA_BUF, since Linux 6.19.

        :param areas: whole pages; None for the whole region
        :raises Unsupported: the kernel or the device's driver does not have the feature
        :raises OSError: EINVAL if an area is outside the BAR or is not made of whole pages; ENODEV if the region is not a BAR;
            EOPNOTSUPP if the driver exports no dma-bufs
        """
        from pyvfio.dma_buf import DmaBuf

        return DmaBuf(self, [Area(0, self.size)] if areas is None else _areas(areas))

    def add_ioeventfd(self, eventfd: int, offset: int, width: int, value: int) -> None:
        """Have the kernel store `value` at `offset` whenever `eventfd` is signalled. VFIO_DEVICE_IOEVENTFD, since Linux 4.17.

        :param eventfd: a descriptor of eventfd(2); it stays the caller's
        :param offset: bytes from the start, a multiple of the width
        :param width: 1, 2, 4 or 8 bytes; the offset is a multiple of it
        :param value: the value to store
        :raises OSError: EINVAL or ENOTTY where the device or that offset does not support it (only PCI BARs do, without the MSI-X
            table); EEXIST for the same offset, width and value again; ENOSPC for too many
        """
        self._set_ioeventfd(integer(eventfd, "eventfd", 0, 2**31 - 1), offset, width, value)

    def remove_ioeventfd(self, offset: int, width: int, value: int) -> None:
        """Undo :meth:`add_ioeventfd` with the same offset, width and value. VFIO_DEVICE_IOEVENTFD with descriptor -1.

        :param offset: the offset given to :meth:`add_ioeventfd`
        :param width: the width given to it
        :param value: the value given to it
        :raises OSError: ENODEV, there is no such ioeventfd
        """
        self._set_ioeventfd(-1, offset, width, value)

    def _set_ioeventfd(self, eventfd: int, offset: int, width: int, value: int) -> None:
        width = integer(width, "width")
        if width not in (1, 2, 4, 8):
            raise InvalidRequest(f"{self!r}: a store has 1, 2, 4 or 8 bytes, not {width}")
        offset = self._check_access(offset, width, self.size)
        value = integer(value, "value", 0, 256**width - 1)
        native = IOEVENTFD.new(flags=width, offset=self.info.offset + offset, data=value, fd=eventfd)
        arguments = {"region": self.name, "offset": offset, "width": width, "value": value, "fd": eventfd}
        IOEVENTFD.send(self._file.fd, native, arguments)

    # One pread or pwrite of the full width: a register must not be accessed in two halves.

    def _load(self, offset: SupportsIndex, width: int) -> int:
        offset = self._check_register(offset, width)
        fd = self._file.fd
        try:
            data = fd.call(fd.kernel.pread, width, self.info.offset + offset)
        except OSError as error:
            raise self._failed(PREAD, error, offset, width) from None
        if len(data) != width:
            raise self._stopped(PREAD, offset, len(data), width)
        return int.from_bytes(data, "little")

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        offset = self._check_register(offset, width)
        data = integer(value, "value", 0, 256**width - 1).to_bytes(width, "little")
        fd = self._file.fd
        try:
            count = fd.call(fd.kernel.pwrite, data, self.info.offset + offset)
        except OSError as error:
            raise self._failed(PWRITE, error, offset, width) from None
        if count != width:
            raise self._stopped(PWRITE, offset, count, width)

    def _check_register(self, offset: SupportsIndex, width: int) -> int:
        if width == 8 and self.device.info.is_pci:
            raise Unsupported(
                f"{self!r}: vfio-pci may split an access of 64 bits in two; use mmap() for one that is not "
                "split, or two accesses of 32 bits"
            )
        return self._check_access(offset, width, self.size)

    def _check_range(self, verb: str, offset: int, size: int, possible: bool) -> tuple[int, int]:
        """Return the offset and the size of a transfer as plain integers, if the region allows it and contains the range."""
        offset, size = integer(offset, "offset"), integer(size, "size")
        if not possible:
            able, flag = {"read": ("readable", "READ"), "write": ("writable", "WRITE")}[verb]
            raise InvalidRequest(f"{self!r} is not {able} (VFIO_REGION_INFO_FLAG_{flag} is clear)")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise InvalidRequest(
                f"{self!r}: {size:#x} bytes at offset {offset:#x} lie outside; it has {self.size:#x} bytes"
            )
        return offset, size

    def _explained(self, call: Call, offset: int, size: int) -> AbstractContextManager[None]:
        return call.explained(repr(self), {"offset": offset, "size": size}, self._facts)

    def _failed(self, call: Call, error: OSError, offset: int, size: int) -> Error:
        arguments: Arguments = {"offset": offset, "size": size}
        return call.explain(repr(self), error, arguments, self._facts)

    def _facts(self, _: int) -> bool:
        return self._file.info.is_pci

    def _stopped(self, call: Call, offset: int, done: int, size: int) -> BadReply:
        """Return the exception for a transfer that the kernel cut short without an error."""
        return BadReply(
            errno.EIO,
            f"{call.name} {self!r}: only {done} of {size} bytes at offset {offset:#x} were transferred",
        )

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<Region {self.name} of {self.device.address}>"


class RegionMapping(Window, Registers, Resource):
    """A mapped part of a region. Closed with its device.

    The register methods are ordered with accesses to memory: memory that is written before a register is visible to the device first, and
    memory that is read after a register is at least as new as the register. Accesses through :attr:`view` need :func:`pyvfio.barrier`.

    An access while the device does not decode memory, or after it was unplugged, causes SIGBUS, which ends this process; the library
    cannot turn it into an exception. The register methods of :class:`Region`, which go through the kernel, raise EIO then.

    :ivar offset: the offset of the mapped part in the region
    :ivar size: bytes
    :ivar address: its virtual address in this process
    :ivar view: the memory as a memoryview; the width of accesses through it is not defined
    """

    def __init__(self, region: Region, offset: int, size: int, memory: mmap.mmap) -> None:
        super().__init__(region.device)
        self.region = region
        self.offset = offset
        self.size = size
        self._memory = memory
        self.address = address_of(memory)
        self.view = memoryview(memory)
        self._open(self.address, size)
        _live[self] = None

    def _refuse(self, offset: int, width: int, value: object) -> None:
        """Raise the exception for an access that the native Window has refused. `value` is Ellipsis for a read."""
        self.region.device.file.fd.check_open()
        if self._closed:
            raise Closed(f"{self!r} is closed")
        self._check_access(offset, width, self.size)
        if value is not ...:
            integer(value, "value", 0, 256**width - 1)
        # The access itself is valid: another thread is closing the mapping.
        raise Closed(f"{self!r} is closed")

    def _release(self) -> None:
        """Unmap the memory.

        :raises BufferError: a slice of the view, or an array over it, is still in use; the memory is unmapped with the last of them
        """
        self._open(0, 0)
        try:
            self.view.release()
            self._memory.close()
        except BufferError:
            raise BufferError(
                f"{self!r}: an array or a view of its memory is still in use; the memory goes with the last of them"
            ) from None

    def _has_gone(self) -> bool:
        return True  # the register methods raise Closed; the memory is unmapped with the last view of it

    def __repr__(self) -> str:
        return f"<RegionMapping {self.offset:#x}+{self.size:#x} of {self.region!r}>"


class TrappedMapping(RegionMapping):
    """A mapped part of a region whose registers belong to a device model in this process (:mod:`pyvfio.mock`); no memory is mapped.

    Each call of a register method is one access of its width to the model. There is no view and no address, since the model would not
    see accesses through them. While the device does not decode memory, an access raises EIO.
    """

    def __init__(self, region: Region, offset: int, size: int) -> None:
        Resource.__init__(self, region.device)
        self.region = region
        self.offset = offset
        self.size = size

    def _no_memory(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self!r} has no {what}: its registers are a model's in this process, which would not see such accesses; use read32() and "
            "write32() and the other widths, or mock.Bar(memory=True) for a BAR that is memory"
        )

    @property
    def address(self) -> int:  # type: ignore[override]  # an attribute in the base
        """Raise InvalidRequest: no memory is mapped."""
        raise self._no_memory("address")

    @property
    def view(self) -> memoryview:  # type: ignore[override]  # an attribute in the base
        """Raise InvalidRequest: no memory is mapped."""
        raise self._no_memory("view")

    def _checked(self, offset: SupportsIndex, width: int) -> int:
        """Return an access's offset in the region, after checking the access."""
        self.region.device.file.fd.check_open()
        if self._closed:
            raise Closed(f"{self!r} is closed")
        return self.offset + self._check_access(offset, width, self.size)

    def _load(self, offset: SupportsIndex, width: int) -> int:
        return int.from_bytes(self.region.read(self._checked(offset, width), width), "little")

    def _store(self, offset: SupportsIndex, width: int, value: SupportsIndex) -> None:
        data = integer(value, "value", 0, 256**width - 1).to_bytes(width, "little")
        self.region.write(self._checked(offset, width), data)

    read8, read16, read32, read64 = Registers.read8, Registers.read16, Registers.read32, Registers.read64
    write8, write16, write32, write64 = Registers.write8, Registers.write16, Registers.write32, Registers.write64

    def _release(self) -> None:
        """Do nothing: no memory is mapped."""


_live: WeakTable[RegionMapping, None] = WeakTable()


def _after_fork() -> None:
    for mapping in _live:
        mapping._open(0, 0)


os.register_at_fork(after_in_child=_after_fork)


class Regions(Indexed[Region]):
    """The regions of a device, by index, for PCI also by name: `regions["BAR0"]`. VFIO_DEVICE_GET_REGION_INFO when one is first used.

    Regions that the device lacks have size 0.
    """

    pci_names = PCI_NAMES

    def __init__(self, device: Device) -> None:
        super().__init__(device.file)
        self._device = device

    def __len__(self) -> int:
        return self._file.info.num_regions

    def _make(self, index: int, name: str) -> Region:
        return Region(self._device, region_info(self._file, index), name)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{each.name} {bytes_(each.size)}" for each in self._shown() if each.size)
        return f"<Regions of {self._device.address}: {sizes or 'none known'}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                each.info.index,
                each.name,
                about(each.size),
                names(each.info.flags, "VFIO_REGION_INFO_FLAG_"),
                "yes" if each.mmappable else "no",
            )
            for each in self._shown()
            if each.size
        ]
        return html.table(f"Regions of {self._device.address}", ("index", "name", "size", "flags", "mmap"), rows)


def _areas(areas: object) -> list[Area]:
    """Return parts of a region as Areas.

    :param areas: pairs of offset and size, in bytes
    """
    try:
        pairs = [tuple(area) for area in areas]  # type: ignore[attr-defined]  # the except handles values that are not iterable
    except TypeError:
        raise wrong_type(areas, "areas", "pairs of offset and size") from None
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise ValueError(f"areas must be pairs of offset and size, not {wrong!r}")
    return [Area(u64(offset, "areas"), u64(size, "areas")) for offset, size in pairs]


def region_info(file: DeviceFile, index: int) -> RegionInfo:
    """Ask the kernel for the properties of a region. VFIO_DEVICE_GET_REGION_INFO.

    :raises OSError: EINVAL for an index that the device does not have
    """
    try:
        answer, data = capability.ask(file.fd, GET_REGION_INFO, index=index)
    except OSError as error:
        # num_regions counts regions that only other devices have, such as VGA, but the kernel returns EINVAL for them: report size 0.
        if error.errno == errno.EINVAL and index < file.info.num_regions:
            return RegionInfo(index, 0, 0, 0, (), None, False, ())
        raise
    chain: list[capability.Capability] = []
    if answer.flags & lib.VFIO_REGION_INFO_FLAG_CAPS:
        chain = capability.chain(data, answer.cap_offset, least=ffi.sizeof(answer[0]))
    areas: tuple[Area, ...] = ()
    type_: tuple[int, int] | None = None
    msix_mappable = False
    if answer.flags & lib.VFIO_REGION_INFO_FLAG_MMAP:
        areas = (Area(0, answer.size),)
    for cap in chain:
        if cap.id == lib.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            kind = "struct vfio_region_info_cap_sparse_mmap"
            sparse = cap.array(cap.read(kind).nr_areas, "struct vfio_region_sparse_mmap_area", ffi.sizeof(kind))
            areas = tuple(Area(area.offset, area.size) for area in sparse)
        elif cap.id == lib.VFIO_REGION_INFO_CAP_TYPE:
            described = cap.read("struct vfio_region_info_cap_type")
            type_ = (described.type, described.subtype)
        elif cap.id == lib.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE:
            msix_mappable = True
    return RegionInfo(index, answer.flags, answer.size, answer.offset, areas, type_, msix_mappable, tuple(chain))
