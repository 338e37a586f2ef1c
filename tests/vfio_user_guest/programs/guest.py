# SPDX-License-Identifier: MIT
"""Helpers for programs in the guest: addresses of the served devices, the kernel's log."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Timeout in seconds. On a busy host an emulated machine is slow, and one that stalls goes on at the earliest after the minute of
#: silence (`scripts/vm --silence`), when its monitor is asked.
LIMIT = 150.0


def address_of(name: str) -> str:
    """Return the address of the device whose server's socket has a name."""
    devices: dict[str, str] = json.loads(os.environ["PYVFIO_VM_DEVICES"])
    found = [address for address, what in devices.items() if what.startswith("vfio-user:") and Path(what).name == name]
    assert len(found) == 1, (name, devices)
    return found[0]


def kernel_log() -> str:
    """Return the kernel's log."""
    return subprocess.check_output(["dmesg"], text=True)


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait until a function returns true."""
    limit = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < limit, f"not within {LIMIT:g} s: {what}"
        time.sleep(0.02)


def run(*command: str, text: str | None = None) -> str:
    """Run a command, assert that it returns 0, and return its output."""
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step, and the time that it took."""
    begun = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - begun:.2f} s", flush=True)
