# SPDX-License-Identifier: MIT
"""Live migration to a second QEMU.

The device writes to memory that has been sent already; the memory at the destination is checked.

If a page is missing, the message says whether the source has it, and what its log reported.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio.guest import qemu
from pyvfio.guest.qemu import logs
from tests.qemu.client import ENDED, Client
from tests.qemu.conftest import FIRST, SECOND, assigned, containers

BAR = 0xE0000000
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY = 1, 2
BUFFER = 0x40000
DATA = 0x100000
#: Address and size of the device's writes during the migration: one transfer to two pages, and two more transfers.
WRITES = ((0x8FF0, 32), (0x10000, 2048), (0x201000, 16))
PAGES = 4
RAM_PAGES = (128 << 20) // 4096 - 0x140
"""Of the guest's memory, without what ROM and the VGA window hide."""
Start = Callable[..., Client]


def copy(client: Client, source: int, destination: int, count: int, command: int = 0) -> None:
    """Let edu copy memory, and wait for the end."""
    for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, START | command)):
        client.qtest.command(f"writel {BAR + register:#x} {value:#x}")
    limit = time.monotonic() + 30
    while int(client.qtest.command(f"readl {BAR + COMMAND:#x}"), 16) & START:
        assert time.monotonic() < limit


def rounds(log: str, version: str) -> list[int]:
    """Return the number of dirty pages in each round of queries in a log.

    Assert that the lines have the format of a QEMU version.
    """
    found: list[int] = []
    for line in re.findall(r"iova=0x.* dirty_pages=\d+", log):
        number = {name: int(value, 0) for name, value in re.findall(r"(\w+)= ?(\w+)", line)}
        start = number.get("gpa", number.get("start", 0))
        flag = number.get("backend_flag", 0)
        iova, size, pages = number["iova"], number["size"], number["dirty_pages"]
        assert line == qemu.query_line(iova, size, start, pages, version=version, backend_flag=flag)
        # Each round begins with the lowest section. The log may begin inside a round.
        if not iova:
            found.append(0)
        if found:
            found[-1] += pages
    return found


def missing(source: Client, destination: Client, data: bytes) -> list[str]:
    """Return descriptions of the device's writes that are missing at the destination, or already at the source."""
    found = []
    for address, count in WRITES:
        there, here = destination.qtest.read(address, count), source.qtest.read(address, count)
        for name, memory in (("destination", there), ("source", here)):
            if memory != data[:count]:
                found.append(f"{name} {address:#x}: {memory[:64].hex()}, not {data[:count][:64].hex()}")
    return found


@pytest.mark.parametrize(
    ("iommufd", "lose"), [(False, 0), (True, 0), (False, 1)], ids=["type1", "iommufd", "a log that loses"]
)
def test_what_the_device_writes_meanwhile_arrives(
    start: Start, tmp_path: Path, parameters: Callable[..., None], iommufd: bool, lose: int
) -> None:
    parameters(log_lose=lose)
    options, of_device = containers(iommufd)
    data = os.urandom(2048)
    with (
        start(*options, *assigned(FIRST, **of_device)) as source,
        start(*options, *assigned(SECOND, **of_device), "-incoming", "defer") as destination,
    ):
        source.place(4, BAR)
        source.qtest.write(DATA, data)
        copy(source, DATA, BUFFER, len(data))
        destination.monitor.execute("migrate-incoming", uri=f"unix:{tmp_path}/stream")
        source.hold_migration(tmp_path / "stream")
        quiet = len(source.log)
        for address, count in WRITES:
            copy(source, BUFFER, address, count, TO_MEMORY)
        source.finish_migration(destination)
        reports = "\n".join(re.findall(r".*dirty_pages=[1-9].*", source.log[quiet:]))
        assert destination.qtest.read(DATA, len(data)) == data
        lacks = missing(source, destination, data)
        if lose:
            assert [each.split(":")[0] for each in lacks] == [f"destination {address:#x}" for address, _ in WRITES]
        else:
            assert not lacks, f"{lacks}\n{reports}"
        source.close()
        before, after = (rounds(log, source.version) for log in (source.log[:quiet], source.log[quiet:]))
        assert before
        assert not any(before)
        # Until a transfer has ended, every report has its pages, so the sum can be larger.
        assert sum(after) >= PAGES if not lose else not any(after)
        assert qemu.track(logs.read_sections(source.log), version=source.version).start_line == source.start_line


def test_without_a_log_every_page_is_sent_again_in_the_downtime(start: Start) -> None:
    sent, last = {}, {}
    for tracker, options in {
        "the device": {},
        "nobody": {"enable_migration": "on", "x_device_dirty_page_tracking": "off"},
    }.items():
        with start(*assigned(FIRST, **options)) as client:
            # Send everything once. After that, the rest may be sent while the guest is stopped, whatever its size.
            client.monitor.execute("migrate-set-parameters", **{"downtime-limit": 0})
            client.begin()
            client.wait_for_migration(lambda account: account.get("ram", {}).get("dirty-sync-count", 0) >= 2)
            client.monitor.execute("migrate-set-parameters", **{"downtime-limit": 2_000_000})
            account = client.wait_for_migration(lambda account: account.get("status") in ENDED)
            assert account["status"] == "completed", client.said
            ram = account["ram"]
            sent[tracker] = ram["normal"] + ram["duplicate"]
            last[tracker] = rounds(client.log, client.version)[-1]
            print(
                f"{client.version}, pages tracked by {tracker}: downtime {account['downtime']} ms, {sent[tracker]} pages sent"
            )
    assert last == {"the device": 0, "nobody": last["nobody"]}
    assert last["nobody"] >= RAM_PAGES
    assert sent["nobody"] - sent["the device"] >= RAM_PAGES
