# SPDX-License-Identifier: MIT
"""The matrix of cells: which tests must run in which cells, and the problems that scripts/matrix reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vmtest.lanes import Lane, suites
from vmtest.matrix import LOCAL, Cell, Machine, Matrix, Needs
from vmtest.report import expected_cells

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


def test_a_test_is_left_out_where_its_ability_is_absent() -> None:
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


@pytest.mark.parametrize("lane", Lane)
def test_the_machines_of_a_lane_have_each_of_its_cells_once(lane: Lane) -> None:
    matrix = Matrix()
    machines = matrix.machines(lane)
    run = [cell for machine in machines for cell in machine.cells]
    kernels = [kernel for kernel in matrix.kernels if kernel not in LOCAL]
    wanted = [
        cell for kernel in kernels for iommu in matrix.iommus(kernel) for cell in matrix.cells(iommu, kernel, lane)
    ]
    assert sorted(run) == sorted(wanted)
    assert len(set(run)) == len(run)
    for machine in machines:
        assert {(cell.iommu, cell.kernel, cell.qemu) for cell in machine.cells} == {machine[:3]}


def test_a_lane_includes_the_lanes_before_it() -> None:
    matrix = Matrix()
    quick, full, slow = (
        {cell for machine in matrix.machines(lane) for cell in machine.cells}
        for lane in (Lane.QUICK, Lane.FULL, Lane.SLOW)
    )
    assert quick < full < slow
    with pytest.raises(ValueError, match="the lanes are quick, full, slow"):
        Lane.parse("fast")


def test_a_block_names_lane_minutes_and_qemu_of_its_cells() -> None:
    blocks = [
        {"iommus": ["amd"], "modes": ["type1"], "devices": ["edu"], "lane": "quick", "minutes": 2},
        {"iommus": ["amd"], "modes": ["type1"], "devices": ["edu", "nvme"], "lane": "slow", "minutes": 3},
        {"iommus": ["amd"], "modes": ["type1"], "devices": ["edu"], "qemu": "10.0"},
    ]
    matrix = Matrix(DATA | {"kernels": {"newest": blocks}})
    default, other = Cell("amd", "type1", "edu", "newest"), Cell("amd", "type1", "edu", "newest", "10.0")
    assert matrix.machines(Lane.QUICK) == [Machine("amd", "newest", "", (default,))]
    assert matrix.machines(Lane.FULL) == [
        Machine("amd", "newest", "", (default,)),
        Machine("amd", "newest", "10.0", (other,)),
    ]
    assert [len(machine.cells) for machine in matrix.machines(Lane.SLOW)] == [2, 1]
    assert (matrix.minutes(default), matrix.minutes(default._replace(device="nvme"))) == (2, 3)
    assert str(other) == "amd/type1/edu/newest/10.0"
    assert Cell.parse(str(other)) == other


def test_a_variant_of_an_iommu_is_named_by_both_its_names() -> None:
    first_stage = Cell("intel-fs", "iommufd", "edu", "7.3")
    assert first_stage.matches({"iommu": "intel"})
    assert first_stage.matches({"iommu": ["amd", "intel-fs"]})
    assert not first_stage.matches({"iommu": "amd"})
    assert not Cell("intel", "iommufd", "edu", "7.3").matches({"iommu": "intel-fs"})


def test_a_debug_kernel_is_the_newest_for_selectors() -> None:
    matrix = Matrix()
    needs = Needs((), ({"kernel": "newest", "mode": "iommufd"},))
    assert matrix.left_out(Cell("intel", "iommufd", "edu", "debug"), needs) is None
    assert matrix.left_out(Cell("intel", "iommufd", "edu", "6.12"), needs) == "is about other cells"


def test_the_suites_have_lanes_and_either_tests_or_commands() -> None:
    assert {suite.name for suite in Matrix().suites} >= {
        "lint",
        "types",
        "unit",
        "vectors",
        "mock",
        "differential",
        "abi",
    }
    with pytest.raises(ValueError, match="suite both: give either"):
        list(
            suites({"suites": [{"name": "both", "lane": "quick", "minutes": 1, "pytest": ["a"], "commands": [["b"]]}]})
        )


def test_the_newest_kernel_is_the_newest_that_ran() -> None:
    matrix = Matrix(
        DATA | {"kernels": DATA["kernels"] | {"9.1": [{"iommus": ["amd"], "modes": ["type1"], "devices": ["edu"]}]}}
    )
    ran: dict[Cell, dict[str, Any]] = {Cell("amd", "type1", "edu", kernel): {} for kernel in ("9.1", "7.3", "7.10")}
    kernels = [cell.kernel for cell in expected_cells(matrix, ran, Lane.FULL)]
    assert kernels == ["7.10"] * (len(kernels) - 1) + ["9.1"]


def test_missing_tests_and_cells_and_stale_reasons_are_problems(tmp_path: Path) -> None:
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
    command = [sys.executable, str(ROOT / "scripts" / "matrix"), "--complete", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    problems = [line for line in ran.stdout.splitlines() if line.startswith("PROBLEM")]
    assert "PROBLEM: amd/type1v2/edu/7.3: tests/contract/test_device.py::test_x failed" in problems
    assert "PROBLEM: intel/type1v2/edu/7.3: did not run" in problems
    assert any("test_a_device_opens_and_tells_what_it_is did not run in 1 cells" in line for line in problems)
    assert any(unreached in line and "listed as out of reach, but a test saw it" in line for line in problems)
    assert not any(test in line for line in problems)
    assert any("VFIO_SET_IOMMU ok: no test saw that" in line for line in problems)
