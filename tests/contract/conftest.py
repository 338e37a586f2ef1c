# SPDX-License-Identifier: MIT
"""The options and fixtures of the contract suite: `pytest tests/contract --cell amd/type1v2/edu/7.3`, inside the machine of scripts/vm.

README.md explains how to write a test. Before the run, a test is deselected if it needs an ability that the cell lacks
(tests/matrix.toml). So no test needs to skip itself, and a test that does counts as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from vmtest.matrix import Cell, Matrix

from pyvfio.spaces.opening import Mode
from tests.contract.cells import RUN, Cells, NeedsOnly, chosen
from tests.contract.tracing import watching
from tests.fixtures import ioas, iommufd

if TYPE_CHECKING:
    from pyvfio import Device, Migration
    from pyvfio.iommufd import Ioas
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.tracing import Watch
    from tests.contract.drivers import Dma, Logger
    from tests.contract.mock_domain import MockDevice

#: Fixtures that are imported from another module.
__all__ = ["ioas", "iommufd"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cells")
    group.addoption(
        "--cell", metavar="IOMMU/MODE/DEVICE/KERNEL", action="append", default=[],
        help="where to run, with wildcards too: amd/type1v2/edu/7.3; without it in every cell of this machine",
    )  # fmt: skip
    group.addoption("--results", metavar="DIR", type=Path, help="write what was seen as JSON, a file for each cell")
    group.addoption(
        "--needs", metavar="FILE", type=Path, help="run nothing; write which tests there are, and their needs"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--vfio-device", None):
        raise pytest.UsageError(
            "tests/contract tests the library, on the devices of scripts/vm alone: it resets, unplugs and exhausts them. To test a device of "
            "this host: pyvfio check ADDRESS, or pytest --pyargs pyvfio.conformance --vfio-device ADDRESS"
        )
    config.addinivalue_line("markers", "require(ability, ...): runs where tests/matrix.toml lists no absence of these")
    config.addinivalue_line("markers", "only(iommu=, mode=, device=, kernel=): is about these cells alone")
    if config.option.needs:
        config.pluginmanager.register(NeedsOnly(config.option.needs))
        return
    from tests.contract import guest

    def cells() -> list[Cell]:
        return chosen(Matrix(), config.option.cell, guest.IOMMU, guest.KERNEL)

    config.pluginmanager.register(Cells(cells, config.option.results))


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cell(pytestconfig: pytest.Config) -> Cell:
    """The cell that the tests run in: `.iommu`, `.mode`, `.device`, `.kernel`."""
    return pytestconfig.stash[RUN].cell


@pytest.fixture(scope="session")
def mode(cell: Cell) -> str:
    return cell.mode


@pytest.fixture(scope="session")
def machine(cell: Cell) -> Iterator[Kernel]:
    """The cell's kernel. All tests of the cell share it."""
    from tests.contract import guest

    if not guest.is_here(cell.kernel) or guest.IOMMU not in (cell.iommu, None):
        pytest.exit(f"cell {cell} on a machine with IOMMU {guest.IOMMU}, kernel {guest.KERNEL}; see scripts/vm", 4)
    with guest.kernel_of(cell) as kernel:
        yield kernel


@pytest.fixture(scope="session")
def address(cell: Cell, machine: Kernel) -> Iterator[str]:
    """The address of the cell's device, bound to a VFIO driver."""
    from tests.contract import guest

    with guest.ready(guest.address_of(cell.device), machine, guest.driver_of(cell.device)) as found:
        yield found


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """The trace of the session's requests."""
    with watching() as watch:
        yield watch


@pytest.fixture
def kernel(request: pytest.FixtureRequest, machine: Kernel, watch: Watch) -> Iterator[Any]:
    """The cell's kernel, with its requests recorded for scripts/matrix.

    Pass it to every function that has a parameter `kernel`.
    """
    yield machine
    request.config.stash[RUN].traced(request.node.nodeid, watch)


@pytest.fixture
def bare_space(mode: Mode, kernel: Any) -> Iterator[AddressSpace]:
    """An address space in the cell's mode, with nothing attached to it."""
    import pyvfio

    with pyvfio.address_space(mode, kernel=kernel) as space:
        yield space


@pytest.fixture
def device(bare_space: AddressSpace, address: str, cell: Cell) -> Device:
    """The cell's device, open, in its own address space."""
    import pyvfio

    if cell.iommu != "none":
        return bare_space.attach(address)
    with pytest.warns(pyvfio.NoIommuWarning):
        return bare_space.attach(address, no_iommu=True)


@pytest.fixture(scope="module")
def kept(mode: Mode, address: str, machine: Kernel, watch: Watch, cell: Cell) -> Iterator[Device]:
    """The cell's device, kept open during all tests of a module: for modules that redefine the fixture `device`.

    The tests must leave the device as they found it.
    """
    import pyvfio

    with pyvfio.address_space(mode, kernel=machine) as space:
        yield space.attach(address)


@pytest.fixture
def space(device: Device) -> AddressSpace:
    """The address space that the device is attached to; nothing is mapped."""
    return device.address_space


@pytest.fixture
def dma(device: Device, cell: Cell) -> Iterator[Dma]:
    """A driver with which the device copies memory: `dma.copy(destination, source, size)`, with IOVAs."""
    from tests.contract.drivers import driver_for

    with driver_for(cell.device, device) as driver:
        yield driver


@pytest.fixture
def logger(device: Device, cell: Cell) -> Iterator[Logger]:
    """A driver of the device for tests of DMA logging: it makes the device write, sets its limits and injects failures."""
    from tests.contract.drivers import logger_for

    with logger_for(cell.device, device) as logger:
        yield logger


@pytest.fixture
def second_logger(space: AddressSpace, machine: Kernel, cell: Cell) -> Iterator[Logger]:
    """The same driver for another device of the same kind, which is in the same address space."""
    from tests.contract import guest
    from tests.contract.drivers import logger_for

    with (
        guest.ready(guest.second_address_of(cell.device), machine, guest.driver_of(cell.device)) as address,
        space.attach(address) as device,
        logger_for(cell.device, device) as logger,
    ):
        yield logger


@pytest.fixture
def migration(device: Device) -> Migration:
    """The device's migration interface. The device is in the state RUNNING."""
    return device.migration


@pytest.fixture
def mock(ioas: Ioas) -> MockDevice:
    """A device of the iommufd selftest driver, attached to `ioas`."""
    from tests.contract.mock_domain import MockDevice

    return MockDevice(ioas)


@pytest.fixture
def other(machine: Kernel) -> Iterator[Callable[..., str]]:
    """A function that binds another device of the machine to vfio-pci, and returns its address: `other("e1000e")`, `other("0000:00:05.1")`."""
    from contextlib import ExitStack

    from tests.contract import guest

    with ExitStack() as stack:

        def ready(which: str) -> str:
            name = guest.address_of(which) if which in (*guest.DEVICES.values(), guest.MOCK) else which
            return stack.enter_context(guest.ready(name, machine))

        yield ready
