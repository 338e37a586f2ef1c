# SPDX-License-Identifier: MIT
"""edu with the kernel driver of tests/edu_vfio_pci: it copies as edu does.

Limits, failures and counters are sysfs files.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from examples.edu import BUFFER, COMMAND, COUNT, DESTINATION, SOURCE, START, TO_MEMORY, Edu

from pyvfio import Device, IovaRange

PAGE = 4096


class driver(Edu):
    """The driver. Each transfer takes the device a tenth of a second."""

    tells = False
    many = 24

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._files = Path("/sys/bus/pci/devices", device.address, "edu_vfio_pci")

    def __getitem__(self, name: str) -> int:
        if name == "LOG_ACTIVE":
            return int(self.logged_ranges != [])
        return int((self._files / name.lower()).read_text(), 0)

    def __setitem__(self, name: str, value: int) -> None:
        (self._files / name.lower()).write_text(str(value))

    @property
    def logged_ranges(self) -> list[IovaRange]:
        """The ranges that the device logs. If there were more ranges than it supports, it has combined some."""
        lines = (self._files / "log_ranges").read_text().split()
        return [IovaRange(*(int(end, 16) for end in line.split("-"))) for line in lines]

    def touch_each(self, iovas: Iterable[int]) -> None:
        """Write 8 bytes at each of these IOVAs."""
        for iova in iovas:
            self.write(iova, 8)

    def touch(self, iova: int, size: int) -> None:
        """Write something to every page of a range. One transfer touches two pages, across their border."""
        for at in range(iova, iova + size - PAGE, 2 * PAGE):
            self.write(at + PAGE - 8, 16)
        if size // PAGE % 2:
            self.write(iova + size - PAGE, 8)

    def start_write(self, iova: int, size: int, offset: int = 0) -> None:
        """Start a transfer from the device's buffer to memory, and do not wait for its end."""
        for register, value in (
            (SOURCE, BUFFER + offset),
            (DESTINATION, iova),
            (COUNT, size),
            (COMMAND, START | TO_MEMORY),
        ):
            self.registers.write32(register, value)

    @property
    def moving(self) -> bool:
        """Whether a transfer is in progress."""
        return bool(self.registers.read32(COMMAND) & START)

    def fail(self, call: str, nth: int = 1, error: int = errno.EIO) -> None:
        """Make the n-th next call of a kind fail."""
        (self._files / "fail").write_text(f"{call.lower()} {nth} {error}")


logger = driver
