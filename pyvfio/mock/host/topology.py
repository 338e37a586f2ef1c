# SPDX-License-Identifier: MIT
"""The devices of the mock's host: those of scripts/vm, and the network card of the profiles mlx5 and pds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyvfio.mock.devices.edu import Edu
from pyvfio.mock.devices.ethernet.e1000e import E1000e
from pyvfio.mock.devices.ethernet.igb import Igb
from pyvfio.mock.devices.ethernet.wire import Wire
from pyvfio.mock.devices.network import NetworkFunction
from pyvfio.mock.devices.nvme.controller import Nvme
from pyvfio.mock.devices.vfio_mock import VfioMock
from pyvfio.mock.devices.vfio_mock.parameters import Parameters
from pyvfio.mock.host.driver import DRIVERS, MLX5, NETWORK_DRIVERS, PDS, PORT
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Function

if TYPE_CHECKING:
    from pyvfio.mock.host.host import Host


def populate(host: Host) -> None:
    kernel = host.kernel
    network = NETWORK_DRIVERS.get(kernel.profile.name, ())
    for driver in (*DRIVERS, *network):
        host.add_driver(driver)

    def bound(device: Device, name: str | None) -> Device:
        if name is not None:
            host.bind(device, host.drivers[device.bus, name])
        return device

    def plain(name: str, function: Function, driver: str, **more: Any) -> Device:
        return bound(PciDevice(kernel, name, function=function, **more), driver)

    bound(Edu(kernel, "0000:00:03.0"), None)
    bound(Nvme(kernel, "0000:00:04.0", serial="pyvfio0"), "nvme")
    first = bound(Edu(kernel, "0000:00:05.0"), None)
    bound(Edu(kernel, "0000:00:05.1", group=first.group), None)
    cards = E1000e(kernel, "0000:00:06.0", function=_CARD), Igb(kernel, "0000:00:07.0")
    bound(cards[0], "e1000e")
    bound(cards[1], "igb")
    plain("0000:00:08.0", _PORT, "pcieport")
    plain("0000:00:09.0", _PORT, "pcieport")
    bound(Edu(kernel, "0000:01:00.0", parent="0000:00:08.0"), None)
    first = E1000e(kernel, "0000:02:00.0", function=_CARD, parent="0000:00:09.0")
    bound(first, "e1000e")
    Wire(*cards, first)
    bound(Edu(kernel, "0000:02:00.1", parent="0000:00:09.0", group=first.group), None)
    if network:
        ids = MLX5 if kernel.profile.name == "mlx5" else PDS
        card = PciDevice(
            kernel,
            "0000:41:00.0",
            function=Function(
                ids, 0x020000, msix=64, express=True, resets=True, virtual=127, virtual_device=ids[1] + 1
            ),
        )
        bound(card, network[0].name)
        function = NetworkFunction(kernel, "0000:41:10.1")
        bound(function, network[1].name)
        assert card.virtual is not None
        card.virtual.adopt(function)
    parameters = Parameters(kernel.tree, kernel.profile.log)
    for index in range(2):
        bound(VfioMock(kernel, f"vfio-mock.{index}", parameters=parameters), "vfio-mock")


# In the machine of scripts/vm, a bus with an 82574L and an edu is reported by VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, but
# cannot be reset.
_CARD = replace(E1000e.function, bus_resets=False)
_PORT = Function(PORT, 0x060400, msi=1, express=True, bridge=True)
