# SPDX-License-Identifier: MIT
"""Live migration to a second QEMU with a second device, which writes to memory that was sent already: judged by the memory that arrives.

With the newest QEMU alone: the guest must be running, and Debian's 10.0 has no accelerator that executes nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vmtest.qemu import require_qemu

from pyvfio.guest import qemu
from pyvfio.guest.qemu import logs
from tests.qemu.client import ENDED, Client
from tests.qemu.conftest import FIRST, SECOND, assigned, containers

BAR = 0xE0000000
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY = 1, 2
BUFFER = 0x40000
DATA = 0x100000
#: where the device writes, and how much, while the migration is under way: two pages by one transfer, and two more
WRITES = ((0x8FF0, 32), (0x10000, 2048), (0x201000, 16))
PAGES = 4


def copy(client: Client, source: int, destination: int, count: int, command: int = 0) -> None:
    """Let edu move memory, and wait until it has."""
    for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, START | command)):
        client.qtest.command(f"writel {BAR + register:#x} {value:#x}")
    limit = time.monotonic() + 30
    while int(client.qtest.command(f"readl {BAR + COMMAND:#x}"), 16) & START:
        assert time.monotonic() < limit


@pytest.mark.parametrize(
    ("iommufd", "lose"), [(False, 0), (True, 0), (False, 1)], ids=["type1", "iommufd", "a log that loses"]
)
def test_what_the_device_writes_meanwhile_arrives(
    tmp_path: Path, parameters: Callable[..., None], iommufd: bool, lose: int
) -> None:
    parameters(log_lose=lose)
    options, of_device = containers(iommufd)
    newest = require_qemu("newest")
    data = os.urandom(2048)
    with (
        Client(newest, [*options, *assigned(FIRST, **of_device)]) as source,
        Client(newest, [*options, *assigned(SECOND, **of_device), "-incoming", "defer"]) as destination,
    ):
        source.place(4, BAR)
        source.qtest.write(DATA, data)
        copy(source, DATA, BUFFER, len(data))
        destination.monitor.execute("migrate-incoming", uri=f"unix:{tmp_path}/stream")
        # The device's state is never small enough for no downtime at all: so the migration goes on until it may end.
        source.monitor.execute("migrate-set-parameters", **{"downtime-limit": 0})
        source.monitor.execute("migrate", uri=f"unix:{tmp_path}/stream")
        source.wait_for_migration(lambda account: account.get("ram", {}).get("dirty-sync-count", 0) >= 3)
        for address, count in WRITES:
            copy(source, BUFFER, address, count, TO_MEMORY)
        source.monitor.execute("migrate-set-parameters", **{"downtime-limit": 300})
        account = source.wait_for_migration(lambda account: account.get("status") in ENDED)
        assert account["status"] == "completed", source.said
        limit = time.monotonic() + 60
        while destination.monitor.execute("query-status")["status"] == "inmigrate":
            assert time.monotonic() < limit
            time.sleep(0.05)
        arrived = [destination.qtest.read(address, count) == data[:count] for address, count in WRITES]
        assert destination.qtest.read(DATA, len(data)) == data
        assert arrived == [not lose] * len(WRITES)
        source.close()
        found = [int(number) for number in re.findall(r"dirty_pages=(\d+)", source.log)]
        # A page is in every report until its transfer has ended.
        assert sum(found) >= PAGES if not lose else sum(found) == 0
        query = r"iova=0x0 size=0x\w+ backend_flag=0x0 bitmap_size=0x\w+ gpa=0x0 dirty_pages=\d+"
        assert re.search(query, source.log)
        assert qemu.track(logs.read_sections(source.log), version=source.version).start_line == source.start_line
