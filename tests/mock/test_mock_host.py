# SPDX-License-Identifier: MIT
"""Discovery and binding with pyvfio.host on the mock."""

from __future__ import annotations

import errno
import os
from threading import Thread

import pytest

import pyvfio
from pyvfio import IovaRange, host, mock
from pyvfio.host import journal
from pyvfio.spaces.opening import Mode

EDU, BEHIND, SHARED, BRIDGE = "0000:00:03.0", "0000:01:00.0", "0000:00:05.0", "0000:00:08.0"
PAIR = ("0000:02:00.0", "0000:02:00.1")
pytestmark = pytest.mark.vfio(profile="amd")


def test_the_host_is_that_of_the_virtual_machine(kernel: mock.Kernel) -> None:
    found = {one.address: one for one in host.devices(kernel)}
    assert BRIDGE not in found
    assert (found[EDU].vendor, found[EDU].device, found[EDU].driver) == (0x1234, 0x11E8, None)
    assert found[PAIR[0]].group == found[PAIR[1]].group
    assert found["0000:00:06.0"].vendor_name == "Intel Corporation"
    assert found["vfio-mock.0"].cdev is not None
    assert not found["vfio-mock.0"].no_iommu


def test_reserved_regions_are_the_profiles(kernel: mock.Kernel) -> None:
    regions = {(region.range, region.type) for region in host.reserved_regions(EDU, kernel)}
    assert regions == {
        (IovaRange(0xFEE00000, 0xFEEFFFFF), "msi"),
        (IovaRange(0xFD00000000, 0xFFFFFFFFFF), "reserved"),
    }
    assert host.reserved_regions("vfio-mock.0", kernel) == []


def test_binding_gives_nodes_and_puts_back_what_was_there(kernel: mock.Kernel) -> None:
    before = host.device("0000:00:06.0", kernel)
    with host.bind("0000:00:06.0", "vfio-pci", kernel=kernel) as bound:
        assert (bound.device.driver, bound.device.driver_override) == ("vfio-pci", "vfio-pci")
        assert bound.device.group_path == f"/dev/vfio/{bound.device.group}"
        assert kernel.exists(bound.device.group_path)
        assert bound.device.cdev is not None
        assert kernel.exists(bound.device.cdev)
        (binding,) = host.bindings(kernel)
        assert (binding.address, binding.previous_driver, binding.pid) == ("0000:00:06.0", "e1000e", os.getpid())
    assert host.device("0000:00:06.0", kernel) == before
    assert not kernel.exists(bound.device.group_path)
    assert host.bindings(kernel) == []


def test_what_a_killed_program_left_is_put_back(kernel: mock.Kernel) -> None:
    found = host.device(EDU, kernel)
    with journal.Journal(kernel, found.nodes) as entry:
        entry.record(journal.JournalEntry("pci", EDU, "vfio-pci", None, None, 1))
    kernel.write_file(f"{found.path}/driver_override", b"vfio-pci\n")
    kernel.write_file("/sys/bus/pci/drivers_probe", EDU.encode())
    assert host.device(EDU, kernel).driver == "vfio-pci"
    assert host.restore(kernel=kernel) == [EDU]
    assert host.device(EDU, kernel) == found


@pytest.mark.parametrize(
    ("driver", "file", "name", "error"),
    [
        ("vfio-pci", "bind", EDU, errno.ENODEV),  # neither in the driver's list of ids nor overridden
        ("vfio-pci", "bind", "nothing", errno.ENODEV),
        ("vfio-pci", "unbind", EDU, errno.ENODEV),
        ("e1000e", "bind", "0000:00:06.0", errno.EBUSY),
    ],
)
def test_a_driver_refuses(kernel: mock.Kernel, driver: str, file: str, name: str, error: int) -> None:
    with pytest.raises(OSError, match="Errno") as refused:
        kernel.write_file(f"/sys/bus/pci/drivers/{driver}/{file}", name.encode())
    assert refused.value.errno == error


def test_one_group_two_drivers_is_not_viable(kernel: mock.Kernel) -> None:
    with host.bind(PAIR[1], "vfio-pci", kernel=kernel), pytest.raises(pyvfio.NotViable):
        pyvfio.open(PAIR[1], mode="type1v2", kernel=kernel)
    with (
        host.bind(PAIR[1], "vfio-pci", kernel=kernel),
        host.bind(PAIR[0], "vfio-pci", kernel=kernel),
        pyvfio.open(PAIR[1], mode="type1v2", kernel=kernel) as device,
    ):
        assert device.group is not None
        assert device.group.viable


def test_what_this_process_has_open_is_not_unbound(kernel: mock.Kernel) -> None:
    bound = host.bind(EDU, "vfio-pci", kernel=kernel)
    bound.__enter__()
    device = pyvfio.open(EDU, kernel=kernel)
    assert [holder.pid for holder in host.holders_of(EDU, kernel)] == [os.getpid()]
    with pytest.raises(OSError, match="still open in this process"):
        bound.__exit__(None, None, None)
    device.close()
    assert host.holders_of(EDU, kernel) == []
    assert host.restore(kernel=kernel) == [EDU]


def test_unbinding_asks_by_interrupt_and_waits_for_the_close(kernel: mock.Kernel) -> None:
    kernel.write_file(f"/sys/bus/pci/devices/{EDU}/driver_override", b"vfio-pci")
    kernel.write_file("/sys/bus/pci/drivers_probe", EDU.encode())
    device = pyvfio.open(EDU, kernel=kernel)
    (request,) = device.irqs.req.enable()
    unbinding = Thread(target=kernel.write_file, args=("/sys/bus/pci/drivers/vfio-pci/unbind", EDU.encode()))
    unbinding.start()
    assert request.wait(60) >= 1
    assert unbinding.is_alive()
    assert device.regions[0].read32(0) == 0x010000ED
    device.close()
    unbinding.join(60)
    assert not unbinding.is_alive()
    assert host.device(EDU, kernel).driver is None


def test_changes_are_told(kernel: mock.Kernel) -> None:
    with host.Changes(kernel) as changes:
        with host.bind(EDU, "vfio-pci", kernel=kernel):
            pass
        told = []
        while (change := changes.wait(0)) is not None:
            if change.address == EDU:
                told.append(change.action)
        assert told == ["bind", "unbind"]


def test_an_unplugged_device_is_gone(kernel: mock.Kernel) -> None:
    kernel.host.unplug(kernel.devices[EDU])
    with pytest.raises(OSError, match="no device") as missing:
        host.device(EDU, kernel)
    assert missing.value.errno == errno.ENODEV
    assert kernel.devices.get(EDU) is None


def test_hot_reset_of_a_bus_needs_all_of_it(kernel: mock.Kernel) -> None:
    with host.bind(BEHIND, "vfio-pci", kernel=kernel), pyvfio.open(BEHIND, mode="type1v2", kernel=kernel) as device:
        assert [one.address for one in device.hot_reset_info.devices] == [BEHIND]
        device.config.bus_master = True
        device.hot_reset()
        assert device.config.bus_master
    with (
        host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open(EDU, kernel=kernel) as device,
        pytest.raises(pyvfio.Unsupported),
    ):
        _ = device.hot_reset_info


@pytest.mark.parametrize("mode", ["type1v2", "iommufd"])
def test_hot_reset_of_two_devices(kernel: mock.Kernel, mode: Mode) -> None:
    one, two = PAIR
    with (
        host.bind(one, "vfio-pci", kernel=kernel),
        host.bind(two, "vfio-pci", kernel=kernel),
        pyvfio.open(one, mode=mode, kernel=kernel) as first,
    ):
        info = first.hot_reset_info
        assert [device.address for device in info.devices] == [one, two]
        assert info.by_id == (mode == "iommufd")
        # As on the real kernel: this bus, with an 82574L and an edu, has no reset.
        with pytest.raises(pyvfio.Unsupported, match="ENOTTY"):
            first.hot_reset()


def test_a_token_that_nobody_asked_for_is_refused(kernel: mock.Kernel) -> None:
    import uuid

    token = uuid.UUID("2ab74924-c335-45f4-9b16-8569e5b08258")
    parameter = "/sys/module/vfio_mock/parameters/token"
    for mode in ("type1v2", "iommufd"):
        with pyvfio.address_space(mode, kernel=kernel) as space:
            given = str(token) if mode == "type1v2" else token.bytes
            with pytest.raises(OSError, match="Errno") as refused:
                space.attach("vfio-mock.0", vf_token=given)
            assert refused.value.errno == errno.EINVAL
            kernel.write_file(parameter, f"{token}\n".encode())
            with pytest.raises(PermissionError):
                space.attach("vfio-mock.0")
            with space.attach("vfio-mock.0", vf_token=given):
                pass
            kernel.write_file(parameter, b"\n")


def test_a_removed_device_comes_back_with_a_scan(kernel: mock.Kernel) -> None:
    before = host.device("0000:00:06.0", kernel)
    with host.Changes(kernel) as changes:
        kernel.write_file(f"{before.path}/remove", b"1")
        with pytest.raises(OSError, match="no device"):
            host.device("0000:00:06.0", kernel)
        kernel.write_file("/sys/bus/pci/rescan", b"1")
        told = []
        while (change := changes.wait(0)) is not None:
            told.append(change.action)
    assert host.device("0000:00:06.0", kernel) == before
    assert told == ["unbind", "remove", "add", "bind"]


def test_virtual_functions_are_made_bound_and_removed(kernel: mock.Kernel) -> None:
    physical = "0000:00:07.0"
    functions = host.create_vfs(physical, 2, probe=False, kernel=kernel)
    assert [one.address for one in functions] == ["0000:00:17.0", "0000:00:17.2"]
    assert {one.physical_function for one in functions} == {physical}
    assert functions[0].group != functions[1].group
    with (
        host.bind("0000:00:17.2", "vfio-pci", kernel=kernel),
        pyvfio.open("0000:00:17.2", kernel=kernel),
        pytest.raises(OSError, match="still open in this process"),
    ):
        host.remove_vfs(physical, kernel=kernel)
    with pytest.raises(OSError, match="has 2 virtual functions"):
        host.create_vfs(physical, 1, kernel=kernel)
    host.remove_vfs(physical, kernel=kernel)
    assert host.device(physical, kernel).virtual_functions == ()


def test_a_virtual_function_of_vfio_pci_needs_the_token(kernel: mock.Kernel) -> None:
    physical, token = "0000:00:07.0", "2ab74924-c335-45f4-9b16-8569e5b08258"
    with host.bind(physical, "vfio-pci", kernel=kernel), pyvfio.open(physical, kernel=kernel) as device:
        with pytest.raises(OSError, match="creates no virtual functions"):
            host.create_vfs(physical, 1, kernel=kernel)
        kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")
        device.set_vf_token(token)
        (function,) = host.create_vfs(physical, 1, kernel=kernel)
        with host.bind(function.address, "vfio-pci", kernel=kernel):
            for mode in ("type1v2", "iommufd"):
                with pytest.raises(PermissionError):
                    pyvfio.open(function.address, mode=mode, kernel=kernel)
                pyvfio.open(function.address, mode=mode, vf_token=token, kernel=kernel).close()
        host.remove_vfs(physical, kernel=kernel)


def test_vfio_mock_is_bound_by_its_name(kernel: mock.Kernel) -> None:
    driver = "/sys/bus/platform/drivers/vfio-mock"
    kernel.write_file(f"{driver}/unbind", b"vfio-mock.1")
    assert host.device("vfio-mock.1", kernel).vfio is None
    kernel.write_file(f"{driver}/bind", b"vfio-mock.1")
    assert host.device("vfio-mock.1", kernel).vfio is not None


def test_a_driver_takes_devices_of_a_new_id_at_once(kernel: mock.Kernel) -> None:
    driver = "/sys/bus/pci/drivers/vfio-pci"
    kernel.write_file(f"{driver}/new_id", b"1234 11e8")
    assert host.device(EDU, kernel).driver == "vfio-pci"
    with pytest.raises(FileExistsError):
        kernel.write_file(f"{driver}/new_id", b"1234 11e8")
    kernel.write_file(f"{driver}/remove_id", b"1234 11e8")
    with pytest.raises(OSError, match="No such device"):
        kernel.write_file(f"{driver}/remove_id", b"1234 11e8")
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.write_file(f"{driver}/new_id", b"zz")
