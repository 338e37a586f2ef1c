# SPDX-License-Identifier: MIT
"""A client of QEMU's qtest protocol: access I/O ports and memory of a guest that does not run, and the files of its fw_cfg."""

from __future__ import annotations

import socket
import struct
import time

from vmtest.lines import Lines
from vmtest.problems import Problem

# QEMU's docs/specs/fw_cfg: the selector of the directory, the port of the DMA interface, and the bits of a request.
FW_CFG_DIRECTORY = 0x19
FW_CFG_DMA = 0x514
FW_CFG_READ = 0x02
FW_CFG_SELECT = 0x08
_REQUEST = struct.Struct(">IIQ")
_ENTRY = struct.Struct(">IHH56s")
# Guest memory for requests and data: above the ISA hole, and present in any guest with 16 MiB or more.
SCRATCH = 0x200000


class QtestError(Problem):
    """QEMU refused a command of the qtest protocol, or did not answer in time."""


class Qtest:
    """A qtest client on a connected socket.

    :param timeout: seconds to wait for each answer
    """

    def __init__(self, connection: socket.socket, timeout: float = 30) -> None:
        self._connection, self._timeout = connection, timeout
        self._lines = Lines(connection)

    def command(self, line: str) -> str:
        """Send a command, and return the answer without its OK.

        :raises QtestError: QEMU refused, or did not answer in time
        """
        limit = time.monotonic() + self._timeout
        try:
            self._connection.settimeout(self._timeout)
            self._connection.sendall(f"{line}\n".encode())
            # QEMU may report interrupts before it answers.
            while (answer := self._lines.read(limit).decode()).startswith("IRQ "):
                pass
        except OSError as error:
            raise QtestError(f"QEMU does not answer {line[:80]!r}: {error}") from error
        status, _, value = answer.partition(" ")
        if status != "OK":
            raise QtestError(f"QEMU answers {line[:80]!r} with {answer[:200]!r}")
        return value

    def out(self, port: int, value: int, width: str = "b") -> None:
        """Write to an I/O port. The width is b, w or l."""
        self.command(f"out{width} {port:#x} {value:#x}")

    def in_(self, port: int, width: str = "b") -> int:
        """Read from an I/O port. The width is b, w or l."""
        return int(self.command(f"in{width} {port:#x}"), 16)

    def read(self, address: int, size: int) -> bytes:
        """Read guest memory."""
        return bytes.fromhex(self.command(f"read {address:#x} {size:#x}").removeprefix("0x")) if size else b""

    def write(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def cmos(self, register: int) -> int:
        """Read a byte of the CMOS memory."""
        self.out(0x70, register)
        return self.in_(0x71)

    def fw_cfg_files(self) -> dict[str, tuple[int, int]]:
        """Return selector and size of each file of fw_cfg, by name."""
        (count,) = struct.unpack(">I", self._fw_cfg(FW_CFG_DIRECTORY, 4))
        directory = self._fw_cfg(FW_CFG_DIRECTORY, 4 + count * _ENTRY.size)
        entries = (_ENTRY.unpack_from(directory, 4 + number * _ENTRY.size) for number in range(count))
        return {name.rstrip(b"\0").decode(): (selector, size) for size, selector, _, name in entries}

    def fw_cfg_file(self, name: str) -> bytes:
        """Return the contents of a file of fw_cfg.

        :raises QtestError: fw_cfg has no file of that name
        """
        files = self.fw_cfg_files()
        if name not in files:
            raise QtestError(f"this QEMU's fw_cfg has no file {name}")
        return self._fw_cfg(*files[name])

    def _fw_cfg(self, selector: int, size: int) -> bytes:
        data = SCRATCH + 0x1000
        self.write(SCRATCH, _REQUEST.pack(selector << 16 | FW_CFG_SELECT | FW_CFG_READ, size, data))
        # The address register is big-endian and has two halves. The write to the second half starts the transfer.
        self.out(FW_CFG_DMA, 0, "l")
        self.out(FW_CFG_DMA + 4, int.from_bytes(SCRATCH.to_bytes(4, "big"), "little"), "l")
        (control,) = struct.unpack(">I", self.read(SCRATCH, 4))
        if control:
            raise QtestError(f"fw_cfg's DMA of selector {selector:#x} ended with {control:#x}")
        return self.read(data, size)
