# SPDX-License-Identifier: MIT
"""Two simultaneous calls, without threads: one is made inside a request of the other, before the kernel executes it or after."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple, get_args

import pytest

import pyvfio
from pyvfio import DmaBuffer, IovaRange, mock
from pyvfio._abi import lib
from pyvfio.spaces.opening import Mode
from tests.robustness.conftest import MODES
from tests.robustness.program import FIRST, PAGE, World, known_mappings, use_at_once

Call = Callable[[World], Any]
#: Only every STEP-th pair is tried here; `python -m tests.robustness.test_threads 1` tries all. STEP has no factor in
#: common with the numbers of calls, so that each call occurs.
STEP = 13
#: The IOVAs that second calls use, apart from those of first calls.
SECOND = FIRST + 0x100 * PAGE


def rows(world: World, start: int) -> array[int]:
    result = array("Q")
    for index in range(3):
        result.extend((world.buffer.address, start + index * PAGE, PAGE))
    return result


def log(world: World) -> None:
    with world.made["device"].dirty_log([IovaRange.of(FIRST, 4 * PAGE)]) as running:
        running.read()


def track(world: World) -> None:
    with world.made["space"].track_dirty([IovaRange.of(FIRST, 4 * PAGE)]) as tracker:
        tracker.read()


def open_another(world: World) -> None:
    world.made.setdefault("others", []).append(pyvfio.open("vfio-mock.1", mode=world.mode, kernel=world.kernel))


#: The public calls of the typical program.
CALLS: dict[str, Call] = {
    "open": open_another,
    "attach": lambda world: world.made.setdefault("others", []).append(world.made["space"].attach("vfio-mock.1")),
    "map": lambda world: world.made["space"].map(world.buffer, SECOND),
    "map anywhere": lambda world: world.made["space"].map(world.buffer),
    "alloc": lambda world: world.made["space"].alloc(PAGE),
    "map_many": lambda world: world.made["space"].map_many(rows(world, SECOND + 0x40 * PAGE), keep=world.buffer),
    "unmap": lambda world: world.made["mapping"].unmap(),
    "unmap range": lambda world: world.made["space"].unmap(FIRST, 0x80 * PAGE),
    "unmap_many": lambda world: world.made["batch"].unmap(),
    "unmap_all": lambda world: world.made["space"].unmap_all(),
    "iova_ranges": lambda world: world.made["space"].iova_ranges,
    "mappings": lambda world: world.made["space"].mappings,
    "reset": lambda world: world.made["device"].reset(),
    "enable": lambda world: world.made["device"].irqs[0].enable(),
    "trigger": lambda world: world.made["vector"].trigger(),
    "wait": lambda world: world.made["vector"].wait(0),
    "disable": lambda world: world.made["device"].irqs[1].disable(),
    "close vector": lambda world: world.made["vector"].close(),
    "dirty_log": log,
    "track_dirty": track,
    "close": lambda world: world.made["device"].close(),
    "close space": lambda world: world.made["space"].close(),
}


class Pair(NamedTuple):
    """Two calls.

    The second is made inside the first's request with a number, before the kernel executes it or after.
    """

    first: str
    second: str
    request: int
    after: bool

    def __str__(self) -> str:
        return f"{self.second} {'after' if self.after else 'before'} request {self.request} of {self.first}"


def make_both(world: World, pair: Pair) -> int:
    """Make both calls, and return the number of requests of the first one."""
    made = world.made
    made["device"] = device = pyvfio.open(world.address, mode=world.mode, kernel=world.kernel)
    made["space"] = space = device.address_space
    made["mapping"] = space.map(world.buffer, FIRST)
    made["batch"] = space.map_many(rows(world, FIRST + 0x20 * PAGE), keep=world.buffer)
    (made["vector"],) = device.irqs[1].enable()
    kernel: Any = world.kernel
    real = kernel.ioctl
    requests = 0
    inside = False

    def second() -> None:
        nonlocal inside
        inside = True
        with suppress(OSError):
            CALLS[pair.second](world)
        inside = False

    def ioctl(fd: int, request: int, argument: int) -> int:
        nonlocal requests
        if inside:
            return int(real(fd, request, argument))
        requests += 1
        here = requests == pair.request
        if here and not pair.after:
            second()
        result = int(real(fd, request, argument))
        if here and pair.after:
            second()
        return result

    kernel.ioctl = ioctl
    with suppress(OSError):
        CALLS[pair.first](world)
    kernel.ioctl = real
    return requests


def both(mode: Mode, pair: Pair) -> tuple[int, str | None]:
    """Make both calls. Return the number of requests of the first, and how kernel and library disagree afterwards."""
    with known_mappings() as known:
        world = World(mode)
        requests = make_both(world, pair)
        found = world.disagreement(known)
        left = world.left()
        return requests, found or (f"left {left}" if left else None)


def pairs(mode: Mode) -> list[Pair]:
    """Return all pairs of calls, with each request of the first."""
    result = []
    for first in CALLS:
        requests, found = both(mode, Pair(first, "mappings", 0, False))
        assert found is None
        result += [
            Pair(first, second, request, after)
            for second, request, after in product(CALLS, range(1, requests + 1), (False, True))
        ]
    return result


def sweep(mode: Mode, step: int) -> tuple[int, list[str]]:
    """Make every `step`-th pair of calls. Return the number of pairs, and the faults."""
    chosen = pairs(mode)[::step]
    found = ((pair, both(mode, pair)[1]) for pair in chosen)
    return len(chosen), [f"{pair}: {wrong}" for pair, wrong in found if wrong is not None]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", MODES)
def test_kernel_and_library_agree_after_two_calls_at_once(mode: Mode) -> None:
    """Each call is the first of some of the tried pairs, and the second of others."""
    done, wrong = sweep(mode, STEP)
    assert done > 100
    assert wrong == []


@pytest.mark.parametrize("mode", MODES)
def test_an_array_that_two_threads_unmap_is_gone(mode: Mode) -> None:
    """The other thread has unmapped all rows when this one's first request is refused: an error of this one, and no row left."""
    assert both(mode, Pair("unmap_many", "unmap_many", 1, False))[1] is None


def test_a_mapping_made_at_an_iova_just_unmapped_is_kept() -> None:
    """H3."""
    kernel = mock.Kernel()
    with pyvfio.open("vfio-mock.0", mode="iommufd", kernel=kernel) as device:
        space = device.address_space
        first = space.alloc(PAGE)
        real = kernel.ioctl
        got: list[Any] = []

        def ioctl(fd: int, request: int, argument: int) -> int:
            result = real(fd, request, argument)
            if request & 0xFFFFFFFF == lib.IOMMU_IOAS_UNMAP and not got:
                got.append(None)
                got[0] = space.map(DmaBuffer(PAGE), first.iova)
            return result

        kernel.ioctl = ioctl  # type: ignore[method-assign]
        first.unmap()
        (second,) = got
        assert second is not None
        assert second.mapped
        assert not first.mapped
        assert space.mappings == [second]
        assert second.unmap() == PAGE


def hammer(mode: Mode, threads: int, rounds: int) -> list[str]:
    """Use one device and its address space in several threads, `rounds` times each. Return the faults."""
    with known_mappings() as known:
        world = World(mode)
        world.made["device"] = device = pyvfio.open("vfio-mock.0", mode=mode, kernel=world.kernel)
        world.made["space"] = device.address_space
        device.irqs[0].enable()
        wrong = [repr(failure) for failure in use_at_once(world, threads, rounds)]
        wrong += [found] if (found := world.disagreement(known)) is not None else []
        return wrong + world.left()


@pytest.mark.parametrize("mode", MODES)
def test_kernel_and_library_agree_after_many_threads(mode: Mode) -> None:
    assert hammer(mode, 8, 25) == []


if __name__ == "__main__":  # STEP [MODE...], or: ROUNDS threads [MODE...]
    number, *words = sys.argv[1:]
    for mode_ in [mode for mode in get_args(Mode) if mode in MODES and (mode in words or not set(words) & set(MODES))]:
        if "threads" in words:
            print(f"{mode_}: 8 threads, {number} rounds each, wrong: {hammer(mode_, 8, int(number))}", flush=True)
            continue
        count, bad = sweep(mode_, int(number))
        print(f"{mode_}: {count} pairs, {len(bad)} wrong", flush=True)
        for line in bad[:20]:
            print("   ", line)
