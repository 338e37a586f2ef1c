"""The matrix of cells: what must run where, and what scripts/matrix does not let pass."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from tests.contract.matrix import Cell, Matrix, Needs

ROOT = Path(__file__).parents[2]

DATA: dict[str, Any] = {
    "kernels": {
        "newest": [
            {"iommus": ["amd", "intel"], "modes": ["type1"], "devices": ["edu", "nvme"]},
            {"iommus": ["amd"], "modes": ["iommufd"], "devices": ["edu"]},
        ]
    },
    "abilities": {"dma": "it copies", "reset": "it resets"},
    "absent": [{"ability": "reset", "device": "edu", "mode": ["type1", "iommufd"], "reason": "it has none"}],
}
EDU = Cell("amd", "type1", "edu", "7.3")
NVME = Cell("amd", "type1", "nvme", "7.3")


def test_blocks_of_cells_add_up() -> None:
    matrix = Matrix(DATA)
    assert matrix.iommus("newest") == ["amd", "intel"]
    assert [str(cell) for cell in matrix.cells("amd", "newest")] == [
        "amd/type1/edu/newest",
        "amd/iommufd/edu/newest",
        "amd/type1/nvme/newest",
    ]


def test_a_test_is_left_out_where_its_ability_is_absent_with_the_reason() -> None:
    matrix = Matrix(DATA)
    assert matrix.left_out(EDU, Needs(("dma", "reset"))) == "reset: it has none"
    assert matrix.left_out(NVME, Needs(("dma", "reset"))) is None
    assert matrix.left_out(NVME, Needs((), ({"device": "edu"}, {"mode": ["type1v2"]}))) == "is about other cells"
    assert matrix.expected(EDU, {"a": Needs(("dma",)), "b": Needs(("reset",))}) == {"a"}


def test_in_some_cells_only_tests_that_name_them_run() -> None:
    matrix = Matrix(DATA | {"by_name_only": [{"iommu": "amd", "reason": "it is odd"}]})
    assert matrix.left_out(EDU, Needs(("dma",))) == "it is odd"
    assert matrix.left_out(EDU, Needs((), ({"device": "edu"},))) == "it is odd"
    assert matrix.left_out(EDU, Needs((), ({"device": "edu", "iommu": ["amd", "intel"]},))) is None
    assert matrix.left_out(EDU._replace(iommu="intel"), Needs()) is None


def test_an_ability_that_is_not_listed_is_an_error() -> None:
    with pytest.raises(ValueError, match="fly"):
        Matrix(DATA).left_out(EDU, Needs(("fly",)))
    with pytest.raises(ValueError, match="fly"):
        Matrix(DATA | {"absent": [{"ability": "fly", "reason": "no wings"}]})


@pytest.mark.parametrize("text", ["amd/type1/edu", "amd/type1//7.3", ""])
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IOMMU/MODE/DEVICE/KERNEL"):
        Cell.parse(text)


def script() -> Any:
    loader = SourceFileLoader("scripts_matrix", str(ROOT / "scripts" / "matrix"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("choice", [[], ["--newest"]])
def test_the_machines_have_each_cell_once_those_of_the_newest_kernel_first(choice: list[str]) -> None:
    command = [sys.executable, ROOT / "scripts" / "matrix", "--machines", *choice]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    machines = [(words[0], words[1], words[2:]) for words in map(str.split, lines)]
    kernels = list(dict.fromkeys(kernel for _, kernel, _ in machines))
    assert kernels == (["newest"] if choice else ["newest", "6.1", "6.12"])
    matrix = Matrix()
    run = [
        cell
        for iommu, kernel, devices in machines
        for cell in matrix.cells(iommu, kernel)
        if cell.device in (devices or [cell.device])
    ]
    assert sorted(run) == sorted(
        cell for kernel in kernels for iommu in matrix.iommus(kernel) for cell in matrix.cells(iommu, kernel)
    )


def test_the_newest_kernel_is_the_newest_that_ran_and_none_that_has_a_name() -> None:
    matrix = Matrix(
        DATA | {"kernels": DATA["kernels"] | {"9.1": [{"iommus": ["amd"], "modes": ["type1"], "devices": ["edu"]}]}}
    )
    ran = {Cell("amd", "type1", "edu", kernel): {} for kernel in ("9.1", "7.3", "7.10")}
    kernels = [cell.kernel for cell in script().expected_cells(matrix, ["newest", "9.1"], ran)]
    assert kernels == ["7.10"] * (len(kernels) - 1) + ["9.1"]
    assert {cell.kernel for cell in script().expected_cells(matrix, ["newest"], ran)} == {"7.10"}


def test_vanished_tests_missing_cells_and_stale_reasons_are_problems(tmp_path: Path) -> None:
    test = "tests/contract/test_abilities.py::test_the_abilities_are_those_that_are_listed"
    unreached = next(iter(Matrix().unreached))
    result = {
        "cell": "amd/type1v2/edu/7.3", "exit": 0, "seconds": 1, "left_out": {}, "messages": {}, "durations": {test: 1.5},
        "tests": {test: "passed", "tests/contract/test_device.py::test_x": "failed"},
        "trace": [[test, "device", unreached.split()[0], " ".join(unreached.split()[1:-1]), unreached.split()[-1]]],
    }  # fmt: skip
    if " " not in unreached:
        result["trace"] = [[test, "device", unreached, "", "ok"]]
    (tmp_path / "one.json").write_text(json.dumps(result))
    command = [sys.executable, ROOT / "scripts" / "matrix", "--complete", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    problems = [line for line in ran.stdout.splitlines() if line.startswith("PROBLEM")]
    assert "PROBLEM: amd/type1v2/edu/7.3: tests/contract/test_device.py::test_x failed" in problems
    assert "PROBLEM: intel/type1v2/edu/7.3: did not run" in problems
    assert any("test_a_device_opens_and_tells_what_it_is did not run in 1 cells" in line for line in problems)
    assert any(unreached in line and "listed as out of reach, but a test saw it" in line for line in problems)
    assert not any(test in line for line in problems)
    assert any("VFIO_SET_IOMMU ok: no test saw that" in line for line in problems)
