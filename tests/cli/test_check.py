# SPDX-License-Identifier: MIT
"""check: the profiles conform, planted faults are found, and the reports are valid by their own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pyvfio.conformance import runner
from pyvfio.conformance.runner import Check, Results
from tests.cli.command import validate

ROOT = Path(__file__).parents[2]
VF, MOCK, EDU = "0000:41:10.1", "vfio-mock.0", "0000:00:03.0"
DRIVER = "pyvfio.vfio_mock:VfioMock"


def check(kernel: str, *arguments: str, code: int | None = 0, **environment: str) -> tuple[Any, str]:
    """Run `pyvfio check` as a program; return its document and what it printed on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "pyvfio", "--kernel", kernel, "--json", "check", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **environment},
    )
    assert code is None or done.returncode == code, (done.stdout[-3000:], done.stderr)
    document = json.loads(done.stdout)
    validate(document, "error" if "error" in document else "check")
    return document, done.stderr


def failures(document: Any) -> dict[str, str]:
    """Return the checks that failed, with their reasons."""
    return {f"{one['group']}: {one['name']}": one["reason"] for one in document["checks"] if one["outcome"] == "failed"}


@pytest.mark.parametrize(
    ("kernel", "address"),
    [
        ("mock:mlx5", VF),
        ("mock:pds", VF),
        ("mock:amd", EDU),
        ("mock:intel-39", "0000:00:04.0"),
        ("mock:virtio", "0000:00:07.0"),
        ("mock:selftest", EDU),
    ],
)
def test_the_profiles_conform(kernel: str, address: str) -> None:
    document, _ = check(kernel, address, "--write", "--destructive")
    assert failures(document) == {}
    assert document["verdict"] == "passed"  # there is no driver
    assert document["about"]["device"] == address


@pytest.mark.parametrize("kernel", ["mock:mlx5", "mock:selftest"])
def test_with_a_driver_the_verdict_is_conformant(kernel: str) -> None:
    document, _ = check(kernel, MOCK, "--write", "--destructive", "--dma-faults", "--driver", DRIVER)
    assert failures(document) == {}
    assert document["limits"]["largest log"] == "2^42 bytes"
    assert document["verdict"] == "conformant"


def test_a_pci_device_with_its_driver() -> None:
    """edu copies through its own buffer, with the driver of scripts/examples."""
    document, _ = check("mock:amd", EDU, "--only", "dma", "--driver", "examples.edu:Edu", "--dma-faults")
    assert failures(document) == {}
    assert sum(one["outcome"] == "passed" for one in document["checks"]) >= 5


def test_a_planted_fault_is_found() -> None:
    """test_checks_can_fail.py has every fault, and runs the checks in its own process."""
    document, _ = check("mock:tests.cli.faulty:planted", VF, "--destructive", code=1, PLANTED="state_is_not_kept")
    assert document["verdict"] == "failed"
    assert "migration: test_every_state_is_reached_and_left" in failures(document)


def test_without_a_fault_nothing_is_found() -> None:
    """The wrapper for faults itself causes no failures."""
    document, _ = check("mock:tests.cli.faulty:planted", VF, "--destructive", PLANTED="none")
    assert failures(document) == {}


def test_reports_are_valid_by_their_own_tools(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("json", "junit", "ktap")}
    document, _ = check(
        "mock:mlx5",
        VF,
        "--only",
        "identity",
        "--only",
        "config",
        "-o",
        files["json"],
        "--junit",
        files["junit"],
        "--ktap",
        files["ktap"],
    )
    assert json.loads(Path(files["json"]).read_text()) == document
    cases = ElementTree.parse(files["junit"]).getroot().iter("testcase")
    assert sum(1 for _ in cases) == len(document["checks"])
    assert "vfio_driver" in Path(files["junit"]).read_text()
    lines = Path(files["ktap"]).read_text().splitlines()
    assert lines[:2] == ["KTAP version 1", "1..2"]
    assert [line for line in lines if line.startswith("ok ")] == ["ok 1 identity", "ok 2 config"]
    assert any("# SKIP writes registers" in line for line in lines)


def test_compare_says_what_changed(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    check("mock:mlx5", VF, "--only", "dirty_log", "-o", str(old))
    document, _ = check("mock:mlx5", VF, "--only", "dirty_log", "--compare", str(old))
    assert [line for line in document["changes"] if "us" not in line] == []
    document, _ = check(
        "mock:tests.cli.faulty:planted",
        VF,
        "--only",
        "dirty_log",
        "--compare",
        str(old),
        code=1,
        PLANTED="log_of_a_size_refused",
    )
    assert any("test_the_largest_total: passed -> failed" in line for line in document["changes"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((VF, "--compare", "/nonexistent"), 1),
        ((VF, "--compare", "README.md"), 2),
        ((VF, "--driver", "nothing:X"), 2),
        ((VF, "--driver", "nothing"), 2),
        (("0000:77:00.0",), 3),
        (("0000:02:00.1",), 1),
        (("0000:00:08.0",), 1),
    ],
)
def test_what_cannot_be_checked_is_told(arguments: tuple[str, ...], code: int) -> None:
    document, err = check("mock:mlx5", *arguments, code=code)
    assert document["error"]["message"]
    assert "Traceback" not in err


def test_the_users_pytest_configuration_stays_out(tmp_path: Path) -> None:
    document, _ = check(
        "mock:mlx5", VF, "--only", "identity", PYTEST_ADDOPTS="--nonsense -k nothing", PYTEST_PLUGINS="nothing_there"
    )
    assert len(document["checks"]) == 8


def test_the_checks_are_tests_for_pytest_too() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--pyargs",
            "pyvfio.conformance",
            "--vfio-device",
            VF,
            "-k",
            "identity",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYVFIO_KERNEL": "mock:mlx5"},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_the_device_is_bound_for_the_checks_and_restored() -> None:
    code = (
        "from pyvfio import host, mock; from pyvfio.cli import program; kernel = mock.Kernel('amd')\n"
        f"assert program.main(['check', '{EDU}', '--only', 'identity'], kernel=kernel) == 0\n"
        f"assert host.device('{EDU}', kernel).driver is None and host.bindings(kernel) == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Verdicts


def results(*outcomes: tuple[str, str]) -> Results:
    """Return results of these outcomes and reasons."""
    return Results(tuple(Check("g", str(index), *one, 0.0) for index, one in enumerate(outcomes)), {}, {})


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([("passed", "")], "conformant"),
        ([("passed", ""), ("skipped", "the device has no MIGRATION")], "conformant"),
        ([("passed", ""), ("skipped", "needs a driver: --driver MODULE:CLASS")], "passed"),
        ([("passed", ""), ("skipped", "writes registers: --write")], "passed"),
        ([("passed", ""), ("failed", "x")], "failed"),
        ([], "failed"),
    ],
)
def test_verdicts(outcomes: list[tuple[str, str]], verdict: str) -> None:
    assert results(*outcomes).verdict == verdict


def test_ktap_escapes_what_would_be_a_directive() -> None:
    text = runner.ktap(results(("failed", "a\nb"), ("skipped", "c\nd")))
    assert "  not ok 1 0" in text
    assert "  # a\n  # b\n" in text
    assert "  ok 2 1 # SKIP c d\n" in text
    assert text.endswith("not ok 1 g\n")
