# SPDX-License-Identifier: MIT
"""The answers of pyvfio.host, when one file, link or directory of the host is odd, are those recorded in answers/.

A simulated host has devices and users of many kinds. For each file that a function reads, the test gives odd answers in
turn: an errno, an empty file, other numbers, a missing line or word. The differences from the usual result are recorded
in answers/host.NAME.txt. `PYVFIO_WRITE_ANSWERS=1 pytest tests/robustness -k answers` records them again. Check the
changes before you commit them.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio import host
from pyvfio.cli.commands import report
from pyvfio.host.examination import NEEDS
from pyvfio.kernel import Kernel
from tests.robustness.odd_host import DEVICES, HELD, MDEV, NETWORK, NVME, PHYSICAL, PLAIN, PLATFORM, VIRTUAL, OddHost
from tests.robustness.written import compare

GUEST = 64 << 30
#: Files of devices that are similar to other devices, and so are left out.
LIKE = re.compile(rf"({NVME}|{NETWORK}|0000:00:06.2)/(?!driver$)(?!.*/)(?!net$)")
Look = Callable[[Kernel], Iterator[object]]


def _examined(found: host.Examination) -> Iterator[object]:
    yield from (f"finding {one}" for one in found.findings)
    yield from (f"hint {one}" for one in found.hints)
    yield from (f"unknown {one}" for one in found.unknown)
    yield from (f"{name} is {value}" for name, value in found.facts.items())


def _devices(kernel: Kernel) -> Iterator[object]:
    for one in host.devices(kernel):
        yield from (f"{one.address} {name}={value}" for name, value in one._asdict().items() if value not in (None, ()))
        yield f"{one}: {one.advice}"


def _groups(kernel: Kernel) -> Iterator[object]:
    for one in host.groups(kernel):
        yield f"group {one}"
        yield f"in the way: {one.in_the_way}"


def _holders(kernel: Kernel) -> Iterator[object]:
    for address in (HELD, VIRTUAL, PLAIN, NETWORK):
        yield f"{address}: {[str(one) for one in host.holders_of(address, kernel)]}"


def _diagnosed(address: str) -> Look:
    return lambda kernel: _examined(host.diagnose(address, kernel, guest_memory=GUEST, need=NEEDS))


def _bound(address: str) -> Look:
    def look(kernel: Kernel) -> Iterator[object]:
        found = host.bind(address, "vfio-pci", dry_run=True, kernel=kernel)
        yield repr(found)
        yield from map(str, found.writes)

    return look


LOOKS: dict[str, Look] = {
    "devices": _devices,
    "groups": _groups,
    "uses": lambda kernel: (f"{one} {one.path}" for one in host.uses(kernel)),
    "holders": _holders,
    "host": lambda kernel: _examined(host.diagnose_host(kernel, guest_memory=GUEST, need=NEEDS)),
    "report": lambda kernel: iter(report._host(kernel).items()),
    **{f"diagnose-{address}": _diagnosed(address) for address in DEVICES},
    **{f"bind-{address}": _bound(address) for address in (PLAIN, NVME, HELD, PHYSICAL, MDEV, PLATFORM)},
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OddHost:
    """The host, for a user who is not root."""
    for name, value in (("geteuid", 1000), ("getegid", 1000), ("getgroups", [1000])):
        monkeypatch.setattr(os, name, lambda value=value: value)
    return OddHost(tmp_path)


def _said(machine: OddHost, look: Look) -> list[str]:
    """Return the lines of an answer, including warnings and a final error."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said.extend(str(line) for line in look(machine))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    said += [f"warning {one.message}" for one in caught]
    return [re.sub(r"\s+", " ", line.replace(machine.root, "")) for line in said]


def _short(line: str) -> str:
    return line if len(line) < 180 else f"{line[:140]}... {zlib.crc32(line.encode()):08x}"


#: Maximum number of recorded lines of a difference. Further lines are only counted.
MOST = 6


def _shown(usual: list[str], found: list[str]) -> str:
    """Return the lines in which an answer differs from the usual one; empty if it does not differ."""
    differs = [f"+ {_short(line)}" for line in found if line not in usual]
    if not _raised(found):
        differs = [f"- {_short(line)}" for line in usual if line not in found] + differs
    if len(differs) > MOST:
        rest = "\n".join(differs[MOST:])
        differs[MOST:] = [f"and {len(differs) - MOST} more: {zlib.crc32(rest.encode()):08x}"]
    return "\n    ".join(differs)


def _raised(found: list[str]) -> bool:
    return bool(found) and re.match(r"\w+(Error|Reply): ", found[-1]) is not None


def _before(name: str) -> list[str]:
    """Return the looks of the same kind before one. They test odd answers to the questions that they share with it."""
    kind = name.partition("-")[0]
    looks = [one for one in LOOKS if one.partition("-")[0] == kind]
    return [*(["devices"] if name in ("groups", "host", "uses") else []), *looks[: looks.index(name)]]


#: Looks that read many files, and so are split into several tests.
PARTS = {f"diagnose-{PLAIN}": 8, f"bind-{PLAIN}": 4, "uses": 2}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name in LOOKS for part in range(PARTS.get(name, 1))])
def test_odd_files_are_answered_as_was_written_down(machine: OddHost, name: str, part: int) -> None:
    for before in _before(name):
        _said(machine, LOOKS[before])
    elsewhere = {*machine.asked}
    machine.asked.clear()
    look = LOOKS[name]
    usual = _said(machine, look)
    lines = [f"usual: {line}" for line in usual]
    parts = PARTS.get(name, 1)
    for question, path in list(machine.asked):
        if (question, path) in elsewhere or LIKE.search(path) or zlib.crc32(path.encode()) % parts != part:
            continue
        answers: dict[str, list[str]] = {}
        for odd in list(machine.oddities(question, path)):
            machine.odd = question, odd
            found = _said(machine, look)
            # Do not record the usual error for an unreadable file each time.
            if odd.value == errno.EACCES and found[-1].startswith("PermissionError: [Errno 13] Permission denied: "):
                continue
            if differs := _shown(usual, found):
                answers.setdefault(differs, []).append(odd.what)
        lines += [f"{question} {path} {', '.join(whats)}:\n    {text}" for text, whats in answers.items()]
    compare(f"host.{name}{f'.{part}' if parts > 1 else ''}", "\n".join(lines).split("\n"))


#: (driver, override, action) of the stories below.
STORIES = [
    (driver, override, act)
    for driver, override in (
        (None, None),
        (None, "nvme"),
        ("nvme", None),
        ("nvme", "vfio-pci"),
        ("vfio-pci", None),
        ("vfio-pci", "vfio-pci"),
    )
    for act in ("vfio-pci", "nvme", "pci-stub", "unbind")
]
WRITES = ("driver_override", "unbind", "bind")
ERRNOS = (errno.EACCES, errno.EBUSY, errno.EINVAL, errno.ENODEV, errno.ENOENT)


def _story(machine: OddHost, act: str, failing: str | None, number: int) -> Iterator[str]:
    """Bind a device while a write fails, restore it, and yield lines that describe its state."""

    def fail(path: str) -> None:
        if failing is not None and path.endswith(f"/{failing}"):
            raise OSError(number, os.strerror(number), path)

    def said(call: Callable[[], object]) -> str:
        try:
            text = str(call())
        except Exception as error:
            text = " | ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        text = re.sub(rf"\b{os.getpid()}\b", "PID", text)
        return re.sub("it takes (a sysfs mounted writable|root).*", "it takes root or another sysfs", text)

    def state() -> str:
        found = host.device(PLAIN, machine)
        writes, machine.writes = machine.writes, []
        written = ", ".join(f"{text.strip()!r} to {path.removeprefix('/sys/')}" for path, text in writes)
        return f"{found.driver}, override {found.driver_override}; wrote {written or 'nothing'}; journal {host.bindings(machine)}"

    kept: list[host.Binding] = []

    def act_now() -> object:
        bind = host.unbind(PLAIN, kernel=machine) if act == "unbind" else host.bind(PLAIN, act, kernel=machine)
        kept.append(bind)
        return bind

    machine.before_write = fail
    yield said(act_now)
    yield said(state)
    machine.before_write = lambda path: None
    if failing == "bind":
        machine.before_write = fail
    if kept:
        yield f"restored: {said(kept[0].restore)}"
        yield said(state)
    machine.before_write = lambda path: None
    kept.clear()
    yield f"restored later: {said(lambda: host.restore(kernel=machine))}"
    yield said(state)


class BareHost(OddHost):
    """A host with one device, with a given driver and override, which is not in use."""

    def __init__(self, root: Path, driver: str | None, override: str | None) -> None:
        self.given = driver, override
        super().__init__(root)

    def _build(self) -> None:
        driver, override = self.given
        self.pci(PLAIN, group=1, driver=driver, driver_override=f"{override or '(null)'}\n")


@pytest.mark.parametrize(("driver", "override"), dict.fromkeys(story[:2] for story in STORIES))
def test_failing_writes_are_told_and_undone(tmp_path: Path, driver: str | None, override: str | None) -> None:
    lines = []
    for act in dict.fromkeys(story[2] for story in STORIES):
        answers: dict[str, list[str]] = {}
        for failing, number in [(None, 0), *((failing, number) for failing in WRITES for number in ERRNOS)]:
            root = tmp_path / f"{act}-{failing}-{number}"
            root.mkdir()
            machine = BareHost(root, driver, override)
            told = "\n    ".join(line.replace(machine.root, "") for line in _story(machine, act, failing, number))
            name = "nothing fails" if failing is None else f"{failing} {errno.errorcode[number]}"
            answers.setdefault(told, []).append(name)
        lines += [f"{act}, {', '.join(names)}:\n    {told}" for told, names in answers.items()]
    compare(f"host.writes-{driver}-{override}", "\n".join(lines).split("\n"))
