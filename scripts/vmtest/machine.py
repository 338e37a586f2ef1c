"""A machine: one run of QEMU with one command in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtest.devices import devices_of
from vmtest.exit_code import ExitCode
from vmtest.guest import guest_environment, write_init
from vmtest.hardware import Hardware
from vmtest.iommus import IOMMUS
from vmtest.kernel_log import KernelLog
from vmtest.problems import say
from vmtest.qemu import Qemu
from vmtest.shares import shares_of
from vmtest.stream import Stream
from vmtest.translation import DEVICE

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Settings:
    """What a machine is to be and to run."""

    command: Sequence[str]
    qemu: Qemu
    kernel: Mapping[str, Any]
    """The paths that `scripts/build_kernel --json` prints."""
    check: Path
    """The program of vmtest.translation."""
    here: Path
    """The command's current directory, which it may write to."""
    iommu: str = "intel"
    timeout: float = 600
    """Seconds from power-on to the end of the command."""
    # With more, QEMU puts a part of it above 4 GiB; with less there is no GiB in one piece.
    memory: str = "2800M"
    cpus: int = 2
    frozen: Sequence[Path] = ()
    append: str = ""
    """Further kernel parameters."""
    log: Path | None = None
    """Where to keep the kernel's log."""
    verbose: bool = False


class Machine:
    """One run of QEMU with a command in it.

    :param directory: an empty directory for the machine's files
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        mark = secrets.token_hex(16)
        end = b"\0" + mark.encode()
        self._log = KernelLog(settings.log or directory / "kernel.log", mark, verbose=settings.verbose)
        self._out, self._err = Stream(1, end), Stream(2, end)
        self._said = b""
        self._channels = {name: socket.socketpair() for name in ("log", "out", "err", "control")}
        self._qemu_output = directory / "qemu.log"
        self._qemu = self._start(directory, mark)

    def _start(self, directory: Path, mark: str) -> subprocess.Popen[bytes]:
        settings = self._settings
        hardware = Hardware(settings.qemu, IOMMUS[settings.iommu], settings.memory, settings.cpus)
        shares = shares_of(settings.here, list(settings.frozen), Path.home() / ".cache" / "pyvfio")
        devices = devices_of(settings.qemu)
        init = write_init(
            directory,
            mark=mark,
            here=settings.here,
            shares=shares,
            environment=guest_environment(os.environ, settings.iommu, devices, settings.kernel, settings.qemu.version),
            command=settings.command,
            # Without an IOMMU there is nothing to check.
            check=["true"] if settings.iommu == "none" else [str(settings.check), DEVICE],
        )
        drive = directory / "drive0"
        with drive.open("wb") as file:
            file.truncate(64 << 20)
        monitor = socket.socketpair()
        theirs = [*(theirs for _, theirs in self._channels.values()), *monitor]
        channels = {name: theirs.fileno() for name, (_, theirs) in self._channels.items()}
        command = [
            *settings.qemu.command,
            *hardware.options(shares, channels, (monitor[0].fileno(), monitor[1].fileno()), drive),
            *hardware.kernel_options(settings.kernel, init, settings.append),
        ]
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        with self._qemu_output.open("wb") as output:
            qemu = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | settings.qemu.environment,
                start_new_session=True,
                pass_fds=[end.fileno() for end in theirs],
                preexec_fn=die_with_parent,  # noqa: PLW1509  (this process has no threads)
            )
        for end in theirs:
            end.close()
        return qemu

    def run(self) -> int:
        """Return the command's exit code, or the machine's."""
        receivers: dict[str, Callable[[bytes], None]] = {
            "log": self._log.receive,
            "out": self._out.receive,
            "err": self._err.receive,
            "control": self._hear,
        }
        limit = time.monotonic() + self._settings.timeout
        asked = False
        with selectors.DefaultSelector() as selector:
            for name, (ours, _) in self._channels.items():
                selector.register(ours, selectors.EVENT_READ, receivers[name])
            while selector.get_map() and not self._is_complete() and self._failure is None:
                left = limit - time.monotonic()
                if left <= 0 and asked:
                    return self._time_is_up()
                if left <= 0:
                    # Keys for sysrq: the kernel tells which tasks are blocked and what the processors do.
                    with contextlib.suppress(OSError):
                        self._channels["control"][0].send(b"w\nl\n")
                    asked, limit = True, time.monotonic() + 3
                for key, _ in selector.select(max(0, left)):
                    try:
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    except ConnectionError:
                        data = b""
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        return self._judge()

    def _hear(self, data: bytes) -> None:
        self._said += data

    def _is_complete(self) -> bool:
        return self._status is not None and self._out.ended and self._err.ended and self._log.ended

    @property
    def _status(self) -> int | None:
        match = re.search(rb"exit (\d+)\n", self._said)
        return int(match[1]) if match else None

    @property
    def _failure(self) -> str | None:
        """What hindered the command from starting."""
        match = re.search(rb"failure (.*)\n", self._said)
        return match[1].decode(errors="replace") if match else None

    def _judge(self) -> int:
        status = self._status
        if self._log.complaint is not None:
            self._log.show()
            ended = "did not end" if status is None else f"returned {status}"
            say(f"the kernel complained: {self._log.complaint.strip()} (the command {ended})")
            return ExitCode.KERNEL_COMPLAINED
        if self._failure is not None:
            self._log.show()
            say(f"the command did not start: {self._failure}")
            return ExitCode.MACHINE_FAILED
        if status is None:
            self._log.show()
            sys.stderr.write(self._qemu_output.read_text(errors="replace"))
            say(f"the machine ended before the command did{'' if b'start' in self._said else ', which did not start'}")
            return ExitCode.MACHINE_FAILED
        return status

    def _time_is_up(self) -> int:
        self._log.show()
        doing = "the command did not end" if b"start" in self._said else "the machine did not start the command"
        say(f"time limit: {doing} within {self._settings.timeout:g} s")
        return ExitCode.TIME_LIMIT

    def close(self) -> None:
        """End QEMU."""
        self._qemu.kill()
        self._qemu.wait()
        for ours, _ in self._channels.values():
            ours.close()
        self._log.close()
