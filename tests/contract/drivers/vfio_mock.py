"""vfio-mock: the registers of tests/vfio_mock/vfio_mock_regs.h, by their names there."""

from __future__ import annotations

import errno
import os
import re
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvfio import Device, IovaRange

_HEADER = Path(__file__).parents[2] / "vfio_mock" / "vfio_mock_regs.h"
_DEFINE = re.compile(r"^#define MOCK_(\w+)\s+(0x[0-9a-f]+|\d+)(?:\s+/\*\s+(8|16|32|64) )?", re.M)

#: name without MOCK_ -> value; and of registers the width in bits
VALUES: dict[str, int] = {}
WIDTHS: dict[str, int] = {}
for _name, _value, _width in _DEFINE.findall(_HEADER.read_text()):
    VALUES[_name] = int(_value, 0)
    if _width:
        WIDTHS[_name] = int(_width)


class VfioMock:
    """The device's engine, log limits and failures.

    Registers are read and written by name: `mock["LOG_DIRTY"]`, `mock["LOG_MAX_RANGES"] = 4`.
    """

    reach = IovaRange(0, 2**64 - 1)
    tells = True

    def __init__(self, device: Device) -> None:
        self.device = device
        self._region = device.regions[VALUES["REGION_REGISTERS"]]

    def __getitem__(self, register: str) -> int:
        name = f"REG_{register}"
        return int(getattr(self._region, f"read{WIDTHS[name]}")(VALUES[name]))

    def __setitem__(self, register: str, value: int) -> None:
        name = f"REG_{register}"
        getattr(self._region, f"write{WIDTHS[name]}")(VALUES[name], value)

    # The engine.

    def copy(self, destination: int, source: int, size: int) -> None:
        self["DMA_SOURCE"] = source
        self._run("COPY", iova=destination, length=size)

    def fill(self, iova: int, size: int, pattern: int = 0) -> None:
        """Write a 64-bit pattern all over a range."""
        self._run("FILL", iova=iova, length=size, pattern=pattern)

    def touch(self, iova: int, size: int, stride: int = 4096, pattern: int = 0) -> None:
        """Write one word of 8 bytes in every `stride` bytes of a range."""
        self._run("TOUCH", iova=iova, length=size, stride=stride, pattern=pattern)

    def touch_each(self, iovas: Iterable[int], pattern: int = 0) -> None:
        """Write one word of 8 bytes at each of these IOVAs."""
        words = array("Q", iovas)
        memory = self.device.regions[VALUES["REGION_MEMORY"]]
        memory.write(0, words)
        self["DMA_MEMORY"] = 0
        self._run("LIST", count=len(words), pattern=pattern)

    def _run(self, operation: str, **parameters: int) -> None:
        for name, value in parameters.items():
            self[f"DMA_{name.upper()}"] = value
        self["DMA_COMMAND"] = VALUES[f"DMA_{operation}"]
        self._check()

    def start(self, operation: str, *flags: str, **parameters: int) -> None:
        """Have the device's own thread do a job: `start("TOUCH", "REPEAT", iova=..., length=..., stride=4096)`."""
        for name, value in parameters.items():
            self[f"DMA_{name.upper()}"] = value
        command = VALUES[f"DMA_{operation}"] | VALUES["DMA_BACKGROUND"]
        for flag in flags:
            command |= VALUES[f"DMA_{flag}"]
        self["DMA_COMMAND"] = command

    def finish(self, timeout: float = 10) -> None:
        """Wait until a job in the background has ended.

        :raises OSError: it failed
        """
        limit = time.monotonic() + timeout
        while self["DMA_STATUS"] == VALUES["DMA_BUSY"]:
            if time.monotonic() > limit:
                raise TimeoutError("vfio-mock: the job did not end")
            time.sleep(0.005)
        self._check()

    def stop(self) -> None:
        """End what runs in the background."""
        self["DMA_COMMAND"] = VALUES["DMA_STOP"]

    def _check(self) -> None:
        if self["DMA_STATUS"] == VALUES["DMA_ERROR"]:
            number = self["DMA_ERRNO"]
            raise OSError(number, f"vfio-mock: {os.strerror(number)} at IOVA {self['DMA_FAULT']:#x}")

    # Limits and failures.

    def fail(self, call: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Let the n-th call of a kind from now on fail: `fail("LOG_START", error=errno.ENOMEM)`."""
        at = VALUES["REG_FAULT"] + VALUES[f"FAULT_{call}"] * VALUES["FAULT_SIZE"]
        self._region.write32(at + VALUES["FAULT_ERRNO"], error)
        self._region.write32(at + VALUES["FAULT_NTH"], nth)

    @property
    def logged_ranges(self) -> list[IovaRange]:
        """What the device tracks, after it combined what it could not hold."""
        ranges = []
        for index in range(self["LOG_NUM_RANGES"]):
            self["LOG_RANGE"] = index
            ranges.append(IovaRange(self["LOG_RANGE_START"], self["LOG_RANGE_LAST"]))
        return ranges


@contextmanager
def driver(device: Device) -> Iterator[VfioMock]:
    mock = VfioMock(device)
    yield mock
    if not device.closed:
        mock.stop()
