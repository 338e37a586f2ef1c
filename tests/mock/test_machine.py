# SPDX-License-Identifier: MIT
"""The parts of the mock's machine at their edges: planned failures, the caller's memory, locked pages, eventfds, physical addresses."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from threading import Event, RLock
from typing import Any

import pytest

from pyvfio._abi import ffi
from pyvfio.memory import pinned
from pyvfio.mock.iommufd.shared import Shared
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.eventfd import Eventfd, Watcher
from pyvfio.mock.machine.failures import Failures
from pyvfio.mock.machine.memlock import Memlock, check_pinnable, pinnable
from pyvfio.mock.machine.physical import PhysicalMemory

PAGE = 4096


def number(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Return what a call returns, or the name of the errno that it fails with."""
    try:
        return call(*arguments, **more)
    except Errno as error:
        return errno.errorcode[error.number]


# Planned failures.


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("call", [None, "MAP", "container"])
def test_the_nth_call_that_counts_fails_once(nth: int, call: str | None) -> None:
    failures = Failures()
    planned = failures.fail(errno.ENOSPC, call=call, nth=nth)
    outcomes = []
    for _ in range(4):
        if call is not None:
            assert number(failures.check, "other", "device") is None  # of another name, and so no call that counts
        outcomes.append(number(failures.check, "MAP", "container"))
    assert outcomes == [None if index != nth - 1 else "ENOSPC" for index in range(4)]
    assert planned.left == 0
    assert failures.planned == []


@pytest.mark.parametrize(
    ("planned", "asked", "moved"),
    [(3, 16, 3), (16, 16, 16), (17, 16, 16), (0, 16, 0), (3, 0, 0)],
)
def test_a_short_call_moves_the_smaller_size(planned: int, asked: int, moved: int) -> None:
    failures = Failures()
    failure = failures.shorten(planned, call="read")
    assert failures.check("read") is None  # it moves nothing, so it cannot be short, and does not count
    assert failure.left == 1
    assert failures.check("read", size=asked) == moved
    assert failures.check("read", size=asked) == asked


def test_several_failures_count_each_for_itself() -> None:
    failures = Failures()
    failures.shorten(8, nth=1)
    failures.shorten(4, nth=1)
    failures.interrupt(nth=3)
    failures.fail(errno.EIO, nth=2)
    got = [number(failures.check, "read", size=16) for _ in range(4)]
    assert got == [4, "EIO", "EINTR", 16]
    failures.fail(errno.EIO)
    failures.clear()
    assert failures.check("read") is None


@pytest.mark.parametrize(
    ("wrong", "error"), [({"nth": 0}, ValueError), ({"nth": "1"}, TypeError), ({"call": 5}, TypeError)]
)
def test_a_failure_that_cannot_be_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    failures = Failures()
    with pytest.raises(error):
        failures.fail(errno.EIO, **wrong)
    with pytest.raises(ValueError, match="errno"):
        failures.fail(0)
    with pytest.raises(ValueError, match="size"):
        failures.shorten(-1)
    assert failures.shorten(0).size == 0
    assert failures.fail(1).errno == 1


def test_a_failure_says_what_it_is() -> None:
    failures = Failures()
    assert repr(failures.fail(errno.EIO, call="open", nth=2)) == "<Failure of open: EIO, in 2 calls>"
    assert repr(failures.fail(4000)) == "<Failure of any call: 4000, in 1 calls>"
    failures.clear()
    short = failures.shorten(5)
    assert failures.check("read", size=8) == 5
    assert repr(short) == "<Failure of any call: 5 bytes, happened>"


# The caller's memory.


class Pages:
    """The caller's memory."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * PAGE)
        self.start = pinned(self._memory, writable=True)[0]
        self.view = ffi.buffer(ffi.cast("char *", self.start), count * PAGE)


@pytest.mark.parametrize("address", [0, 1, 1 << 46, 1 << 63, 2**64 - 8, -8])
@pytest.mark.parametrize(
    "call",
    [
        lambda at: caller.read(at, 8),
        lambda at: caller.write(at, bytes(8)),
        lambda at: caller.take("struct vfio_info_cap_header", at),
    ],
)
def test_memory_that_is_not_the_callers_is_efault(address: int, call: Callable[[int], object]) -> None:
    assert number(call, address) == "EFAULT"


def test_memory_is_copied_to_and_from_the_caller_whole_or_in_part() -> None:
    pages = Pages(2)
    caller.write(pages.start + PAGE - 2, b"abcd")
    assert caller.read(pages.start + PAGE - 3, 6) == b"\0abcd\0"
    caller.write(pages.start + PAGE - 4, bytes(range(1, 9)))
    struct = "struct vfio_info_cap_header"
    whole, part = caller.take(struct, pages.start + PAGE - 4), caller.take(struct, pages.start + PAGE - 4, 3)
    assert (bytes(ffi.buffer(whole)), bytes(ffi.buffer(part))) == (bytes(range(1, 9)), b"\1\2\3" + bytes(5))
    caller.give(pages.start, whole, 3)
    assert caller.read(pages.start, 8) == b"\1\2\3" + bytes(5)
    caller.give(pages.start, whole)
    assert caller.read(pages.start, 9) == bytes(range(1, 9)) + b"\0"
    assert number(caller.give, 1 << 63, whole) == "EFAULT"


@pytest.mark.parametrize(
    ("text", "at", "limit", "found"),
    [
        (b"\0", 0, 1, b""),
        (b"name\0", 0, 16, b"name"),
        (b"name\0", 0, 5, b"name"),
        (b"name\0", 0, 4, "EINVAL"),
        (b"name\0", 0, 0, "EINVAL"),
        (b"name\0", PAGE - 2, 16, b"name"),
        (b"name\0", PAGE - 5, 16, b"name"),
        (b"x" * PAGE + b"\0", 0, 2 * PAGE, b"x" * PAGE),
        (b"x" * PAGE + b"\0", 0, PAGE + 1, b"x" * PAGE),
        (b"x" * PAGE + b"\0", 0, PAGE, "EINVAL"),
    ],
)
def test_a_string_ends_at_its_first_nul_or_is_too_long(text: bytes, at: int, limit: int, found: bytes | str) -> None:
    pages = Pages(4)
    caller.write(pages.start + at, text)
    assert number(caller.string, pages.start + at, limit) == found


def test_a_string_at_the_end_of_memory_is_read_to_its_nul() -> None:
    pages = Pages(1)
    caller.write(pages.start + PAGE - 3, b"ab\0")
    assert caller.string(pages.start + PAGE - 3, PAGE) == b"ab"


@pytest.mark.parametrize(
    ("address", "size", "is_so"),
    [(0, 0, True), (0x7FFFFFFFE000, PAGE, True), (0x7FFFFFFFE000, PAGE + 1, False), (0x7FFFFFFFF000, 0, True), (0x7FFFFFFFF001, 0, False), (1 << 63, 1, False)],
)  # fmt: skip
def test_a_range_is_accessible_up_to_the_callers_half(address: int, size: int, is_so: bool) -> None:
    assert caller.accessible(address, size) is is_so


# Locked pages.


@pytest.mark.parametrize(
    ("limit", "locked", "more", "error"),
    [
        (4 * PAGE, 0, 4, None),
        (4 * PAGE, 0, 5, "ENOMEM"),
        (4 * PAGE, 3, 1, None),
        (4 * PAGE, 3, 2, "ENOMEM"),
        (5 * PAGE - 1, 4, 1, "ENOMEM"),
        (0, 0, 0, None),
        (0, 0, 1, "ENOMEM"),
        (None, 1 << 40, 1 << 40, None),
    ],
)
def test_locked_memory_is_limited_to_the_page(limit: int | None, locked: int, more: int, error: str | None) -> None:
    memlock = Memlock(limit, PAGE)
    memlock.charge(locked)
    assert number(memlock.check, more) == error
    assert memlock.pages == locked
    assert number(memlock.charge, more) == error
    assert memlock.pages == locked + (more if error is None else 0)
    before = memlock.pages
    memlock.charge(7, limited=False)
    memlock.release(3)
    assert memlock.pages == before + 4


def test_only_memory_that_is_there_can_be_pinned() -> None:
    pages = Pages(8)
    ours = 8
    for count in (0, 1, 7, 8):
        assert pinnable(pages.start, count, PAGE, write=True) == count
    assert pinnable(0, ours, PAGE, write=False) == 0
    assert number(check_pinnable, pages.start, 8 * PAGE, write=True) is None
    assert number(check_pinnable, 0, PAGE, write=False) == "EFAULT"
    read_only = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(read_only)))
    assert number(check_pinnable, address, PAGE, write=False) is None
    assert number(check_pinnable, address, PAGE, write=True) == "EFAULT"
    assert (pinnable(address, 1, PAGE, write=False), pinnable(address, 1, PAGE, write=True)) == (1, 0)


# Physical addresses.


class Held:
    """Pinned memory."""

    def __init__(self, count: int) -> None:
        self.data = bytearray(count * PAGE)
        self.first, self.last = 0, count * PAGE - 1

    def holds(self, first: int, last: int) -> bool:
        return self.first <= first and last <= self.last

    def read(self, offset: int, size: int) -> bytearray:
        return self.data[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


def test_a_page_has_a_physical_address_that_stays_and_leads_nowhere_else() -> None:
    memory = PhysicalMemory(PAGE)
    one, two = Held(2), Held(1)
    places: Any = [(one, 0), (one, PAGE), (two, 0)]
    addresses = [memory.address(pages, offset) for pages, offset in places]
    assert [memory.address(pages, offset + 5) - 5 for pages, offset in places] == addresses
    assert len({address // PAGE for address in addresses}) == 3
    for index, (address, (pages, offset)) in enumerate(zip(addresses, places, strict=True)):
        memory.write(address + PAGE - 4, bytes([index] * 4))
        assert memory.read(address + PAGE - 4, 4) == bytes(pages.data[offset + PAGE - 4 : offset + PAGE])
    assert list(memory.writable()) == []
    nowhere = (
        0,
        addresses[0] - 1,
        addresses[0] - PAGE,
        addresses[0] + PAGE,
        addresses[2] + PAGE,
        addresses[2] + 2 * PAGE,
        addresses[2] + 4 * PAGE,
    )
    assert [number(memory.read, address, 1) for address in nowhere] == ["EFAULT"] * len(nowhere)
    one.last = PAGE - 1  # unpinned
    assert number(memory.read, addresses[1], 1) == "EFAULT"
    assert number(memory.write, addresses[1], b"x") == "EFAULT"
    assert memory.read(addresses[0], 1) == b"\0"


# Eventfds.


def test_an_eventfd_is_told_from_other_descriptors(tmp_path: Any) -> None:
    with (tmp_path / "file").open("w") as file:
        assert number(Eventfd, file.fileno()) == "EINVAL"
        closed = os.dup(file.fileno())
        os.close(closed)
        assert number(Eventfd, closed) == "EBADF"


def test_an_eventfd_counts_signals_and_stays_at_its_largest() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    eventfd = Eventfd(fd)
    assert not eventfd.take()
    eventfd.signal()
    eventfd.signal()
    assert os.eventfd_read(fd) == 2
    os.eventfd_write(fd, 2**64 - 2)
    eventfd.signal()
    assert eventfd.take()
    assert not eventfd.take()
    os.close(fd)
    eventfd.signal()  # its own descriptor of the same eventfd
    assert eventfd.take()
    eventfd.close()


def test_a_watcher_acts_for_each_and_lets_go() -> None:
    lock = RLock()
    watcher = Watcher(lock)
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    acted = [Event(), Event()]
    watched = [watcher.watch(fd, event.set) for fd, event in zip(fds, acted, strict=True)]
    os.eventfd_write(fds[1], 1)
    assert acted[1].wait(60)
    assert not acted[0].is_set()
    watcher.leave(watched[1])
    acted[1].clear()
    with lock:  # nobody else acts meanwhile
        os.eventfd_write(fds[1], 1)
        os.eventfd_write(fds[0], 1)
        watcher.settle()
        assert (acted[0].is_set(), acted[1].is_set()) == (True, False)
    watcher.leave(watched[0])
    watcher.settle()
    again = watcher.watch(fds[1], acted[1].set)  # which has been signalled already
    assert acted[1].wait(60)
    watcher.leave(again)
    for fd in fds:
        os.close(fd)


# The memory of an iommufd that programs map.


def test_a_part_takes_the_lowest_gap_that_it_fits_in() -> None:
    shared = Shared(PAGE)
    parts = [shared.add(bytes([index]) * size) for index, size in enumerate((PAGE, 2 * PAGE, PAGE))]
    assert [part.offset for part in parts] == [PAGE, 2 * PAGE, 4 * PAGE]
    shared.remove(parts[1])
    assert shared.add(b"x" * 3 * PAGE).offset == 5 * PAGE
    assert shared.add(b"y" * 2 * PAGE).offset == 2 * PAGE
    assert number(shared.find, PAGE, PAGE) is parts[0]
    assert number(shared.find, PAGE, 1) is parts[0]  # whole pages are mapped
    for offset, size in ((PAGE, PAGE + 1), (0, PAGE), (3 * PAGE, PAGE), (2 * PAGE, PAGE)):
        assert number(shared.find, offset, size) == "ENXIO"
    fd = shared.descriptor()
    assert os.pread(fd, 2, 2 * PAGE) == b"yy"
    mapping = mmap.mmap(fd, PAGE, offset=PAGE)
    os.close(fd)
    assert not parts[0].mapped
    parts[0].keep(mapping)
    assert parts[0].mapped
    mapping.close()
    assert not parts[0].mapped
    shared.close()
