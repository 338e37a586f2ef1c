# SPDX-License-Identifier: MIT
"""The runner of the checks, its reports, and the drivers: on results that are made up, and on the mock."""

from __future__ import annotations

import gzip
import inspect
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvfio import mock
from pyvfio.conformance import conftest, driver, runner, test_iovas
from pyvfio.conformance.runner import Check, Results
from pyvfio.errors import Unsupported
from pyvfio.iova import IovaRange
from pyvfio.kernel import as_default
from pyvfio.mock.fs.tree import Text
from tests.cli.command import Command

VF, EDU, MOCK = "0000:41:10.1", "0000:00:03.0", "vfio-mock.0"

# KTAP


def test_ktap_of_several_groups() -> None:
    checks = (
        Check("a", "test_one", "passed", "", 0.1),
        Check("a", "test#two", "skipped", "no\n  room", 0.0),
        Check("b", "test_three", "failed", "1\n2\n3\n4", 0.0),
        Check("b", "test_four", "passed", "", 0.0),
        Check("c", "test_five", "skipped", "x", 0.0),
    )
    assert runner.ktap(Results(checks, {}, {})) == (
        "KTAP version 1\n"
        "1..3\n"
        "  KTAP version 1\n"
        "  1..2\n"
        "  ok 1 test_one\n"
        "  ok 2 testtwo # SKIP no room\n"
        "ok 1 a\n"
        "  KTAP version 1\n"
        "  1..2\n"
        "  # 1\n"
        "  # 2\n"
        "  # 3\n"
        "  not ok 1 test_three\n"
        "  ok 2 test_four\n"
        "not ok 2 b\n"
        "  KTAP version 1\n"
        "  1..1\n"
        "  ok 1 test_five # SKIP x\n"
        "ok 3 c # SKIP all of it\n"
    )


# Compare


def document(*checks: tuple[str, str, str], **parts: Any) -> dict[str, Any]:
    """Return a document of checks: each is a name, an outcome and a reason."""
    listed = [{"group": "g", "name": name, "outcome": outcome, "reason": reason} for name, outcome, reason in checks]
    return {"about": {}, "limits": {}, "kernel_options": {}, "checks": listed, **parts}


def test_a_comparison_names_what_differs() -> None:
    old = document(
        ("a", "passed", ""),
        ("b", "failed", "x"),
        ("d", "passed", ""),
        about={"kernel": "1", "driver": "d"},
        limits={"most": 3},
    )
    new = document(
        ("a", "failed", "long\n reason"), ("b", "failed", "y"), ("c", "passed", ""),
        about={"kernel": "2", "driver": "d"}, limits={"least": 0}, kernel_options={"CONFIG_VFIO": "y"},
    )  # fmt: skip
    assert runner.compared(old, new) == [
        "about: kernel: 1 -> 2",
        "limits: least: nothing -> 0",
        "limits: most: 3 -> nothing",
        "kernel_options: CONFIG_VFIO: nothing -> y",
        "g: a: passed -> failed (long reason)",
        "g: c: not there -> passed",
        "g: d: passed -> not there",
    ]
    assert runner.compared(new, new) == []
    assert runner.compared({}, document()) == []
    (line,) = runner.compared(document(("a", "passed", "")), document(("a", "failed", "x" * 300)))
    assert line == f"g: a: passed -> failed ({'x' * 200})"


# Kernel options


def test_options_of_the_kernel_are_read_from_boot_or_proc() -> None:
    kernel = mock.Kernel("mlx5")
    text = "# CONFIG_VFIO_X is not set\nCONFIG_VFIO=m\nCONFIG_IOMMU_API=y\nCONFIG_PCI=y\nXCONFIG_VFIO=y\nCONFIG_VFIO_S=a=b\n"
    expected = {"CONFIG_VFIO": "m", "CONFIG_IOMMU_API": "y", "CONFIG_VFIO_S": "a=b"}
    release = "9.9-x"
    kernel.tree.add("/proc/sys/kernel/osrelease", Text(f"{release}\n".encode()))
    assert runner.kernel_options(kernel) == {}
    kernel.tree.add("/proc/config.gz", Text(gzip.compress(text.encode())))
    assert runner.kernel_options(kernel) == expected
    kernel.tree.add(f"/boot/config-{release}", Text(b"CONFIG_VFIO=y\n"))
    assert runner.kernel_options(kernel) == {"CONFIG_VFIO": "y"}
    kernel.tree.remove(f"/boot/config-{release}")
    kernel.tree.add("/proc/config.gz", Text(b"damaged"))
    assert runner.kernel_options(kernel) == {}


# Times


def test_times_are_shown_as_a_distribution() -> None:
    assert test_iovas.spread([3e-6, 1e-6, 2e-6]) == "least 1.0 us, median 2.0 us, 99 % 3.0 us, most 3.0 us"
    times = [number * 1e-6 for number in range(1000, 0, -1)]
    assert test_iovas.spread(times) == "least 1.0 us, median 501.0 us, 99 % 991.0 us, most 1000.0 us"
    assert test_iovas.spread([5e-7]) == "least 0.5 us, median 0.5 us, 99 % 0.5 us, most 0.5 us"


# Running


def test_only_the_groups_asked_for_run_in_order() -> None:
    kernel = mock.Kernel("mlx5")
    found = runner.run(VF, kernel, groups=("reset", "identity"))
    assert list(dict.fromkeys(one.group for one in found.checks)) == ["reset", "identity"]
    assert all(one.seconds >= 0 for one in found.checks)
    assert {one.reason for one in found.checks if one.outcome == "passed"} == {""}
    assert {one.reason for one in found.checks if one.outcome == "skipped"} <= {
        "resets or migrates the device: --destructive", "the device cannot be hot reset",
    }  # fmt: skip
    assert found.about["device"] == VF
    assert found.failed == []


def test_nothing_that_changes_the_device_runs_unasked() -> None:
    usual = {name: one.default for name, one in inspect.signature(runner.run).parameters.items()}
    assert (usual["write"], usual["destructive"], usual["dma_faults"]) == (False, False, False)
    assert (usual["groups"], usual["driver"], usual["mode"], usual["junit"]) == ((), None, None, None)


def test_each_option_lets_its_checks_run(tmp_path: Path) -> None:
    kernel = mock.Kernel("mlx5")

    def skipped(group: str, **options: Any) -> set[str]:
        found = runner.run(MOCK if group == "dma" else VF, kernel, groups=(group,), **options)
        return {one.reason for one in found.checks if one.outcome == "skipped"}

    assert skipped("config") == {"writes registers: --write"}
    assert skipped("config", write=True) == set()
    assert "resets or migrates the device: --destructive" in skipped("reset")
    assert "resets or migrates the device: --destructive" not in skipped("reset", destructive=True)
    drive = "pyvfio.vfio_mock:VfioMock"
    faults = "makes DMA faults, which a strict host may not survive: --dma-faults"
    assert skipped("dma") == {"needs a driver: --driver MODULE:CLASS", faults}
    assert skipped("dma", driver=drive) == {faults, "the driver has no send_msi()"}
    assert skipped("dma", driver=drive, dma_faults=True) == {"the driver has no send_msi()"}


def test_the_mode_of_the_run_is_that_asked_for() -> None:
    found = runner.run(MOCK, mock.Kernel("mlx5"), groups=("iovas",), mode="type1v2")
    assert "type1v2" in found.about.values() or found.about.get("mode") == "type1v2"
    with pytest.raises(ValueError, match=r"mode must be one of iommufd, .*, not 'nothing'"):
        runner.run(MOCK, mock.Kernel("mlx5"), groups=("iovas",), mode="nothing")


def test_the_environment_is_as_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--nonsense")
    monkeypatch.setenv("PYTEST_PLUGINS", "nothing_there")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    before = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    with runner._own_environment():
        assert "PYTEST_ADDOPTS" not in os.environ
        assert "PYTEST_PLUGINS" not in os.environ
        assert os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
        os.environ["LEFT"] = "1"
    assert {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} == before


def test_without_pytest_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(Unsupported, match=r"pip install 'pyvfio\[check\]'"):
        runner.run(VF, mock.Kernel("mlx5"))


@pytest.mark.parametrize("name", ["address", "kernel"])
def test_arguments_of_a_run_are_checked(name: str) -> None:
    values: dict[str, Any] = {"address": VF, "kernel": mock.Kernel("mlx5"), name: 1}
    with pytest.raises(TypeError, match=name):
        runner.run(**values)


def test_a_run_of_the_vector_suite_collects_no_checks() -> None:
    for given, ignored in ((None, None), ("FILE", True)):
        config: Any = SimpleNamespace(getoption=lambda name, usual, given=given: given)
        assert conftest.pytest_ignore_collect(config) is ignored


# The recorder


class Report:
    """A report of pytest."""

    def __init__(self, when: str, outcome: str, longrepr: Any = None, nodeid: str = "test_a.py::test_x") -> None:
        self.when, self.outcome, self.longrepr, self.nodeid = when, outcome, longrepr, nodeid
        self.duration = 1.23456789
        self.user_properties: list[tuple[str, Any]] = []
        self.failed = outcome == "failed"


def recorded(*reports: Any) -> runner._Recorder:
    recorder = runner._Recorder()
    for report in reports:
        recorder.pytest_runtest_logreport(report)
    return recorder


def test_the_result_of_a_check_is_that_of_its_call() -> None:
    found = recorded(Report("setup", "passed"), Report("call", "passed"), Report("teardown", "passed"))
    assert found.checks == [Check("a", "test_x", "passed", "", 1.234568)]


def test_a_failure_of_the_tear_down_replaces_the_result() -> None:
    found = recorded(Report("call", "passed"), Report("teardown", "failed", "left open"))
    assert found.checks == [Check("a", "test_x", "failed", "left open", 1.234568)]
    other = Report("call", "passed", nodeid="test_b.py::test_x")
    assert (
        len(recorded(Report("call", "passed"), other, Report("setup", "failed", "x", "test_b.py::test_y")).checks) == 3
    )


def test_a_skip_has_its_reason_alone() -> None:
    (check,) = recorded(Report("setup", "skipped", ("file", 3, "Skipped: no MSI"))).checks
    assert (check.outcome, check.reason) == ("skipped", "no MSI")
    (check,) = recorded(Report("call", "skipped", "xfail")).checks
    assert check.reason == "xfail"


def test_properties_are_limits_or_facts() -> None:
    report = Report("call", "passed")
    report.user_properties = [("limit:most", 3), ("vfio_driver", 5), ("other", 1)]
    found = recorded(report)
    assert (found.limits, found.about) == ({"most": 3}, {"driver": "5"})


def test_errors_of_the_collection_are_kept() -> None:
    recorder = runner._Recorder()
    for outcome in ("passed", "failed"):
        recorder.pytest_collectreport(Report("collect", outcome, f"was {outcome}"))  # type: ignore[arg-type]  # what it uses of a report
    assert recorder.errors == ["was failed"]


# Drivers


class Copies:
    """A driver with only a copy."""

    reach = IovaRange(0, 99)

    def __init__(self, device: object = None) -> None:
        self.device = device
        self.made: list[Any] = []

    def copy(self, destination: int, source: int, size: int) -> None:
        self.made.append((destination, source, size))


class Starts:
    """A driver that starts copies, sends interrupts, and does not tell of faults."""

    reach = IovaRange(1, 2)
    tells = False

    def __init__(self, device: object = None) -> None:
        self.made: list[Any] = []

    def memcpy_start(self, destination: int, source: int, size: int) -> None:
        self.made.append((destination, source, size))

    def memcpy_wait(self, timeout: float) -> None:
        self.made.append(timeout)

    def send_msi(self) -> None:
        self.made.append("msi")

    def __enter__(self) -> Starts:
        self.made.append("entered")
        return self

    def __exit__(self, *_: object) -> None:
        self.made.append("left")


def test_a_driver_with_only_a_copy_is_adapted() -> None:
    inner = Copies()
    made = driver.Copying(inner)
    made.copy(1, 2, 3)
    made.memcpy_start(4, 5, 6)
    made.memcpy_wait(1.0)
    assert inner.made == [(1, 2, 3), (4, 5, 6)]
    assert (made.reach, made.tells, made.sends_msi) == (Copies.reach, True, False)


def test_a_driver_that_starts_copies_is_waited_for() -> None:
    inner = Starts()
    made = driver.Copying(inner)
    made.copy(1, 2, 3)
    made.copy(1, 2, 3, timeout=2.5)
    made.send_msi()
    assert inner.made == [(1, 2, 3), 10.0, (1, 2, 3), 2.5, "msi"]
    assert (made.reach, made.tells, made.sends_msi) == (Starts.reach, False, True)


def test_a_driver_that_is_a_context_manager_is_left() -> None:
    device: Any = object()
    with driver.driving(f"{__name__}:Starts", device) as made:
        assert made.inner.made == ["entered"]
    assert made.inner.made == ["entered", "left"]
    with driver.driving(f"{__name__}:Copies", device) as made:
        assert made.inner.device is device


def test_drivers_are_found_by_module_or_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> object:
            return Starts

    def entry_points(group: str, name: str | None = None) -> list[Entry]:
        assert group == "pyvfio.drivers"
        return [Entry(one) for one in ("first", "second") if name in (None, one)]

    monkeypatch.setattr(driver, "entry_points", entry_points)
    assert driver.load("second") is Starts
    with pytest.raises(
        ValueError, match="no driver is named 'third'; write MODULE:CLASS, or one of those installed: first, second"
    ):
        driver.load("third")
    (tmp_path / "a_driver_of_here.py").write_text("class Here: pass\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert driver.load("a_driver_of_here:Here").__name__ == "Here"
    for name in ("a_driver_of_here:There", "no_such_module_here:X", "a_driver_of_here:"):
        with pytest.raises(ValueError, match=f"the driver {name} cannot be loaded: "):
            driver.load(name)
    assert sys.path == before
    with pytest.raises(TypeError, match="name"):
        driver.load(3)  # type: ignore[arg-type]  # a wrong type


# check


def test_check_lists_what_failed_and_with_verbose_all(pyvfio: Command, kernel: mock.Kernel) -> None:
    out = pyvfio("check", VF, "--only", "features").out
    assert "features: test_features_come_together" not in out
    assert "passed: features: test_features_come_together (" in pyvfio("check", VF, "--only", "features", "-v").out
    assert out.splitlines()[-1].startswith("conformant") or "passed what was run" in out.splitlines()[-1]


def test_check_writes_its_files_and_compares(pyvfio: Command, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    document = pyvfio.json(
        "check",
        VF,
        "--only",
        "modes",
        "-o",
        str(old),
        "--ktap",
        str(tmp_path / "ktap"),
        "--junit",
        str(tmp_path / "junit"),
    )
    assert document["changes"] is None
    assert document["options"] == {
        "write": False,
        "destructive": False,
        "dma_faults": False,
        "driver": None,
        "mode": None,
    }
    assert old.read_text().endswith("}\n")
    assert (tmp_path / "ktap").read_text().startswith("KTAP version 1\n1..1\n")
    assert "<testsuite" in (tmp_path / "junit").read_text()
    out = pyvfio("check", VF, "--only", "modes", "--compare", str(old)).out
    assert "\nno change\n" in out
    out = pyvfio("check", EDU, "--only", "identity", "--compare", str(old)).out
    assert re.search(r"^\d+ changes:\n  about: \w+: nothing -> ", out, re.MULTILINE)
    for text in ("[]", '{"checks": 1}', "{"):
        old.write_text(text)
        ran = pyvfio("check", VF, "--compare", str(old))
        assert (ran.code, f"{old} is not a document of `pyvfio check`" in ran.err) == (2, True), ran


def test_a_device_that_this_process_keeps_bound_is_used_as_it_is(kernel: mock.Kernel, edu: str) -> None:
    with as_default(kernel):
        assert runner.run(edu, kernel, groups=("modes",)).failed == []
    from pyvfio import host

    assert host.device(edu, kernel).driver == "vfio-pci"
