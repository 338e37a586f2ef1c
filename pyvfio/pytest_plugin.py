# SPDX-License-Identifier: MIT
"""The pytest plugin of pyvfio, which pytest loads wherever the package is installed.

Fixtures for tests of drivers and scripts, on a kernel in this process by default, on a real device with ``--vfio-device ADDRESS``:

==================  ================================================================================
``vfio_kernel``     a new :class:`pyvfio.mock.Kernel`, or the real one; give it to ``kernel=``
``vfio_space``      an address space there
``vfio_device``     a device attached to it
==================  ================================================================================

::

    @pytest.mark.vfio(profile="mlx5")
    @pytest.mark.vfio_require("dirty_log")
    def test_three_ranges_start(vfio_device): ...

The option ``--vectors FILE`` is for pyvfio's own source. It is here, and not in tests/conftest.py alone, because pytest looks
for its configuration near the paths on the command line before it reads any conftest: a FILE elsewhere, behind an option that it
does not know yet, would send it there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace

_MARKERS = (
    "vfio(profile=, device=, mode=, **fields): the mock kernel's profile and fields of it, the device's address, and the "
    "address space's mode, for the fixtures vfio_kernel, vfio_space, vfio_device",
    "vfio_require(ability, ...): skip, with the reason, where vfio_device lacks one of these: dirty_log, intx, iommu, migration, "
    "msi, msix, pci, reset",
)
_OPTIONS = ("profile", "device", "mode")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--vfio-device` and `--vectors`."""
    group = parser.getgroup("pyvfio")
    group.addoption(
        "--vfio-device",
        metavar="ADDRESS",
        help="run the tests that use vfio_device on this device of the real kernel",
    )
    group.addoption(
        "--vectors",
        type=Path,
        metavar="FILE",
        help="in pyvfio's own source: run the vector suite, and nothing else, on FILE instead of its own copy",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the arguments of the test's marks, the nearest first."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers("vfio"):
        if marker.args:
            raise pytest.UsageError(
                f"{request.node.nodeid}: the mark vfio takes keywords only, for example profile='amd'"
            )
        found = marker.kwargs | found
    return found


@pytest.fixture
def vfio_kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel in this process, new for each test, of the mark's profile; the real one with ``--vfio-device``."""
    if request.config.getoption("--vfio-device"):
        from pyvfio.kernel import LinuxKernel

        return LinuxKernel()
    from pyvfio import mock

    marked = _marked(request)
    fields = {name: value for name, value in marked.items() if name not in _OPTIONS}
    return mock.Kernel(marked["profile"], **fields) if "profile" in marked else mock.Kernel(**fields)


@pytest.fixture
def vfio_space(request: pytest.FixtureRequest, vfio_kernel: Kernel) -> Iterator[AddressSpace]:
    """An empty address space, in the mark's mode, or the best that the kernel has."""
    import pyvfio

    with pyvfio.address_space(_marked(request).get("mode"), kernel=vfio_kernel) as space:
        yield space


@pytest.fixture
def vfio_device(request: pytest.FixtureRequest, vfio_kernel: Kernel, vfio_space: AddressSpace) -> Iterator[Device]:
    """A device attached to ``vfio_space``: the one of ``--vfio-device``, or the mark's, or the mock kernel's own choice.

    A PCI device that no VFIO driver has is given to vfio-pci for the test.
    """
    from pyvfio import host

    address = request.config.getoption("--vfio-device") or _marked(request).get("device") or _usual(vfio_kernel)
    found = host.device(address, kernel=vfio_kernel)
    with contextlib.ExitStack() as stack:
        if found.vfio is None and found.bus == "pci":
            stack.enter_context(host.bind(found.address, "vfio-pci", kernel=vfio_kernel))
        device = stack.enter_context(vfio_space.attach(address))
        for marker in request.node.iter_markers("vfio_require"):
            for ability in marker.args:
                if reason := _lacks(device, ability):
                    pytest.skip(reason)
        yield device


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reject the mark `vfio_require` on a test that does not use `vfio_device`."""
    if item.get_closest_marker("vfio_require") and "vfio_device" not in getattr(item, "fixturenames", ()):
        raise pytest.UsageError(
            f"{item.nodeid}: the mark vfio_require is about vfio_device, which the test does not use"
        )


def _usual(kernel: Kernel) -> str:
    """A mock kernel's device that logs DMA: a profile named after a kind of device has one."""
    from pyvfio import host

    names = {device.address for device in host.devices(kernel)}
    return next(name for name in ("0000:41:10.1", "vfio-mock.0") if name in names)


def _lacks(device: Device, ability: str) -> str | None:
    """Return the reason why a device lacks an ability; None if it has it.

    :raises pytest.UsageError: there is no such ability
    """
    if ability not in _ABILITIES:
        raise pytest.UsageError(f"vfio_require({ability!r}): one of {', '.join(_ABILITIES)}")
    has, words = _ABILITIES[ability]
    return None if has(device) else f"{device.address} {words}"


def _has_feature(name: str) -> Callable[[Device], Any]:
    def has(device: Device) -> bool:
        from pyvfio._abi import lib

        return getattr(lib, f"VFIO_DEVICE_FEATURE_{name}") in device.features

    return has


def _has_irq(name: str) -> Callable[[Device], Any]:
    return lambda device: device.info.is_pci and getattr(device.irqs, name).count


#: ability -> what finds it out, and what is said of a device without it
_ABILITIES: dict[str, tuple[Callable[[Device], Any], str]] = {
    "dirty_log": (_has_feature("DMA_LOGGING_START"), "cannot log DMA"),
    "intx": (_has_irq("intx"), "has no legacy PCI interrupt"),
    "iommu": (lambda device: device.address_space.iova_ranges, "has no IOMMU that translates for it"),
    "migration": (_has_feature("MIGRATION"), "cannot be migrated"),
    "msi": (_has_irq("msi"), "has no MSI"),
    "msix": (_has_irq("msix"), "has no MSI-X"),
    "pci": (lambda device: device.info.is_pci, "is not a PCI device"),
    "reset": (lambda device: device.info.resettable, "has no reset of its own"),
}
