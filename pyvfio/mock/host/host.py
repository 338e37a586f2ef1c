# SPDX-License-Identifier: MIT
"""The mock's host: its devices, groups and drivers, and the binding of drivers."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.kernel import SysfsDevice
from pyvfio.mock.fs.sysfs import Sysfs
from pyvfio.mock.host.uevent import Uevents
from pyvfio.mock.machine import names
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.parameter import Flag
from pyvfio.mock.vfio.group import Group

if TYPE_CHECKING:
    from pyvfio.mock.host.driver import Driver
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device


#: the address windows for BARs: below the I/O APIC, and where QEMU's firmware places 64-bit BARs
_LOW_START, _LOW_END, _HIGH_START = 0xC0000000, 0xFEC00000, 0x383800000000
#: `type` of a group: DMA (strict) under QEMU's intel and amd IOMMUs, for which Linux disallows batched flushes; else
#: DMA-FQ
_TYPES = {"intel": "DMA", "amd": "DMA"}
#: the first I/O port for BARs
_PORTS = 0xC000
#: the number of a group that is not shown in sysfs
_NOWHERE = -1


class Host:
    """The devices that are plugged into the mock. The constructor of a device plugs it in.

    :ivar drivers: (bus, name) -> driver
    :ivar uevents: sends uevents to the udev monitors
    :ivar enable_sriov: vfio_pci.enable_sriov; `enable_no_iommu`: vfio.enable_unsafe_noiommu_mode
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.drivers: dict[tuple[str, str], Driver] = {}
        self.sysfs = Sysfs(self)
        self.uevents = Uevents()
        self.enable_sriov = Flag(kernel.tree, "vfio_pci", "enable_sriov")
        self.enable_no_iommu = Flag(
            kernel.tree, "vfio", "enable_unsafe_noiommu_mode", value=kernel.profile.iommu == "none"
        )
        self._removed: list[Device] = []
        #: next free address below 4 GiB, above it, and next free I/O port
        self._free, self._high, self._ports = _LOW_START, _HIGH_START, _PORTS
        #: number of `vfioN` -> device
        self._vfio: dict[int, Device] = {}

    # Groups.

    def new_group(self, *, emulated: bool = False) -> Group:
        """Return a new group for a device. On a host without an IOMMU it is hidden until a VFIO driver is bound."""
        if self.kernel.physical is not None and not emulated:
            return Group(_NOWHERE, no_iommu=True)
        group = Group(_NOWHERE, () if emulated else self.kernel.profile.reserved, emulated=emulated)
        self._number(group)
        return group

    def _number(self, group: Group) -> None:
        groups = self.kernel.groups
        group.number = next(n for n in range(len(groups) + 1) if n not in groups)
        groups[group.number] = group
        reserved = "".join(f"{r.start:#018x} {r.last:#018x} {r.type}\n" for r in group.reserved)
        if group.backed:
            kind, name = _TYPES.get(self.kernel.profile.iommu, "DMA-FQ"), None
        else:
            kind, name = "unknown", "vfio-noiommu"
        self.sysfs.show_group(group, reserved, kind, name)

    def _unnumber(self, group: Group) -> None:
        if group.number != _NOWHERE:
            self.sysfs.hide_group(group)
            del self.kernel.groups[group.number]
            group.number = _NOWHERE

    # Devices.

    def place(self, size: int, *, wide: bool, ports: bool = False) -> int:
        """Return an address for a BAR, assigned as by the firmware."""
        if ports:
            self._ports = -(-self._ports // size) * size + size
            return self._ports - size
        at = -(-self._free // size) * size
        if at + size <= _LOW_END:
            self._free = at + size
            return at
        at = -(-self._high // size) * size
        self._high = at + size
        # A 32-bit BAR without space below 4 GiB gets address 0, as firmware leaves it.
        return at if wide else 0

    def plug(self, device: Device) -> None:
        self.kernel.devices[device.name] = device
        self.sysfs.show_device(device)
        self.uevents.tell("add", device.bus, device.path, **device.properties())

    def unplug(self, device: Device) -> None:
        """Unplug a device.

        Unbinding its VFIO driver waits until the program, asked by the request interrupt, has closed it.
        """
        with self.kernel.lock:
            if device.driver is not None:
                self.unbind(device)
            self.sysfs.hide_device(device)
            del self.kernel.devices[device.name]
            device.group.devices.remove(device)
            if not device.group.devices:
                self._unnumber(device.group)
            self.uevents.tell("remove", device.bus, device.path, **device.properties())

    def remove(self, device: Device) -> None:
        """Handle a write to a device's `remove`: unplug it until the bus is rescanned."""
        self.unplug(device)
        self._removed.append(device)

    def rescan(self) -> None:
        """Handle a write to a bus's `rescan`: plug in the removed devices, and probe their drivers."""
        for device in self._removed:
            device.group = self.new_group(emulated=device.emulated)
            device.group.devices.append(device)
            self.plug(device)
            self.probe_driver(device)
        self._removed.clear()

    def udev_devices(self, match: dict[str, str]) -> Iterator[SysfsDevice]:
        """Yield the devices of a `subsystem` with their udev properties."""
        for device in list(self.kernel.devices.values()):
            if match.get("subsystem", device.bus) == device.bus:
                yield SysfsDevice(device.bus, device.name, device.path, {**device.properties(), **names.of(device)})

    def add_driver(self, driver: Driver) -> None:
        self.drivers[driver.bus, driver.name] = driver
        self.sysfs.show_driver(driver)

    # Binding.

    def driver_of(self, device: Device) -> Driver | None:
        return None if device.driver is None else self.drivers[device.bus, device.driver]

    def matches(self, device: Device, driver: Driver) -> bool:
        if driver.bus != device.bus:
            return False
        if device.override is not None:
            return device.override == driver.name
        # The platform bus matches by name.
        return device.ids in driver.ids or (driver.bus == "platform" and device.name.rpartition(".")[0] == driver.name)

    def add_id(self, bus: str, name: str, data: bytes) -> None:
        """Handle a write to a driver's `new_id`: add IDs, and bind the devices that now match.

        :param bus: the bus
        :param name: the driver
        :param data: vendor and device ID
        :raises Errno: EINVAL, not IDs; EEXIST, the driver has them already
        """
        driver, ids = self.drivers[bus, name], _ids(data)
        if ids in driver.ids:
            raise Errno(errno.EEXIST)
        self.drivers[bus, name] = driver._replace(ids=driver.ids | {ids})
        for device in list(self.kernel.devices.values()):
            if device.driver is None and self.matches(device, self.drivers[bus, name]):
                self.bind(device, self.drivers[bus, name])

    def remove_id(self, bus: str, name: str, data: bytes) -> None:
        """Handle a write to a driver's `remove_id`.

        :raises Errno: EINVAL, not IDs; ENODEV, the driver does not have them
        """
        driver, ids = self.drivers[bus, name], _ids(data)
        if ids not in driver.ids:
            raise Errno(errno.ENODEV)
        self.drivers[bus, name] = driver._replace(ids=driver.ids - {ids})

    def bind_by_name(self, bus: str, driver_name: str, name: str) -> None:
        """Handle a write to a driver's `bind`.

        :raises Errno: ENODEV, no such device, or the driver does not match it; EBUSY, bound to another driver
        """
        driver = self.drivers[bus, driver_name]
        device = self._on(bus, name)
        if not self.matches(device, driver):
            raise Errno(errno.ENODEV)
        if device.driver is not None:
            raise Errno(errno.EBUSY)
        self.bind(device, driver)

    def unbind_by_name(self, bus: str, driver_name: str, name: str) -> None:
        """Handle a write to a driver's `unbind`, which waits while a VFIO device is open.

        :raises Errno: ENODEV, no such device, or not bound to this driver
        """
        device = self._on(bus, name)
        if device.driver != driver_name:
            raise Errno(errno.ENODEV)
        self.unbind(device)

    def probe(self, bus: str, name: str) -> None:
        """Handle a write to `drivers_probe`. It succeeds even if no driver matches.

        :raises Errno: ENODEV, no such device
        """
        device = self._on(bus, name)
        if device.driver is None:
            self.probe_driver(device)

    def named_driver(self, bus: str, name: str) -> Driver:
        """Return a driver by its name.

        :raises ValueError: the bus has no driver of that name
        """
        if (bus, name) not in self.drivers:
            there = ", ".join(sorted(other for on, other in self.drivers if on == bus))
            raise ValueError(f"no driver {name!r} on the {bus} bus; there are {there}")
        return self.drivers[bus, name]

    def probe_driver(self, device: Device) -> None:
        """Bind a device to the first driver that matches it, if there is one."""
        driver = next((driver for driver in self.drivers.values() if self.matches(device, driver)), None)
        if driver is not None:
            self.bind(device, driver)

    def _on(self, bus: str, name: str) -> Device:
        device = self.kernel.devices.get(name)
        if device is None or device.bus != bus:
            raise Errno(errno.ENODEV)
        return device

    def bind(self, device: Device, driver: Driver) -> None:
        """Bind a device without a driver to a driver.

        :raises Errno: EINVAL, the device has no IOMMU, and enable_unsafe_noiommu_mode is off
        """
        is_first = not any(one.vfio for one in device.group.devices)
        if driver.vfio and device.group.no_iommu:
            if not self.enable_no_iommu.value:
                raise Errno(errno.EINVAL)
            self._number(device.group)
            self.sysfs.show_membership(device)
        device.driver = driver.name
        self.sysfs.show_binding(device)
        if driver.vfio:
            if is_first:
                path = self.sysfs.show_group_node(device.group)
                self.uevents.tell("add", "vfio", path)
            number = next(n for n in range(len(self._vfio) + 1) if n not in self._vfio)
            self._vfio[number] = device
            path = self.sysfs.show_vfio(device, number)
            self.uevents.tell("add", "vfio-dev", path)
        self.uevents.tell("bind", device.bus, device.path, **device.properties())

    def unbind(self, device: Device) -> None:
        """Unbind a device from its driver; a VFIO driver waits until the device is closed."""
        if device.vfio:
            number = next(n for n, one in self._vfio.items() if one is device)
            path = self.sysfs.hide_vfio(device, number)
            self.uevents.tell("remove", "vfio-dev", path)
            device.wait_closed()
            del self._vfio[number]
            if not any(one.vfio for one in device.group.devices if one is not device):
                path = self.sysfs.hide_group_node(device.group)
                self.uevents.tell("remove", "vfio", path)
            if device.group.no_iommu:
                self.sysfs.hide_membership(device)
                self._unnumber(device.group)
        self.sysfs.hide_binding(device)
        device.driver = None
        self.uevents.tell("unbind", device.bus, device.path)


def _ids(data: bytes) -> tuple[int, int]:
    """Parse vendor and device ID as written to `new_id`; the optional fields after them are ignored.

    :raises Errno: EINVAL
    """
    try:
        vendor, device, *_ = (int(word, 16) for word in data.split())
    except ValueError:
        raise Errno(errno.EINVAL) from None
    return vendor, device
