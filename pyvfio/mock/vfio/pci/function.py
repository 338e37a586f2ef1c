# SPDX-License-Identifier: MIT
"""Descriptions of PCI functions: IDs, BARs and capabilities."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsBytes

from pyvfio._core import arguments
from pyvfio.mock.vfio.pci import saved as saved_
from pyvfio.mock.vfio.pci.saved import Saved, SavedBar

_BARS, _BRIDGE_BARS = 6, 2
#: bytes of vfio-pci's largest region: 40 bits of the file position are the offset (VFIO_PCI_OFFSET_SHIFT)
_LARGEST_BAR = 1 << 40
_LARGEST_NARROW_BAR, _LARGEST_PORTS = 1 << 31, 256
#: bytes of an entry of the MSI-X table; bytes of its array of pending bits, for 64 vectors
_MSIX_ENTRY, _MSIX_PENDING = 16, 8
_PAGE = 4096
#: bytes of a BAR of I/O ports whose size is not known
_PORTS = 32
_LAST_ID, _LAST_PIN = 0xFFFF, 4
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Bar:
    """A BAR.

    :ivar size: bytes, a power of two, at most 1 TiB (2 GiB without `wide`); with `wide` it takes the next BAR's place
        too
    :ivar memory: plain memory that programs may map; without it, the device model handles each access
    :ivar ports: a BAR of I/O ports, not of memory
    :raises ValueError: PCI does not allow such a BAR
    """

    size: int
    wide: bool = False
    prefetchable: bool = False
    memory: bool = False
    ports: bool = False

    def __post_init__(self) -> None:
        arguments.integer(self.size, "size")
        least, most = (4, _LARGEST_PORTS) if self.ports else (16, _LARGEST_BAR if self.wide else _LARGEST_NARROW_BAR)
        if not least <= self.size <= most or self.size & self.size - 1:
            kind = "a BAR of ports" if self.ports else "a BAR of 64 bits" if self.wide else "a BAR of 32 bits"
            raise ValueError(f"size={self.size:#x}: {kind} has a power of two from {least} to {most:#x} bytes")
        if self.ports and (self.wide or self.prefetchable or self.memory):
            raise ValueError("ports=True: a BAR of ports is neither wide nor prefetchable nor memory")


@dataclass(frozen=True)
class Function:
    """A PCI function.

    :ivar ids: vendor ID and device ID; `subsystem`: those of the subsystem
    :ivar bars: index -> BAR
    :ivar msi: MSI vectors, a power of two; 0: no MSI capability. `msix`: MSI-X vectors; 0: no MSI-X capability
    :ivar intx: the function has interrupt pin A
    :ivar express: a PCI Express function, with 4096 bytes of configuration space
    :ivar resets: the function can be reset alone, by each method that it has: FLR of PCI Express (`flr`) or of Advanced
        Features, both of which a write to configuration space starts too; power management. Without any of them, a
        device-specific method
    :ivar flr: the function has FLR of PCI Express; None: yes if it resets and has no power management
    :ivar advanced_features: the function has the Advanced Features capability, the FLR of conventional PCI
    :ivar bus_resets: a reset of the bus works
    :ivar virtual: the maximum number of virtual functions (TotalVFs)
    :ivar virtual_room: the number of virtual functions for whose BARs the firmware left address space; more are ENOMEM
    :ivar virtual_device: device ID of the virtual functions
    :ivar virtual_at: First VF Offset and VF Stride
    :ivar error_reporting: the function has Advanced Error Reporting; it never reports an error
    :ivar msix_table: BAR and offset of the MSI-X table, 16 bytes per vector, which vfio-pci hides; None: in a BAR added
        for it, the first free one. `msix_pending`: BAR and offset of the pending bits; None: after the table
    :ivar no_soft_reset: the function keeps its state from D3hot to D0, so that power management cannot reset it
    :ivar stored: offset of a 4-byte register in configuration space -> the bits that the device stores, of those that
        vfio-pci passes through. A register without an entry stores the bits that PCI requires: masks and severities of
        error reporting, mask bits of MSI
    :ivar saved: the configuration space given to :meth:`of`, whose capabilities keep their offsets
    :raises ValueError: PCI does not allow such a function
    """

    ids: tuple[int, int]
    class_code: int = 0xFF0000
    revision: int = 0
    subsystem: tuple[int, int] = (0x1AF4, 0x1100)
    bars: dict[int, Bar] = field(default_factory=dict, hash=False)
    msi: int = 0
    msix: int = 0
    intx: bool = False
    express: bool = False
    power_management: bool = False
    resets: bool = False
    bus_resets: bool = True
    virtual: int = 0
    virtual_device: int = 0
    virtual_at: tuple[int, int] = (0x80, 2)
    multifunction: bool = False
    bridge: bool = False
    advanced_features: bool = False
    error_reporting: bool = False
    flr: bool | None = None
    virtual_room: int = 0xFFFF
    msix_table: tuple[int, int] | None = None
    msix_pending: tuple[int, int] | None = None
    no_soft_reset: bool = False
    stored: Mapping[int, int] = field(default_factory=dict, hash=False)
    saved: Saved | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_types(self)
        _check_numbers(self)
        _check_bars(self)
        if self.msix:
            self._check_msix()
        if self.saved is not None:
            _check_saved(self, self.saved)

    @classmethod
    def of(
        cls,
        config: bytes | bytearray | memoryview | SupportsBytes,
        *,
        sizes: Mapping[int, int] | None = None,
        resource: str | None = None,
        ids: tuple[int, int] | None = None,
        stored: Mapping[int, int] | None = None,
    ) -> Function:
        """Return the function of a saved configuration space: a copy of sysfs's file `config`, or a dump of lspci.

        `pyvfio.pci.SavedConfig.read_dump` returns the bytes of each function in a dump. Capabilities stay at their
        offsets, except those that vfio-pci hides. The mock models power management, MSI, MSI-X, function-level resets,
        virtual functions and error reporting; all other registers read as saved. BARs get addresses of the mock's host.

        :param config: 64 (the header only: no capabilities), 256 or 4096 bytes
        :param sizes: BAR -> bytes, which `config` does not hold. A BAR without an entry gets one page, or the size of
            its MSI-X table, or 32 ports. A BAR that reads as zeros exists only if it has an entry
        :param resource: the text of sysfs's file `resource`, which holds all sizes; instead of `sizes`
        :param ids: vendor ID and device ID of a virtual function, whose own registers read as ones
        :param stored: the bits of a register that the device stores (see the class), where they differ from what PCI
            requires. To find them, write ones and zeros to the real device and read them back
        :raises TypeError: `config` is not bytes
        :raises ValueError: `config` is not a configuration space of an endpoint; the message names the reason
        :warns RuntimeWarning: a list of capabilities is malformed; the capabilities before that place work
        """
        if isinstance(config, (int, str)) or not isinstance(config, (bytes, bytearray, memoryview, SupportsBytes)):
            raise TypeError(f"config must be bytes, not {type(config).__name__}")
        if sizes is not None and resource is not None:
            raise ValueError("sizes and resource both tell the sizes of BARs: give one of them")
        if sizes is not None:
            sizes = _integers(sizes, "sizes")
        if resource is not None:
            arguments.string(resource, "resource")
        saved = saved_.read(bytes(config))
        if saved.broken is not None:
            warnings.warn(f"config: {saved.broken}; what is before that works", RuntimeWarning, stacklevel=2)
        found = {**_identity(saved, ids), **_standard(saved), **_extended(saved)}
        tables = [found[name] for name in ("msix_table", "msix_pending") if name in found]
        needs = {bar: 0 for bar, _ in tables}
        for (bar, offset), size in zip(tables, _msix_sizes(found.get("msix", 0)), strict=False):
            needs[bar] = max(needs[bar], offset + size)
        known = _with_sizes(saved_.bars(saved, resource), dict(sizes or {}))
        return cls(
            bars={index: _bar(index, bar, needs.get(index, 0)) for index, bar in known.items()},
            saved=saved,
            stored={} if stored is None else stored,
            **found,
        )

    @property
    def reset_methods(self) -> tuple[str, ...]:
        """The methods that reset the function alone, by their names in sysfs, in order of preference."""
        if not self.resets:
            return ()
        by_express = self.express and (not self.power_management if self.flr is None else self.flr)
        there = {
            "flr": by_express,
            "af_flr": self.advanced_features,
            "pm": self.power_management and not self.no_soft_reset,
        }
        return tuple(name for name, has in there.items() if has) or ("device_specific",)

    @property
    def table(self) -> tuple[int, int]:
        """BAR and offset of the MSI-X table, also if `msix_table` is None."""
        return (self._free(), 0) if self.msix_table is None else self.msix_table

    @property
    def pending(self) -> tuple[int, int]:
        """BAR and offset of the pending bits, also if `msix_pending` is None."""
        bar, offset = self.table
        return (bar, offset + _MSIX_ENTRY * self.msix) if self.msix_pending is None else self.msix_pending

    @property
    def all_bars(self) -> dict[int, Bar]:
        """The BARs, including one added for the MSI-X table if `msix_table` is None."""
        if not self.msix or self.msix_table is not None:
            return self.bars
        size = sum(_msix_sizes(self.msix))
        return self.bars | {self._free(): Bar(max(_PAGE, 1 << (size - 1).bit_length()))}

    def _free(self) -> int:
        """Return the index of the first unused BAR; 6 if all are used."""
        taken = set(self.bars) | {index + 1 for index, bar in self.bars.items() if bar.wide}
        return next((index for index in range(_BARS) if index not in taken), _BARS)

    def _check_msix(self) -> None:
        bars = self.all_bars
        if self.msix_table is None and self._free() == _BARS:
            raise ValueError(
                f"msix={self.msix}: no BAR is left for its table; say where it is with msix_table=(bar, offset)"
            )
        table, pending = _msix_sizes(self.msix)
        for name, (bar, offset), size in (
            ("msix_table", self.table, table),
            ("msix_pending", self.pending, pending),
        ):
            if bar not in bars or bars[bar].ports or offset % 8 or not 0 <= offset <= bars[bar].size - size:
                raise ValueError(
                    f"{name}=({bar}, {offset:#x}): {size:#x} bytes there are not within a memory BAR, at a multiple of 8"
                )


def _check_types(function: Function) -> None:
    pairs = ("ids", "subsystem", "virtual_at", "msix_table", "msix_pending")
    for name in pairs:
        pair: Any = getattr(function, name)
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not (is_pair and all(isinstance(one, int) for one in pair)) and (pair is not None or name in pairs[:3]):
            raise arguments.wrong_type(pair, name, "a pair of integers")
    for name in ("class_code", "revision", "msi", "msix", "virtual", "virtual_device", "virtual_room"):
        object.__setattr__(function, name, arguments.integer(getattr(function, name), name))
    bars: Any = function.bars
    if not isinstance(bars, Mapping) or not all(isinstance(one, Bar) for one in bars.values()):
        raise arguments.wrong_type(bars, "bars", "a dict of Bars by number")
    object.__setattr__(function, "stored", _integers(function.stored, "stored"))
    if function.saved is not None:
        arguments.instance(function.saved, "saved", Saved)


def _integers(given: Any, name: str) -> dict[int, int]:
    """Return a mapping of integers to integers as a dict.

    :raises TypeError: `given` is not such a mapping
    """
    if not isinstance(given, Mapping):
        raise arguments.wrong_type(given, name, "a mapping of integers to integers")
    return {arguments.integer(one, name): arguments.integer(other, name) for one, other in given.items()}


def _check_numbers(function: Function) -> None:
    limits = {
        "ids": (function.ids, 0xFFFF),
        "subsystem": (function.subsystem, 0xFFFF),
        "class_code": ((function.class_code,), 0xFFFFFF),
        "revision": ((function.revision,), 0xFF),
        "msix": ((function.msix,), 2048),
        "virtual": ((function.virtual,), 0xFFFF),
        "virtual_device": ((function.virtual_device,), 0xFFFF),
        "virtual_at": (function.virtual_at, 0xFFFF),
    }
    for name, (values, most) in limits.items():
        if wrong := [value for value in values if not 0 <= value <= most]:
            raise ValueError(f"{name} must be 0 to {most:#x}, not {wrong[0]:#x}")
    last = (saved_.EXTENDED if function.express else saved_.STANDARD) - 4
    for offset, bits in function.stored.items():
        if not 0 <= offset <= last or offset % 4:
            raise ValueError(
                f"stored: {offset:#x} is not the offset of a register of 4 bytes: a multiple of 4 up to {last:#x}"
            )
        if not 0 <= bits <= _WORD:
            raise ValueError(f"stored: the register at {offset:#x} has 32 bits, {bits:#x} does not fit")
    if function.msi not in (0, 1, 2, 4, 8, 16, 32):
        raise ValueError(f"msi={function.msi}: MSI has 1, 2, 4, 8, 16 or 32 vectors, or is not there (0)")
    if function.virtual and not function.express:
        raise ValueError(
            f"virtual={function.virtual}: only functions of PCI Express (express=True) have virtual functions"
        )
    if function.virtual and 0 in function.virtual_at:
        raise ValueError(
            f"virtual_at={function.virtual_at}: offset and stride must give each virtual function a routing ID of its own behind the physical function's"
        )


def _check_bars(function: Function) -> None:
    most = _BRIDGE_BARS if function.bridge else _BARS
    for index, bar in function.bars.items():
        if not 0 <= index < most or (bar.wide and index + 1 >= most):
            raise ValueError(f"bars: {bar} cannot be BAR{index}: they are 0 to {most - 1}, and a wide one takes two")
        if bar.wide and index + 1 in function.bars:
            raise ValueError(f"bars: BAR{index} is wide and takes the place of BAR{index + 1} too")


def _msix_sizes(vectors: int) -> tuple[int, int]:
    """Return the sizes of an MSI-X table and of its array of pending bits."""
    return _MSIX_ENTRY * vectors, _MSIX_PENDING * -(-vectors // 64)


# Parsing a saved configuration space.

_VENDOR_ID, _DEVICE_ID, _REVISION, _CLASS, _HEADER_TYPE, _SUBSYSTEM, _PIN = 0x00, 0x02, 0x08, 0x09, 0x0E, 0x2C, 0x3D
_MULTIFUNCTION = 0x80


def _identity(saved: Saved, ids: tuple[int, int] | None) -> dict[str, Any]:
    """Return the arguments of Function that the header determines."""
    if ids is None:
        ids = saved.word(_VENDOR_ID, 2), saved.word(_DEVICE_ID, 2)
        if _LAST_ID in ids[:1]:
            raise ValueError(
                "the vendor ID reads as ones, as in a virtual function; give ids=(vendor, device) from the files "
                "`vendor` and `device` in sysfs"
            )
    pin = saved.data[_PIN]
    if pin > _LAST_PIN:
        raise ValueError(f"the interrupt pin register reads {pin}: PCI has the pins 1 to {_LAST_PIN} (INTA to INTD)")
    return {
        "ids": ids,
        "class_code": saved.word(_CLASS, 3),
        "revision": saved.data[_REVISION],
        "subsystem": (saved.word(_SUBSYSTEM, 2), saved.word(_SUBSYSTEM + 2, 2)),
        "multifunction": bool(saved.data[_HEADER_TYPE] & _MULTIFUNCTION),
        "intx": pin > 0,
    }


def _standard(saved: Saved) -> dict[str, Any]:
    """Return the arguments of Function that the standard capabilities determine."""
    found: dict[str, Any] = {}
    if at := saved.find(saved_.POWER_MANAGEMENT):
        found["power_management"] = True
        found["no_soft_reset"] = bool(saved.word(at + 4, 2) >> 3 & 1)
    if at := saved.find(saved_.MSI):
        found["msi"] = 1 << (saved.word(at + 2, 2) >> 1 & 7)
    if at := saved.find(saved_.MSIX):
        table, pending = saved.word(at + 4, 4), saved.word(at + 8, 4)
        found["msix"] = (saved.word(at + 2, 2) & 0x7FF) + 1
        found["msix_table"] = table & 7, table & ~7
        found["msix_pending"] = pending & 7, pending & ~7
    found["flr"] = False
    if at := saved.find(saved_.EXPRESS):
        found["express"] = True
        found["flr"] = bool(saved.word(at + 4, 4) >> 28 & 1)
    advanced = 0
    if at := saved.find(saved_.ADVANCED_FEATURES):
        found["advanced_features"] = True
        # pci_af_flr requires both capability bits: Transactions Pending and FLR.
        advanced = saved.data[at + 3] & 3 == 3
    by_power = found.get("power_management", False) and not found["no_soft_reset"]
    found["resets"] = bool(found["flr"] or advanced or by_power)
    return found


def _extended(saved: Saved) -> dict[str, Any]:
    """Return the arguments of Function that the extended capabilities determine."""
    found: dict[str, Any] = {"error_reporting": saved.find_extended(saved_.ADVANCED_ERROR_REPORTING) > 0}
    if at := saved.find_extended(saved_.VIRTUALISATION):
        # First VF Offset and VF Stride may depend on NumVFs, and may read 0 while it is 0.
        first, stride = saved.word(at + 0x14, 2), saved.word(at + 0x16, 2)
        found["virtual"] = saved.word(at + 0x0E, 2)
        found["virtual_device"] = saved.word(at + 0x1A, 2)
        found["virtual_at"] = max(first, 1), max(stride, 1)
    return found


def _with_sizes(found: dict[int, SavedBar], sizes: dict[int, int]) -> dict[int, SavedBar]:
    """Return the BARs with the given sizes, including BARs that read as zeros but have a size."""
    every = dict(found)
    for index, size in sizes.items():
        if index not in range(_BARS):
            raise ValueError(f"sizes: there is no BAR{index}; they are 0 to {_BARS - 1}")
        if index - 1 in every and every[index - 1].wide:
            raise ValueError(f"sizes: BAR{index} is the upper half of BAR{index - 1}, which has 64 bits")
        every[index] = every.get(index, SavedBar(0, False, False, False))._replace(size=size)
    return dict(sorted(every.items()))


def _bar(index: int, bar: SavedBar, need: int) -> Bar:
    """Return a BAR of its known size, or else of a size that its address allows.

    :param need: bytes that the MSI-X table and its pending bits take
    """
    size = bar.size
    if size is None:
        size = _PORTS if bar.ports else max(_PAGE, 1 << (need - 1).bit_length() if need else 0)
        if bar.address:
            size = min(size, bar.address & -bar.address)
    try:
        made = Bar(size, wide=bar.wide, prefetchable=bar.prefetchable, ports=bar.ports)
    except ValueError as error:
        raise ValueError(f"BAR{index}: {error}") from None
    if bar.address % size:
        raise ValueError(f"BAR{index} is at {bar.address:#x}, which is not a multiple of its size, {size:#x}")
    return made


def _check_saved(function: Function, saved: Saved) -> None:
    """Refuse a copy (dataclasses.replace) whose capabilities differ from the saved ones."""
    there = {"msi": 0, "msix": 0, "express": False, "power_management": False, "advanced_features": False}
    there |= {"no_soft_reset": False, "virtual": 0, "virtual_device": 0} | _standard(saved) | _extended(saved)
    del there["resets"]
    there.pop("virtual_at", None)
    for name, value in there.items():
        if (given := getattr(function, name)) != value:
            raise ValueError(
                f"{name}={given!r}: the saved configuration space says {value!r}; set saved=None to differ"
            )
