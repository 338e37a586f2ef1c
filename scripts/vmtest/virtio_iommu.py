# SPDX-License-Identifier: MIT
"""A driver for QEMU's virtio-iommu over the qtest protocol. It reads the configuration and sends probe requests.

Virtio 1.2, sections 4.1 (the PCI transport), 2.7 (split virtqueues) and 5.13 (the IOMMU device).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vmtest.qtest import Qtest, QtestError

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
_CAPABILITIES, _VENDOR = 0x34, 0x09
_COMMON, _NOTIFY, _DEVICE = 1, 2, 4
# The BAR's address, and a page each for the queue's three parts and for requests: above the memory that vmtest.qtest
# uses.
BAR = 0xE0000000
_TABLE, _AVAILABLE, _USED, _BUFFER = 0x300000, 0x301000, 0x302000, 0x303000
_STATUS, _QUEUE, _QUEUE_SIZE, _QUEUE_ENABLE, _QUEUE_NOTIFY = 0x14, 0x16, 0x18, 0x1C, 0x1E
_ACKNOWLEDGE, _DRIVER, _FEATURES_OK, _DRIVER_OK = 1, 2, 8, 4
_FEATURE_PROBE, _FEATURE_VERSION_1 = 1 << 4, 1 << 0
_REQUEST_PROBE = 5
_QUEUE_ENTRIES = 4
_NEXT, _WRITE = 1, 2


class Config(NamedTuple):
    """The needed fields of struct virtio_iommu_config."""

    page_size_mask: int
    input_start: int
    input_last: int
    probe_size: int


class VirtioIommu:
    """An initialized virtio-iommu of a guest that does not run.

    :param slot: its slot on bus 0
    :raises QtestError: the device is not a virtio device, or does not accept the features
    """

    def __init__(self, qtest: Qtest, slot: int) -> None:
        self._qtest, self._slot = qtest, slot
        self._places: dict[int, int] = {}
        self._multiplier = 0
        self._find_structures()
        self._sent = 0
        self._make_ready()

    @property
    def config(self) -> Config:
        """The device's configuration."""
        data = self._qtest.read(self._places[_DEVICE], 40)
        mask, start, last, _, _, probe_size = struct.unpack("<QQQIII", data[:36])
        return Config(mask, start, last, probe_size)

    def probe(self, endpoint: int) -> tuple[int, bytes]:
        """Probe an endpoint and return the status and the properties.

        The buffer has the size in the device's configuration (probe_size): QEMU 7.2 aborts at any other size
        (virtio_iommu_handle_command).

        :param endpoint: bus, device and function in 16 bits
        """
        size = self.config.probe_size
        request = struct.pack("<B3xI64x", _REQUEST_PROBE, endpoint)
        self._qtest.write(_BUFFER, request + bytes(size + 4))
        reply = _BUFFER + len(request)
        self._qtest.write(
            _TABLE,
            struct.pack("<QIHH", _BUFFER, len(request), _NEXT, 1) + struct.pack("<QIHH", reply, size + 4, _WRITE, 0),
        )
        self._qtest.write(_AVAILABLE + 4 + 2 * (self._sent % _QUEUE_ENTRIES), struct.pack("<H", 0))
        self._sent += 1
        self._qtest.write(_AVAILABLE + 2, struct.pack("<H", self._sent))
        self._qtest.command(f"writew {self._notify:#x} 0")
        (used,) = struct.unpack("<H", self._qtest.read(_USED + 2, 2))
        if used != self._sent:
            raise QtestError(f"the virtio-iommu has answered {used} of {self._sent} requests")
        data = self._qtest.read(reply, size + 4)
        return data[size], data[:size]

    def _find_structures(self) -> None:
        """Assign an address to the BAR with virtio's structures, and find the structures by the vendor-specific capabilities."""
        places: dict[int, tuple[int, int]] = {}
        at = self._read_config(_CAPABILITIES, 1)
        while at:
            if self._read_config(at, 1) == _VENDOR:
                kind, bar, offset = (
                    self._read_config(at + 3, 1),
                    self._read_config(at + 4, 1),
                    self._read_config(at + 8, 4),
                )
                places.setdefault(kind, (bar, offset))
                if kind == _NOTIFY:
                    self._multiplier = self._read_config(at + 16, 4)
            at = self._read_config(at + 1, 1)
        if not {_COMMON, _NOTIFY, _DEVICE} <= set(places):
            raise QtestError(f"the device at slot {self._slot} is no virtio device of version 1")
        for bar in {bar for bar, _ in places.values() if bar < 5}:
            self._write_config(0x10 + 4 * bar, BAR + (bar << 20), 4)
            self._write_config(0x14 + 4 * bar, 0, 4)
        self._write_config(0x04, 6, 2)
        self._places = {kind: BAR + (bar << 20) + offset for kind, (bar, offset) in places.items()}

    def _make_ready(self) -> None:
        self._write(_STATUS, "b", 0)
        self._write(_STATUS, "b", _ACKNOWLEDGE | _DRIVER)
        for half, features in enumerate((_FEATURE_PROBE, _FEATURE_VERSION_1)):
            self._write(0x08, "l", half)
            self._write(0x0C, "l", features)
        status = _ACKNOWLEDGE | _DRIVER | _FEATURES_OK
        self._write(_STATUS, "b", status)
        if self._qtest.read(self._places[_COMMON] + _STATUS, 1)[0] != status:
            raise QtestError("the virtio-iommu does not accept the features PROBE and VERSION_1")
        for page in (_TABLE, _AVAILABLE, _USED):
            self._qtest.write(page, bytes(4096))
        self._write(_QUEUE, "w", 0)
        self._write(_QUEUE_SIZE, "w", _QUEUE_ENTRIES)
        for register, address in ((0x20, _TABLE), (0x28, _AVAILABLE), (0x30, _USED)):
            self._write(register, "l", address)
            self._write(register + 4, "l", 0)
        (offset,) = struct.unpack("<H", self._qtest.read(self._places[_COMMON] + _QUEUE_NOTIFY, 2))
        self._notify = self._places[_NOTIFY] + offset * self._multiplier
        self._write(_QUEUE_ENABLE, "w", 1)
        self._write(_STATUS, "b", status | _DRIVER_OK)

    def _write(self, register: int, width: str, value: int) -> None:
        self._qtest.command(f"write{width} {self._places[_COMMON] + register:#x} {value:#x}")

    def _select(self, register: int) -> int:
        self._qtest.out(CONFIG_ADDRESS, 1 << 31 | self._slot << 11 | register & ~3, "l")
        return CONFIG_DATA + (register & 3)

    def _read_config(self, register: int, size: int) -> int:
        return self._qtest.in_(self._select(register), {1: "b", 2: "w", 4: "l"}[size])

    def _write_config(self, register: int, value: int, size: int) -> None:
        self._qtest.out(self._select(register), value, {1: "b", 2: "w", 4: "l"}[size])
