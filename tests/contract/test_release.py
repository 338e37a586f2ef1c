# SPDX-License-Identifier: MIT
"""Devices that are taken away from a program that uses them: unbound, unplugged, or with an error."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import host
from pyvfio._abi import lib
from pyvfio.spaces.opening import Mode
from tests.contract import guest
from tests.contract.drivers import edu_vfio_pci
from tests.contract.monitor import Monitor, monitor
from tests.contract.process import held
from tests.contract.processes import in_another_process, writing

if TYPE_CHECKING:
    from pyvfio import Device
    from pyvfio.irq import Vector
    from pyvfio.spaces.base import AddressSpace
    from pyvfio.vfio_mock import VfioMock

PAGE = 4096
PLUGGABLE = "0000:01:00.0"
#: Seconds within which the first request counts as immediate. The kernel repeats it every ten; a busy host needs some
#: for a line of Python.
ASKED_AT_ONCE = 8
BELOW_PORT2 = "0000:02:00.0"
pytestmark = pytest.mark.require("linux")
# The kernel's request to release a device does not depend on the IOMMU.
by_group_and_by_cdev = pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="edu", kernel="newest")


def request_of(device: Device) -> Vector:
    (request,) = device.irqs[lib.VFIO_PCI_REQ_IRQ_INDEX].enable()
    return request


def asked_within(request: Vector, limit: float = 30) -> float:
    """Wait until the kernel asks for the device to be released, and return the seconds."""
    begun = time.monotonic()
    request.wait(limit)
    return time.monotonic() - begun


def told(changes: host.Changes, action: str, limit: float = 30) -> bool:
    """Whether the kernel reports an action (`add`, `remove`, ...) for the pluggable device within a time limit in seconds."""
    end = time.monotonic() + limit
    while (left := end - time.monotonic()) > 0:
        change = changes.wait(left)
        if change is not None and (change.action, change.address) == (action, PLUGGABLE):
            return True
    return False


@contextlib.contextmanager
def plugged_in(qemu: Monitor) -> Iterator[None]:
    """Plug the pluggable device in again at the end of the block, if necessary."""
    try:
        yield
    finally:
        with host.Changes() as changes:
            if not os.path.exists(f"/sys/bus/pci/devices/{PLUGGABLE}"):
                with contextlib.suppress(RuntimeError):  # only the kernel removed the device: QEMU still has it
                    qemu.execute("device_add", driver="edu", id="pluggable", bus="port1", addr="0")
                Path("/sys/bus/pci/rescan").write_text("1")
                assert os.path.exists(f"/sys/bus/pci/devices/{PLUGGABLE}") or told(changes, "add")
        assert host.device(PLUGGABLE).driver is None


@pytest.fixture
def qemu() -> Iterator[Monitor]:
    with monitor() as qemu:
        yield qemu


# --- unbinding --------------------------------------------------------------------------------------------------------


@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="vfio-mock", kernel="newest")
class TestUnbinding:
    @pytest.fixture
    def driver(self, address: str) -> Iterator[Path]:
        """The sysfs folder of the device's driver. After the test the device is bound to it again."""
        driver = Path("/sys/bus/platform/drivers/vfio-mock")
        yield driver
        if host.device(address).driver is None:
            (driver / "bind").write_text(address)

    def test_a_device_that_logs_under_load_is_given_back(
        self, driver: Path, device: Device, logger: VfioMock, space: AddressSpace, address: str
    ) -> None:
        mapping = space.alloc(64 * PAGE, 0x10_0000)
        memory = device.regions[2].mmap(0x1000)
        request = request_of(device)
        with device.dirty_log([mapping.range]) as log:
            logger.start("TOUCH", "REPEAT", iova=mapping.iova, length=mapping.size, stride=PAGE)
            with writing(address, driver / "unbind") as unbinding:
                seconds = asked_within(request)
                print(f"asked after {seconds:.3f} s")
                assert seconds < ASKED_AT_ONCE
                # The device works until it is closed.
                assert log.read().count() == 64
                assert memory.read32(0) == 0
                device.close()
                assert unbinding.wait(30) == 0
        gone = host.device(address)
        assert (gone.driver, gone.vfio, gone.cdev) == (None, None, None)
        assert host.holders_of(address) == []

    def test_a_program_that_does_not_listen_is_asked_again(self, driver: Path, device: Device, address: str) -> None:
        request = request_of(device)
        with writing(address, driver / "unbind") as unbinding:
            request.wait(30)
            # The kernel repeats its request after ten seconds, or when a signal interrupts the unbinding process. After
            # the signal, that process continues to wait, uninterruptibly.
            unbinding.terminate()
            request.wait(5)
            assert host.holders_of(address) != []
            assert unbinding.poll() is None
            device.close()
            assert unbinding.wait(30) == -signal.SIGTERM
        assert host.device(address).driver is None

    def test_a_program_that_is_killed_lets_go(self, driver: Path, address: str, mode: Mode) -> None:
        def use() -> None:
            from pyvfio.vfio_mock import VfioMock

            device = pyvfio.open(address, mode=mode)
            mapping = device.address_space.alloc(16 * PAGE)
            log = device.dirty_log([mapping.range])
            VfioMock(device).start("TOUCH", "REPEAT", iova=mapping.iova, length=mapping.size, stride=PAGE)
            while log.read().count() >= 0:
                time.sleep(0.01)

        with in_another_process(use) as program:
            limit = time.monotonic() + 30
            while not host.holders_of(address) and time.monotonic() < limit:
                time.sleep(0.05)
            time.sleep(0.3)
            with writing(address, driver / "unbind") as unbinding:
                program.kill()
                assert unbinding.wait(30) == 0
        assert host.device(address).vfio is None


@by_group_and_by_cdev
class TestBindsEnd:
    def test_it_waits_for_a_program_that_closes_when_asked(self, mode: Mode) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(host.bind(PLUGGABLE, "vfio-pci", timeout=240))
            ready, told = os.pipe()

            def use() -> None:
                with pyvfio.open(PLUGGABLE, mode=mode) as device:
                    request = request_of(device)
                    device.config.bus_master = True
                    device.address_space.alloc(1 << 20)
                    os.write(told, b"x")
                    request.wait(240)

            with in_another_process(use) as program:
                os.read(ready, 1)
                begun = time.monotonic()
                stack.close()
                seconds = time.monotonic() - begun
                print(f"bind() ended after {seconds:.3f} s")
                # The first request was enough: the kernel would repeat it after ten seconds.
                assert seconds < 10
                assert program.join(60) == 0
            os.close(ready)
            os.close(told)
        assert host.device(PLUGGABLE).driver is None
        assert PLUGGABLE not in {left.address for left in host.bindings()}


# --- unplugging -------------------------------------------------------------------------------------------------------


@by_group_and_by_cdev
class TestUnplugging:
    @contextlib.contextmanager
    def used(self, mode: Mode, kernel: Any) -> Iterator[tuple[Device, Vector]]:
        """A device that is open, with mappings, during a transfer. After the test nothing of it may remain."""
        before = held()
        with host.bind(PLUGGABLE, "vfio-pci") as bound, pyvfio.open(PLUGGABLE, mode=mode, kernel=kernel) as device:
            bar = device.regions[0].mmap()
            mapping = device.address_space.alloc(1 << 20, 0x10_0000)
            device.config.bus_master = True
            device.irqs.msi.enable()
            request = request_of(device)
            # Start a transfer to memory. It takes edu 100 ms.
            for register, value in ((0x80, 0x40000), (0x88, mapping.iova), (0x90, 2048), (0x98, 3)):
                bar.write64(register, value)
            nodes = (bound.device.cdev, bound.device.group_path)
            yield device, request
        assert not any(os.path.exists(node) for node in nodes if node)
        assert held() == before

    def gone(self) -> None:
        # The kernel reports the removal shortly before the folder in sysfs disappears.
        limit = time.monotonic() + 60
        while os.path.exists(f"/sys/bus/pci/devices/{PLUGGABLE}") and time.monotonic() < limit:
            time.sleep(0.02)
        with pytest.raises(OSError, match=f"no device {PLUGGABLE}") as caught:
            host.device(PLUGGABLE)
        assert caught.value.errno == errno.ENODEV
        assert PLUGGABLE not in {one.address for one in host.devices()}

    def test_by_the_kernel(self, qemu: Monitor, mode: Mode, kernel: Any) -> None:
        with plugged_in(qemu), self.used(mode, kernel) as (device, request):
            path = Path(host.device(PLUGGABLE).path, "remove")
            with writing("1", path) as removal:
                seconds = asked_within(request)
                print(f"asked after {seconds:.3f} s")
                assert seconds < ASKED_AT_ONCE
                assert device.regions[0].read32(0) == 0x010000ED
                device.close()
                assert removal.wait(30) == 0
            self.gone()

    def test_by_the_machine(self, qemu: Monitor, mode: Mode, kernel: Any) -> None:
        with plugged_in(qemu), host.Changes() as changes, self.used(mode, kernel) as (device, request):
            qemu.execute("device_del", id="pluggable")
            seconds = asked_within(request)
            print(f"asked after {seconds:.3f} s")
            assert seconds < ASKED_AT_ONCE
            device.close()
            assert told(changes, "remove")
            self.gone()
        with host.bind(PLUGGABLE, "vfio-pci"), pyvfio.open(PLUGGABLE, mode=mode, kernel=kernel) as again:
            assert again.regions[0].read32(0) == 0x010000ED

    def test_the_list_of_devices_tells_it(self, qemu: Monitor) -> None:
        with plugged_in(qemu), host.Changes() as changes:
            qemu.execute("device_del", id="pluggable")
            assert told(changes, "remove")
            self.gone()
            qemu.execute("device_add", driver="edu", id="pluggable", bus="port1", addr="0")
            assert told(changes, "add")
            assert PLUGGABLE in {one.address for one in host.devices()}


@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="edu-vfio-pci", kernel="newest")
def test_a_device_that_logs_is_unplugged(qemu: Monitor, address: str, mode: Mode, kernel: Any) -> None:
    """The fixture `address` only loads the driver: the device that is unplugged is another one."""
    before = held()
    driver = guest.driver_of(guest.EDU)
    with plugged_in(qemu), host.Changes() as changes:
        with host.bind(PLUGGABLE, driver) as bound, pyvfio.open(PLUGGABLE, mode=mode, kernel=kernel) as device:
            mapping = device.address_space.alloc(16 * PAGE, 0x10_0000)
            request = request_of(device)
            with edu_vfio_pci.driver(device) as edu, device.dirty_log([mapping.range]) as log:
                edu.start_write(mapping.iova + 5 * PAGE, 8)
                qemu.execute("device_del", id="pluggable")
                assert asked_within(request) < ASKED_AT_ONCE
                # The device works until it is closed.
                while edu.moving:
                    pass
                edu.touch_each([mapping.iova + 7 * PAGE])
                assert list(log.read().pages()) == [mapping.iova + page * PAGE for page in (5, 7)]
                edu.start_write(mapping.iova, 8)
                device.close()
            nodes = (bound.device.cdev, bound.device.group_path)
            assert told(changes, "remove")
        assert not any(os.path.exists(node) for node in nodes if node)
        assert PLUGGABLE not in {one.address for one in host.devices()}
    assert held() == before
    with (
        host.bind(PLUGGABLE, driver),
        pyvfio.open(PLUGGABLE, mode=mode, kernel=kernel) as again,
        edu_vfio_pci.driver(again) as edu,
        again.dirty_log([again.address_space.alloc(PAGE).range]) as log,
    ):
        assert edu.is_alive()
        assert log.read().count() == 0


# --- errors -----------------------------------------------------------------------------------------------------------


@by_group_and_by_cdev
@pytest.mark.require("bus_errors")
def test_an_error_that_the_bus_reports_reaches_the_program(
    qemu: Monitor, other: Callable[[str], str], bare_space: AddressSpace
) -> None:
    other("0000:02:00.1")
    with bare_space.attach(other(BELOW_PORT2)) as device:
        (error,) = device.irqs.err.enable()
        with pytest.raises(TimeoutError):
            error.wait(0)
        error.trigger()
        assert error.wait(10) == 1
        # Completer Abort is an uncorrectable, non-fatal error. The kernel reports an error of the root port to all
        # devices below it. QEMU's devices there send no errors themselves.
        assert qemu.human("pcie_aer_inject_error port2 COMP_ABORT").startswith("OK")
        assert error.wait(30) == 1
        assert device.config.vendor == host.device(BELOW_PORT2).vendor
