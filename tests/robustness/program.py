# SPDX-License-Identifier: MIT
"""A typical program, which is interrupted at any point.

Afterwards the library's records must agree with the kernel's state.
"""

from __future__ import annotations

import gc
import mmap
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from threading import Thread
from types import FrameType
from typing import Any
from weakref import WeakSet

import pyvfio
from pyvfio import DmaBuffer, mock
from pyvfio.mock.vfio.mappings import Mappings
from pyvfio.spaces.opening import MODES, Mode

PAGE = mmap.PAGESIZE
FIRST = 0x10_0000


class Stop(BaseException):
    """The exception that a signal handler raises."""


class World:
    """A kernel, and the objects of a program on it.

    :ivar made: the program's objects, by name
    """

    def __init__(self, mode: Mode, kernel: Any = None, address: str = "vfio-mock.0") -> None:
        self.kernel = kernel or mock.Kernel()
        self.mode = mode
        self.address = address
        self.made: dict[str, Any] = {}
        self.buffer = DmaBuffer(4 * PAGE)

    def run(self) -> None:
        """Open, map, enable, log, wait, unmap and close."""
        made = self.made
        made["device"] = device = pyvfio.open(self.address, mode=self.mode, kernel=self.kernel)
        made["space"] = space = device.address_space
        mapping = space.alloc(PAGE)
        space.map(self.buffer, FIRST)
        rows = array("Q")
        for index in range(3):
            rows.extend((self.buffer.address, FIRST + (index + 8) * PAGE, PAGE))
        batch = space.map_many(rows, keep=self.buffer)
        (vector,) = device.irqs[0].enable()
        vector.trigger()
        vector.wait(60)
        with device.dirty_log([mapping.range]) as log:
            log.read()
        device.irqs[0].disable()
        device.irqs[0].enable()
        mapping.unmap()
        space.unmap(FIRST, 4 * PAGE)
        batch.unmap()
        space.alloc(PAGE)
        space.unmap_all()
        space.alloc(PAGE)
        device.close()

    def disagreement(self, known: WeakSet[Mappings[Any]]) -> str | None:
        """Return a description of how kernel and library disagree about mappings, vectors and the log; None if they agree."""
        ours: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        space, device = self.made.get("space"), self.made.get("device")
        if space is not None and not space.gone:
            ours["mappings"] = sorted((one.iova, one.size) for one in space.mappings)
            theirs["mappings"] = sorted((one.iova, one.last - one.iova + 1) for mappings in known for one in mappings)
        if device is not None and not device.file.closed:
            ours["vectors"] = [sorted(irq._enabled) for irq in device.irqs.known]
            inside: Any = self.kernel.devices[device.address]
            theirs["vectors"] = [sorted(inside.irqs.triggers[irq.info.index]) for irq in device.irqs.known]
            ours["log"] = device._log is not None and not device._log.closed
            theirs["log"] = inside.log.active
        return None if ours == theirs else f"library {ours}, kernel {theirs}"

    def close(self) -> None:
        """Close everything. If a close fails, try it again."""
        for one in (self.made.get("device"), self.made.get("space"), *self.made.get("others", ())):
            for _ in range(2):
                try:
                    if one is not None:
                        one.close()
                except Exception:
                    continue
                break
        self.made.clear()
        gc.collect()

    def left(self) -> list[str]:
        """Close everything, and return what is still open or pinned."""
        self.close()
        kernel = self.kernel
        return [file.kind for file in kernel.files.values()] + [
            f"{lock.pages} pages pinned" for lock in (kernel.locked, kernel.locked_by_user) if lock.pages
        ]


@contextmanager
def known_mappings() -> Iterator[WeakSet[Mappings[Any]]]:
    """Record every `Mappings` object that mocks create during the block."""
    known: WeakSet[Mappings[Any]] = WeakSet()
    real = Mappings.__init__

    def init(self: Mappings[Any]) -> None:
        real(self)
        known.add(self)

    Mappings.__init__ = init  # type: ignore[method-assign]
    Mappings.__hash__ = object.__hash__  # type: ignore[method-assign]
    try:
        yield known
    finally:
        Mappings.__init__ = real  # type: ignore[method-assign]


def stopped_at(point: int, program: Callable[[], None], within: Callable[[str], bool]) -> tuple[int, str, bool]:
    """Run a program and raise :class:`Stop` at the n-th point.

    Return the number of points reached, the place, and whether Stop was raised.

    The points are the places at which the interpreter runs signal handlers: the start of a function, and the return of
    a call.
    """
    where = ""
    count = 0

    def look(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count, where
        if event in ("call", "return", "c_return") and within(frame.f_code.co_filename):
            count += 1
            if count == point:
                where = f"{event} in {stack(frame)}"
                raise Stop

    sys.setprofile(look)
    try:
        program()
    except Stop:
        return count, where, True
    finally:
        sys.setprofile(None)
    return count, where, False


def stack(frame: FrameType | None) -> str:
    """Return the functions on a frame's stack, innermost first, at most five."""
    names: list[str] = []
    while frame is not None and len(names) < 5:
        names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)


def use_at_once(world: World, threads: int, rounds: int) -> list[BaseException]:
    """Map, unmap and trigger in several threads at the same time. Return the exceptions that were raised."""
    space, device = world.made["space"], world.made["device"]
    raised: list[BaseException] = []

    def work(number: int) -> None:
        own = FIRST + (number + 1) * 0x1000 * PAGE
        random = Random(number)
        rows = array("Q")
        for index in range(3):
            rows.extend((world.buffer.address, own + (index + 16) * PAGE, PAGE))
        try:
            for _ in range(rounds):
                match random.randrange(5):
                    case 0:
                        space.alloc(PAGE).unmap()
                    case 1:
                        space.map(world.buffer, own)
                        assert space.unmap(own, 4 * PAGE) == 4 * PAGE
                    case 2:
                        assert space.map_many(rows, keep=world.buffer).unmap() == 3 * PAGE
                    case 3:
                        kept = space.alloc(PAGE)
                        assert kept.mapped
                        assert space.unmap(kept.iova, PAGE) == PAGE
                        assert not kept.mapped
                    case 4:
                        device.irqs[0].vectors[0].trigger()
        except BaseException as failure:
            raised.append(failure)

    workers = [Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return raised


def library(filename: str) -> bool:
    """Whether a file belongs to the library, but not to the mock: the mock replaces a kernel, whose code no signal handler interrupts."""
    return "/pyvfio/" in filename and "/pyvfio/mock/" not in filename


def library_and_mock(filename: str) -> bool:
    """Whether a file belongs to the library or the mock."""
    return "/pyvfio/" in filename


def sweep(mode: Mode, points: Callable[[int], range], within: Callable[[str], bool] = library) -> tuple[int, list[str]]:
    """Interrupt the program at some of its points, each time in a new world.

    Return the number of points, and the faults.
    """
    total = 0
    for _ in range(2):  # the first run loads modules and fills caches
        world = World(mode)
        total, _, _ = stopped_at(0, world.run, within)
        assert world.left() == []
    wrong: list[str] = []
    chosen = points(total)
    for point in chosen:
        with known_mappings() as known:
            world = World(mode)
            _, where, raised = stopped_at(point, world.run, within)
            if not raised:
                wrong.append(f"point {point}, {where}: what the handler raised is lost")
            if (found := world.disagreement(known)) is not None:
                wrong.append(f"point {point}, {where}: {found}")
            if left := world.left():
                wrong.append(f"point {point}, {where}: left {left}")
    return len(chosen), wrong


if __name__ == "__main__":
    for mode_ in (mode for mode in MODES if mode in sys.argv[2:] or not (sys.argv[2:] or "noiommu" in mode)):
        for words, inside in (("library", library), ("library and mock", library_and_mock)):
            step = int(sys.argv[1])
            done, bad = sweep(mode_, lambda total, step=step: range(1, total + 1, step), inside)  # type: ignore[misc]
            print(f"{mode_}, {words}: {done} points, {len(bad)} wrong")
            for line in bad[:8]:
                print("   ", line)
