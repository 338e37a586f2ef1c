# SPDX-License-Identifier: MIT
"""An unmodified QEMU with vfio-pci devices, inside the machine of scripts/vm: driven by QMP and by qtest's protocol."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vmtest.monitor import Monitor, MonitorError
from vmtest.qemu import Qemu
from vmtest.qtest import Qtest

from tests.qemu.gate import Gate

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
BAR0, COMMAND = 0x10, 0x04
MEMORY_AND_MASTER = 6
ENDED = ("completed", "failed", "cancelled")
"""The states of a migration that is over."""


class Ended(Exception):
    """QEMU ended by itself; the text is its stderr."""


class Client:
    """A QEMU of 128 MiB. Its guest runs no instruction; its registers and BARs are written from here.

    :param qemu: which
    :param arguments: its devices
    :param machine: -machine
    :param memory: -m
    :param firmware: let the firmware run, under emulation
    :raises Ended: it refuses to start
    """

    def __init__(
        self,
        qemu: Qemu,
        arguments: Sequence[str],
        *,
        machine: str = "q35",
        memory: str = "128M",
        firmware: bool = False,
    ) -> None:
        self._kept = ""
        self._directory = tempfile.TemporaryDirectory(prefix="client-")
        self._log = Path(self._directory.name, "log")
        self._errors = Path(self._directory.name, "errors")
        self.version = ".".join(map(str, qemu.release[:3]))
        self._release = qemu.release
        self._gate: Gate | None = None
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        self._sockets: list[socket.socket] = list(ours)
        # The accelerator that executes nothing keeps the guest's state at running. In Debian's 10.0 it is missing; there the guest is paused.
        qtest_accelerator = qemu.release >= (11,) and not firmware
        command = [
            *qemu.command, "-nodefaults", "-no-user-config", "-display", "none", "-machine", machine, "-m", memory,
            "-accel", "qtest" if qtest_accelerator else "tcg,tb-size=32",
            *([] if qtest_accelerator or firmware else ["-S"]),
            "-D", str(self._log), "-trace", "vfio_*",
            "-chardev", f"socket,id=monitor,fd={theirs[0].fileno()}", "-mon", "chardev=monitor,mode=control",
            "-chardev", f"socket,id=qtest,fd={theirs[1].fileno()}", "-object", "qtest,id=server,chardev=qtest,log=/dev/null",
            *arguments,
        ]  # fmt: skip
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                env=os.environ | qemu.environment,
                pass_fds=[end.fileno() for end in theirs],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        for end in theirs:
            end.close()
        self.monitor = Monitor(self._sockets[0], timeout=120)
        self.qtest = Qtest(self._sockets[1], timeout=120)
        try:
            self.monitor.execute("query-status")
        except MonitorError as error:
            self.close()
            self._directory.cleanup()
            raise Ended(self.said or str(error)) from error

    @property
    def pid(self) -> int:
        """The number of QEMU's process."""
        return self._process.pid

    @property
    def log(self) -> str:
        """The trace so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def said(self) -> str:
        """The messages so far, with the program's name in front of each."""
        return self._kept if self._process.returncode is not None else self._errors.read_text(errors="replace")

    def says(self, text: str) -> bool:
        """Whether a message has this text, or one that comes has: the monitor may tell of a failure before a thread of QEMU's prints it."""
        limit = time.monotonic() + 30
        while text not in self.said:
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return True

    @property
    def start_line(self) -> str:
        """The last vfio_device_dirty_tracking_start line, from nr_ranges on."""
        lines: list[str] = re.findall(r"nr_ranges .*", self.log)
        return lines[-1].strip()

    def write_config(self, slot: int, register: int, value: int, width: str = "l") -> None:
        """Write to the configuration space of the function at slot.0 of the guest's bus 0."""
        self.qtest.out(CONFIG_ADDRESS, 1 << 31 | slot << 11 | register & ~3, "l")
        self.qtest.out(CONFIG_DATA + (register & 3), value, width)

    def place(self, slot: int, address: int, bar: int = 0) -> None:
        """Give a BAR its address, and switch memory decoding and DMA on."""
        register = BAR0 + 4 * bar
        self.write_config(slot, register, address & 0xFFFFFFFF)
        if address >> 32:
            self.write_config(slot, register + 4, address >> 32)
        self.write_config(slot, COMMAND, MEMORY_AND_MASTER, "w")

    def begin(self) -> Any:
        """Begin to migrate to a file.

        :raises MonitorError: QEMU refuses at once
        """
        return self.monitor.execute("migrate", uri=f"file:{self._directory.name}/state")

    def migrate(self) -> dict[str, Any]:
        """Migrate to a file until that has ended, and return QEMU's account of it.

        :raises MonitorError: QEMU refuses at once
        """
        self.begin()
        return self.wait_for_migration(lambda account: account.get("status") in ENDED)

    def wait_for_migration(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return QEMU's account of the migration under way, as soon as a function says so.

        :raises TimeoutError: that takes more than two minutes
        """
        limit = time.monotonic() + 120
        while True:
            account: dict[str, Any] = self.monitor.execute("query-migrate")
            if done(account):
                return account
            if time.monotonic() > limit:
                raise TimeoutError(f"the migration does not get there: {account}")
            time.sleep(0.05)

    def hold_migration(self, path: Path) -> None:
        """Begin to migrate to the QEMU at a socket, and keep the migration under way until :meth:`finish_migration`.

        When this returns the guest's first 16 MiB were sent. With a downtime limit of 0 the newest goes on, round by round, since the device's
        state is never small enough for no downtime at all. 10.0 asks the device only where RAM's rest is below what the downtime
        allows, and would end as soon as RAM is clean: there the stream is held in the first round.
        """
        self.monitor.execute("migrate-set-parameters", **{"downtime-limit": 0})
        if self._release >= (11,):
            self.monitor.execute("migrate", uri=f"unix:{path}")
            self.wait_for_migration(lambda account: account.get("ram", {}).get("dirty-sync-count", 0) >= 3)
            return
        # A page of zeros is a few bytes of the stream: this many are reached in those that are none, and no socket's buffer has them all.
        self.qtest.command("memset 0x1000000 0x1000000 0x5a")
        self._gate = Gate(Path(self._directory.name, "gate"), path, 1 << 20)
        self.monitor.execute("migrate", uri=f"unix:{self._directory.name}/gate")
        assert self._gate.reached.wait(120)

    def finish_migration(self, destination: Client) -> None:
        """Let a migration end that is under way, and wait until the destination has it."""
        self.monitor.execute("migrate-set-parameters", **{"downtime-limit": 300})
        if self._gate is not None:
            self._gate.open()
        account = self.wait_for_migration(lambda account: account.get("status") in ENDED)
        assert account["status"] == "completed", self.said
        limit = time.monotonic() + 60
        while destination.monitor.execute("query-status")["status"] == "inmigrate":
            assert time.monotonic() < limit
            time.sleep(0.05)

    def close(self) -> None:
        """End QEMU."""
        with contextlib.suppress(MonitorError):
            if self._process.poll() is None:
                self.monitor.execute("quit")
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._gate is not None:
            self._gate.close()
        self._kept = self._errors.read_text(errors="replace")
        for end in self._sockets:
            end.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            print(self._kept)
        self._directory.cleanup()
