# SPDX-License-Identifier: MIT
"""Random maps and unmaps, some of them interrupted: after each step, the library's records are the kernel's mappings.

A seed determines the steps: single maps, arrays, unmaps of mappings, of parts and of several, of arrays and of their rows. In some
steps another call is made inside a request, or a request raises, before the kernel has executed it or after. Then the mappings that
the library reports must be those of the kernel, with the same memory, and what an unmap returned must be what disappeared.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any
from weakref import WeakSet

import pytest

import pyvfio
from pyvfio import DmaBuffer, IovaRange, IovaSet, mock
from pyvfio.mock.vfio.mappings import Mappings
from pyvfio.spaces.opening import Mode
from tests.robustness.conftest import MODES
from tests.robustness.program import FIRST, PAGE, known_mappings

#: Pages of IOVA space that the steps use. It is small, so that they meet one another.
SPAN = 96
STEPS = 60


class Interrupted(BaseException):
    """The exception that a handler raises."""


class Walk:
    """An address space with a device, and the steps.

    :ivar made: the mappings and arrays that calls have returned
    :ivar nested: a call is being made inside a request of another one
    :ivar inside: what to do inside the next map or unmap request; None for nothing
    """

    def __init__(self, mode: Mode, seed: int, known: WeakSet[Mappings[Any]]) -> None:
        self.kernel: Any = mock.Kernel()
        self.random = Random(seed)
        self.known = known
        self.device = pyvfio.open("vfio-mock.0", mode=mode, kernel=self.kernel)
        self.space = self.device.address_space
        self.buffer = DmaBuffer(SPAN * PAGE)
        self.made: list[Any] = []
        self.nested = False
        self.inside: tuple[bool, Callable[[], object]] | None = None
        self.real: Callable[[int, int, int], int] = self.kernel.ioctl

    def _ioctl(self, fd: int, request: int, argument: int) -> int:
        if self.inside is None:
            return self.real(fd, request, argument)
        (after, action), self.inside = self.inside, None
        if not after:
            action()
        result = self.real(fd, request, argument)
        if after:
            action()
        return result

    # The two sides of the comparison.

    def theirs(self) -> list[tuple[int, int, int]]:
        """Return IOVA, size and memory of the kernel's mappings."""
        return sorted(
            (one.iova, one.last - one.iova + 1, one.pages.address + one.at if hasattr(one, "pages") else one.address)
            for mappings in self.known
            for one in mappings
        )

    def ours(self) -> list[tuple[int, int, int]]:
        """Return IOVA, size and memory of the library's mappings."""
        # The address is recorded where it may be needed to split a mapping.
        return [(one.iova, one.size, one._address or one.buffer.address) for one in self.space.mappings]

    def check(self, where: str) -> None:
        theirs = self.theirs()
        ranges = IovaSet(IovaRange.of(iova, size) for iova, size, _ in theirs)
        assert self.space.mapped_ranges == ranges, where
        # Asking for the mappings makes objects for the rows of arrays, so sometimes they are left as they are.
        if self.random.random() < 0.6:
            assert self.ours() == theirs, where
            present = {(iova, size) for iova, size, _ in theirs}
            for one in self.made:
                if isinstance(one, pyvfio.Mapping) and one.mapped:
                    assert (one.iova, one.size) in present, where

    # The steps.

    def place(self) -> tuple[int, int]:
        page = self.random.randrange(SPAN - 8)
        return FIRST + page * PAGE, self.random.randint(1, 6) * PAGE

    def map(self) -> None:
        iova, size = self.place()
        buffer = DmaBuffer(size)
        self.made.append(self.space.map(buffer, iova, write=self.random.random() < 0.8))

    def map_anywhere(self) -> None:
        self.made.append(self.space.alloc(PAGE * self.random.randint(1, 3)))

    def map_many(self) -> None:
        start = self.random.randrange(SPAN - 24)
        rows = array("Q")
        for index in range(self.random.randint(1, 5)):
            page = start + index * self.random.choice((2, 3))
            rows.extend((self.buffer.address + page * PAGE, FIRST + page * PAGE, PAGE * self.random.randint(1, 2)))
        self.made.append(self.space.map_many(rows, keep=self.buffer))

    def unmap(self) -> None:
        iova, size = self.place()
        self.exactly(lambda: self.space.unmap(iova, size))

    def unmap_much(self) -> None:
        iova, size = self.place()
        self.exactly(lambda: self.space.unmap(iova, 4 * size))

    def unmap_made(self) -> None:
        if self.made:
            one = self.random.choice(self.made)
            self.exactly(one.unmap)

    def unmap_one_present(self) -> None:
        if found := self.space.mappings:
            self.exactly(self.random.choice(found).unmap)

    def unmap_row(self) -> None:
        arrays = [one for one in self.made if not isinstance(one, pyvfio.Mapping)]
        if arrays:
            chosen = self.random.choice(arrays)
            self.exactly(chosen[self.random.randrange(len(chosen))].unmap)

    def unmap_many(self) -> None:
        theirs = self.theirs()
        chosen = self.random.sample(theirs, min(len(theirs), self.random.randint(1, 5)))
        rows = array("Q")
        for iova, size, _ in chosen:
            rows.extend((iova, size))
        if rows:
            self.exactly(lambda: self.space.unmap_many(rows))

    def unmap_all(self) -> None:
        self.exactly(self.space.unmap_all)

    def exactly(self, unmap: Callable[[], int]) -> None:
        """Unmap, and compare the result with what has disappeared."""
        quiet = self.inside is None and not self.nested
        before = sum(size for _, size, _ in self.theirs())
        unmapped = unmap()
        if quiet:
            assert unmapped == before - sum(size for _, size, _ in self.theirs())

    def second(self) -> None:
        """Make another call, inside a request."""
        self.nested = True
        with suppress(OSError):
            self.random.choice(
                (self.map, self.map_many, self.unmap_much, self.unmap_made, self.unmap_many, self.unmap_all)
            )()

    def interrupt(self) -> None:
        raise Interrupted

    def run(self) -> None:
        self.kernel.ioctl = self._ioctl
        steps = (
            [self.map] * 6
            + [self.map_many] * 4
            + [self.map_anywhere, self.unmap, self.unmap, self.unmap_much, self.unmap_made, self.unmap_made]
            + [self.unmap_one_present, self.unmap_row, self.unmap_many, self.unmap_many]
        )
        for number in range(STEPS):
            step = self.unmap_all if number % 30 == 29 else self.random.choice(steps)
            kind = self.random.randrange(8)
            if kind < 2:
                self.inside = bool(self.random.randrange(2)), self.interrupt if kind else self.second
            with suppress(OSError, Interrupted):
                step()
            self.inside = None
            self.nested = False
            self.check(f"step {number}, {step.__name__}, {('calls', 'raises')[kind] if kind < 2 else 'quiet'}")

    def end(self) -> None:
        """Close everything; nothing is left."""
        self.space.unmap_all()
        self.check("the end")
        self.device.close()
        self.made.clear()
        gc.collect()
        assert [file.kind for file in self.kernel.files.values()] == []
        assert [lock.pages for lock in (self.kernel.locked, self.kernel.locked_by_user)] == [0, 0]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", MODES)
def test_records_are_the_mappings_of_the_kernel(mode: Mode, seed: int) -> None:
    with known_mappings() as known:
        walk = Walk(mode, seed, known)
        walk.run()
        walk.end()


@pytest.mark.parametrize("mode", ["iommufd", "iommufd-type1v2"])
def test_what_a_refused_unmap_has_removed_is_not_recorded(mode: Mode) -> None:
    """iommufd unmaps the mappings of a range up to one that reaches out of it, and then refuses with ENOENT."""
    with pyvfio.open("vfio-mock.0", mode=mode, kernel=mock.Kernel()) as device:
        space = device.address_space
        single, reaching = space.alloc(PAGE, FIRST), space.alloc(4 * PAGE, FIRST + 4 * PAGE)
        buffer = DmaBuffer(2 * PAGE)
        rows = array("Q", (buffer.address, FIRST + PAGE, PAGE, buffer.address + PAGE, FIRST + 2 * PAGE, PAGE))
        batch = space.map_many(rows, keep=buffer)
        with pytest.raises(FileNotFoundError, match="it would split"):
            space.unmap(FIRST, 6 * PAGE)
        assert [one.mapped for one in (single, *batch, reaching)] == [False, False, False, True]
        assert space.mappings == [reaching]
        assert space.alloc(PAGE, FIRST).mapped
        with pytest.raises(FileNotFoundError, match="it would split"):
            space.unmap(FIRST + 5 * PAGE, PAGE)
        assert reaching.mapped


@pytest.mark.parametrize("mode", MODES)
def test_a_row_refused_since_it_is_mapped_leaves_the_mapping(mode: Mode) -> None:
    """An exception inside the request of a row unmaps what the row may have mapped, but not what was mapped there before."""
    kernel: Any = mock.Kernel()
    with pyvfio.open("vfio-mock.0", mode=mode, kernel=kernel) as device:
        space = device.address_space
        before = space.alloc(PAGE, FIRST)
        buffer = DmaBuffer(PAGE)
        real = kernel.ioctl

        def ioctl(fd: int, request: int, argument: int) -> int:
            real(fd, request, argument)
            raise Interrupted

        kernel.ioctl = ioctl
        with pytest.raises(Interrupted):
            space.map_many(array("Q", (buffer.address, FIRST, PAGE)), keep=buffer)
        kernel.ioctl = real
        assert before.mapped
        assert before.unmap() == PAGE
