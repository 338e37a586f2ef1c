# SPDX-License-Identifier: MIT
"""The pytest plugin of pyvfio, which pytest loads wherever the package is installed.

Fixtures for tests of drivers and scripts, on a kernel in this process, or with ``--vfio-device ADDRESS`` on a real device:

==================  ======================================================================================
``vfio_kernel``     a :class:`pyvfio.mock.Kernel`, or the real one. For the test it is the default kernel:
                    code under test that calls ``pyvfio.open(address)`` gets it too
``vfio_space``      an address space there
``vfio_device``     a device attached to it; bound to a VFIO driver before the space is opened
==================  ======================================================================================

::

    @pytest.mark.vfio(profile="mlx5")
    @pytest.mark.vfio_require("dirty_log")
    def test_three_ranges_start(vfio_device): ...

The fixtures are new for each test. ``--vfio-scope module`` (or ``vfio_scope = module`` in the configuration) keeps them for a
module; the marks that choose them then stand in the module's ``pytestmark``. ``class`` and ``session`` likewise.

On the kernel in this process, ``vfio_device`` is the first device that has all abilities of ``vfio_require``. With ``profile=`` it is a
device behind that IOMMU if possible; without, one that logs DMA. ``device=`` names a device.

A real device is bound once for all tests: to the VFIO driver that it has already, or else to that of ``--vfio-bind``. It is restored at
the end. The journal's lock keeps other programs that use pyvfio, such as a second pytest, from binding it meanwhile; pytest-xdist is
refused. Tests with the mark ``vfio_mock_only`` or with ``profile=`` are skipped on it, and tests with ``vfio_destructive`` unless
``--vfio-destructive`` is given. PYVFIO_KERNEL=mock:PROFILE and ``--vfio-device`` together rehearse such a run.

Each test that uses ``vfio_device`` has properties in the JUnit XML, from ``vfio_kernel`` to ``vfio_mode``, that describe the kernel and
device of the test.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from pyvfio.device import Device
    from pyvfio.host import HostDevice
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace

__all__ = ["vfio_device", "vfio_kernel", "vfio_space"]

_MARKERS = (
    "vfio(profile=, device=, mode=, **fields): the mock kernel's profile and fields of it, the device's address, and the "
    "address space's mode, for the fixtures vfio_kernel, vfio_space, vfio_device",
    "vfio_require(ability, ...): skip, with the reason, where vfio_device lacks one of these: {abilities}",
    "vfio_mock_only(): skip on a real device",
    "vfio_real_only(): skip without --vfio-device",
    "vfio_writes(): of pyvfio.conformance: writes registers of configuration space",
    "vfio_dma_faults(): of pyvfio.conformance: makes the device write where it may not",
    "vfio_destructive(): resets or migrates the device, or the like; skip on a real device unless --vfio-destructive is given",
)
_OPTIONS = ("profile", "device", "mode")

Scope = Literal["function", "class", "module", "package", "session"]
_SCOPES: dict[str, type[pytest.Item | pytest.Collector] | None] = {
    "function": None,
    "class": pytest.Class,
    "module": pytest.Module,
    "session": pytest.Session,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that begin with `--vfio-`, and `--pyvfio-vectors`."""
    group = parser.getgroup("pyvfio")
    group.addoption(
        "--vfio-device", metavar="ADDRESS", help="run the tests that use vfio_device on this device of the real kernel"
    )
    group.addoption(
        "--vfio-bind",
        metavar="DRIVER",
        help="the driver that --vfio-device is bound to for the tests; without it, the VFIO driver that it has, else its bus's own",
    )
    group.addoption("--vfio-mode", metavar="MODE", help="the mode of vfio_space where the mark names none")
    group.addoption(
        "--vfio-destructive", action="store_true", help="run the tests marked vfio_destructive on a real device too"
    )
    for option, text in (
        ("--vfio-write", "for pyvfio.conformance: write registers of configuration space, and restore them"),
        ("--vfio-dma-faults", "for pyvfio.conformance: make the device write where it may not"),
    ):
        group.addoption(option, action="store_true", help=text)
    group.addoption(
        "--vfio-driver", metavar="MODULE:CLASS", help="for pyvfio.conformance: a driver that makes the device do DMA"
    )
    group.addoption(
        "--vfio-scope", choices=list(_SCOPES), help="how long vfio_kernel, vfio_space and vfio_device live (function)"
    )
    parser.addini("vfio_scope", "what --vfio-scope is without the option", default="function")
    # This option is for pyvfio's own tests. It cannot be in tests/conftest.py: pytest looks for its configuration near the paths on the
    # command line before it reads any conftest, and would take the FILE behind an unknown option for such a path.
    group.addoption(
        "--pyvfio-vectors",
        type=Path,
        metavar="FILE",
        help="in pyvfio's own source: run the vector suite, and nothing else, on FILE instead of its own copy",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; refuse options that cannot work before any test runs."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker.replace("{abilities}", ", ".join(sorted(_ABILITIES))))
    if config.getini("vfio_scope") not in _SCOPES:
        raise pytest.UsageError(f"vfio_scope: {config.getini('vfio_scope')!r} is not one of {', '.join(_SCOPES)}")
    if not (address := config.getoption("--vfio-device")):
        for option in ("--vfio-bind", "--vfio-destructive"):
            if config.getoption(option):
                raise pytest.UsageError(f"{option} is about a real device; name it with --vfio-device ADDRESS")
        return
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("--vfio-device: a device has one user at a time; run without pytest-xdist (-n 0)")
    _check_device(config, address)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --pyvfio-vectors ignore the conformance checks, which are in the package; tests/conftest.py ignores the other tests."""
    return (config.getoption("--pyvfio-vectors") is not None and collection_path == Path(__file__).parent) or None


def _check_device(config: pytest.Config, address: str) -> None:
    """Refuse a device that cannot be opened, and say what to do."""
    from pyvfio import host, kernel

    try:
        found = host.device(address, kernel.default())
        if driver := config.getoption("--vfio-bind") or (None if found.vfio else _vfio_driver(found)):
            host.bind(found, driver, dry_run=True)
        in_the_way = host.examine(found) if found.vfio else []
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--vfio-device {address}: {error}") from None
    if in_the_way:
        raise pytest.UsageError(f"--vfio-device {address}: {in_the_way[0]}")


def pytest_report_header(config: pytest.Config) -> str:
    """Return the header line that names the kernel and the device of the fixtures."""
    import pyvfio

    if not config.getoption("--vfio-device"):
        return f"pyvfio: {pyvfio.__version__}, on kernels in this process; a real device with --vfio-device ADDRESS"
    words = ", ".join(f"{name} {value}" for name, value in _about_host(config).items())
    return f"pyvfio: {pyvfio.__version__}, on {words}"


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Return lines that name the tests on a mock profile that was never compared with hardware."""
    from pyvfio.mock.machine.profile import PROFILES

    if config.getoption("--vfio-device"):
        return []
    used = Counter(
        name
        for item in items
        if (
            name := next(
                (mark.kwargs["profile"] for mark in item.iter_markers("vfio") if "profile" in mark.kwargs), None
            )
        )
    )
    return [
        f"pyvfio: {count} of the tests are on mock:{name}, a profile that was never compared with hardware"
        for name, count in sorted(used.items())
        if name in PROFILES and not PROFILES[name].compared
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that are not for the kind of kernel at hand."""
    real = config.getoption("--vfio-device")
    for item in items:
        if reason := _not_here(item, real, destructive=bool(config.getoption("--vfio-destructive"))):
            item.add_marker(pytest.mark.skip(reason=reason))


def _not_here(item: pytest.Item, real: str | None, *, destructive: bool) -> str | None:
    """Return why a test is not for the kernel at hand; None if it is."""
    if not real:
        return "needs a real device: --vfio-device ADDRESS" if item.get_closest_marker("vfio_real_only") else None
    if item.get_closest_marker("vfio_mock_only"):
        return "is for the kernel in this process only"
    if item.get_closest_marker("vfio_destructive") and not destructive:
        return "may disturb the device: --vfio-destructive"
    marked = {key: value for mark in item.iter_markers("vfio") for key, value in mark.kwargs.items()}
    if mocks := sorted(set(marked) - {"device", "mode"}):
        return f"is for a kernel in this process with {', '.join(f'{name}={marked[name]!r}' for name in mocks)}"
    if marked.get("device", real) != real:
        return f"is for the device {marked['device']}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse marks that would have no effect."""
    fixtures = getattr(item, "fixturenames", ())
    for marker in item.iter_markers("vfio_require"):
        if not marker.args:
            _refuse(item, "the mark vfio_require names no ability")
        for ability in marker.args:
            if ability not in _ABILITIES:
                _refuse(item, f"vfio_require({ability!r}): one of {', '.join(sorted(_ABILITIES))}")
        if "vfio_device" not in fixtures:
            _refuse(item, "the mark vfio_require is about vfio_device, which the test does not use")
    scope = _scope("", item.config)
    holder = _SCOPES[scope] and item.getparent(cast("type[pytest.Collector]", _SCOPES[scope]))
    for node, marker in item.iter_markers_with_node("vfio"):
        if marker.args:
            _refuse(item, "the mark vfio takes keywords only, for example profile='amd'")
        if holder is not None and node is not holder and holder in node.listchain():
            _refuse(
                item,
                f"the fixtures live as long as the {scope} (vfio_scope), and the mark vfio stands nearer; put it there",
            )


def _refuse(item: pytest.Item, reason: str) -> None:
    pytest.fail(f"{item.nodeid}: {reason}", pytrace=False)


def _scope(fixture_name: str, config: pytest.Config) -> Scope:  # noqa: ARG001  (pytest calls it by these names)
    return cast("Scope", config.getoption("--vfio-scope") or config.getini("vfio_scope"))


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the arguments of the marks, the nearest first."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers("vfio"):
        found = marker.kwargs | found
    return found


@pytest.fixture(scope=_scope)
def vfio_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A new kernel in this process, of the mark's profile; the real one with ``--vfio-device``. It is the default kernel meanwhile."""
    from pyvfio import kernel, mock

    if request.config.getoption("--vfio-device"):
        yield kernel.default()
        return
    marked = _marked(request)
    fields = {name: value for name, value in marked.items() if name not in _OPTIONS}
    made = mock.Kernel(marked["profile"], **fields) if "profile" in marked else mock.Kernel(**fields)
    with kernel.as_default(made):
        yield made


@pytest.fixture(scope="session")
def _vfio_real_device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of ``--vfio-device``, bound and locked until the end of the run."""
    from pyvfio import host

    found = host.device(request.config.getoption("--vfio-device"))
    driver = request.config.getoption("--vfio-bind") or (found.vfio and found.driver) or _vfio_driver(found)
    with host.bind(found, driver):
        yield found.address


@pytest.fixture(scope=_scope)
def _vfio_address(request: pytest.FixtureRequest, vfio_kernel: Kernel) -> Iterator[str]:
    """The address of a device that is bound to a VFIO driver."""
    if request.config.getoption("--vfio-device"):
        yield request.getfixturevalue("_vfio_real_device")
        return
    marked = _marked(request)
    required = [ability for marker in request.node.iter_markers("vfio_require") for ability in marker.args]
    with contextlib.ExitStack() as stack:
        address = marked.get("device") or _choose(vfio_kernel, required, behind_iommu="profile" in marked)
        stack.enter_context(_bound(address, vfio_kernel))
        yield address


@pytest.fixture(scope=_scope)
def vfio_space(request: pytest.FixtureRequest, vfio_kernel: Kernel, _vfio_address: str) -> Iterator[AddressSpace]:
    """An empty address space, in the mode of the mark or of ``--vfio-mode``, or the best that the kernel has."""
    import pyvfio

    mode = _marked(request).get("mode") or request.config.getoption("--vfio-mode")
    with pyvfio.address_space(mode, kernel=vfio_kernel) as space:
        yield space


@pytest.fixture(scope=_scope)
def vfio_device(vfio_space: AddressSpace, _vfio_address: str) -> Iterator[Device]:
    """A device attached to ``vfio_space``: that of ``--vfio-device``, or of the mark, or the first that has the required abilities."""
    with vfio_space.attach(_vfio_address) as device:
        yield device


@pytest.fixture(autouse=True)
def _vfio_requirements(request: pytest.FixtureRequest) -> None:
    """Skip a test whose device lacks an ability that the test requires, and record the properties for the reports."""
    if "vfio_device" not in request.fixturenames:
        return
    device: Device = request.getfixturevalue("vfio_device")
    request.node.user_properties.extend(_about_device(request.getfixturevalue("vfio_kernel"), device).items())
    for marker in request.node.iter_markers("vfio_require"):
        for ability in marker.args:
            if reason := _lacks(device, ability):
                pytest.skip(reason)


@contextlib.contextmanager
def _bound(address: str, kernel: Kernel) -> Iterator[None]:
    """Bind a PCI device to vfio-pci while the block runs, unless it has a VFIO driver."""
    from pyvfio import host

    found = host.device(address, kernel=kernel)
    if found.vfio is not None or found.bus != "pci":
        yield
        return
    with host.bind(found, "vfio-pci", kernel=kernel):
        yield


def _vfio_driver(found: HostDevice) -> str:
    from pyvfio.host import diagnosis

    return diagnosis.vfio_driver(found.bus)


#: Devices of the mock's profiles: a network card's virtual function that logs, the emulated device that logs, edu, nvme, igb.
_LOGGING_FIRST = ("0000:41:10.1", "vfio-mock.0", "0000:00:03.0", "0000:00:04.0", "0000:00:07.0")
_BEHIND_IOMMU_FIRST = ("0000:41:10.1", "0000:00:03.0", "0000:00:04.0", "0000:00:07.0", "vfio-mock.0")


def _choose(kernel: Kernel, required: Collection[str], *, behind_iommu: bool) -> str:
    """Return the first of the mock's devices that has all abilities required, or if none has, the first."""
    import pyvfio
    from pyvfio import host

    there = {device.address for device in host.devices(kernel)}
    names = [name for name in (_BEHIND_IOMMU_FIRST if behind_iommu else _LOGGING_FIRST) if name in there]
    if not required:
        return names[0]
    for name in names:
        with _bound(name, kernel), pyvfio.open(name, kernel=kernel) as device:
            if not any(_lacks(device, ability) for ability in required):
                return name
    return names[0]


def _about_host(config: pytest.Config) -> dict[str, str]:
    """Return the properties under test that are known before the device is opened: kernel, device, driver, IOMMU."""
    from pyvfio import host, kernel

    used = kernel.default()
    found = host.device(config.getoption("--vfio-device"), used)
    release = _first_line(used, "/proc/sys/kernel/osrelease")
    described = {"device": found.address, "driver": config.getoption("--vfio-bind") or found.driver or "none"}
    return {"kernel": " ".join(filter(None, (used.name, release))), **described, **_versions(used, found)}


def _about_device(kernel: Kernel, device: Device) -> dict[str, str]:
    """Return the properties of a test's report: the kernel and the device that it ran on."""
    from pyvfio import host

    found = host.device(device.address, kernel)
    release = _first_line(kernel, "/proc/sys/kernel/osrelease")
    about = {
        "kernel": " ".join(filter(None, (kernel.name, release))),
        "real": "yes" if kernel.name == "linux" else "no",
        "device": device.address,
        "driver": found.driver or "",
        **_versions(kernel, found),
        "mode": device.address_space.mode,
        "compared": "" if getattr(getattr(kernel, "profile", None), "compared", True) else "never with hardware",
    }
    return {f"vfio_{name}": value for name, value in about.items() if value}


def _versions(kernel: Kernel, found: HostDevice) -> dict[str, str]:
    """Return identity, revision, IOMMU and the host's firmware, as far as sysfs shows them."""
    identity = [_first_line(kernel, f"{found.path}/{name}").removeprefix("0x") for name in ("vendor", "device")]
    revision = _first_line(kernel, f"{found.path}/revision").removeprefix("0x")
    iommu = kernel.readlink(f"{found.path}/iommu") if kernel.exists(f"{found.path}/iommu") else ""
    versions = {
        "identity": ":".join(filter(None, identity)) + (f" (rev {revision})" if revision else ""),
        "iommu": iommu.rpartition("/")[2],
        "firmware": _first_line(kernel, "/sys/class/dmi/id/bios_version"),
    }
    return {name: value for name, value in versions.items() if value}


def _first_line(kernel: Kernel, path: str) -> str:
    from pyvfio.host.sysfs import attribute

    return attribute(kernel, path) or ""


def _lacks(device: Device, ability: str) -> str | None:
    """Return the reason why a device lacks an ability; None if it has it."""
    found = _ABILITIES[ability]
    return None if found.has(device) else f"{device.address} {found.otherwise}"


class _Ability(NamedTuple):
    """An ability that a test can require."""

    has: Callable[[Device], Any]
    otherwise: str
    """The text behind the address of a device that lacks the ability."""


def _has_feature(name: str) -> Callable[[Device], Any]:
    def has(device: Device) -> bool:
        from pyvfio._abi import lib

        return getattr(lib, f"VFIO_DEVICE_FEATURE_{name}") in device.features

    return has


def _has_irq(name: str) -> Callable[[Device], Any]:
    return lambda device: device.info.is_pci and getattr(device.irqs, name).count


def _has_pre_copy(device: Device) -> bool:
    return bool(_has_feature("MIGRATION")(device)) and device.migration.has_pre_copy


def _has_p2p(device: Device) -> bool:
    return bool(_has_feature("MIGRATION")(device)) and device.migration.has_p2p


def _has_iommu(device: Device) -> bool:
    from pyvfio import host, kernel

    used = kernel.default()
    return used.exists(f"{host.device(device.address, used).path}/iommu")


def _tracks_in_iommu(device: Device) -> bool:
    return _has_iommu(device) and device.address_space.mode == "iommufd" and device.bound.hw_info().dirty_tracking


_ABILITIES: dict[str, _Ability] = {
    "cdev": _Ability(
        lambda device: device.address_space.mode == "iommufd", "was opened by its group, not by its own node"
    ),
    "dirty_log": _Ability(_has_feature("DMA_LOGGING_START"), "cannot log DMA"),
    "dma_buf": _Ability(_has_feature("DMA_BUF"), "has no region that can be exported as a dma-buf"),
    "intx": _Ability(_has_irq("intx"), "has no legacy PCI interrupt"),
    "iommu": _Ability(_has_iommu, "has no IOMMU that translates for it"),
    "iommu_dirty": _Ability(_tracks_in_iommu, "has no IOMMU that keeps dirty bits"),
    "low_power": _Ability(_has_feature("LOW_POWER_ENTRY"), "cannot be put into low power"),
    "migration": _Ability(_has_feature("MIGRATION"), "cannot be migrated"),
    "mmap": _Ability(
        lambda device: any(region.mmappable for region in device.regions), "has no region that can be mapped"
    ),
    "msi": _Ability(_has_irq("msi"), "has no MSI"),
    "msix": _Ability(_has_irq("msix"), "has no MSI-X"),
    "p2p": _Ability(_has_p2p, "has no P2P migration states"),
    "pci": _Ability(lambda device: device.info.is_pci, "is not a PCI device"),
    "pre_copy": _Ability(_has_pre_copy, "cannot send its state while it runs"),
    "reset": _Ability(lambda device: device.info.resettable, "has no reset of its own"),
}
