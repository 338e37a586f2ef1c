# SPDX-License-Identifier: MIT
"""Show the migration states of a device, save its state to a file, or load one.

save: with pre-copy where the device has it, until little is left; then the device is stopped and the rest is sent. load: the state
is loaded and checked by the device; --run starts it. The device is closed at the end, which ends the migration: what was loaded
is kept only for a program that goes on with the same open device."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyvfio
from pyvfio.cli import addresses, exit_code, session
from pyvfio.cli.call import Call, UsageError
from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio import Device, Migration


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument(
        "action",
        choices=("state", "save", "load"),
        nargs="?",
        default="state",
        help="default: state, which shows the state and changes nothing",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="for save and load")
    parser.add_argument(
        "--pre-copy",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="send while the device runs, at most so long; 0: not at all (%(default)s)",
    )
    parser.add_argument("--run", action="store_true", help="after load: start the device")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Show, save or load the state."""
    given = call.arguments
    if (given.action == "state") != (given.file is None):
        raise UsageError("save and load take a FILE, state does not")
    if given.action == "load":
        Path(given.file).open("rb").close()  # before the device is touched
    with session.opened(call) as device:
        migration = device.migration
        if given.action == "state":
            document = _state(device, migration)
        elif given.action == "save":
            document = _save(call, device, migration)
        else:
            document = _load(call, device, migration)
    if call.out.json:
        call.out.document(document)
    else:
        call.out.fields((name.replace("_", " "), _shown(value)) for name, value in document.items())
    return exit_code.DONE


def _shown(value: Any) -> str | None:
    if isinstance(value, list):
        return " ".join(value)
    return (
        {True: "yes", False: "no"}.get(value, str(value))
        if isinstance(value, bool)
        else None
        if value is None
        else str(value)
    )


def _state(device: Device, migration: Migration) -> dict[str, Any]:
    try:
        size: int | None = migration.data_size
    except Unsupported:
        size = None
    return {
        "address": device.address,
        "state": migration.state.name,
        "states": sorted(state.name for state in migration.states),
        "pre_copy": migration.has_pre_copy,
        "p2p": migration.has_p2p,
        "data_size": size,
    }


class _Counted:
    """A file that counts what is written to it, and says how far it is."""

    def __init__(self, call: Call, file: Any) -> None:
        self._call = call
        self._file = file
        self._shown = time.monotonic()
        self.bytes = 0

    def write(self, data: Any) -> int:
        taken = int(self._file.write(data))
        self.bytes += taken
        self.progress("stop-copy")
        return taken

    def progress(self, phase: str) -> None:
        now = time.monotonic()
        if now - self._shown > 0.5 and not self._call.out.json and self._call.out.terminal:
            self._shown = now
            self._call.out.live(f"{phase}: {self.bytes} bytes")


def _save(call: Call, device: Device, migration: Migration) -> dict[str, Any]:
    path = Path(call.arguments.file)
    begun = time.monotonic()
    with path.open("wb") as file:
        counted = _Counted(call, file)
        try:
            if call.arguments.pre_copy and migration.has_pre_copy:
                for left in migration.pre_copy(counted):
                    counted.progress("pre-copy")
                    if not left.pending or time.monotonic() - begun > call.arguments.pre_copy:
                        break
            before = counted.bytes
            stopped = time.monotonic()
            migration.save(counted)
            still = time.monotonic() - stopped
        finally:
            # Whatever happens, let the device run again.
            if migration.state not in (pyvfio.migration.State.RUNNING, pyvfio.migration.State.ERROR):
                migration.state = pyvfio.migration.State.RUNNING
        file.flush()
        os.fsync(file.fileno())
    return {
        "address": device.address,
        "action": "save",
        "bytes": counted.bytes,
        "pre_copy_bytes": before,
        "stopped_seconds": round(still, 6),
        "seconds": round(time.monotonic() - begun, 6),
    }


def _load(call: Call, device: Device, migration: Migration) -> dict[str, Any]:
    begun = time.monotonic()
    with Path(call.arguments.file).open("rb") as file:
        loaded = migration.load(file)
    if call.arguments.run:
        migration.state = pyvfio.migration.State.RUNNING
    return {
        "address": device.address,
        "action": "load",
        "bytes": loaded,
        "state": migration.state.name,
        "seconds": round(time.monotonic() - begun, 6),
    }
