# SPDX-License-Identifier: MIT
"""A client that controls an unmodified QEMU with vfio-pci devices, inside the machine of scripts/vm, by QMP and the qtest protocol."""

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
    """QEMU ended by itself. The text is its stderr."""


class Client:
    """A QEMU process. Its guest executes no instructions: the test itself writes registers and BARs.

    :param qemu: the QEMU to start
    :param arguments: options, such as its devices
    :param machine: value of the option -machine
    :param memory: value of the option -m
    :param firmware: let the guest run its firmware, under emulation
    :raises Ended: QEMU refuses to start
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
        # With the accelerator qtest, the guest is in the state `running` but executes nothing. Debian's QEMU 10.0 does
        # not have it; there the guest is paused.
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
        """QEMU's process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """QEMU's trace so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def said(self) -> str:
        """QEMU's messages on stderr so far, each with the program's name in front."""
        return self._kept if self._process.returncode is not None else self._errors.read_text(errors="replace")

    def says(self, text: str) -> bool:
        """Whether QEMU prints a message with this text within 30 s.

        (The monitor may report a failure before QEMU's thread prints it.)
        """
        limit = time.monotonic() + 30
        while text not in self.said:
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return True

    @property
    def start_line(self) -> str:
        """The last line of the trace event vfio_device_dirty_tracking_start, from `nr_ranges` on."""
        lines: list[str] = re.findall(r"nr_ranges .*", self.log)
        return lines[-1].strip()

    def write_config(self, slot: int, register: int, value: int, width: str = "l") -> None:
        """Write to the configuration space of function 0 of a slot on the guest's bus 0."""
        self.qtest.out(CONFIG_ADDRESS, 1 << 31 | slot << 11 | register & ~3, "l")
        self.qtest.out(CONFIG_DATA + (register & 3), value, width)

    def place(self, slot: int, address: int, bar: int = 0) -> None:
        """Set the address of a BAR, and enable memory decoding and DMA."""
        register = BAR0 + 4 * bar
        self.write_config(slot, register, address & 0xFFFFFFFF)
        if address >> 32:
            self.write_config(slot, register + 4, address >> 32)
        self.write_config(slot, COMMAND, MEMORY_AND_MASTER, "w")

    def begin(self) -> Any:
        """Start a migration to a file.

        :raises MonitorError: QEMU refuses the command
        """
        return self.monitor.execute("migrate", uri=f"file:{self._directory.name}/state")

    def migrate(self) -> dict[str, Any]:
        """Migrate to a file, wait for the end, and return QEMU's answer to query-migrate.

        :raises MonitorError: QEMU refuses the command
        """
        self.begin()
        return self.wait_for_migration(lambda account: account.get("status") in ENDED)

    def wait_for_migration(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a function accepts QEMU's answer to query-migrate, and return that answer.

        :raises TimeoutError: it did not within two minutes
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
        """Start a migration to the QEMU at a socket, and keep it in progress until :meth:`finish_migration`.

        When this returns, the guest's first 16 MiB have been sent. With a downtime limit of 0, the newest QEMU
        continues round after round, because the device's state is never small enough for no downtime. QEMU 10.0 asks
        the device for its size only if the remaining RAM fits into the downtime, and would end as soon as RAM is clean.
        So for 10.0 the stream is held in the first round.
        """
        self.monitor.execute("migrate-set-parameters", **{"downtime-limit": 0})
        if self._release >= (11,):
            self.monitor.execute("migrate", uri=f"unix:{path}")
            self.wait_for_migration(lambda account: account.get("ram", {}).get("dirty-sync-count", 0) >= 3)
            return
        # Fill 16 MiB, because a page of zeros takes only a few bytes in the stream. So the gate's limit (1 MiB) is
        # reached within these pages, and the rest is larger than any socket buffer.
        self.qtest.command("memset 0x1000000 0x1000000 0x5a")
        self._gate = Gate(Path(self._directory.name, "gate"), path, 1 << 20)
        self.monitor.execute("migrate", uri=f"unix:{self._directory.name}/gate")
        assert self._gate.reached.wait(120)

    def finish_migration(self, destination: Client) -> None:
        """Let a migration finish, and wait until it has completed at the source and the destination."""
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
