# SPDX-License-Identifier: MIT
"""`pyvfio show --pid` and `pyvfio dirty --pid` on a QEMU that uses the device: QEMU is not disturbed, and can migrate afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyvfio.cli import program
from tests.contract.processes import in_another_process
from tests.qemu.client import Client
from tests.qemu.conftest import FIRST, SECOND, assigned
from tests.qemu.test_live import BAR, BUFFER, DATA, PAGES, TO_MEMORY, WRITES, copy, missing

PAGE = 4096
#: The page numbers of WRITES.
WRITTEN = {8, 9, 0x10, 0x201}
MEMORY = ("--iova", "0", "--size", "0x800000")


def run(client: Client, *arguments: str, code: int = 0) -> Any:
    """Run a command of pyvfio on QEMU's device (`--pid`), and return its JSON document."""
    name, *more = arguments
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert program.main(["--json", name, FIRST, "--pid", str(client.pid), *more]) == code
    return json.loads(printed.getvalue())


def pages_written_meanwhile(client: Client) -> set[int]:
    """Run `pyvfio dirty --pid` while the guest's device writes, end it by SIGINT, and return the reported pages."""
    reading, writing = os.pipe()

    def log() -> None:
        with open(writing, "w") as stream, contextlib.redirect_stdout(stream):
            pid = str(client.pid)
            code = program.main(["--json", "dirty", FIRST, "--pid", pid, *MEMORY, "--interval", "0.05"])
        assert code == 0

    with in_another_process(log) as logging, open(reading) as lines:
        os.close(writing)
        first = json.loads(lines.readline())  # logging has started
        assert first["dirty"] == 0
        for address, count in WRITES:
            copy(client, BUFFER, address, count, TO_MEMORY)
        found: set[int] = set()
        limit = time.monotonic() + 60
        while len(found) < PAGES:
            assert time.monotonic() < limit
            for one in json.loads(lines.readline())["runs"]:
                found |= set(range(int(one["start"], 16) // PAGE, int(one["last"], 16) // PAGE + 1))
        os.kill(logging.pid, signal.SIGINT)
        assert logging.join(60) == 0
    return found


def test_a_qemu_is_looked_into_and_its_next_migration_is_right(start: Callable[..., Client], tmp_path: Path) -> None:
    data = os.urandom(2048)
    with (
        start(*assigned(FIRST)) as source,
        start(*assigned(SECOND), "-incoming", "defer") as destination,
    ):
        source.place(4, BAR)
        said = source.said
        source.qtest.write(DATA, data)
        copy(source, DATA, BUFFER, len(data))

        shown = run(source, "show")["opened"]
        assert shown["migration_state"] == "RUNNING"
        assert shown["features"]
        assert shown["regions"]
        assert pages_written_meanwhile(source) == WRITTEN

        destination.monitor.execute("migrate-incoming", uri=f"unix:{tmp_path}/stream")
        source.hold_migration(tmp_path / "stream")
        error = run(source, "dirty", *MEMORY, "--interval", "0", "--intervals", "1", code=1)["error"]
        assert error["errno"] == "EBUSY"
        assert "its log is left alone" in " ".join([error["message"], *error["notes"]])
        assert run(source, "show")["opened"]["migration_state"] == "PRE_COPY"

        # These writes reach the destination only if QEMU's own log still reports all of them.
        source.qtest.write(DATA, bytes(reversed(data)))
        copy(source, DATA, BUFFER, len(data))
        for address, count in WRITES:
            copy(source, BUFFER, address, count, TO_MEMORY)
        source.finish_migration(destination)
        assert not missing(source, destination, bytes(reversed(data)))
        assert source.said == said
