# SPDX-License-Identifier: MIT
"""A machine: one run of QEMU, whose guest runs one command."""

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

from vmtest.devices import Device
from vmtest.exit_code import ExitCode
from vmtest.guest import guest_environment, write_init
from vmtest.hardware import Hardware
from vmtest.iommus import IOMMUS
from vmtest.kernel_log import KernelLog
from vmtest.monitor import Monitor, MonitorError
from vmtest.problems import say
from vmtest.qemu import Qemu
from vmtest.shares import Share, shares_of
from vmtest.silence import TICK, Silence
from vmtest.state import describe_state
from vmtest.stream import Stream
from vmtest.translation import DEVICE

PR_SET_PDEATHSIG = 1

# The guest's outputs, each with a separate socket: the serial console, then the virtio-serial ports from 1 on.
CHANNELS = ("log", "out", "err", "control", "alive")

# Factor for the limit of silence while the machine boots: on a host with a load of 15 a machine was silent for 45 s.
BOOT_FACTOR = 3
# Time that a stalled machine gets to continue. It is longer than the interval between two signs of life.
RECOVERY_SECONDS = 7
# Time that the kernel gets to answer a sysrq key, and an NMI.
SYSRQ_SECONDS = 4
NMI_SECONDS = 4


@dataclass(frozen=True)
class Settings:
    """The settings of a machine, and its command."""

    command: Sequence[str]
    qemu: Qemu
    kernel: Mapping[str, Any]
    """The paths that `scripts/build_kernel --json` prints."""
    check: Path
    """The program of vmtest.translation that checks the IOMMU."""
    here: Path
    """The command's current directory. The command may write to it."""
    iommu: str = "intel"
    timeout: float = 600
    """Seconds from power-on to the end of the command."""
    # With more memory, QEMU places a part of it above 4 GiB. With less, the kernel finds no contiguous GiB for its huge
    # page.
    memory: str = "2800M"
    cpus: int = 2
    frozen: Sequence[Path] = ()
    append: str = ""
    """Additional kernel parameters."""
    log: Path | None = None
    """A file for the kernel's log."""
    verbose: bool = False
    sockets: Sequence[Path] = ()
    """Sockets of vfio-user servers, one for each additional device of the machine."""
    silence: float = 60
    """Seconds without a sign of life after which the machine is stalled."""


class Machine:
    """One run of QEMU, whose guest runs a command.

    :param directory: an empty directory for the machine's files
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        mark = secrets.token_hex(16)
        end = b"\0" + mark.encode()
        self._log = KernelLog(settings.log or directory / "kernel.log", mark, verbose=settings.verbose)
        self._out, self._err = Stream(1, end), Stream(2, end)
        self._said = b""
        self._channels = {name: socket.socketpair() for name in CHANNELS}
        # While the machine boots, the kernel's messages are its signs of life, and they come at irregular intervals.
        self._silence, self._signs = Silence(BOOT_FACTOR * settings.silence), 0
        self._qemu_output = directory / "qemu.log"
        self._qemu = self._start(directory, mark)

    def _start(self, directory: Path, mark: str) -> subprocess.Popen[bytes]:
        settings = self._settings
        hardware = self.hardware()
        shares = self.shares(directory)
        devices = [*hardware.devices, *hardware.served_devices(shares)]
        init = self.write_init(directory, mark, shares, devices)
        drive = directory / "drive0"
        with drive.open("wb") as file:
            file.truncate(64 << 20)
        # Two pairs of sockets. One end of each is a monitor of QEMU. The other end of the first stays in this process;
        # that of the second becomes a virtio port, so that the guest talks to its monitor directly.
        self._monitor, host_monitor = socket.socketpair()
        guest_monitor, port = socket.socketpair()
        theirs = [*(theirs for _, theirs in self._channels.values()), host_monitor, guest_monitor, port]
        channels = {name: theirs.fileno() for name, (_, theirs) in self._channels.items()}
        command = [
            *settings.qemu.command,
            *hardware.options(
                shares,
                channels,
                {"monitor": guest_monitor.fileno(), "port": port.fileno(), "host": host_monitor.fileno()},
                drive,
            ),
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

    def hardware(self) -> Hardware:
        """Return the machine's hardware."""
        settings = self._settings
        return Hardware(settings.qemu, IOMMUS[settings.iommu], settings.memory, settings.cpus, settings.sockets)

    def shares(self, directory: Path) -> list[Share]:
        """Return the directories that the guest sees; the first is its root.

        :param directory: the directory of the machine's files
        """
        return shares_of(self._settings.here, list(self._settings.frozen), Path.home() / ".cache" / "pyvfio")

    def write_init(self, directory: Path, mark: str, shares: Sequence[Share], devices: Sequence[Device]) -> Path:
        """Write process 1, and return its path in the guest."""
        settings = self._settings
        return write_init(
            directory,
            mark=mark,
            here=settings.here,
            shares=shares,
            environment=guest_environment(os.environ, settings.iommu, devices, settings.kernel, settings.qemu.version),
            command=settings.command,
            # Without an IOMMU there is nothing to check.
            check=["true"] if settings.iommu == "none" else [str(settings.check), DEVICE],
        )

    def run(self) -> int:
        """Run the machine to its end, and return the command's exit code or one of `ExitCode`."""
        limit = time.monotonic() + self._settings.timeout
        with selectors.DefaultSelector() as selector:
            for name, (ours, _) in self._channels.items():
                selector.register(ours, selectors.EVENT_READ, self._receivers[name])
            while selector.get_map() and not self._is_complete() and self._failure is None:
                left = limit - time.monotonic()
                if left <= 0:
                    return self._time_is_up(selector)
                self._receive(selector, min(left, TICK))
                if self._silence.is_too_long() and (code := self._examine(selector)) is not None:
                    return code
        return self._judge()

    @property
    def _receivers(self) -> dict[str, Callable[[bytes], None]]:
        return {
            "log": self._receive_log,
            "out": self._out.receive,
            "err": self._err.receive,
            "control": self._hear,
            "alive": self._receive_sign_of_life,
        }

    def _receive(self, selector: selectors.BaseSelector, seconds: float) -> None:
        """Wait up to `seconds` for data, and process the data that has arrived."""
        for key, _ in selector.select(seconds):
            try:
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]  # only sockets were registered
            except ConnectionError:
                data = b""
            if data:
                key.data(data)
            else:
                selector.unregister(key.fileobj)

    def _listen(self, selector: selectors.BaseSelector, seconds: float) -> None:
        """Process data for `seconds`, or until QEMU ends."""
        limit = time.monotonic() + seconds
        while selector.get_map() and (left := limit - time.monotonic()) > 0:
            self._receive(selector, left)

    def _receive_log(self, data: bytes) -> None:
        # Until process 1 sends its first sign of life, the kernel's messages count as signs of life.
        if not self._signs:
            self._silence.end()
        self._log.receive(data)

    def _receive_sign_of_life(self, data: bytes) -> None:
        self._signs += 1
        self._silence.limit = self._settings.silence
        self._silence.end()

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
        """The guest's report of why the command did not start; None if there is none."""
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

    def _time_is_up(self, selector: selectors.BaseSelector) -> int:
        self._press_keys("wl")
        self._listen(selector, 3)
        self._log.show()
        doing = "the command did not end" if b"start" in self._said else "the machine did not start the command"
        say(f"time limit: {doing} within {self._settings.timeout:g} s")
        return ExitCode.TIME_LIMIT

    def _press_keys(self, keys: str) -> None:
        """Make process 1 write keys to /proc/sysrq-trigger."""
        with contextlib.suppress(OSError):
            self._channels["control"][0].send("".join(f"{key}\n" for key in keys).encode())

    def _examine(self, selector: selectors.BaseSelector) -> ExitCode | None:
        """Print the state of a machine that gives no sign of life: first as seen from outside, then as the guest's kernel reports it.

        :returns: the exit code, or None if the machine went on
        """
        silence = f"no sign of life for {self._silence.limit:g} s"
        say(f"{silence}; the state of the machine:")
        complaint = self._log.complaint
        mark = self._log.length
        monitor = Monitor(self._monitor)
        for line in describe_state(monitor, self._qemu.pid):
            print(f"| {line}", file=sys.stderr, flush=True)
        try:
            running = monitor.execute("query-status")["running"]
        except MonitorError:
            running = False
        if running:
            # The monitor's command wakes QEMU's main loop. If QEMU had missed a timer or an event, the machine goes on
            # now.
            signs = self._signs
            self._listen(selector, RECOVERY_SECONDS)
            if self._signs > signs and self._log.complaint is None:
                say("the machine goes on, since QEMU's monitor was asked: QEMU had missed an event")
                return None
            self._provoke(monitor, selector)
        self._log.show(since=mark)
        if complaint is not None:
            say(f"the kernel complained, and then the machine stalled: {complaint.strip()}")
            return ExitCode.KERNEL_COMPLAINED
        doing = "while the command ran" if b"start" in self._said else "before the command started"
        say(f"the machine stalled {doing}: {silence}")
        return ExitCode.STALLED

    def _provoke(self, monitor: Monitor, selector: selectors.BaseSelector) -> None:
        """Make the kernel log its state: by sysrq keys through process 1, then over the serial line, then by an NMI, which ends it."""
        before = self._log.length
        say("asking process 1 for sysrq w and l")
        self._press_keys("wl")
        self._listen(selector, SYSRQ_SECONDS)
        if self._log.length == before:
            say("no answer; sending sysrq l over the serial line")
            with contextlib.suppress(MonitorError, OSError):
                monitor.execute("chardev-send-break", id="log")
                self._channels["log"][0].send(b"l")
            self._listen(selector, SYSRQ_SECONDS)
        say("sending an NMI")
        with contextlib.suppress(MonitorError):
            monitor.execute("inject-nmi")
        self._listen(selector, NMI_SECONDS)

    def close(self) -> None:
        """End QEMU."""
        self._qemu.kill()
        self._qemu.wait()
        for ours, _ in self._channels.values():
            ours.close()
        self._monitor.close()
        self._log.close()
