# SPDX-License-Identifier: MIT
"""Run the checks on a device, in this process and with their own configuration of pytest, and collect the results."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvfio._core import arguments as checked
from pyvfio.errors import Unsupported
from pyvfio.host.sysfs import attribute
from pyvfio.kernel import Kernel, as_default
from pyvfio.spaces.opening import MODES

if TYPE_CHECKING:
    import pytest

HERE = Path(__file__).parent
#: the checks by group, in the order in which they run
GROUPS = (
    "identity",
    "regions",
    "config",
    "interrupts",
    "iovas",
    "features",
    "dirty_log",
    "migration",
    "reset",
    "modes",
    "dma",
)
_LIMIT = "limit:"
#: words in the reason of a check that was skipped because no driver was given
_NEEDS_DRIVER = "needs a driver"


class Check(NamedTuple):
    """The result of one check.

    :ivar group: its group, of :data:`GROUPS`
    :ivar name: its name
    :ivar outcome: `passed`, `failed`, `skipped`
    :ivar reason: why it failed or was skipped; empty if it passed
    :ivar seconds: the time that it took
    """

    group: str
    name: str
    outcome: str
    reason: str
    seconds: float


class Results(NamedTuple):
    """The results of a run.

    :ivar checks: the result of each check
    :ivar limits: the limits that were found, name -> value
    :ivar about: the device, its driver, IOMMU, kernel and firmware, name -> value
    """

    checks: tuple[Check, ...]
    limits: dict[str, Any]
    about: dict[str, str]

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [one for one in self.checks if one.outcome == "failed"]

    @property
    def verdict(self) -> str:
        """`failed`; `conformant` if every check ran that applies to the device; else `passed`."""
        if self.failed or not self.checks:
            return "failed"
        left_out = [one for one in self.checks if one.outcome == "skipped" and _by_choice(one.reason)]
        return "passed" if left_out else "conformant"


def _by_choice(reason: str) -> bool:
    """Whether a check was skipped because an option or a driver was not given, and not because the device lacks something."""
    return _NEEDS_DRIVER in reason or ": --" in reason


class _Recorder:
    """The pytest plugin that collects the results."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.limits: dict[str, Any] = {}
        self.about: dict[str, str] = {}
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the result of a check: of the call, or of a set-up or tear-down that did not pass."""
        if report.when != "call" and report.outcome == "passed":
            return
        file, _, name = report.nodeid.partition("::")
        group = Path(file).stem.removeprefix("test_")
        outcome = report.outcome
        check = Check(group, name, outcome, _reason(report), round(report.duration, 6))
        if self.checks and self.checks[-1][:2] == check[:2]:
            self.checks.pop()  # replace the result of the call by the failure of the tear-down
        self.checks.append(check)
        for key, value in report.user_properties:
            if key.startswith(_LIMIT):
                self.limits[key.removeprefix(_LIMIT)] = value
            elif key.startswith("vfio_"):
                self.about[key.removeprefix("vfio_")] = str(value)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record an error of the collection."""
        if report.failed:
            self.errors.append(str(report.longrepr))


def _reason(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    if report.outcome == "skipped":
        where = report.longrepr
        return str(where[2]).removeprefix("Skipped: ") if isinstance(where, tuple) else str(where)
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash is not None else str(report.longrepr)


def run(
    address: str,
    kernel: Kernel,
    *,
    groups: Sequence[str] = (),
    write: bool = False,
    destructive: bool = False,
    dma_faults: bool = False,
    driver: str | None = None,
    mode: str | None = None,
    junit: str | None = None,
) -> Results:
    """Run the checks on a device.

    :param groups: only these, of :data:`GROUPS`
    :param write: write registers
    :param destructive: reset and migrate
    :param dma_faults: make DMA faults
    :param driver: MODULE:CLASS, see :func:`pyvfio.conformance.driver.load`
    :param mode: the mode of the address space; None for the best that the kernel has
    :param junit: a file for the results in JUnit's XML
    :raises Unsupported: pytest is not installed
    :raises ValueError: there is no such mode, or the device cannot be checked; the text says why
    """
    try:
        import pytest
    except ImportError:
        raise Unsupported("the checks are pytest tests: pip install 'pyvfio[check]'") from None
    address = checked.string(address, "address")
    kernel = checked.instance(kernel, "kernel", Kernel, "a pyvfio.Kernel")
    if mode is not None:
        checked.choice(mode, "mode", MODES)
    arguments = [
        "-c",
        str(HERE / "pytest.ini"),
        f"--rootdir={HERE}",
        "-q",
        "-p",
        "pyvfio.pytest_plugin",
        "--vfio-device",
        address,
    ]
    options = {"--vfio-write": write, "--vfio-destructive": destructive, "--vfio-dma-faults": dma_faults}
    arguments += [option for option, wanted in options.items() if wanted]
    for option, value in (
        ("--vfio-driver", driver),
        ("--vfio-mode", mode),
        ("--junit-xml", junit and os.path.abspath(junit)),
    ):
        if value:
            arguments += [option, value]
    arguments += [str(HERE / f"test_{group}.py") for group in groups or GROUPS]
    recorder = _Recorder()
    said = io.StringIO()
    with as_default(kernel), _own_environment(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(arguments, plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if recorder.errors or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        raise ValueError(
            "; ".join(recorder.errors)
            or (lines[-1] if lines else f"pytest ended with {code!r}").removeprefix("ERROR: ")
        )
    return Results(tuple(recorder.checks), recorder.limits, recorder.about)


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Run the block without the user's configuration of pytest: no options, no plugins, not even installed ones."""
    before = dict(os.environ)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def kernel_options(kernel: Kernel) -> dict[str, str]:
    """Return the kernel's build options for VFIO and IOMMUs; empty if they are unknown."""
    release = attribute(kernel, "/proc/sys/kernel/osrelease") or ""
    text = attribute(kernel, f"/boot/config-{release}") or ""
    with contextlib.suppress(OSError, EOFError):
        text = text or gzip.decompress(kernel.read_file("/proc/config.gz")).decode()
    options = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_") and "=" in line)
    return {name: value for name, value in options.items() if "VFIO" in name or "IOMMU" in name}


def ktap(results: Results) -> str:
    """Return the results in the Kernel Test Anything Protocol, version 1: a subtest for each group."""
    results = checked.instance(results, "results", Results)
    groups = list(dict.fromkeys(one.group for one in results.checks))
    lines = ["KTAP version 1", f"1..{len(groups)}"]
    for number, group in enumerate(groups, 1):
        checks = [one for one in results.checks if one.group == group]
        lines += ["  KTAP version 1", f"  1..{len(checks)}"]
        for index, one in enumerate(checks, 1):
            state = "not ok" if one.outcome == "failed" else "ok"
            line = f"  {state} {index} {one.name.replace('#', '')}"
            if one.outcome == "skipped":
                line += f" # SKIP {_one_line(one.reason)}"
            elif one.outcome == "failed":
                lines += [f"  # {text}" for text in one.reason.splitlines()[:3]]
            lines.append(line)
        state = "not ok" if any(one.outcome == "failed" for one in checks) else "ok"
        skipped = " # SKIP all of it" if all(one.outcome == "skipped" for one in checks) else ""
        lines.append(f"{state} {number} {group}{skipped}")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the differences between two documents of `pyvfio check --json`, a line each.

    :param old: the earlier document
    """
    old, new = checked.instance(old, "old", dict), checked.instance(new, "new", dict)
    lines = []
    for what in ("about", "limits", "kernel_options"):
        before, after = old.get(what, {}), new[what]
        lines += [
            f"{what}: {name}: {before.get(name, 'nothing')} -> {after.get(name, 'nothing')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
    was = {(one["group"], one["name"]): one for one in old.get("checks", [])}
    now = {(one["group"], one["name"]): one for one in new["checks"]}
    for key in sorted({*was, *now}):
        outcomes = [side[key]["outcome"] if key in side else "not there" for side in (was, now)]
        if outcomes[0] != outcomes[1]:
            reason = _one_line(now[key]["reason"]) if key in now else ""
            lines.append(
                f"{key[0]}: {key[1]}: {outcomes[0]} -> {outcomes[1]}" + (f" ({reason[:200]})" if reason else "")
            )
    return lines
