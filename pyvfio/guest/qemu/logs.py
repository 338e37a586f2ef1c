# SPDX-License-Identifier: MIT
"""QEMU's log lines: reading the ranges and sections of a dirty tracking start from them, and writing them.

The log is that of a QEMU run with `-trace 'vfio_device_dirty_tracking*' -D FILE`, in any log format, any version from 8.0 on; `-trace
'vfio_*'` adds the lines that show which device a BAR belongs to. The time to read a log is proportional to its length, whatever is in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from pyvfio._core import arguments
from pyvfio.guest.bars import decode
from pyvfio.guest.qemu.dirty_logging import bitmap_size
from pyvfio.guest.qemu.ranges import Pair
from pyvfio.guest.qemu_release import NEWEST, release
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange, RangeLike, as_ranges

_U32_LAST = 2**32 - 1
_U64_LAST = 2**64 - 1
_EMPTY = Pair(_U64_LAST, 0)
_HEX = "0x([0-9a-f]{1,20})"
# The length of the device's name is limited, and each alternative begins with fixed text, so that no line is searched twice.
_LINE = re.compile(
    rf"section {_HEX} - {_HEX} -> update(?: \[{_HEX} - {_HEX}\])?"
    r"|nr_ranges (\d{1,9}) (.*)"
    rf'|Device ([^ ,\n]{{1,200}}), region ([0-5]) "[^"\n]{{0,250}}", flags: 0x[0-9a-f]{{1,16}}, offset: 0x[0-9a-f]{{1,16}}, size: {_HEX}'
    rf"|\(([^ ,()\n]{{1,200}}), @{_HEX}, {_HEX}, len={_HEX}\)"
)
# The length of the pair's name is limited: otherwise each character of a long word would begin a search to the end of the word.
_PAIR = re.compile(r"(?<!\w)(\w{1,20}):\[0x([0-9a-f]+) - 0x([0-9a-f]+)\]")

ASSIGNED = "assigned"
"""The device's name in a section of an assigned device's BAR that the log does not name."""

Bars: TypeAlias = "Mapping[str, RangeLike | Iterable[RangeLike]] | RangeLike | Iterable[RangeLike]"
"""The guest addresses of assigned devices' BARs: by the device's name, or without names."""


class _Update(NamedTuple):
    """A vfio_device_dirty_tracking_update line."""

    start: int
    last: int
    after: Pair | None
    """The pair after the update; None if the line is cut off."""


class _Migration(NamedTuple):
    """The dirty tracking lines of one migration."""

    updates: list[_Update]
    windows: list[tuple[IovaRange, str]]
    """The assigned devices' BARs at that time, as far as the log shows them."""
    start: re.Match[str] | None
    """The start line; None if the log ends before it."""


def read_sections(log: str, *, bars: Bars = (), migration: int = -1) -> list[MemorySection]:
    """Return the sections that the vfio_device_dirty_tracking_update lines of one migration in a log name.

    The sections that are assigned devices' BARs are found by, in this order:

    1. `bars`;
    2. the trace's vfio_region_setup and vfio_pci_write_config lines, from which the address of each BAR at that time follows;
    3. the ranges that the lines themselves give: above 4 GiB QEMU 8.2 and later keep assigned devices' BARs in a range of their own. The
       device's name is then :data:`ASSIGNED`.

    All other sections are plain memory. So is a BAR below 4 GiB that the log does not show; that makes no difference to the ranges.

    :param log: the log's text
    :param bars: the addresses of BARs (`info pci`), by the assigned device's name or without
    :param migration: the index of the migration in a log with several; by default the last
    :raises ValueError: the log has no such line, or one with impossible addresses
    :raises IndexError: the log has not that many migrations
    """
    given = _given(bars)
    chosen = _choose(_migrations(log), migration, log)
    if not chosen.updates:
        raise _missing(log, "vfio_device_dirty_tracking_update")
    named = _Windows([*given, *chosen.windows])
    high = _third_range(chosen)
    sections = []
    for number, update in enumerate(chosen.updates):
        device = named.at(update.start, update.last) or (ASSIGNED if number in high else "")
        size = update.last - update.start + 1
        if device:
            sections.append(MemorySection(update.start, size, ram_device=True, device=device))
        else:
            sections.append(MemorySection(update.start, size))
    return sections


def read_start(log: str, *, migration: int = -1) -> list[IovaRange]:
    """Return the ranges that QEMU asked for, from the vfio_device_dirty_tracking_start line of one migration in a log.

    :param log: the log's text
    :param migration: the index of the migration in a log with several; by default the last with such a line
    :raises ValueError: the log has no such line, or it is cut off or names impossible addresses
    :raises IndexError: the log has not that many
    """
    started = [each for each in _migrations(log) if each.start]
    line = _choose(started, migration, log, "vfio_device_dirty_tracking_start").start
    assert line is not None
    pairs = _start_pairs(line)
    # A pair to which no section was added still ends at 0.
    asked = [pair for pair in pairs.values() if pair.max]
    if len(asked) != int(line[5]):
        raise ValueError(f"the log's start line is cut off: {len(asked)} of {line[5]} ranges in {line[0][:200]!r}")
    for pair in asked:
        if pair.max < pair.min:
            raise ValueError(f"the log has a range that ends before it begins: {line[0][:200]!r}")
    return sorted(IovaRange(*pair) for pair in asked)


def count_migrations(log: str) -> int:
    """Return the number of migrations that a log has dirty tracking lines of.

    :param log: the log's text
    """
    return len(_migrations(log))


def query_line(
    iova: int,
    size: int,
    start: int,
    dirty_pages: int,
    page_size: int = 4096,
    *,
    version: str = NEWEST,
    backend_flag: int = 0,
    container_fd: int | None = None,
) -> str:
    """Return the trace line of one dirty bitmap query, without the event's name.

    ============  =====================================================================================================
    8.1, 8.2      vfio_get_dirty_bitmap: begins with `container fd=N, ` where `container_fd` is given; then as 9.0
    9.0 to 10.0   vfio_get_dirty_bitmap: `start=`; the blank after `size=` is QEMU's (read in 10.0.13)
    10.1, 10.2    vfio_container_query_dirty_bitmap: `gpa=` in its place (read in 10.2.2; 10.1 is taken as 10.2)
    11.0, 11.1    the same event: `backend_flag=`, and no blank (run with 11.1.3)
    ============  =====================================================================================================

    :param iova: the first address of the query
    :param size: its bytes
    :param start: the guest's RAM address of the first page
    :param dirty_pages: pages that the query found dirty
    :param page_size: the host's page size, bytes
    :param version: QEMU's
    :param backend_flag: the flag that lines have from 11.0 on: 1 (no clear) in a query before an unmap, 0 otherwise
    :param container_fd: up to 8.2, the container's descriptor in QEMU
    """
    known = release(version, since=(8, 1))
    iova, start = arguments.u64(iova, "iova"), arguments.u64(start, "start")
    size, dirty_pages = arguments.integer(size, "size", 0, 2**64), arguments.u64(dirty_pages, "dirty_pages")
    backend_flag = arguments.u64(backend_flag, "backend_flag")
    container_fd = None if container_fd is None else arguments.s32(container_fd, "container_fd")
    bitmap = bitmap_size(size, page_size).bytes
    if known >= (11, 0):
        return (
            f"iova=0x{iova:x} size=0x{size:x} backend_flag=0x{backend_flag:x} bitmap_size=0x{bitmap:x} gpa=0x{start:x} "
            f"dirty_pages={dirty_pages}"
        )
    address = "gpa" if known >= (10, 1) else "start"
    prefix = f"container fd={container_fd}, " if container_fd is not None and known < (9, 0) else ""
    return f"{prefix}iova=0x{iova:x} size= 0x{size:x} bitmap_size=0x{bitmap:x} {address}=0x{start:x} dirty_pages={dirty_pages}"


# --- the lines of a log -------------------------------------------------------------------------------------------------


def _migrations(log: str) -> list[_Migration]:
    arguments.string(log, "log")
    found: list[_Migration] = []
    updates: list[_Update] = []
    devices: dict[str, _Device] = {}
    for line in _LINE.finditer(log):
        if line[1]:
            updates.append(_update(line))
        elif line[5]:
            found.append(_Migration(updates, _windows(devices), line))
            updates = []
        elif line[7]:
            devices.setdefault(line[7], _Device()).sizes[int(line[8])] = int(line[9], 16)
        elif not updates and (register := int(line[11], 16)) < 0x28:
            # A write to BARs or the command register. Writes during a migration do not affect that migration.
            devices.setdefault(line[10], _Device()).write(register, int(line[12], 16), int(line[13], 16))
    if updates:
        found.append(_Migration(updates, _windows(devices), None))
    return found


def _update(line: re.Match[str]) -> _Update:
    start, last = _address(line, 1), _address(line, 2)
    if last < start:
        raise ValueError(f"the log has a section that ends before it begins: {line[0]!r}")
    return _Update(start, last, Pair(_address(line, 3), _address(line, 4)) if line[3] else None)


def _address(found: re.Match[str], group: int) -> int:
    number = int(found[group], 16)
    if number > _U64_LAST:
        raise ValueError(f"the log has an address of more than 64 bits: {found[0][:200]!r}")
    return number


def _start_pairs(line: re.Match[str]) -> dict[str, Pair]:
    return {found[1]: Pair(_address(found, 2), _address(found, 3)) for found in _PAIR.finditer(line[6])}


def _choose(found: Sequence[_Migration], migration: int, log: str, event: str = "") -> _Migration:
    migration = arguments.integer(migration, "migration")
    if not found:
        raise _missing(log, event or "vfio_device_dirty_tracking_update")
    if not -len(found) <= migration < len(found):
        raise IndexError(
            f"migration must be -{len(found)} to {len(found) - 1}, the log has {len(found)}, not {migration}"
        )
    return found[migration]


def _missing(log: str, event: str) -> ValueError:
    return ValueError(
        f"no {event} line in {log.count(chr(10)) + 1} lines of log: run QEMU with -trace 'vfio_device_dirty_tracking*' -D FILE, "
        "start a migration, and read that file"
    )


# --- which sections are BARs --------------------------------------------------------------------------------------------


class _Device:
    """The facts that a trace shows about an assigned device: the sizes of its regions, and the last values written to its registers."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.registers = bytearray(0x28)
        self.written = bytearray(0x28)

    def write(self, register: int, value: int, length: int) -> None:
        end = min(register + min(length, 4), 0x28)
        self.registers[register:end] = (value & 0xFFFFFFFF).to_bytes(4, "little")[: end - register]
        self.written[register:end] = b"\1" * (end - register)

    def bars(self) -> Iterable[IovaRange]:
        """Yield the addresses of the BARs that were placed."""
        enabled = not self.written[4] or bool(self.registers[4] & 2)
        for number, size in self.sizes.items():
            at = 0x10 + 4 * number
            if size & (size - 1) or not size or not all(self.written[at : at + 4]):
                continue
            # The upper half of a 64-bit BAR is a separate register, whose region has size 0.
            wide = number < 5 and not self.sizes.get(number + 1) and all(self.written[at + 4 : at + 8])
            low = int.from_bytes(self.registers[at : at + 4], "little") & ~0xF
            high = int.from_bytes(self.registers[at + 4 : at + 8], "little") if wide else None
            if found := decode(low, high, size, memory_enabled=enabled):
                yield found


def _windows(devices: Mapping[str, _Device]) -> list[tuple[IovaRange, str]]:
    return [(bar, name) for name, device in devices.items() for bar in device.bars()]


def _given(bars: Bars) -> list[tuple[IovaRange, str]]:
    if isinstance(bars, Mapping):
        return [(bar, arguments.string(name, "bars")) for name, each in bars.items() for bar in as_ranges(each, "bars")]
    return [(bar, ASSIGNED) for bar in as_ranges(bars, "bars")]


class _Windows:
    """Devices by address. Where windows overlap, which no guest has at once, the one with the highest start counts."""

    def __init__(self, windows: Sequence[tuple[IovaRange, str]]) -> None:
        # Of equal windows the first in the list counts.
        self._windows = sorted(dict(reversed(windows)).items())
        self._starts = [window.start for window, _ in self._windows]

    def at(self, start: int, last: int) -> str:
        """Return the name of the device whose window holds these addresses, or ''."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and last <= self._windows[index][0].last:
            return self._windows[index][1]
        return ""


class _Guess(NamedTuple):
    """One possible assignment of the sections above 4 GiB so far to the two ranges there."""

    plain: Pair
    bars: Pair
    chosen: _Chain | None


class _Chain(NamedTuple):
    """The numbers of the sections that went to the BARs' range, the last first."""

    number: int
    before: _Chain | None


def _third_range(migration: _Migration) -> set[int]:
    """Return the numbers of the updates that went to the third range, worked out from the range that each line gives."""
    if migration.start is None:
        return set()
    wanted = _start_pairs(migration.start)
    if "pci64" not in wanted or not wanted["pci64"].max:
        return set()
    guesses = [_Guess(_EMPTY, _EMPTY, None)]
    for number, update in enumerate(migration.updates):
        if update.last <= _U32_LAST:
            continue
        after: dict[tuple[Pair, Pair], _Guess] = {}
        for guess in guesses:
            plain = guess.plain.with_(update.start, update.last)
            if plain == update.after:
                after.setdefault((plain, guess.bars), guess._replace(plain=plain))
            bars = guess.bars.with_(update.start, update.last)
            if bars == update.after and update.start >= _U32_LAST:
                after.setdefault((guess.plain, bars), _Guess(guess.plain, bars, _Chain(number, guess.chosen)))
        guesses = list(after.values())
    for guess in guesses:
        if (guess.plain, guess.bars) == (wanted.get("64"), wanted["pci64"]):
            numbers = set()
            chain = guess.chosen
            while chain:
                numbers.add(chain.number)
                chain = chain.before
            return numbers
    return set()


__all__ = ["ASSIGNED", "Bars", "count_migrations", "query_line", "read_sections", "read_start"]
