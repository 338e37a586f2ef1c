"""Which devices the mock's host has: those of the machine of scripts/vm, and a network card's function where the profile has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.mock.device import Device
from pyvfio.mock.driver import DRIVERS, E1000E, IGB, MLX5_VF, NETWORK_DRIVERS, NVME, PDS_VF, PORT
from pyvfio.mock.edu import Edu
from pyvfio.mock.pci import PciDevice
from pyvfio.mock.vfio_mock import VfioMock

if TYPE_CHECKING:
    from pyvfio.mock.host import Host


def populate(host: Host) -> None:
    kernel = host.kernel
    network = NETWORK_DRIVERS.get(kernel.profile.name, ())
    for driver in (*DRIVERS, *network):
        host.add_driver(driver)

    def bound(device: Device, name: str | None) -> Device:
        if name is not None:
            host.bind(device, host.drivers[device.bus, name])
        return device

    bound(Edu(kernel, "0000:00:03.0"), None)
    bound(PciDevice(kernel, "0000:00:04.0", ids=NVME, class_code=0x010802), "nvme")
    first = bound(Edu(kernel, "0000:00:05.0"), None)
    bound(Edu(kernel, "0000:00:05.1", group=first.group), None)
    bound(PciDevice(kernel, "0000:00:06.0", ids=E1000E, class_code=0x020000), "e1000e")
    bound(PciDevice(kernel, "0000:00:07.0", ids=IGB, class_code=0x020000), "igb")
    bound(PciDevice(kernel, "0000:00:08.0", ids=PORT, class_code=0x060400), "pcieport")
    bound(PciDevice(kernel, "0000:00:09.0", ids=PORT, class_code=0x060400), "pcieport")
    bound(Edu(kernel, "0000:01:00.0", parent="0000:00:08.0"), None)
    first = bound(PciDevice(kernel, "0000:02:00.0", parent="0000:00:09.0", ids=E1000E, class_code=0x020000), "e1000e")
    bound(Edu(kernel, "0000:02:00.1", parent="0000:00:09.0", group=first.group), None)
    if network:
        ids = MLX5_VF if kernel.profile.name == "mlx5" else PDS_VF
        bound(PciDevice(kernel, "0000:41:10.1", ids=ids, class_code=0x020000), network[1].name)
    for index in range(2):
        bound(VfioMock(kernel, f"vfio-mock.{index}"), "vfio-mock")
