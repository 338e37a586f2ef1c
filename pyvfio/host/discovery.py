# SPDX-License-Identifier: MIT
"""Discovery: a device's bus, driver, IOMMU group and nodes, from its name; and all devices that VFIO could serve."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from pyvfio._core import html
from pyvfio.errors import BadReply
from pyvfio.host import diagnosis
from pyvfio.host.holders import unbinding_waits
from pyvfio.host.nodes import Nodes, find, no_device, nodes_of, without_iommu
from pyvfio.host.sysfs import attribute, entries, link_name, linked, number
from pyvfio.kernel import Kernel, resolve

# Bridges to PCI, CardBus, and semi-transparent ones: no VFIO driver takes their type of configuration header.
_BRIDGES = (0x0604, 0x0607, 0x0609)


class HostDevice(NamedTuple):
    """A device, as sysfs described it when it was looked at.

    :ivar address: its name on the bus: `0000:00:03.0`, a mediated device's UUID, `vfio-mock.0`
    :ivar bus: `pci`, `mdev`, `platform`, ...
    :ivar path: its directory under /sys/devices
    :ivar vendor: PCI vendor id, None on other buses; likewise `device` (id) and `class_code` (24 bits)
    :ivar driver: the driver it is bound to
    :ivar driver_override: the only driver that it may be bound to; None if any driver that matches may be, or while an unbind waits
        for a process that has the device open
    :ivar group: number of its IOMMU group. An emulated device (mdev, vfio-mock) has one too, of itself alone
    :ivar group_path: the group's node, `/dev/vfio/N`; None while no member is bound to a VFIO driver
    :ivar vfio: its name in VFIO, `vfioN`; None while it is not bound to a VFIO driver. Since Linux 6.1
    :ivar cdev: its own node, `/dev/vfio/devices/vfioN`, or None. Since Linux 6.6, CONFIG_VFIO_DEVICE_CDEV
    :ivar iommu: the IOMMU that translates for it: `dmar0`, `ivhd0`, ...
    :ivar numa_node: its NUMA node; None if the firmware does not report it
    :ivar physical_function: address of the physical function that this is a virtual function of
    :ivar virtual_functions: addresses of its virtual functions, in their order
    :ivar total_vfs: the number of virtual functions that it can have; None without SR-IOV
    :ivar power_state: of a PCI function: `D0`, `D3hot`, `D3cold`, `unknown`; None on other buses. A function that is bound to vfio-pci
        and not open sleeps in D3hot, unless vfio_pci.disable_idle_d3 is Y. Since Linux 5.11
    :ivar d3cold_allowed: whether it may lose its power while it sleeps; None if sysfs has no such file
    :ivar reset_methods: the kernel's reset methods for it, in the order in which they are tried: `device_specific`, `acpi`, `flr`,
        `af_flr`, `pm`, `bus`; empty without a reset. :func:`set_reset_methods` chooses them. Since Linux 5.15
    :ivar vendor_name: from udev's hardware database; likewise `device_name` and `class_name`. Only :func:`devices` looks them up; None
        if the database has no entry
    """

    address: str
    bus: str
    path: str
    vendor: int | None = None
    device: int | None = None
    class_code: int | None = None
    driver: str | None = None
    driver_override: str | None = None
    group: int | None = None
    group_path: str | None = None
    vfio: str | None = None
    cdev: str | None = None
    iommu: str | None = None
    numa_node: int | None = None
    physical_function: str | None = None
    virtual_functions: tuple[str, ...] = ()
    total_vfs: int | None = None
    power_state: str | None = None
    d3cold_allowed: bool | None = None
    reset_methods: tuple[str, ...] = ()
    vendor_name: str | None = None
    device_name: str | None = None
    class_name: str | None = None

    @property
    def no_iommu(self) -> bool:
        """Whether VFIO serves it in no-IOMMU mode: the device can reach all memory."""
        return without_iommu(self.group_path, self.cdev, self.vfio)

    @property
    def nodes(self) -> Nodes:
        """The device's place in sysfs and its nodes under /dev/vfio."""
        return Nodes(self.address, self.bus, self.path, self.group, self.group_path, self.vfio, self.cdev)

    @property
    def is_bridge(self) -> bool:
        """Whether it is a PCI bridge, which no VFIO driver takes."""
        return self.class_code is not None and self.class_code >> 8 in _BRIDGES

    @property
    def advice(self) -> str | None:
        """The obstacle that keeps VFIO from serving it, and what to do; None when it is bound to a VFIO driver."""
        return None if (finding := self.finding) is None else str(finding)

    @property
    def finding(self) -> diagnosis.Finding | None:
        """The first obstacle that keeps VFIO from serving the device; None if it is bound to a VFIO driver.

        It is computed from the fields of this snapshot; :func:`pyvfio.host.examine` checks more.
        """
        if self.vfio is not None:
            return None
        if self.is_bridge:
            return diagnosis.bridge(self.address, self.class_code)
        if self.group is None and self.bus != "mdev":
            return diagnosis.no_group(self.address, None)
        return diagnosis.not_bound(self.address, self.bus, self.driver)

    def _repr_html_(self) -> str:
        rows = [(name, value) for name, value in self._asdict().items() if value not in (None, ())]
        hexadecimal = {"vendor": 4, "device": 4, "class_code": 6}
        return html.table(
            self.address,
            ("", ""),
            [(name, f"{value:0{hexadecimal[name]}x}" if name in hexadecimal else value) for name, value in rows],
        )

    def __str__(self) -> str:
        ids = "" if self.vendor is None or self.device is None else f" {self.vendor:04x}:{self.device:04x}"
        driver = self.driver or "no driver"
        group = "no IOMMU group" if self.group is None else f"group {self.group}"
        return f"{self.address}{ids} ({driver}, {group})"


def no_group(kernel: Kernel, address: str, *, virtual: bool = False) -> diagnosis.Finding:
    """Return the finding why a device is in no IOMMU group.

    :param virtual: whether the host is a virtual machine
    """
    return diagnosis.no_group(
        address,
        entries(kernel, "/sys/class/iommu"),
        virtual=virtual,
        command_line=attribute(kernel, "/proc/cmdline") or "",
        tables=entries(kernel, "/sys/firmware/acpi/tables"),
    )


def devices(kernel: Kernel | str | None = None) -> list[HostDevice]:
    """Return every device that VFIO serves or could serve, sorted by bus and address.

    These are all PCI functions except bridges (also without an IOMMU: then `group` is None), all mediated devices, and on any other bus
    the devices that are in an IOMMU group or bound to a VFIO driver. A device that goes away meanwhile is left out. So is one whose
    attributes in sysfs are malformed, with a :class:`RuntimeWarning` that names the file.

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    """
    kernel = resolve(kernel)
    roots = [f"/sys/bus/{bus}/devices" for bus in ("pci", "mdev")]
    roots += [f"/sys/kernel/iommu_groups/{group}/devices" for group in entries(kernel, "/sys/kernel/iommu_groups")]
    links = [f"{root}/{name}" for root in roots for name in entries(kernel, root)]
    paths = {path for link in links if (path := linked(kernel, link)) is not None}
    for vfio in entries(kernel, "/sys/class/vfio-dev"):
        paths.add(kernel.realpath(f"/sys/class/vfio-dev/{vfio}/device"))
    found = []
    for path in paths:
        try:
            snapshot = look(kernel, path)
        except BadReply as malformed:
            warnings.warn(str(malformed), RuntimeWarning, stacklevel=2)
            continue
        if snapshot is not None and not snapshot.is_bridge:
            found.append(snapshot)
    names = _names(kernel)
    named = [one._replace(**names.get(one.path, {})) for one in found]
    return sorted(named, key=lambda one: (one.bus, one.address))


def device(where: str, kernel: Kernel | str | None = None) -> HostDevice:
    """Return the device of that name, on whichever bus it is; `00:03.0` means `0000:00:03.0`.

    :param where: the device's address, "0000:00:03.0", or its name on another bus
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises ValueError: not a valid device name
    :raises OSError: ENODEV, no such device; the text lists devices that exist
    """
    kernel = resolve(kernel)
    nodes = find(where, kernel)
    if (found := _described(kernel, nodes)) is None:
        raise no_device(kernel, nodes.address)
    return found


def look(kernel: Kernel, path: str) -> HostDevice | None:
    """Return the device at a path under /sys/devices; None if it is on no bus, or has gone."""
    bus = link_name(kernel, f"{path}/subsystem")
    return None if bus is None else _described(kernel, nodes_of(kernel, bus, path))


def _described(kernel: Kernel, nodes: Nodes) -> HostDevice | None:
    """Return a device with all its attributes in sysfs; None if it has gone."""
    path = nodes.path
    pci: dict[str, Any] = {}
    if nodes.bus == "pci":
        pci = {
            "vendor": number(kernel, f"{path}/vendor"),
            "device": number(kernel, f"{path}/device"),
            "class_code": number(kernel, f"{path}/class"),
            "physical_function": link_name(kernel, f"{path}/physfn"),
            "total_vfs": number(kernel, f"{path}/sriov_totalvfs"),
            "power_state": attribute(kernel, f"{path}/power_state"),
            "d3cold_allowed": None if (allowed := number(kernel, f"{path}/d3cold_allowed")) is None else bool(allowed),
            "reset_methods": tuple((attribute(kernel, f"{path}/reset_method") or "").split()),
        }
        if pci["total_vfs"] is not None:
            pci["virtual_functions"] = _virtual_functions(kernel, path)
    node = number(kernel, f"{path}/numa_node")
    driver = link_name(kernel, f"{path}/driver")
    found = HostDevice(
        **nodes._asdict(),
        **pci,
        driver=driver,
        driver_override=_override(kernel, nodes, driver),
        iommu=link_name(kernel, f"{path}/iommu"),
        numa_node=None if node is None or node < 0 else node,
    )
    # If the device went away while its files were read, fields are missing: check that it still exists.
    return found if kernel.exists(f"{path}/subsystem") else None


def _virtual_functions(kernel: Kernel, path: str) -> tuple[str, ...]:
    links = [name for name in entries(kernel, path) if name.startswith("virtfn")]
    names = [link_name(kernel, f"{path}/{link}") for link in sorted(links, key=lambda link: int(link[6:]))]
    return tuple(name for name in names if name is not None)


def _override(kernel: Kernel, nodes: Nodes, driver: str | None) -> str | None:
    # In Linux 6.1 and 6.12 reading driver_override takes the device's lock: the read would wait for the unbind to end, and SIGKILL would
    # not interrupt it.
    if unbinding_waits(kernel, nodes, driver):
        return None
    override = attribute(kernel, f"{nodes.path}/driver_override")
    return None if override in ("", "(null)") else override


def _names(kernel: Kernel) -> dict[str, dict[str, Any]]:
    """Return the names of PCI devices in udev's hardware database, by path."""
    try:
        return {
            one.path: {
                "vendor_name": one.properties.get("ID_VENDOR_FROM_DATABASE"),
                "device_name": one.properties.get("ID_MODEL_FROM_DATABASE"),
                "class_name": one.properties.get("ID_PCI_SUBCLASS_FROM_DATABASE")
                or one.properties.get("ID_PCI_CLASS_FROM_DATABASE"),
            }
            for one in kernel.udev_devices(subsystem="pci")
        }
    except ImportError:  # pyudev raises it if the host has no libudev
        return {}
