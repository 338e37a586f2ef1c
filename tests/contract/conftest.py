"""One suite, any cell: `pytest tests/contract --cell amd/type1v2/edu/7.3`, inside the machine of scripts/vm.

README.md tells how a test is written. What a test needs and a cell lacks (tests/matrix.toml) leaves the test out before it
runs; therefore a test that skips itself is a failure here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from matrix import Cell, Matrix, Needs
from tracing import TracingKernel

if TYPE_CHECKING:
    from drivers import Dma
    from drivers.vfio_mock import VfioMock

    from pyvfio import Device
    from pyvfio.space import AddressSpace

#: a fixture that takes an ability -> that ability
FIXTURE_NEEDS = {"dma": "dma", "logger": "dirty_log"}


# --- the cell, and which tests belong in it ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cells")
    group.addoption("--cell", metavar="IOMMU/MODE/DEVICE/KERNEL", help="where this process runs: amd/type1v2/edu/7.3")
    group.addoption("--results", metavar="FILE", type=Path, help="write what was seen as JSON, for scripts/matrix")
    group.addoption("--needs", metavar="FILE", type=Path, help="run nothing; write which tests there are, and their needs")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "require(ability, ...): runs where tests/matrix.toml lists no absence of these")
    config.addinivalue_line("markers", "only(iommu=, mode=, device=, kernel=): is about these cells alone")
    if config.option.cell:
        try:
            run = CellRun(Cell.parse(config.option.cell), config.option.results)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[RUN] = run
        config.pluginmanager.register(run)
    elif config.option.needs:
        config.pluginmanager.register(NeedsOnly(config.option.needs))
    else:
        raise pytest.UsageError("one process runs one cell: --cell amd/type1v2/edu/7.3; see tests/contract/README.md")


def needs_of(item: pytest.Item) -> Needs:
    abilities = [ability for marker in item.iter_markers("require") for ability in marker.args]
    abilities += [FIXTURE_NEEDS[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURE_NEEDS]
    return Needs(tuple(sorted(set(abilities))), tuple(marker.kwargs for marker in item.iter_markers("only")))


class NeedsOnly:
    """--needs: the tests that there are."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({item.nodeid: needs_of(item)._asdict() for item in items}, indent=1))
        items.clear()


class CellRun:
    """What happens in the cell, written to a file at the end."""

    def __init__(self, cell: Cell, file: Path | None) -> None:
        self.cell = cell
        self._file = file
        self._tests: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._trace: list[tuple[str, ...]] = []
        self._started = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        matrix = Matrix()
        for item in items:
            if reason := matrix.left_out(self.cell, needs_of(item)):
                self._left_out[item.nodeid] = reason
        out = [item for item in items if item.nodeid in self._left_out]
        items[:] = [item for item in items if item.nodeid not in self._left_out]
        config.hook.pytest_deselected(items=out)

    def traced(self, test: str, kernel: TracingKernel) -> None:
        self._trace.extend((test, *call) for call in kernel.calls)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"a test here says what it needs beforehand, and skips nothing: {reason}"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tests[report.nodeid] = "failed"
            self._messages[report.nodeid] = report.longreprtext[-4000:]
        elif report.when == "call":
            self._tests.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self._file is not None:
            result = {
                "cell": str(self.cell),
                "exit": int(exitstatus),
                "seconds": round(time.monotonic() - self._started, 1),
                "tests": self._tests,
                "left_out": self._left_out,
                "messages": self._messages,
                "trace": self._trace,
            }
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(result))


RUN = pytest.StashKey[CellRun]()


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cell(pytestconfig: pytest.Config) -> Cell:
    """Where this runs: `.iommu`, `.mode`, `.device`, `.kernel`."""
    return pytestconfig.stash[RUN].cell


@pytest.fixture(scope="session")
def mode(cell: Cell) -> str:
    return cell.mode


@pytest.fixture(scope="session")
def address(cell: Cell) -> Iterator[str]:
    """The address of the cell's device, which is in the hands of a VFIO driver."""
    import guest

    if (cell.iommu, cell.kernel) != (guest.IOMMU, guest.KERNEL):
        pytest.exit(f"cell {cell} on a machine with IOMMU {guest.IOMMU}, kernel {guest.KERNEL}; see scripts/vm", 4)
    with guest.ready(guest.address_of(cell.device)) as found:
        yield found


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The kernel, which notes each request for scripts/matrix. Give it to everything that takes `kernel=`."""
    from pyvfio.kernel import LinuxKernel

    kernel = TracingKernel(LinuxKernel())
    yield kernel
    request.config.stash[RUN].traced(request.node.nodeid, kernel)


@pytest.fixture
def bare_space(mode: str, kernel: Any) -> Iterator[AddressSpace]:
    """An address space in the cell's mode, with nothing attached to it."""
    import pyvfio

    with pyvfio.address_space(mode, kernel=kernel) as space:
        yield space


@pytest.fixture
def device(bare_space: AddressSpace, address: str) -> Device:
    """The cell's device, open, in an address space of its own."""
    return bare_space.attach(address)


@pytest.fixture
def space(device: Device) -> AddressSpace:
    """The address space that the device is attached to; nothing is mapped."""
    return device.address_space


@pytest.fixture
def dma(device: Device, cell: Cell) -> Iterator[Dma]:
    """The device's small memcpy driver: `dma.copy(destination, source, size)` between two IOVAs, by the device."""
    from drivers import driver_for

    with driver_for(cell.device, device) as driver:
        yield driver


@pytest.fixture
def logger(device: Device) -> VfioMock:
    """The device as one that logs DMA: what the device writes, its limits, its failures."""
    from drivers.vfio_mock import VfioMock

    return VfioMock(device)


@pytest.fixture
def other(kernel: Any) -> Iterator[Callable[..., str]]:
    """More devices of the machine: `other("e1000e")`, `other("0000:00:05.1")` is an address in a VFIO driver's hands."""
    from contextlib import ExitStack

    import guest

    with ExitStack() as stack:

        def ready(which: str) -> str:
            name = guest.address_of(which) if which in (*guest.DEVICES.values(), guest.MOCK) else which
            return stack.enter_context(guest.ready(name))

        yield ready
