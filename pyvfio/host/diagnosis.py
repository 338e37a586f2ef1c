# SPDX-License-Identifier: MIT
"""The catalogue of findings: the obstacles to using a device, how each is recognised, and its cure.

Each finding has an id, the evidence that it was recognised by, and a cure. A function of this module takes plain facts (names,
numbers, the content of a file) and returns the :class:`Finding`, or None if the facts do not show it. The functions do not ask the
kernel: :mod:`pyvfio.host.examination` collects facts and calls all of them, and an exception calls the one that fits its errno.

A reason is written to follow a colon: "opening /dev/vfio/7: Permission denied: REASON". A reason that is only likely says "most likely".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from pyvfio._core import arguments
from pyvfio._core.sizes import size as as_text
from pyvfio.errors import HostError

__all__ = ["CATALOGUE", "Finding"]

#: The drivers, besides VFIO's own, that leave DMA to others (`driver_managed_dma`, Linux 5.19).
HARMLESS_DRIVERS = ("pcieport", "pci-stub")


@arguments.checked(
    id=arguments.string,
    subject=arguments.string,
    reason=arguments.string,
    evidence=arguments.every(arguments.string),
    cure=arguments.optional(arguments.string),
)
class Finding(NamedTuple):
    """A finding: one obstacle or hint, with its evidence and cure.

    :ivar id: its key in :data:`CATALOGUE`
    :ivar subject: the device, group, file or module that it is about
    :ivar reason: what is wrong, to follow a colon, without a full stop
    :ivar evidence: what was looked at and what was there, one line each
    :ivar cure: what to do next; code and commands in it can be pasted. None if nothing can be done
    """

    id: str
    subject: str
    reason: str
    evidence: tuple[str, ...] = ()
    cure: str | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.cure}" if self.cure else self.reason


#: The errno of an error that is raised for a finding before the kernel has been asked, by id.
_ERRNOS = {
    "bridge": errno.EINVAL,
    "device-held": errno.EBUSY,
    "driver-missing": errno.ENOENT,
    "in-use": errno.EBUSY,
    "iommu-not-for-device": errno.ENODEV,
    "iommu-off": errno.ENODEV,
    "journal-full": errno.ENOSPC,
    "kept-bound": errno.EBUSY,
}


def error(finding: Finding) -> HostError:
    """Return the exception for an obstacle that was found before the kernel was asked."""
    finding = arguments.instance(finding, "finding", Finding)
    arguments.choice(finding.id, "finding's id", _ERRNOS)
    advice = () if finding.cure is None else (finding.cure,)
    return HostError(_ERRNOS[finding.id], str(finding), reason=finding.reason, advice=advice)


#: The catalogue: id -> what it means, in one sentence.
CATALOGUE: dict[str, str] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _collection(each: arguments.Check) -> arguments.Check:
    """Return the check for a collection, which it returns unchanged."""

    def check(value: Any, name: str) -> Any:
        if isinstance(value, str | bytes) or not isinstance(value, Collection):
            raise arguments.wrong_type(value, name, "a collection")
        for item in value:
            each(item, name)
        return value

    return check


def _mapping(each: arguments.Check) -> arguments.Check:
    """Return the check for a mapping from names."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, Mapping):
            raise arguments.wrong_type(value, name, "a mapping")
        for key, item in value.items():
            arguments.string(key, name)
            each(item, name)
        return value

    return check


def _pair(each: arguments.Check) -> arguments.Check:
    """Return the check for two values in a tuple."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, tuple) or len(value) != 2:
            raise TypeError(f"{name} must have pairs, not {value!r}")
        return each(value[0], name), each(value[1], name)

    return check


_number = arguments.within(0, 2**64)
#: annotation -> the check of a fact of that type
_CHECKS: dict[str, arguments.Check] = {
    "bool": arguments.boolean,
    "bool | None": arguments.optional(arguments.boolean),
    "bytes": arguments.of_class(bytes),
    "int": _number,
    "int | None": arguments.optional(_number),
    "str": arguments.string,
    "str | None": arguments.optional(arguments.string),
    "tuple[int, int]": _pair(_number),
    "Collection[int]": _collection(_number),
    "Collection[str]": _collection(arguments.string),
    "Collection[str] | None": arguments.optional(_collection(arguments.string)),
    "Mapping[str, str]": _mapping(arguments.string),
    "Mapping[str, str | None]": _mapping(arguments.optional(arguments.string)),
    "Sequence[str]": _collection(arguments.string),
    "Sequence[tuple[int, int]]": _collection(_pair(_number)),
    "Sequence[tuple[str, str]]": _collection(_pair(arguments.string)),
}


def _of_facts(function: _Function) -> _Function:
    """Decorator: check the arguments of a function by its annotations, which are strings in this module."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    checks = {name: _CHECKS[function.__annotations__[name]] for name in names}
    if "page" in checks:
        checks["page"] = arguments.size

    @wraps(function)
    def checked(*values: Any, **more: Any) -> Any:
        # Surplus and unknown arguments are passed on: the function itself refuses them.
        values = (
            tuple(checks[name](value, name) for name, value in zip(names, values, strict=False)) + values[len(names) :]
        )
        more = {name: checks[name](value, name) if name in checks else value for name, value in more.items()}
        return function(*values, **more)

    return cast("_Function", checked)


def _finds(**meanings: str) -> Callable[[_Function], _Function]:
    """Decorator: add the findings that a function can return to the catalogue; `_` stands for `-` in an id."""

    def enter(function: _Function) -> _Function:
        CATALOGUE.update({id_.replace("_", "-"): meaning for id_, meaning in meanings.items()})
        return _of_facts(function)

    return enter


# The IOMMU


#: words of the kernel's command line that switch an IOMMU off
_IOMMU_OFF = ("intel_iommu=off", "amd_iommu=off", "iommu=off", "arm-smmu.disable", "arm-smmu-v3.disable")
#: words of the kernel's command line that switch the remapping of interrupts off
_NO_REMAPPING = ("intremap=off", "nointremap", "noapic", "intremap=nosid")


@_finds(
    iommu_off="The host has no IOMMU that is switched on, so no device is in an IOMMU group.",
    iommu_off_by_command_line="The kernel's command line switches the IOMMU off.",
    iommu_not_asked_for="The firmware describes an IOMMU, and the kernel was not told to use it.",
    iommu_not_for_device="The host's IOMMUs do not translate for this device, so it is in no IOMMU group.",
)
def no_group(
    address: str,
    iommus: Collection[str] | None,
    *,
    virtual: bool = False,
    command_line: str = "",
    tables: Collection[str] = (),
) -> Finding:
    """A device is in no IOMMU group.

    :param iommus: the names in /sys/class/iommu; None if not read
    :param virtual: whether the host is known to be a virtual machine
    :param command_line: the kernel's command line
    :param tables: the names in /sys/firmware/acpi/tables
    """
    reason = f"{address} is in no IOMMU group: "
    if iommus:
        listed = ", ".join(sorted(iommus))
        return Finding(
            "iommu-not-for-device",
            address,
            f"{reason}no IOMMU of the host ({listed}) translates for it",
            (f"/sys/class/iommu has {listed}", f"{address} has no link iommu_group"),
            "use a slot that is behind an IOMMU; the kernel log (DMAR, AMD-Vi) says which devices are",
        )
    if off := [word for word in command_line.split() if word in _IOMMU_OFF]:
        return Finding(
            "iommu-off-by-command-line",
            address,
            f"{reason}the kernel's command line has {' '.join(off)}",
            ("/sys/class/iommu is empty", *(f"/proc/cmdline has {word}" for word in off)),
            f"take {' '.join(off)} off the kernel's command line, and boot again",
        )
    if "DMAR" in tables:
        return Finding(
            "iommu-not-asked-for",
            address,
            f"{reason}the firmware describes an Intel IOMMU (ACPI table DMAR), and the kernel does not use it",
            ("/sys/firmware/acpi/tables has DMAR", "/sys/class/iommu is empty"),
            "add intel_iommu=on to the kernel's command line, and boot again",
        )
    cure = (
        "switch it on in the firmware (VT-d, AMD-Vi, SMMU) and on the kernel's command line "
        "(intel_iommu=on; AMD's is on by itself)"
    )
    if virtual:
        cure = "give the virtual machine an IOMMU (QEMU: -device intel-iommu, amd-iommu or virtio-iommu-pci)"
    evidence = f"{address} has no link iommu_group" if iommus is None else "/sys/class/iommu is empty"
    return Finding("iommu-off", address, f"{reason}the IOMMU is off or absent", (evidence,), cure)


@_finds(
    interrupts_not_isolated="The IOMMU does not remap interrupts, so VFIO does not let a device through to user space.",
)
def interrupts_not_isolated(address: str, parameter: str) -> Finding:
    """The host cannot keep a device from sending any interrupt. Use it only if no other cause is visible.

    :param parameter: the module parameter that allows such devices: `iommufd.allow_unsafe_interrupts` or `vfio_iommu_type1.allow_unsafe_interrupts`
    """
    module, _, name = parameter.partition(".")
    return Finding(
        "interrupts-not-isolated",
        address,
        "most likely the IOMMU does not isolate interrupts (interrupt remapping is off)",
        ("no other device of the group is in the way, and no other program is seen to hold the group",),
        "switch interrupt remapping on in the firmware (x2APIC, VT-d) and take intremap=off off the kernel's command line; "
        f"only where every device and its user is trusted: echo 1 > /sys/module/{module}/parameters/{name}",
    )


@_of_facts
def interrupts_by_command_line(address: str, command_line: str) -> Finding | None:
    """The kernel's command line switches the remapping of interrupts off.

    :param command_line: the kernel's command line
    """
    off = [word for word in command_line.split() if word in _NO_REMAPPING]
    if not off:
        return None
    return Finding(
        "interrupts-not-isolated",
        address,
        f"the IOMMU does not isolate interrupts: the kernel's command line has {' '.join(off)}",
        tuple(f"/proc/cmdline has {word}" for word in off),
        f"take {' '.join(off)} off the kernel's command line, and boot again",
    )


@_finds(unsafe_interrupts="A module's parameter lets devices through whose interrupts are not isolated.")
def unsafe_interrupts(parameters: Sequence[str]) -> Finding | None:
    """The administrator allows devices without isolated interrupts.

    :param parameters: the module parameters that are Y, such as `vfio_iommu_type1.allow_unsafe_interrupts`
    """
    if not parameters:
        return None
    return Finding(
        "unsafe-interrupts",
        ", ".join(parameters),
        f"{' and '.join(parameters)} is Y: a device's user can send any interrupt to the host",
        tuple(f"{parameter} is Y" for parameter in parameters),
        "set it to N if interrupt remapping works: its users are not trusted then",
    )


@_finds(
    direct_region="The firmware reserves memory for this device one to one (RMRR, IVMD), so that VFIO cannot take it over."
)
def direct_region(address: str, regions: Sequence[tuple[int, int]]) -> Finding | None:
    """The firmware has claimed memory for a device.

    :param regions: first and last address of each reserved region of type `direct`
    """
    if not regions:
        return None
    listed = ", ".join(f"[{start:#x}, {last:#x}]" for start, last in regions)
    return Finding(
        "direct-region",
        address,
        f"the firmware wants {listed} mapped one to one for {address} at all times (RMRR or IVMD), and VFIO cannot have such a device: "
        "EINVAL since Linux 6.6, before EPERM at VFIO_GROUP_SET_CONTAINER (before 5.19 at VFIO_SET_IOMMU)",
        tuple(f"reserved_regions: {start:#018x} {last:#018x} direct" for start, last in regions),
        "switch off what in the firmware uses the device (USB legacy support, the management controller's access), "
        "or use another slot or device",
    )


@_finds(no_iommu_refused="The device has no IOMMU, and neither the program nor the administrator has accepted that.")
def no_iommu_refused(address: str, *, enabled: bool) -> Finding:
    """A device without an IOMMU was refused.

    :param enabled: whether vfio's parameter enable_unsafe_noiommu_mode is Y
    """
    if enabled:
        return Finding(
            "no-iommu-refused",
            address,
            f"{address} has no IOMMU, so its DMA reaches all memory, and no_iommu=True was not given",
            ("enable_unsafe_noiommu_mode is Y",),
            f"pyvfio.open({address!r}, no_iommu=True), if the device may reach all memory",
        )
    return Finding(
        "no-iommu-refused",
        address,
        f"{address} has no IOMMU, and vfio's no-IOMMU mode is off",
        ("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode is not Y",),
        "switch the IOMMU on; only where the device may reach all memory, load vfio with enable_unsafe_noiommu_mode=1",
    )


# Modules and drivers


@_finds(vfio_missing="The kernel has no VFIO, or its modules are not loaded.")
def vfio_missing(*, modules: Collection[str] = ()) -> Finding | None:
    """There is no /dev/vfio.

    :param modules: the kernel's modules, those built in too (the names in /sys/module)
    """
    if "vfio" in modules:
        return None  # VFIO creates the directory together with the first node
    return Finding(
        "vfio-missing",
        "vfio",
        "this kernel has no VFIO, or its modules are not loaded",
        ("/dev/vfio does not exist", "/sys/module/vfio does not exist"),
        "modprobe vfio-pci",
    )


@_finds(iommufd_missing="The kernel has no iommufd, or its module is not loaded.")
def iommufd_missing() -> Finding:
    """There is no /dev/iommu."""
    return Finding(
        "iommufd-missing",
        "iommufd",
        "this kernel has no iommufd (Linux 6.2 has it, built with CONFIG_IOMMUFD), or its module is not loaded",
        ("/dev/iommu does not exist",),
        "modprobe iommufd; or use mode='type1v2'",
    )


@_finds(type1_missing="The kernel has VFIO containers and no IOMMU driver for them, nor iommufd.")
def type1_missing(*, containers: bool, iommufd: bool, modules: Collection[str]) -> Finding | None:
    """Containers that no IOMMU can be set for.

    :param containers: whether /dev/vfio/vfio exists
    :param iommufd: whether /dev/iommu exists
    :param modules: the kernel's modules, those built in too (the names in /sys/module)
    """
    if not containers or iommufd or not {"vfio_iommu_type1", "vfio_iommu_spapr_tce"}.isdisjoint(modules):
        return None
    return Finding(
        "type1-missing",
        "vfio_iommu_type1",
        "the kernel has VFIO containers, and neither an IOMMU driver for them nor iommufd: VFIO_SET_IOMMU fails with ENODEV",
        ("/sys/module/vfio_iommu_type1 does not exist", "/dev/iommu does not exist"),
        "modprobe vfio_iommu_type1; or modprobe iommufd",
    )


@_finds(driver_missing="The driver is not loaded, or is not one of this bus.")
def driver_missing(driver: str, bus: str, drivers: Collection[str]) -> Finding | None:
    """A driver is not among a bus's drivers.

    :param drivers: the names in /sys/bus/BUS/drivers
    """
    if driver in drivers:
        return None
    likely = next((name for name in drivers if name.replace("-", "_") == driver.replace("-", "_")), None)
    return Finding(
        "driver-missing",
        driver,
        f"the {bus} bus has no driver {driver}",
        (f"/sys/bus/{bus}/drivers has no {driver}",),
        f"the driver is called {likely!r}" if likely else f"load it first (modprobe {driver})",
    )


@_finds(module_blacklisted="modprobe's configuration, or the kernel's command line, keeps a module from being loaded.")
def module_blacklisted(module: str, places: Sequence[str]) -> Finding | None:
    """A module that is needed is not loaded automatically, or cannot be loaded at all.

    :param places: the lines that forbid it, each with its file
    """
    if not places:
        return None
    return Finding(
        "module-blacklisted",
        module,
        f"the module {module} is not loaded, and is kept from being loaded",
        tuple(places),
        f"take that line away; a mere `blacklist` can be overruled: modprobe {module}",
    )


@_finds(
    containers_missing="The kernel has neither VFIO containers nor iommufd with device nodes.",
    device_nodes_missing="The kernel has iommufd, and makes no device nodes for it.",
)
def interfaces_missing(*, containers: bool, iommufd: bool, cdevs: bool | None) -> Finding | None:
    """The kernel lacks one of the ways to open a device.

    :param containers: whether /dev/vfio/vfio exists
    :param iommufd: whether /dev/iommu exists
    :param cdevs: whether devices have nodes under /dev/vfio/devices; None if no device is bound, so that it is unknown
    """
    evidence = (
        f"/dev/vfio/vfio {'exists' if containers else 'does not exist'}",
        f"/dev/iommu {'exists' if iommufd else 'does not exist'}",
    )
    if not containers and not (iommufd and cdevs is not False):
        return Finding(
            "containers-missing",
            "vfio",
            "this kernel has no VFIO containers (CONFIG_VFIO_CONTAINER), and no iommufd with device nodes in their place",
            evidence,
            "modprobe vfio_iommu_type1; or modprobe iommufd; else build the kernel with CONFIG_VFIO_DEVICE_CDEV",
        )
    if iommufd and cdevs is False:
        return Finding(
            "device-nodes-missing",
            "iommufd",
            "this kernel has iommufd, and makes no nodes under /dev/vfio/devices (Linux 6.6 can, with "
            "CONFIG_VFIO_DEVICE_CDEV): devices are opened by group",
            (*evidence, "the device's directory vfio-dev has no device number"),
            "use mode='type1v2' or mode='iommufd-type1v2', or build the kernel with CONFIG_VFIO_DEVICE_CDEV",
        )
    return None


@_finds(kernel_lacks="The running kernel does not have what was asked for.")
def kernel_lacks(what: str, since: str, evidence: Sequence[str]) -> Finding:
    """The kernel is too old for a feature that was asked for, or was built without it.

    :param since: the release that has it, and the option that it is built with
    """
    return Finding(
        "kernel-lacks", what, f"the running kernel has no {what}: {since}", tuple(evidence), "boot such a kernel"
    )


@_finds(
    variant_driver="A VFIO driver for this very device exists, and the general one is bound.",
    no_variant_driver="The bound driver neither logs DMA nor migrates, and no other for the device is known.",
)
def variant_driver(
    address: str, driver: str | None, variants: Sequence[str], *, needed: bool = False
) -> Finding | None:
    """The general VFIO driver has a device for which there is a special one, which logs DMA and migrates.

    :param driver: the driver that the device is bound to
    :param variants: modules whose aliases in modules.alias match the device
    :param needed: whether a feature was asked for that only such a driver has
    """
    if driver is None or (variants and driver.replace("-", "_") in variants):
        return None
    if variants and "vfio" in driver:
        named = " or ".join(variants)
        return Finding(
            "variant-driver",
            address,
            f"{address} is bound to {driver}; {named} exists for it, and can do more (DMA logging, migration)",
            (f"modules.alias has {', '.join(variants)} for its modalias",),
            f"modprobe {variants[0]}; pyvfio.host.bind({address!r}, {variants[0]!r})",
        )
    if needed and driver in ("vfio-pci", "vfio-platform"):
        return Finding(
            "no-variant-driver",
            address,
            f"{driver} neither logs DMA nor migrates, and modules.alias has no other VFIO driver for {address}",
            (f"its link driver points to {driver}",),
            "use a device whose vendor has a driver in drivers/vfio/pci of the kernel, or track by the IOMMU",
        )
    return None


@_finds(override_foreign="The device's driver_override names another driver than the one it is bound to.")
def override_foreign(address: str, override: str | None, driver: str | None, *, loaded: bool = True) -> Finding | None:
    """Another tool has set the device's driver_override.

    :param override: its driver_override
    :param driver: the driver that the device is bound to
    :param loaded: whether the bus has a driver of the name in driver_override
    """
    if override is None or override == driver:
        return None
    return Finding(
        "override-foreign",
        address,
        f"{address} has driver_override {override}, and is bound to {driver or 'no driver'}: only {override} can take it"
        + ("" if loaded else ", and no such driver is loaded"),
        (f"driver_override is {override}", f"the driver is {driver or 'none'}"),
        f"pyvfio.host.bind({address!r}, 'vfio-pci') replaces it for the time of the binding; driverctl and libvirt set it too",
    )


@_finds(taken_back="The device was bound to another driver after pyvfio bound it.")
def taken_back(address: str, bound: str, driver: str | None) -> Finding | None:
    """A driver of the kernel, or another tool, has taken a device that pyvfio had bound.

    :param bound: the driver that the journal says it was bound to
    :param driver: the driver that the device is bound to
    """
    if driver == bound:
        return None
    return Finding(
        "taken-back",
        address,
        f"pyvfio bound {address} to {bound}, and it is bound to {driver or 'no driver'} now",
        (f"the journal in /run/pyvfio says {bound}", f"the driver is {driver or 'none'}"),
        f"find out who did that (udev rules, driverctl, a rescan of the bus); then pyvfio.host.bind({address!r}, {bound!r})",
    )


@_finds(ids_too_late="vfio-pci was told to take the device by its ids, and the kernel's own driver was there first.")
def ids_too_late(address: str, driver: str | None, ids: tuple[int, int], places: Sequence[str]) -> Finding | None:
    """A module's parameter names a device that another driver has.

    :param driver: the driver that the device is bound to
    :param ids: its vendor and device
    :param places: where the parameter `ids` of vfio-pci is set, each with its file: `FILE has: ... ids=1b36:0010`
    """
    if driver is None or "vfio" in driver:
        return None
    wanted = f"{ids[0]:04x}:{ids[1]:04x}"
    naming = [
        place
        for place in places
        if any(
            one.lower().split(":")[:2] == wanted.split(":") for one in place.rpartition("ids=")[2].split()[0].split(",")
        )
    ]
    if not naming:
        return None
    return Finding(
        "ids-too-late",
        address,
        f"vfio-pci's parameter ids names {wanted}, and {driver} took {address} first",
        (*naming, f"its link driver points to {driver}"),
        f"have vfio-pci loaded first: `softdep {driver} pre: vfio-pci` in /etc/modprobe.d, in the initramfs too; "
        f"or pyvfio.host.bind({address!r}, 'vfio-pci')",
    )


# The device itself


#: bits of the flags in the attribute `resource`: IORESOURCE_IO, IORESOURCE_MEM, IORESOURCE_UNSET
_IO_OR_MEMORY, _UNSET = 0x300, 0x2000_0000


@_finds(
    bar_unassigned="A BAR has no address, so the kernel cannot switch the device on, and opening it fails with EINVAL."
)
def bar_unassigned(address: str, resources: str | None) -> Finding | None:
    """A BAR for which the firmware and the kernel found no room.

    :param resources: the attribute `resource`: first address, last address, flags, a line for each BAR
    """
    unset = []
    for number, line in enumerate((resources or "").splitlines()[:6]):
        try:
            start, last, flags = (int(word, 16) for word in line.split()[:3])
        except ValueError:
            raise ValueError(f"resources must have three hexadecimal numbers in each line, not {line!r}") from None
        if flags & _UNSET and flags & _IO_OR_MEMORY and last > start:
            unset.append((number, last - start + 1))
    if not unset:
        return None
    listed = ", ".join(f"BAR {number} ({as_text(size)})" for number, size in unset)
    return Finding(
        "bar-unassigned",
        address,
        f"{listed} of {address} {'has' if len(unset) == 1 else 'have'} no address: the device cannot be switched on, "
        "and opening it fails with EINVAL",
        tuple(f"resource: line {number} has the flag IORESOURCE_UNSET" for number, _ in unset),
        "switch on above-4G decoding (and resizable BAR) in the firmware, or boot with pci=realloc; "
        "for a BAR that was resized, write its size before to resourceN_resize; the kernel log says what there was no room for",
    )


@_finds(behind_vmd="The device is behind Intel VMD, whose driver makes its DMA requests its own.")
def behind_vmd(address: str, controller: str | None) -> Finding | None:
    """A device in the domain of a volume management device.

    :param controller: the address of the VMD above it; None if there is none
    """
    if controller is None:
        return None
    return Finding(
        "behind-vmd",
        address,
        f"{address} is behind the VMD controller {controller}: its DMA and interrupts carry that one's name, so VFIO cannot have it alone",
        (f"{controller}, above it in sysfs, is bound to vmd",),
        "switch VMD off for its slot in the firmware (it may be called VMD, RST or NVMe RAID)",
    )


@_finds(msi_off="MSI and MSI-X are switched off for the device, so only INTx can be enabled.")
def msi_off(address: str, places: Sequence[str]) -> Finding | None:
    """The device has no message signalled interrupts.

    :param places: the settings that switch MSI off, each with its file
    """
    if not places:
        return None
    return Finding(
        "msi-off",
        address,
        f"MSI and MSI-X cannot be enabled on {address}: they are switched off",
        tuple(places),
        "take pci=nomsi off the kernel's command line; echo 1 to the msi_bus of that bridge",
    )


@_finds(acs_override="The kernel was told to take devices for isolated that are not (pcie_acs_override).")
def acs_override(subject: str, command_line: str) -> Finding | None:
    """IOMMU groups are smaller than what the hardware isolates.

    :param command_line: the kernel's command line
    """
    words = [word for word in command_line.split() if word.startswith("pcie_acs_override=")]
    if not words:
        return None
    return Finding(
        "acs-override",
        subject,
        f"the kernel's command line has {words[0]}: devices of different IOMMU groups may reach each other's memory past the IOMMU",
        tuple(f"/proc/cmdline has {word}" for word in words),
        "take it off where users of the devices do not trust each other",
    )


@_finds(no_reset="The device cannot be reset alone: it keeps the state that its last user left it in.")
def no_reset(address: str, methods: str | None) -> Finding | None:
    """A PCI function without a reset method.

    :param methods: the attribute reset_method; None: the kernel does not show it (before Linux 5.15)
    """
    if methods is None or methods.split():
        return None
    return Finding(
        "no-reset",
        address,
        f"{address} has no reset of its own: each user finds what the last one left",
        ("reset_method is empty",),
        "bring it to a known state by its registers when it was opened",
    )


@_finds(d3cold="The device's power is off (D3cold).")
def d3cold(address: str, state: str | None) -> Finding | None:
    """A PCI function without power. VFIO powers it on when it is opened.

    :param state: the attribute power_state
    """
    if state != "D3cold":
        return None
    return Finding(
        "d3cold",
        address,
        f"{address} is powered off (D3cold); VFIO powers it on when it is opened",
        ("power_state is D3cold",),
        "if it does not come back: echo 0 to its d3cold_allowed, or load vfio-pci with disable_idle_d3=1",
    )


@_finds(no_answer="The device does not answer: every byte of its configuration space is 0xff.")
def no_answer(address: str, config: bytes) -> Finding | None:
    """A PCI function that is off the bus: its reads come back as ones.

    :param config: the beginning of the attribute `config`; empty: it could not be read
    """
    if not config or config.strip(b"\xff"):
        return None
    return Finding(
        "no-answer",
        address,
        f"{address} does not answer: its configuration space reads as 0xff",
        (f"config begins with {config[:8].hex(' ')}",),
        f"echo 1 > /sys/bus/pci/devices/{address}/remove; echo 1 > /sys/bus/pci/rescan; else switch the host off and on",
    )


@_finds(bridge="The device is a bridge; VFIO takes endpoints only.")
def bridge(address: str, class_code: int | None) -> Finding:
    """A bridge cannot be used."""
    shown = "unknown" if class_code is None else f"{class_code:#08x}"
    return Finding(
        "bridge", address, f"{address} is a bridge, and VFIO takes endpoints only", (f"its class is {shown}",)
    )


@_finds(
    not_bound="The device is bound to no driver.",
    kernel_driver="The device is bound to one of the kernel's own drivers.",
    mdev_parent="A mediated device has no driver of its own; its parent's VFIO driver is not loaded.",
)
def not_bound(address: str, bus: str, driver: str | None) -> Finding:
    """A device is not bound to a VFIO driver.

    :param driver: the driver that the device is bound to
    """
    evidence = (
        f"its link driver points to {driver}" if driver else "it has no link driver",
        "it has no directory vfio-dev",
    )
    held = f"{address} is bound to " + (f"{driver}, not to a VFIO driver" if driver else "no driver")
    if bus == "mdev":
        return Finding("mdev-parent", address, held, evidence, "load its parent's VFIO driver")
    to = vfio_driver(bus)
    return Finding(
        "kernel-driver" if driver else "not-bound", address, held, evidence, f"pyvfio.host.bind({address!r}, {to!r})"
    )


@_of_facts
def vfio_driver(bus: str) -> str:
    """Return VFIO's general driver for a bus."""
    return "vfio-platform" if bus == "platform" else f"vfio-{bus}"


# Groups, nodes and owners


@_finds(group_not_viable="Another device of the IOMMU group is bound to a driver that does DMA for the kernel.")
def group_not_viable(group: int, members: Mapping[str, str | None], *, but: str | None = None) -> Finding | None:
    """Some devices of a group keep VFIO from using the group. The kernel alone decides; the finding names the likely ones.

    :param members: address -> driver, or None where none is bound
    :param but: an address to leave out
    """
    culprits = in_the_way(members)
    culprits.pop(but or "", None)
    if not culprits:
        return None
    named = ", ".join(f"{address} ({driver})" for address, driver in culprits.items())
    binds = "; ".join(f"pyvfio.host.bind({address!r}, 'vfio-pci')" for address in culprits)
    staying = ", ".join(f"{address} ({driver})" for address, driver in members.items() if driver in HARMLESS_DRIVERS)
    return Finding(
        "group-not-viable",
        f"group {group}",
        f"IOMMU group {group} also holds {named}, whose driver is not VFIO's",
        tuple(f"{address}: {driver or 'no driver'}" for address, driver in members.items()),
        f"{binds}; or pci-stub in place of vfio-pci, or a slot with a group of its own"
        + (f"; {staying} may stay as it is" if staying else ""),
    )


@_of_facts
def in_the_way(members: Mapping[str, str | None]) -> dict[str, str]:
    """Return the members of a group whose drivers are likely to keep VFIO from it: address -> driver."""
    return {
        address: driver
        for address, driver in members.items()
        if driver is not None and "vfio" not in driver and driver not in HARMLESS_DRIVERS
    }


@_finds(
    group_shared="The IOMMU group has devices of several slots: what is between them and the IOMMU does not isolate them (ACS)."
)
def group_shared(group: int, address: str, members: Collection[str]) -> Finding | None:
    """A group with devices of other slots: all of it goes to one user.

    :param members: the addresses in the group, bridges left out
    """
    slot = address.rpartition(".")[0]
    others = sorted(one for one in members if one.rpartition(".")[0] != slot)
    if not others:
        return None
    return Finding(
        "group-shared",
        f"group {group}",
        f"IOMMU group {group} also has {', '.join(others)}: they can reach each other's DMA past the IOMMU, so one user has all",
        tuple(f"{one} is in group {group}" for one in others),
        "use a slot behind a port with ACS, or switch ACS on in the firmware",
    )


@_finds(node_missing="sysfs shows the device's node, and /dev does not have it.")
def node_missing(path: str, *, in_sysfs: bool) -> Finding | None:
    """A node is missing although the kernel has made it.

    :param in_sysfs: whether sysfs shows the character device
    """
    if not in_sysfs:
        return None
    return Finding(
        "node-missing",
        path,
        f"the kernel has made {path}, and /dev does not have it",
        (f"{path} does not exist", "sysfs shows the device's number"),
        f"in a container, pass it in (--device {path}); else mount devtmpfs at /dev or start udev",
    )


@_finds(
    not_owner="The node's owner or mode does not let this user open it.",
    access_module="The node's mode lets this user open it, so a security module (SELinux, AppArmor) refuses.",
    device_cgroup="The device cgroup of a container or service refuses the node.",
    no_raw_io="Opening a device without an IOMMU takes CAP_SYS_RAWIO.",
)
def not_permitted(
    path: str,
    number: int,
    *,
    user: int,
    owner: int | None = None,
    mode: int | None = None,
    group: int | None = None,
    groups: Collection[int] = (),
    raw_io: bool = True,
) -> Finding:
    """A node cannot be opened.

    :param number: EACCES or EPERM
    :param user: the effective user's number
    :param owner: the node's owner; None if unknown
    :param mode: its permission bits; None if unknown
    :param group: the node's group; None if unknown
    :param groups: the groups of the process
    :param raw_io: whether the process has CAP_SYS_RAWIO
    """
    shown = "" if owner is None or mode is None else f" (owner {owner}, mode {mode & 0o777:03o})"
    if "noiommu" in path and not raw_io:
        return Finding(
            "no-raw-io",
            path,
            "it takes CAP_SYS_RAWIO, since the device has no IOMMU",
            (f"{path} is of no-IOMMU mode", "CapEff in /proc/self/status is without CAP_SYS_RAWIO"),
            "run as root, or with CAP_SYS_RAWIO",
        )
    if number == errno.EPERM:
        beside = "/dev/iommu" if path.startswith("/dev/vfio/devices/") else "/dev/vfio/vfio"
        devices = " ".join(
            f"--device {node}" for node in dict.fromkeys((path, beside)) if path != "/dev/iommu" or node == path
        )
        return Finding(
            "device-cgroup",
            path,
            "most likely the device cgroup of this container or service does not allow it",
            ("the kernel answered EPERM, not EACCES",),
            f"let it in: {devices} for a container (docker run, podman run), DeviceAllow={path} rw for a service",
        )
    bits = 0o600 if user == owner else 0o060 if group in groups else 0o006
    if user == 0 or (mode is not None and mode & bits == bits):
        return Finding(
            "access-module",
            path,
            "most likely a security module (SELinux, AppArmor) does not allow it",
            (f"owner and mode would allow user {user}{shown}", "the kernel answered EACCES"),
            "the audit log says which rule it was (ausearch -m avc; journalctl -k --grep apparmor)",
        )
    return Finding(
        "not-owner",
        path,
        f"only root and the owner of the file may open it{shown}",
        (f"this process runs as user {user}",),
        f'chown {user} {path}, or a udev rule: SUBSYSTEM=="vfio", OWNER="USER"',
    )


@_finds(
    device_held="A process has the device open.",
    group_held="A process has the device's group open; a group can be opened only once.",
)
def held(what: str, holders: Sequence[str], *, group: bool = False) -> Finding:
    """A device or a group is open in a process.

    :param holders: the processes, each as the text of a :class:`pyvfio.host.Holder`; empty if none is visible
    """
    unseen = (
        "this process or another, and it can be open only once" if group else "a process that cannot be seen from here"
    )
    who = "; ".join(holders) or unseen
    return Finding(
        "group-held" if group else "device-held",
        what,
        f"{what} is open in {who}",
        tuple(holders) or ("/proc shows no process that has it open",),
        "close it there first" if holders else "look for it as root: pyvfio.host.holders_of() sees all processes then",
    )


@_finds(kept_bound="Another program keeps the device bound with pyvfio.host.bind().")
def kept_bound(address: str, pid: int | None) -> Finding:
    """The journal's file of a device is locked."""
    by = "another program" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
    return Finding(
        "kept-bound",
        address,
        f"{address} is being kept bound by {by}",
        ("its file in the journal, /run/pyvfio, is locked",),
        "end the binding there: Binding.restore(), or the end of the `with`",
    )


@_finds(journal_full="The file system of the journal of bindings is full.")
def journal_full(path: str) -> Finding:
    """An entry could not be written whole."""
    return Finding(
        "journal-full",
        path,
        f"{path} could not be written whole",
        ("pwrite(2) wrote a part only",),
        "make room on its file system; nothing has been bound",
    )


@_finds(
    in_use="The running system uses the device: a mounted disk, a route, the console, a process with one of its nodes open."
)
def used_by_system(address: str, uses: Mapping[str, str]) -> Finding | None:
    """The system uses a device.

    :param uses: name -> why, as :class:`pyvfio.host.Use` has them
    """
    if not uses:
        return None
    listed = "; ".join(f"{name} ({why})" for name, why in uses.items())
    return Finding(
        "in-use",
        address,
        f"{address} is in use by the system: {listed}",
        tuple(f"{name}: {why}" for name, why in uses.items()),
        f"if the system may lose that: allow_in_use={sorted(uses)}",
    )


@_finds(not_root="Binding drivers writes to sysfs, which takes root and a sysfs that is mounted writable.")
def not_root(user: int) -> Finding:
    """sysfs or the journal refused a write."""
    if user:
        return Finding(
            "not-root", "sysfs", "it takes root", (f"this process runs as user {user}",), "run it as root (sudo)"
        )
    return Finding(
        "not-root",
        "sysfs",
        "it takes a sysfs mounted writable",
        ("this process runs as root",),
        "in a container: --privileged, or bind the device outside of it",
    )


@_finds(
    vf_token_missing="The physical function is bound to vfio-pci, and its virtual functions take its token.",
    vf_token_wrong="The token is not the one that the physical function's owner has set.",
    vf_token_unwanted="The device takes no token.",
)
def vf_token(address: str, *, given: bool, wanted: bool, functions: Sequence[str] = ()) -> Finding | None:
    """A token is missing, wrong, or not wanted.

    :param given: whether a token was given
    :param wanted: whether the kernel asked for a token (EACCES); else it refused the one that was given (EINVAL)
    :param functions: virtual functions of the device that are open: it is a physical function, and takes their token
    """
    if wanted and functions:
        return Finding(
            "vf-token-wrong" if given else "vf-token-missing",
            address,
            f"the vf_token is {'wrong' if given else 'missing'}: virtual functions of the device are open ({', '.join(functions)}), and "
            "until they are closed it can be opened only with their token",
            ("the kernel answered EACCES", *(f"{one} is open" for one in functions)),
            "pass the token that they were opened with (vf_token=), or close them first",
        )
    if wanted and given:
        return Finding(
            "vf-token-wrong",
            address,
            "the vf_token is wrong: it is set by who has the physical function open",
            ("the kernel answered EACCES",),
            "take the token that Device.set_vf_token() of the physical function was given",
        )
    if wanted:
        return Finding(
            "vf-token-missing",
            address,
            "the vf_token is missing: it is set by who has the physical function open",
            ("the kernel answered EACCES",),
            f"pyvfio.open({address!r}, vf_token=...) with the token that Device.set_vf_token() of the physical function was given",
        )
    if given:
        return Finding(
            "vf-token-unwanted",
            address,
            "the device does not take a vf_token: it is not a virtual function, or its physical function is not bound to vfio-pci",
            ("the kernel answered EINVAL",),
            f"pyvfio.open({address!r}) without vf_token",
        )
    return None


@_of_facts
def vf_token_needed(address: str, physical_function: str) -> Finding:
    """A virtual function whose physical function is bound to vfio-pci, which takes a token."""
    return Finding(
        "vf-token-missing",
        address,
        f"opening {address} takes the token of {physical_function}, which is bound to vfio-pci",
        (f"{physical_function}, its physical function, is bound to vfio-pci",),
        f"pyvfio.open({address!r}, vf_token=...) with the token that Device.set_vf_token() of the physical function was given",
    )


@_finds(
    no_virtual_functions="The driver of a physical function creates no virtual functions.",
    no_room_for_virtual_functions="The firmware left no addresses or bus numbers for virtual functions.",
    virtual_functions_there="A physical function has virtual functions, which can only be removed all at once.",
)
def no_virtual_functions(
    address: str, number: int, *, count: int, driver: str | None, there: int = 0
) -> Finding | None:
    """The number of virtual functions could not be set.

    :param number: the errno of the write to sriov_numvfs
    :param count: the number that was written
    :param driver: the driver of the physical function
    :param there: the number of virtual functions that it has
    """
    if number == errno.ENOENT:
        reason = (
            f"its driver, {driver}, creates no virtual functions"
            if driver
            else "it is bound to no driver, so nothing creates them"
        )
        cure = None if driver else f"bind it to its own driver: pyvfio.host.bind({address!r}, DRIVER)"
        if driver == "vfio-pci":
            reason += " unless its module's parameter enable_sriov is Y"
            cure = "echo Y > /sys/module/vfio_pci/parameters/enable_sriov"
        evidence = (f"{address} is bound to {driver or 'no driver'}",)
        return Finding("no-virtual-functions", address, reason, evidence, cure)
    if number == errno.ENOMEM:
        return Finding(
            "no-room-for-virtual-functions",
            address,
            f"most likely the firmware left no addresses for the BARs of {count} virtual functions, or no bus numbers",
            ("the kernel answered ENOMEM",),
            "switch on SR-IOV and above-4G decoding in the firmware, boot with pci=realloc, or create fewer; "
            "the kernel log says which is short (dmesg | grep -i sr-iov)",
        )
    if number == errno.EBUSY:
        has = f"{there} virtual functions" if there else "virtual functions"
        return Finding(
            "virtual-functions-there",
            address,
            f"it has {has} already, which can only be removed all at once; or its driver is busy with one of them",
            ("the kernel answered EBUSY",),
            f"pyvfio.host.remove_vfs({address!r}) first",
        )
    return None


# Limits


@_finds(
    guest_memory="The memory of such a guest crosses addresses that the IOMMU cannot map.",
    guest_memory_moved="Such a guest takes QEMU 7.1 or later, which moves its memory above AMD's hole at 1 TiB.",
)
def guest_memory(size: int, clashes: Sequence[tuple[str, str]], before: Sequence[tuple[str, str]]) -> Finding | None:
    """A guest's memory does not fit the IOMMU's address space.

    :param size: the guest's memory, bytes
    :param clashes: a piece of it as QEMU 7.1 lays it out, and the reserved region or limit that it crosses, as text
    :param before: the same as older versions of QEMU lay it out, where the newer ones avoid it
    """
    if not clashes and not before:
        return None
    # Remove duplicates: each device brings the reserved regions of its own group, and most groups have the same.
    found = dict.fromkeys(clashes or before)
    crossed = "; ".join(f"its memory at {piece} crosses {what}" for piece, what in found)
    evidence = tuple(f"reserved: {what}" for what in dict.fromkeys(what for _, what in found))
    if clashes:
        return Finding(
            "guest-memory",
            "guest",
            f"a guest with {as_text(size)} cannot be mapped: {crossed}",
            evidence,
            "give the guest less memory, or use a host whose IOMMU has more addresses",
        )
    return Finding(
        "guest-memory-moved",
        "guest",
        f"a guest with {as_text(size)} takes QEMU 7.1 or later and an AMD vCPU (-cpu host): before, {crossed}",
        evidence,
        "use QEMU 7.1 or later, with a machine type that is not older",
    )


@_finds(mapping_limit_low="The limit on the number of mappings of a type1 container was lowered.")
def mapping_limit_low(limit: int | None) -> Finding | None:
    """A container takes fewer mappings than by default.

    :param limit: vfio_iommu_type1's parameter dma_entry_limit; None if unknown
    """
    if limit is None or limit >= 65535:
        return None
    return Finding(
        "mapping-limit-low",
        "vfio_iommu_type1.dma_entry_limit",
        f"a container takes {limit} mappings; 65535 is the kernel's default",
        (f"dma_entry_limit is {limit}",),
        "echo 65535 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
    )


@_finds(memory_limit_low="The limit on locked memory (RLIMIT_MEMLOCK) is low, and this process is bound by it.")
def memory_limit_low(limit: int | None, *, unlimited: bool) -> Finding | None:
    """A process may lock little memory.

    :param limit: RLIMIT_MEMLOCK, bytes; None for no limit
    :param unlimited: whether the process has CAP_IPC_LOCK
    """
    if limit is None or unlimited or limit >= 64 << 20:
        return None
    return Finding(
        "memory-limit-low",
        "RLIMIT_MEMLOCK",
        f"this process may map {as_text(limit)} for DMA (RLIMIT_MEMLOCK)",
        (f"RLIMIT_MEMLOCK is {limit}", "CapEff is without CAP_IPC_LOCK"),
        "raise it with `ulimit -l`, LimitMEMLOCK= of a service, or /etc/security/limits.conf",
    )


@_finds(huge_pages="The pool of huge pages is smaller than the guest.")
def huge_pages(size: int, free: int, page: int) -> Finding | None:
    """A guest of that size has no huge pages to be put on, which makes mapping slow; it works without.

    :param size: the guest's memory, bytes
    :param free: bytes in free huge pages
    :param page: bytes of a huge page
    """
    if free >= size:
        return None
    return Finding(
        "huge-pages",
        "hugetlb",
        f"{as_text(free) if free else 'nothing'} is free in huge pages of {as_text(page)}, of {as_text(size)}: "
        "mapping is slower without",
        (f"free huge pages: {free // page}",),
        f"echo {-(-size // page)} > /proc/sys/vm/nr_hugepages, if the guest is to use them",
    )


@_finds(huge_pages_node="The device's NUMA node has too few huge pages for the guest, and other nodes have them.")
def huge_pages_node(size: int, free: int, node: int, page: int) -> Finding | None:
    """The huge pages that are free are on other NUMA nodes than the device.

    :param size: the guest's memory, bytes
    :param free: bytes in free huge pages of the node
    :param page: bytes of a huge page
    """
    if free >= size:
        return None
    return Finding(
        "huge-pages-node",
        f"node {node}",
        f"{as_text(free) if free else 'nothing'} is free in huge pages of {as_text(page)} on NUMA node {node}, where the device is, "
        f"of {as_text(size)}: the rest would come from other nodes, which is slower, or not at all if the guest is bound to this one",
        (f"free huge pages of node {node}: {free // page}",),
        f"echo {-(-size // page)} > /sys/devices/system/node/node{node}/hugepages/hugepages-{page >> 10}kB/nr_hugepages",
    )


@_finds(memory_cgroup="The control group of this process may have less memory than the guest, all of which VFIO pins.")
def memory_cgroup(size: int, limit: int, path: str) -> Finding | None:
    """A guest does not fit the limit of its control group (MemoryMax= of a service, --memory of a container).

    :param size: the guest's memory, bytes
    :param limit: memory.max, bytes
    :param path: the group's directory
    """
    if limit >= size:
        return None
    return Finding(
        "memory-cgroup",
        path,
        f"a guest with {as_text(size)} is pinned whole, and this process's control group may have {as_text(limit)}",
        (f"{path}/memory.max is {limit}",),
        "raise MemoryMax= of the service, or --memory of the container, above the guest's memory",
    )


@_finds(memory_limit="The limit on locked memory (RLIMIT_MEMLOCK) is reached.")
def memory_limit(size: int, limit: int | None, locked: int, *, unlimited: bool) -> Finding | None:
    """A process may not lock as much memory as a mapping takes.

    :param size: bytes that were to be mapped
    :param limit: RLIMIT_MEMLOCK, bytes; None for no limit
    :param locked: bytes that are locked already (VmLck)
    :param unlimited: whether the process has CAP_IPC_LOCK
    """
    if limit is None or unlimited:
        return None
    needed = -(-locked - size >> 10)
    return Finding(
        "memory-limit",
        "RLIMIT_MEMLOCK",
        f"{as_text(size)} more would exceed the limit on locked memory, {as_text(limit)} (RLIMIT_MEMLOCK), "
        f"of which {as_text(locked)} are used",
        (f"RLIMIT_MEMLOCK is {limit}", f"VmLck is {locked}", "CapEff is without CAP_IPC_LOCK"),
        f"raise it: `ulimit -l {needed}` in the shell that starts the program, LimitMEMLOCK= of a service, or "
        "/etc/security/limits.conf; CAP_IPC_LOCK lifts it",
    )


@_finds(mapping_limit="The limit on the number of mappings of a type1 container is reached.")
def mapping_limit(mapped: int) -> Finding:
    """A container takes no more mappings.

    :param mapped: how many mappings this program has made
    """
    return Finding(
        "mapping-limit",
        "vfio_iommu_type1.dma_entry_limit",
        "the limit on the number of mappings is reached",
        (f"mapped through this object: {mapped} mappings",),
        "map fewer, larger pieces; or raise the limit: "
        "echo 1000000 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, before the container is opened; mode iommufd has no such limit",
    )
