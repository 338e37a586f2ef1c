# SPDX-License-Identifier: MIT
"""Drive the vfio-mock device: make it write memory, raise interrupts, limit its log and fail.

vfio-mock is a device without hardware that logs its DMA and migrates. It exists twice with the same registers: as a kernel
module (tests/vfio_mock of the source) and in :mod:`pyvfio.mock`. ::

    with pyvfio.open("vfio-mock.0", kernel="mock:amd") as device:
        mapping = device.address_space.alloc(2 << 20)
        mock = VfioMock(device)
        with device.dirty_log([mapping.range]) as log:
            mock.fill(mapping.iova, 4096, pattern=1)
            print(log.read().count())                           # 1
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from collections.abc import Iterable

from pyvfio._core import arguments
from pyvfio._core.vfio_mock_registers import VALUES, WIDTHS
from pyvfio.device import Device
from pyvfio.iova import IovaRange

__all__ = ["VfioMock"]


class VfioMock:
    """The DMA engine, the log limits and the planted failures of a vfio-mock device.

    Registers are read and written by name: `mock["LOG_DIRTY"]`, `mock["LOG_MAX_RANGES"] = 4`.
    The names are those of vfio_mock_regs.h without `MOCK_REG_`.

    :ivar device: an open vfio-mock, of the kernel module or of :mod:`pyvfio.mock`
    :ivar reach: the IOVAs that the device can address
    """

    reach = IovaRange(0, 2**64 - 1)

    def __init__(self, device: Device) -> None:
        self.device = arguments.instance(device, "device", Device)
        self._region = device.regions[VALUES["REGION_REGISTERS"]]

    def __getitem__(self, register: str) -> int:
        name = f"REG_{register}"
        return int(getattr(self._region, f"read{WIDTHS[name]}")(VALUES[name]))

    def __setitem__(self, register: str, value: int) -> None:
        name = f"REG_{register}"
        getattr(self._region, f"write{WIDTHS[name]}")(VALUES[name], value)

    # The engine.

    def copy(self, destination: int, source: int, size: int) -> None:
        """Have the device read `size` bytes at the IOVA `source` and write them at the IOVA `destination`.

        :param destination: the IOVA to write at
        :param source: the IOVA to read at
        :param size: bytes
        :raises OSError: with the errno of the access that failed; the text names its IOVA
        """
        self["DMA_SOURCE"] = source
        self._run("COPY", iova=destination, length=size)

    def fill(self, iova: int, size: int, pattern: int = 0) -> None:
        """Have the device fill a range with a 64-bit pattern.

        :param iova: the first address
        :param size: bytes
        :param pattern: 64 bits, repeated
        """
        self._run("FILL", iova=iova, length=size, pattern=pattern)

    def touch(self, iova: int, size: int, stride: int = 4096, pattern: int = 0) -> None:
        """Have the device write one word of 8 bytes in every `stride` bytes of a range.

        :param iova: the first address
        :param size: bytes of the range
        :param stride: bytes from one word to the next
        :param pattern: the word, 64 bits
        """
        self._run("TOUCH", iova=iova, length=size, stride=stride, pattern=pattern)

    def touch_each(self, iovas: Iterable[int], pattern: int = 0) -> None:
        """Have the device write one word of 8 bytes at each of these IOVAs.

        :param iovas: the addresses of the words
        :param pattern: the word, 64 bits
        """
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
        """Start a job in the device's own thread: `start("TOUCH", "REPEAT", iova=..., length=..., stride=4096)`.

        :param operation: `WRITE`, `READ`, `FILL`, `COPY`, `LIST`, `TOUCH` or `SCATTER`: MOCK_DMA_* of vfio_mock_regs.h
        :param flags: `REPEAT` until :meth:`stop`, `RAISE` an interrupt at the end, `COUNTING`, `LOCAL`, `PINNED`, `KEEP`
        :param parameters: registers of the engine without `DMA_`, in lower case: `iova`, `length`, `source`, `memory`, `pattern`, `count`,
            `stride`, `seed`, `delay` (microseconds between two steps), `irq`
        """
        for name, value in parameters.items():
            self[f"DMA_{name.upper()}"] = value
        command = VALUES[f"DMA_{operation}"] | VALUES["DMA_BACKGROUND"]
        for flag in flags:
            command |= VALUES[f"DMA_{flag}"]
        self["DMA_COMMAND"] = command

    def finish(self, timeout: float = 10) -> None:
        """Wait until the background job has ended.

        :param timeout: seconds
        :raises OSError: the job failed
        :raises TimeoutError: it still runs after `timeout` seconds
        """
        limit = time.monotonic() + timeout
        while self["DMA_STATUS"] == VALUES["DMA_BUSY"]:
            if time.monotonic() > limit:
                raise TimeoutError("vfio-mock: the background job did not end within the timeout")
            time.sleep(0.005)
        self._check()

    def stop(self) -> None:
        """Stop the background job."""
        self["DMA_COMMAND"] = VALUES["DMA_STOP"]

    def _check(self) -> None:
        if self["DMA_STATUS"] == VALUES["DMA_ERROR"]:
            number = self["DMA_ERRNO"]
            raise OSError(number, f"vfio-mock: {os.strerror(number)} at IOVA {self['DMA_FAULT']:#x}")

    # Limits and failures.

    def fail(self, call: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Make the n-th call of a kind from now on fail: `fail("LOG_START", error=errno.ENOMEM)`.

        :param call: the kind of call, such as `LOG_START`: a name of vfio_mock_regs.h without `MOCK_FAULT_`
        :param nth: 1 for the next one
        :param error: the errno that it fails with
        """
        at = VALUES["REG_FAULT"] + VALUES[f"FAULT_{call}"] * VALUES["FAULT_SIZE"]
        self._region.write32(at + VALUES["FAULT_ERRNO"], error)
        self._region.write32(at + VALUES["FAULT_NTH"], nth)

    @property
    def logged_ranges(self) -> list[IovaRange]:
        """The ranges that the device tracks. It combines ranges if there are more than its limit."""
        ranges = []
        for index in range(self["LOG_NUM_RANGES"]):
            self["LOG_RANGE"] = index
            ranges.append(IovaRange(self["LOG_RANGE_START"], self["LOG_RANGE_LAST"]))
        return ranges
