"""The cells that the suite runs in, and what each can be expected to do: tests/matrix.toml, read."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

FILE = Path(__file__).parents[1] / "matrix.toml"
#: what the kernel of a cell is called in matrix.toml if it is the newest that there is
NEWEST = "newest"
#: and the kernel in this process, which needs no machine
IN_PROCESS = "mock"


class Cell(NamedTuple):
    """Where a test runs: one IOMMU, one mode, one device, one kernel."""

    iommu: str
    mode: str
    device: str
    kernel: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `amd/type1v2/edu/7.3`.

        :raises ValueError: there are not four words
        """
        words = text.split("/")
        if len(words) != 4 or not all(words):
            raise ValueError(f"cell {text!r}: IOMMU/MODE/DEVICE/KERNEL is needed, for example amd/type1v2/edu/7.3")
        return cls(*words)

    def matches(self, selectors: Mapping[str, Any]) -> bool:
        """Whether each of the selectors (`iommu`, `mode`, `device`, `kernel`: a word, or several) names this cell."""
        return all(
            getattr(self, field) in ([words] if isinstance(words, str) else words) for field, words in selectors.items()
        )

    def __str__(self) -> str:
        return "/".join(self)


class Needs(NamedTuple):
    """What a test needs: abilities, and the cells that it is about if not all."""

    abilities: tuple[str, ...] = ()
    only: tuple[dict[str, Any], ...] = ()


class Absence(NamedTuple):
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
    def documented(self) -> dict[str, list[str]]:
        """Request, or request and operation -> the errnos that the library's documentation names."""
        return dict(self._data.get("documented", {}))

    @property
    def unreached(self) -> dict[str, str]:
        """Request, or request and errno -> why no machine here can show it."""
        return dict(self._data.get("unreached", {}))

    def iommus(self, kernel: str) -> list[str]:
        """The IOMMUs of a kernel of the file."""
        return list(dict.fromkeys(iommu for block in self._data["kernels"][kernel] for iommu in block["iommus"]))

    def machines(self, kernel: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The machines to boot with a kernel of the file: IOMMU, and the devices of its cells if they are not all."""
        for iommu in self.iommus(kernel):
            split = next(
                (
                    one
                    for one in self._data.get("several_machines", ())
                    if (one["iommu"], one["kernel"]) == (iommu, kernel)
                ),
                None,
            )
            yield from ((iommu, tuple(devices)) for devices in (split["devices"] if split else [()]))

    def cells(self, iommu: str, kernel: str) -> Iterator[Cell]:
        """The cells of one machine, `kernel` as in the file. Those of one device follow each other."""
        blocks = [block for block in self._data["kernels"][kernel] if iommu in block["iommus"]]
        for device in dict.fromkeys(device for block in blocks for device in block["devices"]):
            for block in blocks:
                if device in block["devices"]:
                    yield from (Cell(iommu, mode, device, kernel) for mode in block["modes"])

    def absent(self, cell: Cell) -> dict[str, str]:
        """Ability -> the reason why the cell lacks it."""
        return {absence.ability: absence.reason for absence in self.absences if self._matches(cell, absence.where)}

    def _matches(self, cell: Cell, where: Mapping[str, Any]) -> bool:
        """Whether it does; `newest` means each kernel that has no name in the file."""
        other = cell if cell.kernel in self._data["kernels"] else cell._replace(kernel=NEWEST)
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
