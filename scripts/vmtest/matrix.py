# SPDX-License-Identifier: MIT
"""Read tests/matrix.toml: the cells in which the contract suite runs, their machines, and the abilities of each cell."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from vmtest.lanes import Lane, Suite, suites

FILE = Path(__file__).resolve().parents[2] / "tests" / "matrix.toml"
#: Name in matrix.toml of the newest kernel that is available.
NEWEST = "newest"
#: Name of the newest kernel with debugging options.
DEBUG = "debug"
#: Name of the mock: the kernel inside the process, which needs no virtual machine.
IN_PROCESS = "mock"
#: Name of the mock with the cell's device served by another process over vfio-user.
SERVED = "vfio-user"
#: The kernels that need no virtual machine.
LOCAL = (IN_PROCESS, SERVED)


class Cell(NamedTuple):
    """A cell of the matrix: one combination of IOMMU, mode, device and kernel, in which tests run.

    :ivar qemu: the version of QEMU, as `scripts/vm --qemu` takes it; empty for the default
    """

    iommu: str
    mode: str
    device: str
    kernel: str
    qemu: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `amd/type1v2/edu/7.3`, or `amd/type1v2/edu/7.3/10.0` for a cell with a particular QEMU.

        :raises ValueError: the text does not have four or five words
        """
        words = text.split("/")
        if len(words) not in (4, 5) or not all(words):
            raise ValueError(f"cell {text!r}: IOMMU/MODE/DEVICE/KERNEL is needed, for example amd/type1v2/edu/7.3")
        return cls(*words)

    def matches(self, selectors: Mapping[str, Any]) -> bool:
        """Whether every selector (`iommu`, `mode`, `device`, `kernel`: a word, or several) matches this cell.

        A variant of an IOMMU, such as `intel-fs`, is matched by its own name and by the part before the hyphen.
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
        """The name of the file with this cell's results."""
        return f"{str(self).replace('/', '-')}.json"


class Machine(NamedTuple):
    """A virtual machine to boot, and the cells that run in it one after the other.

    :ivar kernel: the kernel's name in tests/matrix.toml
    :ivar qemu: the version of QEMU, as in `Cell`
    :ivar devices: the devices of its cells, if the cells of other devices run in another machine; else empty
    """

    iommu: str
    kernel: str
    qemu: str
    cells: tuple[Cell, ...]
    devices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in messages: IOMMU, kernel, and also QEMU and devices if other machines have the same IOMMU and kernel."""
        words = [self.iommu, self.kernel]
        if self.qemu:
            words.append(f"qemu-{self.qemu}")
        return " ".join((*words, *self.devices))


class Needs(NamedTuple):
    """The requirements of a test: abilities, and selectors of the cells in which it runs (empty for all)."""

    abilities: tuple[str, ...] = ()
    only: tuple[dict[str, Any], ...] = ()


def _lane_of(block: Mapping[str, Any]) -> Lane:
    return Lane.parse(block.get("lane", str(Lane.FULL)))


class Absence(NamedTuple):
    """An ability that some cells lack, and the reason."""

    ability: str
    reason: str
    where: dict[str, Any]


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text())


class Matrix:
    """The contents of tests/matrix.toml."""

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self._data = data if data is not None else _read()
        #: Abilities, each with its meaning.
        self.abilities: dict[str, str] = self._data["abilities"]
        self.absences = [
            Absence(ability, entry["reason"], {k: v for k, v in entry.items() if k in Cell._fields})
            for entry in self._data["absent"]
            for ability in ([entry["ability"]] if isinstance(entry["ability"], str) else entry["ability"])
        ]
        #: (cells, reason): in these cells only those tests run whose mark names all of the cells' selectors.
        self.by_name_only: list[tuple[dict[str, Any], str]] = [
            ({k: v for k, v in entry.items() if k in Cell._fields}, entry["reason"])
            for entry in self._data.get("by_name_only", ())
        ]
        if unknown := {absence.ability for absence in self.absences} - set(self.abilities):
            raise ValueError(f"{FILE.name}: absent, but no ability: {', '.join(sorted(unknown))}")

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels in the file."""
        return list(self._data["kernels"])

    @property
    def unreached(self) -> dict[str, str]:
        """Requests, or requests with an errno, that no test machine can show; each with the reason."""
        return dict(self._data.get("unreached", {}))

    @property
    def suites(self) -> list[Suite]:
        """The suites that run on the host."""
        return list(suites(self._data))

    def iommus(self, kernel: str) -> list[str]:
        """Return the IOMMUs of a kernel in the file."""
        return list(dict.fromkeys(iommu for block in self._data["kernels"][kernel] for iommu in block["iommus"]))

    def machines(self, lane: Lane) -> list[Machine]:
        """Return the virtual machines of a lane, in the order in which to boot them."""
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
        """Distribute the cells of one IOMMU and kernel over several machines, as the table `several_machines` says."""
        for entry in self._data.get("several_machines", ()):
            if (entry["iommu"], entry["kernel"]) == (iommu, kernel):
                for devices in entry["devices"]:
                    if part := tuple(cell for cell in cells if cell.device in devices):
                        yield part
                    cells = [cell for cell in cells if cell.device not in devices]
        if cells:
            yield tuple(cells)

    def cells(self, iommu: str, kernel: str, lane: Lane = Lane.SLOW) -> Iterator[Cell]:
        """Yield the cells of one IOMMU and kernel, with the kernel's name in the file.

        The cells of one device are adjacent.
        """
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
        """Return the duration of a cell on an idle machine in minutes; 0 if unknown.

        The cell has the kernel's name in the file.
        """
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
        """Return the abilities that a cell lacks, each with the reason."""
        return {absence.ability: absence.reason for absence in self.absences if self._matches(cell, absence.where)}

    def _matches(self, cell: Cell, where: Mapping[str, Any]) -> bool:
        """Whether the selectors match the cell.

        `newest` matches `debug` and every kernel whose name is not in the file.
        """
        is_newest = cell.kernel == DEBUG or cell.kernel not in self._data["kernels"]
        other = cell._replace(kernel=NEWEST) if is_newest else cell
        return cell.matches(where) or other.matches(where)

    def left_out(self, cell: Cell, needs: Needs) -> str | None:
        """Return the reason why a test with these needs does not run in a cell; None if it runs.

        :raises ValueError: an ability is not in the file
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
        """Return the names of those tests that must run in a cell."""
        return {name for name, needs in tests.items() if self.left_out(cell, needs) is None}

    def unused_abilities(self, tests: Iterable[Needs]) -> set[str]:
        used = {ability for needs in tests for ability in needs.abilities}
        return set(self.abilities) - used
