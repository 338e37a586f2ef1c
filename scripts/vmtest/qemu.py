"""QEMU, the program that emulates the machine."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

from vmtest.exit_code import ExitCode, MachineError, say

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"


@functools.cache
def _output_of(command: tuple[str, ...]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@dataclass(frozen=True)
class Qemu:
    """A QEMU that can be run on this host."""

    command: tuple[str, ...]
    """The program, and what comes before its options."""
    version: str
    """The exact version, as the program prints it."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    """What its process has in its environment besides."""

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers."""
        return tuple(int(number) for number in self.version.split(" ")[0].split(".") if number.isdigit())

    def has_device(self, name: str) -> bool:
        """Whether it can emulate the device."""
        return f'name "{name}"' in _output_of((*self.command, "-device", "help"))

    def device_properties(self, name: str) -> frozenset[str]:
        """Return the names of the device's properties."""
        text = _output_of((*self.command, "-device", f"{name},help"))
        return frozenset(re.findall(r"^\s+([\w.-]+)=<", text, re.M))


def require_qemu(choice: str = "system") -> Qemu:
    """Return the QEMU of that choice; as root, install the distribution's if it is missing.

    :raises MachineError: it is missing and cannot be installed
    """
    if choice != "system":
        raise MachineError(f"QEMU {choice} is not available; only `system` is", ExitCode.CANNOT_RUN)
    if not shutil.which(PROGRAM):
        _install()
    version = re.search(r"version (.+)", _output_of((PROGRAM, "--version")))
    return Qemu((PROGRAM,), version[1] if version else "unknown")


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(f"{PROGRAM} not found; as root run: apt-get install {PACKAGE}", ExitCode.CANNOT_RUN)
    say(f"installing {PACKAGE}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", PACKAGE]
    quiet = subprocess.run(install, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if quiet.returncode:
        subprocess.run(["apt-get", "update", "-qq"], stdout=sys.stderr, check=False)
        if subprocess.run(install, env=environment, stdout=sys.stderr, check=False).returncode:
            raise MachineError(f"could not install {PACKAGE}", ExitCode.CANNOT_RUN)
