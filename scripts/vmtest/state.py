# SPDX-License-Identifier: MIT
"""Describe the state of a machine that does not answer, from outside, without disturbing the guest."""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from vmtest.monitor import Monitor, MonitorError

# Registers of the HPET, the kernel's clock source: configuration, status, counter, and for each timer the configuration
# and the comparator.
HPET = (("configuration", 0x10), ("status", 0x20), ("counter", 0xF0))
HPET_TIMERS = 3
HPET_BASE = 0xFED00000
REGISTERS = re.compile(r"CPU#|R\w+ *=|CS |CR0")

PPOLL = 271  # the system call's number on x86-64


def describe_state(monitor: Monitor, process: int, pause: float = 1.0) -> Iterator[str]:
    """Describe a machine, line by line. Values that change are read twice.

    QEMU's threads are described first, before a monitor command wakes QEMU's main loop.

    :param process: QEMU's process id
    :param pause: seconds between the two reads
    """
    yield f"load of the host: {' '.join(Path('/proc/loadavg').read_text().split()[:3])}"
    yield from _threads(process)
    yield _main_loop(process)
    # If the monitor does not answer once, stop: each further command would only wait for its timeout.
    try:
        yield f"query-status: {json.dumps(monitor.execute('query-status'))}"
        processors = [entry["cpu-index"] for entry in monitor.execute("query-cpus-fast")]
        yield from _moving(monitor, 1)
        time.sleep(pause)
        yield from _threads(process)
        yield from _moving(monitor, 2)
        for processor in processors:
            yield f"--- local APIC of processor {processor}"
            yield from _ask(monitor, f"info lapic {processor}")
        yield "--- interrupt controllers"
        yield from (line for line in _ask(monitor, "info pic") if "masked" not in line)
    except MonitorError as error:
        yield str(error)


def _moving(monitor: Monitor, look: int) -> Iterator[str]:
    yield f"--- look {look}"
    yield _hpet(monitor)
    # Leave out the registers of the floating-point unit and the like.
    yield from (line for line in _ask(monitor, "info registers -a") if REGISTERS.match(line))


def _ask(monitor: Monitor, question: str) -> Iterator[str]:
    yield from (line.rstrip() for line in monitor.execute_human(question).splitlines() if line.strip())


def _hpet(monitor: Monitor) -> str:
    def read(offset: int) -> int:
        words = monitor.execute_human(f"xp /2wx {HPET_BASE + offset:#x}").split()
        low, high = (int(word, 16) for word in words if word.startswith("0x"))
        return high << 32 | low

    parts = [f"{name} {read(offset):#x}" for name, offset in HPET]
    for timer in range(HPET_TIMERS):
        offset = 0x100 + 0x20 * timer
        parts.append(f"timer {timer} configuration {read(offset):#x} comparator {read(offset + 8):#x}")
    return f"HPET: {', '.join(parts)}"


def _threads(process: int) -> Iterator[str]:
    """Describe QEMU's threads: name, state, processor time in seconds, and the host kernel's function in which they sleep."""
    tick = os.sysconf("SC_CLK_TCK")
    for path in sorted(Path(f"/proc/{process}/task").glob("*")):
        try:
            name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            where = (path / "wchan").read_text().strip()
        except OSError:
            continue
        seconds = (int(fields[11]) + int(fields[12])) / tick
        yield f"QEMU's thread {path.name} ({name}): state {fields[0]}, {seconds:.2f} s of processor time, in {where or '?'}"


def _main_loop(process: int) -> str:
    """Return for how long QEMU's main loop sleeps at most, which is the time until its next timer."""
    try:
        words = Path(f"/proc/{process}/syscall").read_text().split()
        if words[0] != str(PPOLL):
            return f"QEMU's main loop does not sleep in ppoll: {' '.join(words)}"
        address = int(words[3], 16)
        if not address:
            return "QEMU's main loop sleeps without a limit"
        with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            seconds, nanoseconds = struct.unpack("qq", memory.read(16))
    except (OSError, ValueError, struct.error, IndexError) as error:
        return f"QEMU's main loop cannot be looked at: {error}"
    return f"QEMU's main loop sleeps for at most {seconds + nanoseconds / 1e9:.3f} s, from when it began to"
