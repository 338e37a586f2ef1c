# SPDX-License-Identifier: MIT
"""Read tests/matrix.toml: the cells that the contract suite runs in, their machines, and what each cell can do."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from vmtest.lanes import Lane, Suite, suites

FILE = Path(__file__).resolve().parents[2] / "tests" / "matrix.toml"
#: the name in matrix.toml of the newest kernel that there is
NEWEST = "newest"
#: the name of the newest kernel with debugging
DEBUG = "debug"
#: the name of the kernel in this process, which needs no machine
IN_PROCESS = "mock"
#: the name of that kernel with the cell's device behind a socket: a model of another process, by vfio-user
SERVED = "vfio-user"
#: the kernels that need no machine
LOCAL = (IN_PROCESS, SERVED)


class Cell(NamedTuple):
    """The place of a test's run: one IOMMU, one mode, one device, one kernel.

    :ivar qemu: the version of QEMU, as `scripts/vm --qemu` takes it; empty for the default
    """

    iommu: str
    mode: str
    device: str
    kernel: str
    qemu: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `amd/type1v2/edu/7.3`, or `amd/type1v2/edu/7.3/10.0` for a cell with its own QEMU.

        :raises ValueError: there are not four or five words
        """
        words = text.split("/")
        if len(words) not in (4, 5) or not all(words):
            raise ValueError(f"cell {text!r}: IOMMU/MODE/DEVICE/KERNEL is needed, for example amd/type1v2/edu/7.3")
        return cls(*words)

    def matches(self, selectors: Mapping[str, Any]) -> bool:
        """Return whether each selector (`iommu`, `mode`, `device`, `kernel`: a word, or several) names this cell.

        A variant of an IOMMU, such as `intel-fs`, is named by its own name and by what precedes the hyphen.
        """
        return all(
            bool({getattr(self, field), *self._families(field)} & ({words} if isinstance(words, str) else set(words)))
            for field, words in selectors.items()
        )

    def _families(self, field: str) -> set[str]:
        return {self.iommu.partition("-")[0]} if field == "iommu" else set()

    def __str__(self) -> str:
        return "/".join(self if self.qemu else self[:4])

    @property
    def file_name(self) -> str:
        """The name of the file with what happened in this cell."""
        return f"{str(self).replace('/', '-')}.json"


class Machine(NamedTuple):
    """A virtual machine to boot, and the cells that run in it one after the other.

    :ivar kernel: as in tests/matrix.toml
    :ivar qemu: as in `Cell`
    :ivar devices: those of its cells, if another machine has the cells of other devices
    """

    iommu: str
    kernel: str
    qemu: str
    cells: tuple[Cell, ...]
    devices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name for people: IOMMU, kernel, and QEMU and devices if they tell it from another machine."""
        words = [self.iommu, self.kernel]
        if self.qemu:
            words.append(f"qemu-{self.qemu}")
        return " ".join((*words, *self.devices))


class Needs(NamedTuple):
    """The needs of a test: abilities, and the cells that it is about if not all."""

    abilities: tuple[str, ...] = ()
    only: tuple[dict[str, Any], ...] = ()


def _lane_of(block: Mapping[str, Any]) -> Lane:
    return Lane.parse(block.get("lane", str(Lane.FULL)))


class Absence(NamedTuple):
    """An ability that some cells lack, and why."""

    ability: str
    reason: str
    where: dict[str, Any]


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


class Matrix:
    """tests/matrix.toml."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self._data = data if data is not None else _read()
        #: ability -> what it means
        self.abilities: dict[str, str] = self._data["abilities"]
        self.absences = [
            Absence(ability, entry["reason"], {k: v for k, v in entry.items() if k in Cell._fields})
            for entry in self._data["absent"]
            for ability in ([entry["ability"]] if isinstance(entry["ability"], str) else entry["ability"])
        ]
        #: (cells, reason): there only the tests run that name all of that in a mark
        self.by_name_only: list[tuple[dict[str, Any], str]] = [
            ({k: v for k, v in entry.items() if k in Cell._fields}, entry["reason"])
            for entry in self._data.get("by_name_only", ())
        ]
        if unknown := {absence.ability for absence in self.absences} - set(self.abilities):
            raise ValueError(f"{FILE.name}: absent, but no ability: {', '.join(sorted(unknown))}")

    @property
    def kernels(self) -> list[str]:
        """The kernels that the file names."""
        return list(self._data["kernels"])

    @property
    def unreached(self) -> dict[str, str]:
        """Request, or request and errno -> why no machine here can show it."""
        return dict(self._data.get("unreached", {}))

    @property
    def suites(self) -> list[Suite]:
        """The suites that run on the host."""
        return list(suites(self._data))

    def iommus(self, kernel: str) -> list[str]:
        """The IOMMUs of a kernel of the file."""
        return list(dict.fromkeys(iommu for block in self._data["kernels"][kernel] for iommu in block["iommus"]))

    def machines(self, lane: Lane) -> list[Machine]:
        """The virtual machines of a lane, in the order in which to boot them."""
        machines: list[Machine] = []
        for kernel in self.kernels:
            if kernel in LOCAL:
                continue
            for iommu in self.iommus(kernel):
                cells = list(self.cells(iommu, kernel, lane))
                for qemu in dict.fromkeys(cell.qemu for cell in cells):
                    same = [cell for cell in cells if cell.qemu == qemu]
                    parts = list(self._parts(iommu, kernel, same))
                    for part in parts:
                        devices = tuple(dict.fromkeys(cell.device for cell in part)) if len(parts) > 1 else ()
                        machines.append(Machine(iommu, kernel, qemu, part, devices))
        return machines

    def _parts(self, iommu: str, kernel: str, cells: list[Cell]) -> Iterator[tuple[Cell, ...]]:
        """Share the cells of one IOMMU and kernel between several machines, as `several_machines` says."""
        for entry in self._data.get("several_machines", ()):
            if (entry["iommu"], entry["kernel"]) == (iommu, kernel):
                for devices in entry["devices"]:
                    if part := tuple(cell for cell in cells if cell.device in devices):
                        yield part
                    cells = [cell for cell in cells if cell.device not in devices]
        if cells:
            yield tuple(cells)

    def cells(self, iommu: str, kernel: str, lane: Lane = Lane.SLOW) -> Iterator[Cell]:
        """Yield the cells of one IOMMU and kernel, named as in the file. Those of one device follow each other."""
        blocks = [
            block for block in self._data["kernels"][kernel] if iommu in block["iommus"] and _lane_of(block) <= lane
        ]
        seen: set[Cell] = set()
        for device in dict.fromkeys(device for block in blocks for device in block["devices"]):
            for block in blocks:
                if device in block["devices"]:
                    for mode in block["modes"]:
                        cell = Cell(iommu, mode, device, kernel, block.get("qemu", ""))
                        if cell not in seen:
                            seen.add(cell)
                            yield cell

    def minutes(self, cell: Cell) -> float:
        """Return what a cell, its kernel named as in the file, takes in minutes on a quiet machine; 0 if unknown."""
        for block in self._data["kernels"].get(cell.kernel, ()):
            if (
                cell.iommu in block["iommus"]
                and cell.mode in block["modes"]
                and cell.device in block["devices"]
                and cell.qemu == block.get("qemu", "")
            ):
                return float(block.get("minutes", 0))
        return 0.0

    def absent(self, cell: Cell) -> dict[str, str]:
        """Ability -> the reason why the cell lacks it."""
        return {absence.ability: absence.reason for absence in self.absences if self._matches(cell, absence.where)}

    def _matches(self, cell: Cell, where: Mapping[str, Any]) -> bool:
        """Return whether the selectors name the cell; `newest` means each kernel without a name in the file, and `debug`."""
        is_newest = cell.kernel == DEBUG or cell.kernel not in self._data["kernels"]
        other = cell._replace(kernel=NEWEST) if is_newest else cell
        return cell.matches(where) or other.matches(where)

    def left_out(self, cell: Cell, needs: Needs) -> str | None:
        """Why a test with these needs does not run in a cell; None when it does.

        :raises ValueError: an ability that is not in the list
        """
        if unknown := set(needs.abilities) - set(self.abilities):
            raise ValueError(f"no such ability in {FILE.name}: {', '.join(sorted(unknown))}")
        about = [where for where in needs.only if self._matches(cell, where)]
        if needs.only and not about:
            return "is about other cells"
        for cells, reason in self.by_name_only:
            if cell.matches(cells) and not any(cells.keys() <= where.keys() for where in about):
                return reason
        absent = self.absent(cell)
        return next((f"{ability}: {absent[ability]}" for ability in needs.abilities if ability in absent), None)

    def expected(self, cell: Cell, tests: Mapping[str, Needs]) -> set[str]:
        """The tests, of all that there are, that must have run in a cell."""
        return {name for name, needs in tests.items() if self.left_out(cell, needs) is None}

    def unused_abilities(self, tests: Iterable[Needs]) -> set[str]:
        used = {ability for needs in tests for ability in needs.abilities}
        return set(self.abilities) - used
