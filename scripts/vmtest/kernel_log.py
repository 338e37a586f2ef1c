# SPDX-License-Identifier: MIT
"""The guest's kernel log, and the complaints in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# The kernel's messages about its own bugs. Soft lockups begin with "BUG: ", lockdep's reports with "WARNING: ".
COMPLAINT = re.compile(
    r"\b(BUG: |kernel BUG at |WARNING: |Oops\b|Kernel panic|UBSAN: |KASAN: |refcount_t: )"
    r"|INFO: task .* blocked for more than"
    r"|INFO: (rcu_\w+ )?(self-)?detected .*stall"
    r"|(general protection fault|divide error|invalid opcode|stack segment)\b.*\[#\d+\]"
    r"|\bBad page (state|map)\b"
    r"|unregister_netdevice: waiting"
    r"|kmemleak: \d+ new suspected memory leaks"
)
# The guest's files are on 9p. Its write-back warns now and then on a busy host; that is not under test here.
NOT_OURS = re.compile(r"WARNING: fs/9p/vfs_addr\.c")
EXPECTED = re.compile(r"pyvfio-vm: expect (.*)")
LEAKS = re.compile(r"kmemleak: \d+ new suspected memory leaks")
LEAK = "kmemleak: unreferenced object"
# Functions in the backtraces of leaks that are Linux's own (docs/about/upstream.md).
LEAKING = re.compile(r"kmemleak: +iommu_mock_device_add\+")


class KernelLog:
    """The output of the guest's serial console: stored in a file, and searched for complaints of the kernel.

    :param path: the file
    :param end: a text that marks the end of the log
    :param verbose: print each line to stderr when it arrives
    """

    def __init__(self, path: Path, end: str, *, verbose: bool) -> None:
        self._file = path.open("wb")
        self._end, self._verbose = end, verbose
        self._rest = b""
        self._expected: list[re.Pattern[str]] = []
        self._lines: list[str] = []
        self._complaints: list[int] = []
        self.ended = False

    def receive(self, data: bytes) -> None:
        """Store and search data from the serial console."""
        self._file.write(data)
        self._file.flush()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._receive_line(line.decode(errors="replace").rstrip("\r"))

    def _receive_line(self, line: str) -> None:
        self._lines.append(line)
        if self._verbose:
            print(line, file=sys.stderr, flush=True)
        if match := EXPECTED.search(line):
            self._expected.append(re.compile(match[1]))
        elif self._end in line:
            self.ended = True
        elif self._is_complaint(line):
            self._complaints.append(len(self._lines) - 1)

    def _is_complaint(self, line: str) -> bool:
        ignored = (NOT_OURS, *self._expected)
        return bool(COMPLAINT.search(line)) and not any(pattern.search(line) for pattern in ignored)

    @property
    def _first_complaint(self) -> int | None:
        return next((number for number in self._complaints if not self._is_known_leak(number)), None)

    def _is_known_leak(self, number: int) -> bool:
        """Whether a line announces leaks, and each of those that are listed behind it is known."""
        if not LEAKS.search(self._lines[number]):
            return False
        leaks = "\n".join(self._lines[number:]).split(LEAK)[1:]
        return bool(leaks) and all(LEAKING.search(leak) for leak in leaks)

    @property
    def complaint(self) -> str | None:
        """The first line that is a complaint."""
        first = self._first_complaint
        return None if first is None else self._lines[first]

    @property
    def length(self) -> int:
        """Return the number of lines."""
        return len(self._lines)

    def show(self, since: int | None = None) -> None:
        """Print the end of the log, or the part around the first complaint, to stderr.

        :param since: number of a line: print the lines after it, and a few before it
        """
        first = self._first_complaint
        if since is not None:
            lines = self._lines[max(0, since - 30) : since + 300]
        elif first is not None:
            lines = self._lines[max(0, first - 15) : first + 100]
        else:
            lines = self._lines[-60:]
        if not self._verbose:
            sys.stderr.write("".join(f"| {line}\n" for line in lines))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
