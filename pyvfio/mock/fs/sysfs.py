# SPDX-License-Identifier: MIT
"""The mock's sysfs and /dev: devices, drivers and groups, and the effect of writes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio.mock.fs.tree import Link, Special, Text
from pyvfio.mock.iommufd import Iommufd
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.parameter import truth
from pyvfio.mock.vfio.container import ContainerFile

if TYPE_CHECKING:
    from pyvfio.mock.host.driver import Driver
    from pyvfio.mock.host.host import Host
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import Group


#: the kernel's name of the IOMMU in /sys/class/iommu
_IOMMUS = {
    "intel": "dmar0",
    "amd": "ivhd0",
    "smmu": "smmu3.0x0000000009050000",
    "virtio": "virtio0",
    "selftest": "selftest_iommu0",
}


#: maximum bytes of a sysfs attribute
_LONGEST = 4095


def text(value: object) -> Text:
    return Text(f"{value}\n".encode())


def shown(value: Callable[[], object], write: Callable[[bytes], None] | None = None) -> Text:
    """Return an attribute whose value is computed at each read."""

    def line() -> bytes:
        return f"{value()}\n".encode()

    return Text(line, write)


class Sysfs:
    """The sysfs and /dev files of a :class:`Host`, which calls the methods at each change."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tree = host.kernel.tree
        for path in (
            "/sys/class/vfio",
            "/sys/class/vfio-dev",
            "/sys/kernel/iommu_groups",
            "/dev/vfio/devices",
            "/proc",
        ):
            self._tree.directory(path)
        self._tree.add("/dev/iommu", Special(lambda _: host.kernel.install(Iommufd(host.kernel))))
        self._tree.add("/dev/vfio/vfio", Special(lambda _: host.kernel.install(ContainerFile(host.kernel))))
        for bus in ("pci", "platform"):
            self._tree.directory(f"/sys/bus/{bus}/devices")
            self._tree.directory(f"/sys/bus/{bus}/drivers")
            self._tree.add(f"/sys/bus/{bus}/drivers_probe", Text(None, self._probe_on(bus)))

        self._tree.add("/sys/bus/pci/rescan", Text(None, lambda data: host.rescan() if truth(data) else None))

        self._iommu = _IOMMUS.get(host.kernel.profile.iommu, f"{host.kernel.profile.iommu}0")
        self._tree.directory("/sys/class/iommu")
        if host.kernel.physical is None:
            self._tree.directory(f"/sys/devices/virtual/iommu/{self._iommu}")
            self._tree.add(f"/sys/class/iommu/{self._iommu}", Link(f"../../devices/virtual/iommu/{self._iommu}"))

    def _probe_on(self, bus: str) -> Callable[[bytes], None]:
        """Return the store function of a bus's drivers_probe."""
        return lambda data: self._host.probe(bus, _word(data))

    # Devices.

    def show_device(self, device: Device) -> None:
        tree, path = self._tree, device.path
        up = "../" * (path.count("/") - 1)
        tree.add(f"{path}/subsystem", Link(f"{up}bus/{device.bus}"))
        tree.add(f"/sys/bus/{device.bus}/devices/{device.name}", Link(f"../../..{path.removeprefix('/sys')}"))
        for name, value in device.attributes().items():
            tree.add(f"{path}/{name}", value)
        tree.add(
            f"{path}/driver_override",
            shown(lambda: device.override or "(null)", lambda data: self._set_override(device, data)),
        )
        if device.bus == "pci":
            tree.add(f"{path}/remove", Text(None, lambda data: self._host.remove(device) if truth(data) else None))
        if device.group.backed:
            tree.add(f"{path}/iommu", Link(f"{up}devices/virtual/iommu/{self._iommu}"))
        if not device.group.no_iommu:
            self.show_membership(device)

    def hide_device(self, device: Device) -> None:
        self._tree.remove(f"/sys/bus/{device.bus}/devices/{device.name}")
        self.hide_membership(device)
        self._tree.remove(device.path)

    def show_membership(self, device: Device) -> None:
        """Add the links between a device and its group."""
        group = f"kernel/iommu_groups/{device.group.number}"
        self._link(device, "iommu_group", group, f"{group}/devices")

    def _link(self, device: Device, name: str, target: str, directory: str) -> None:
        """Link a device to `target` below /sys, and `directory`, which is four levels deep, back to the device."""
        up = "../" * (device.path.count("/") - 1)
        self._tree.add(f"{device.path}/{name}", Link(f"{up}{target}"))
        self._tree.add(f"/sys/{directory}/{device.name}", Link(f"../../../..{device.path.removeprefix('/sys')}"))

    def hide_membership(self, device: Device) -> None:
        self._tree.remove(f"{device.path}/iommu_group")
        self._tree.remove(f"/sys/kernel/iommu_groups/{device.group.number}/devices/{device.name}")

    @staticmethod
    def _set_override(device: Device, data: bytes) -> None:
        if len(data) >= _LONGEST:
            raise Errno(errno.EINVAL)
        # The kernel uses the text before the first newline; an empty one removes the override.
        name = data.split(b"\n")[0].decode()
        device.override = name or None

    # Groups.

    def show_group(self, group: Group, reserved: str, type_: str, name: str | None) -> None:
        root = f"/sys/kernel/iommu_groups/{group.number}"
        self._tree.directory(f"{root}/devices")
        self._tree.add(f"{root}/reserved_regions", Text(reserved.encode()))
        self._tree.add(f"{root}/type", shown(lambda: type_, _change_type))
        if name is not None:
            self._tree.add(f"{root}/name", text(name))

    def hide_group(self, group: Group) -> None:
        self._tree.remove(f"/sys/kernel/iommu_groups/{group.number}")

    # Drivers.

    def show_driver(self, driver: Driver) -> None:
        host = self._host
        root = f"/sys/bus/{driver.bus}/drivers/{driver.name}"
        self._tree.directory(root)
        key = driver.bus, driver.name
        self._tree.add(f"{root}/bind", Text(None, lambda data: host.bind_by_name(*key, _word(data))))
        self._tree.add(f"{root}/unbind", Text(None, lambda data: host.unbind_by_name(*key, _word(data))))
        if driver.bus == "pci":
            self._tree.add(f"{root}/new_id", Text(None, lambda data: host.add_id(*key, data)))
            self._tree.add(f"{root}/remove_id", Text(None, lambda data: host.remove_id(*key, data)))
        self._tree.directory(f"/sys/module/{driver.module}")

    def show_binding(self, device: Device) -> None:
        """Add the links between a device and its driver."""
        driver = f"bus/{device.bus}/drivers/{device.driver}"
        self._link(device, "driver", driver, driver)

    def hide_binding(self, device: Device) -> None:
        self._tree.remove(f"{device.path}/driver")
        self._tree.remove(f"/sys/bus/{device.bus}/drivers/{device.driver}/{device.name}")

    # VFIO's class devices and nodes.

    def show_vfio(self, device: Device, number: int) -> str:
        """Add `vfioN` below a device with a VFIO driver, and its node; return its path in sysfs."""
        name = _vfio(device, number)
        path = f"{device.path}/vfio-dev/{name}"
        self._tree.add(f"{path}/dev", text(f"511:{number}"))
        self._tree.add(f"{path}/device", Link(f"../../../{device.name}"))
        self._tree.add(f"/sys/class/vfio-dev/{name}", Link(f"../..{path.removeprefix('/sys')}"))
        self._tree.add(f"/dev/vfio/devices/{name}", Special(device.open_cdev))
        return path

    def hide_vfio(self, device: Device, number: int) -> str:
        name = _vfio(device, number)
        self._tree.remove(f"/dev/vfio/devices/{name}")
        self._tree.remove(f"/sys/class/vfio-dev/{name}")
        self._tree.remove(f"{device.path}/vfio-dev")
        return f"{device.path}/vfio-dev/{name}"

    def show_group_node(self, group: Group) -> str:
        """Add /dev/vfio/N, which exists while a member is bound to a VFIO driver; return its path in sysfs."""
        kernel = self._host.kernel
        self._tree.add(f"/sys/devices/virtual/vfio/{group.node}/dev", text(f"240:{group.number}"))
        self._tree.add(f"/sys/class/vfio/{group.node}", Link(f"../../devices/virtual/vfio/{group.node}"))
        self._tree.add(f"/dev/vfio/{group.node}", Special(lambda flags: group.open(kernel, flags)))
        return f"/sys/devices/virtual/vfio/{group.node}"

    def hide_group_node(self, group: Group) -> str:
        self._tree.remove(f"/dev/vfio/{group.node}")
        self._tree.remove(f"/sys/class/vfio/{group.node}")
        self._tree.remove(f"/sys/devices/virtual/vfio/{group.node}")
        return f"/sys/devices/virtual/vfio/{group.node}"


def _change_type(_: bytes) -> None:
    """Refuse every write to a group's `type`: the mock does not model its change.

    :raises Errno: EINVAL
    """
    raise Errno(errno.EINVAL)


def _vfio(device: Device, number: int) -> str:
    """Return the name of a device's cdev."""
    return f"{'noiommu-' if device.group.no_iommu else ''}vfio{number}"


def _word(data: bytes) -> str:
    """Return a device name written to sysfs, without its newline."""
    return data.removesuffix(b"\n").decode("ascii", "replace")
