# SPDX-License-Identifier: MIT
"""Power states and reset methods of the host's PCI functions (C17), as Linux 7.3 reports them for QEMU's e1000e and igb."""

from __future__ import annotations

import errno

import pytest

import pyvfio
from pyvfio import host, mock

E1000E, NVME, EDU = "0000:00:06.0", "0000:00:04.0", "0000:00:03.0"


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel("intel-48")


def test_a_function_that_vfio_has_sleeps_until_it_is_opened(kernel: mock.Kernel) -> None:
    assert host.device(E1000E, kernel).power_state == "D0"
    with host.bind(E1000E, "vfio-pci", kernel=kernel):
        assert host.device(E1000E, kernel).power_state == "D3hot"
        with pyvfio.open(E1000E, kernel=kernel) as device:
            assert host.device(E1000E, kernel).power_state == "D0"
            power = device.config.capability("PM")
            assert power is not None
            device.config.write16(power.offset + 4, 3)
            assert host.device(E1000E, kernel).power_state == "D3hot"
    assert host.device(E1000E, kernel).power_state == "D0"
    assert host.device("vfio-mock.0", kernel).power_state is None


def test_d3cold_can_be_forbidden(kernel: mock.Kernel) -> None:
    assert host.device(E1000E, kernel).d3cold_allowed is True
    assert host.set_d3cold_allowed(E1000E, False, kernel=kernel).d3cold_allowed is False
    assert host.set_d3cold_allowed(E1000E, True, kernel=kernel).d3cold_allowed is True
    with pytest.raises(pyvfio.Unsupported, match="no PCI function"):
        host.set_d3cold_allowed("vfio-mock.0", True, kernel=kernel)


def test_reset_methods_are_shown(kernel: mock.Kernel) -> None:
    methods = {one.address: one.reset_methods for one in host.devices(kernel) if one.bus == "pci"}
    assert methods[NVME] == ("flr",)
    assert methods[E1000E] == ("pm",)
    assert methods["0000:01:00.0"] == ("bus",)
    assert methods[EDU] == ()


def test_a_reset_method_is_chosen(kernel: mock.Kernel) -> None:
    function = mock.Function((1, 2), express=True, power_management=True, flr=True, resets=True)
    mock.Device(kernel, "0000:00:0a.0", function=function)
    assert host.set_reset_methods("0000:00:0a.0", ["pm", "flr"], kernel=kernel) == ("pm", "flr")
    assert host.set_reset_methods("0000:00:0a.0", [], kernel=kernel) == ()
    assert host.set_reset_methods("0000:00:0a.0", None, kernel=kernel) == ("flr", "pm")


def test_a_method_that_the_function_lacks_is_refused(kernel: mock.Kernel) -> None:
    with pytest.raises(pyvfio.RequestError, match="it has flr") as caught:
        host.set_reset_methods(NVME, ["bus"], kernel=kernel)
    assert caught.value.errno == errno.EINVAL
    assert host.device(NVME, kernel).reset_methods == ("flr",)
    with pytest.raises(pyvfio.Unsupported, match="no reset"):
        host.set_reset_methods(EDU, ["bus"], kernel=kernel)
    with pytest.raises(TypeError, match="methods"):
        host.set_reset_methods(NVME, "flr", kernel=kernel)


def test_a_physical_function_with_virtual_ones_stays_awake(kernel: mock.Kernel) -> None:
    address = "0000:00:0a.0"
    function = mock.Function(
        (0x8086, 0x10C9), 0x020000, express=True, power_management=True, virtual=2, virtual_device=0x10CA
    )
    physical = mock.Device(kernel, address, function=function, driver="vfio-pci")
    kernel.host.enable_sriov.value = True
    host.create_vfs(address, 2, kernel=kernel)
    for number, state in ((2, "D0"), (0, "D3hot")):
        assert physical.virtual is not None
        assert len(physical.virtual.functions) == number
        with pyvfio.open(address, vf_token="01234567-89ab-cdef-0123-456789abcdef", kernel=kernel) as device:
            power = device.config.capability("PM")
            assert power is not None
            device.config.write16(power.offset + 4, 3)
            assert host.device(address, kernel).power_state == state
        host.remove_vfs(address, kernel=kernel)
