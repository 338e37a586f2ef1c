# SPDX-License-Identifier: MIT
"""Examine a device or the host: collect the facts that the catalogue's functions need, and list their findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.errors import BadReply
from pyvfio.guest import x86
from pyvfio.host import diagnosis
from pyvfio.host.binding import NO_DRIVER
from pyvfio.host.caller import calling_process
from pyvfio.host.diagnosis import Finding
from pyvfio.host.discovery import HostDevice, device, devices, no_group
from pyvfio.host.holders import holders_of
from pyvfio.host.in_use import by_name, uses_of
from pyvfio.host.iommu_group import group
from pyvfio.host.journal import bindings
from pyvfio.host.sysfs import attribute, entries, link_name, number
from pyvfio.iova import IovaRange, IovaSet
from pyvfio.kernel import Kernel, resolve

_GROUP_TYPES = ("DMA", "DMA-FQ", "identity", "blocked", "auto", "unmanaged", None)
_REGION_TYPES = ("direct", "direct-relaxable", "reserved", "msi")
_POWER_STATES = ("D0", "D1", "D2", "D3hot", "D3cold", "unknown", None)
_RUNTIME_STATES = ("active", "suspended", "suspending", "resuming", "unsupported", None)
_MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")


class Examination(NamedTuple):
    """The result of examining a device or the host.

    :ivar findings: the obstacles to using it, the most fundamental first
    :ivar hints: findings that are no obstacle, but worth knowing
    :ivar unknown: values that were read and not recognised, one line each
    :ivar facts: values that were read: name -> value
    """

    findings: tuple[Finding, ...]
    hints: tuple[Finding, ...]
    unknown: tuple[str, ...]
    facts: dict[str, str]


def examine(where: str | HostDevice, /, kernel: Kernel | str | None = None) -> list[Finding]:
    """Return the obstacles to opening a device, the most fundamental first; an empty list if none is found.

    It reads sysfs and procfs, and opens the device's own node for a moment to see whether that is permitted. Nothing is changed.

    :param where: the device's address, or what :func:`device` returned
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :raises ValueError: not a valid device name
    :raises OSError: ENODEV, no such device
    """
    return list(diagnose(where, kernel).findings)


def diagnose(
    where: str | HostDevice,
    /,
    kernel: Kernel | str | None = None,
    *,
    guest_memory: int | None = None,
    need: Iterable[str] = (),
) -> Examination:
    """Return all obstacles to using a device, and hints that are worth knowing; see :func:`examine`.

    :param where: the device's address, "0000:00:03.0", or its name on another bus
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :param guest_memory: bytes; check also whether a guest of that size fits the address space and the limits
    :param need: features that must work too, names of :data:`NEEDS`
    :raises ValueError: not a valid device name; not a name of :data:`NEEDS`
    :raises OSError: ENODEV, no such device
    """
    kernel = resolve(kernel)
    needed, guest_memory = _needed(need), _memory(guest_memory)
    found = device(where.address if isinstance(where, HostDevice) else where, kernel)
    notes = _Notes()
    if found.is_bridge:
        notes.findings.append(diagnosis.bridge(found.address, found.class_code))
        return notes.examination()
    for doing, look in {
        "host": _host(kernel, found),
        "driver": _driver(kernel, found, notes),
        "group": _group(kernel, found, notes),
        "nodes": _nodes(kernel, found, notes),
        "function": _function(kernel, found, notes),
        "holders": _holders(kernel, found),
    }.items():
        notes.take(look, doing)
    notes.take(_needs(kernel, needed, found), "need")
    if guest_memory is not None:
        notes.take(_guest(kernel, guest_memory, [found]), "guest")
    _limits(kernel, notes)
    return notes.examination()


def diagnose_host(
    kernel: Kernel | str | None = None, *, guest_memory: int | None = None, need: Iterable[str] = ()
) -> Examination:
    """Return all obstacles to using devices of this host through VFIO; see :func:`diagnose`.

    A host without any device that VFIO could serve has no findings.

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :param guest_memory: bytes of a guest that will be pinned
    :param need: features that must work too, names of :data:`NEEDS`
    """
    kernel = resolve(kernel)
    needed, guest_memory = _needed(need), _memory(guest_memory)
    notes = _Notes()
    notes.take(_modules(kernel, "vfio-pci", None), "modules")
    there = [one for one in devices(kernel) if one.bus == "pci"]
    if there and all(one.group is None for one in there) and not any(one.no_iommu for one in there):
        notes.findings.append(_no_group(kernel, there[0].address)._replace(subject="host"))
    if there:
        command_line = attribute(kernel, "/proc/cmdline") or ""
        notes.findings += _present(diagnosis.interrupts_by_command_line("host", command_line))
        notes.hints += _present(diagnosis.acs_override("host", command_line))
    notes.take(_interfaces(kernel, None), "interfaces")
    notes.take(_needs(kernel, needed, None), "need")
    if guest_memory is not None:
        notes.take(_guest(kernel, guest_memory, there), "guest")
    _limits(kernel, notes)
    notes.facts |= {
        "kernel": attribute(kernel, "/proc/sys/kernel/osrelease") or "unknown",
        "IOMMUs": ", ".join(entries(kernel, "/sys/class/iommu")) or "none",
        "IOMMU groups": str(len(entries(kernel, "/sys/kernel/iommu_groups"))),
        "devices": str(len(there)),
    }
    return notes.examination()


class _Notes:
    """The findings, hints and facts that are being collected."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.hints: list[Finding] = []
        self.unknown: list[str] = []
        self.facts: dict[str, str] = {}

    def take(self, found: Iterator[Finding | None], doing: str) -> None:
        """Collect the findings of an iterator. An error that no finding stands for ends it and is noted as unknown; nothing is raised."""
        try:
            for one in found:
                if one is not None:
                    (self.hints if one.id in HINTS else self.findings).append(one)
        except (OSError, BadReply, ValueError) as error:
            self.unknown.append(f"{doing}: {error}")

    def expect(self, what: str, value: str | None, known: tuple[str | None, ...]) -> None:
        """Record a value, and note it as unknown if it is not one of those that are known."""
        if value is not None:
            self.facts[what] = value
        if value not in known:
            self.unknown.append(f"{what} is {value!r}")

    def examination(self) -> Examination:
        """Return everything that was collected; a finding that came twice is listed once."""
        return Examination(
            tuple(dict.fromkeys(self.findings)), tuple(dict.fromkeys(self.hints)), tuple(self.unknown), self.facts
        )


#: the findings that do not keep a device from being used
HINTS = frozenset(
    {
        "acs-override",
        "d3cold",
        "device-nodes-missing",
        "group-shared",
        "guest-memory-moved",
        "huge-pages",
        "huge-pages-node",
        "ids-too-late",
        "iommufd-missing",
        "mapping-limit-low",
        "memory-limit-low",
        "msi-off",
        "no-reset",
        "override-foreign",
        "unsafe-interrupts",
        "variant-driver",
    }
)


def _present(*findings: Finding | None) -> list[Finding]:
    return [one for one in findings if one is not None]


# The host


def _no_group(kernel: Kernel, address: str) -> Finding:
    virtual = " hypervisor" in (attribute(kernel, "/proc/cpuinfo") or "")
    return no_group(kernel, address, virtual=virtual)


def _host(kernel: Kernel, found: HostDevice) -> Iterator[Finding | None]:
    if not kernel.exists("/dev/vfio"):
        yield diagnosis.vfio_missing(modules=entries(kernel, "/sys/module"))
    if found.no_iommu:
        yield diagnosis.no_iommu_refused(found.address, enabled=True)
    elif found.group is None:
        if attribute(kernel, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y":
            yield diagnosis.no_iommu_refused(found.address, enabled=True)
        else:
            yield _no_group(kernel, found.address)
    elif found.bus == "pci":
        command_line = attribute(kernel, "/proc/cmdline") or ""
        yield diagnosis.interrupts_by_command_line(found.address, command_line)
        yield diagnosis.acs_override(found.address, command_line)
    yield from _interfaces(kernel, found)


def _interfaces(kernel: Kernel, found: HostDevice | None) -> Iterator[Finding | None]:
    """Check which interfaces for opening devices the kernel has."""
    iommufd, containers = kernel.exists("/dev/iommu"), kernel.exists("/dev/vfio/vfio")
    cdevs = None if found is None or found.vfio is None else found.cdev is not None
    if kernel.exists("/dev/vfio"):
        yield diagnosis.interfaces_missing(containers=containers, iommufd=iommufd, cdevs=cdevs)
        yield diagnosis.type1_missing(containers=containers, iommufd=iommufd, modules=entries(kernel, "/sys/module"))
    if containers and not iommufd:
        yield diagnosis.iommufd_missing()
    parameters = [
        f"{module}.allow_unsafe_interrupts"
        for module in ("vfio_iommu_type1", "iommufd")
        if attribute(kernel, f"/sys/module/{module}/parameters/allow_unsafe_interrupts") == "Y"
    ]
    yield diagnosis.unsafe_interrupts(parameters)


def _modules(kernel: Kernel, driver: str, bus: str | None) -> Iterator[Finding | None]:
    """Check whether VFIO and the driver are loaded, and if not, whether a blacklist keeps them from being loaded."""
    missing = not kernel.exists("/dev/vfio")
    if missing:
        yield diagnosis.vfio_missing(modules=entries(kernel, "/sys/module"))
    if bus is not None:
        absent = diagnosis.driver_missing(driver, bus, entries(kernel, f"/sys/bus/{bus}/drivers"))
        missing = absent is not None
        yield absent
    if missing:
        module = driver.replace("-", "_")
        yield diagnosis.module_blacklisted(module, list(_blacklisted(kernel, module)))


def _blacklisted(kernel: Kernel, module: str) -> Iterator[str]:
    """Yield the lines that keep a module from being loaded."""
    for word in (attribute(kernel, "/proc/cmdline") or "").split():
        name, _, value = word.partition("=")
        if name in ("module_blacklist", "modprobe.blacklist") and module in value.replace("-", "_").split(","):
            yield f"/proc/cmdline has {word}"
    for path, line in _modprobe_lines(kernel):
        words = line.split()
        stops = words[:1] == ["blacklist"] or (
            words[:1] == ["install"] and words[2:3] in (["/bin/false"], ["/bin/true"])
        )
        if stops and len(words) > 1 and words[1].replace("-", "_") == module:
            yield f"{path} has: {line}"


def _modprobe_lines(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """Yield the lines of modprobe's configuration, each with its file."""
    for directory in _MODPROBE:
        for name in entries(kernel, directory):
            if name.endswith(".conf"):
                for line in (attribute(kernel, f"{directory}/{name}") or "").splitlines():
                    yield f"{directory}/{name}", line.strip()


def _ids_of_vfio_pci(kernel: Kernel) -> Iterator[str]:
    """Yield the places where vfio-pci's parameter `ids` is set, each with its file."""
    for word in (attribute(kernel, "/proc/cmdline") or "").split():
        if word.replace("-", "_").startswith("vfio_pci.ids="):
            yield f"/proc/cmdline has {word}"
    for path, line in _modprobe_lines(kernel):
        words = line.split()
        if words[:1] == ["options"] and words[1:2] in (["vfio-pci"], ["vfio_pci"]):
            for word in words[2:]:
                if word.startswith("ids="):
                    yield f"{path} has: options {words[1]} {word}"


# The device


def _driver(kernel: Kernel, found: HostDevice, notes: _Notes) -> Iterator[Finding | None]:
    notes.facts["driver"] = found.driver or "none"
    entry = next((one for one in bindings(kernel) if one.address == found.address), None)
    if entry is not None:
        yield diagnosis.taken_back(found.address, entry.driver, found.driver or NO_DRIVER)
    if found.vfio is not None or (found.driver is not None and "vfio" in found.driver):
        yield diagnosis.variant_driver(found.address, found.driver, _variants(kernel, found))
        return
    if found.bus != "mdev":
        yield from _modules(kernel, diagnosis.vfio_driver(found.bus), found.bus)
    yield diagnosis.used_by_system(found.address, by_name(uses_of(found, kernel)))
    if entry is None:
        loaded = found.driver_override in entries(kernel, f"/sys/bus/{found.bus}/drivers")
        yield diagnosis.override_foreign(found.address, found.driver_override, found.driver, loaded=loaded)
    if found.vendor is not None and found.device is not None:
        places = list(_ids_of_vfio_pci(kernel))
        yield diagnosis.ids_too_late(found.address, found.driver, (found.vendor, found.device), places)
    yield diagnosis.not_bound(found.address, found.bus, found.driver)


def _variants(kernel: Kernel, found: HostDevice) -> list[str]:
    """Return the modules with a VFIO driver for this very device, by modules.alias (depmod writes it)."""
    own = attribute(kernel, f"{found.path}/modalias")
    release = attribute(kernel, "/proc/sys/kernel/osrelease")
    if own is None or release is None or not own.startswith("pci:"):
        return []
    wanted = f"vfio_{own}"
    modules = []
    for line in (attribute(kernel, f"/lib/modules/{release}/modules.alias") or "").splitlines():
        words = line.split()
        if (
            len(words) == 3
            and words[1].startswith("vfio_pci:")
            and words[2] != "vfio_pci"
            and fnmatchcase(wanted, words[1])
        ):
            modules.append(words[2])
    return list(dict.fromkeys(modules))


def _group(kernel: Kernel, found: HostDevice, notes: _Notes) -> Iterator[Finding | None]:
    if found.group is None or found.no_iommu:
        return
    facts = group(found.group, kernel)
    notes.expect("group type", facts.type, _GROUP_TYPES)
    for region in facts.reserved_regions:
        if region.type not in _REGION_TYPES:
            notes.unknown.append(f"reserved region {region.range} is of type {region.type!r}")
    direct = [(region.range.start, region.range.last) for region in facts.reserved_regions if region.type == "direct"]
    yield diagnosis.direct_region(found.address, direct)
    # Leave out the device itself: the finding not-bound has the advice for it.
    yield diagnosis.group_not_viable(found.group, facts.members, but=found.address)
    if found.bus == "pci":
        yield diagnosis.group_shared(found.group, found.address, _endpoints(kernel, facts.members))


def _endpoints(kernel: Kernel, members: Iterable[str]) -> list[str]:
    """Return the members that are not bridges."""
    return [
        one
        for one in members
        if not (attribute(kernel, f"/sys/bus/pci/devices/{one}/class") or "").startswith("0x0604")
    ]


def _nodes(kernel: Kernel, found: HostDevice, notes: _Notes) -> Iterator[Finding | None]:
    for path in (found.group_path, found.cdev):
        if path is not None and not kernel.exists(path):
            yield diagnosis.node_missing(path, in_sysfs=True)
    path = found.cdev
    if path is not None and kernel.exists(path):
        try:
            kernel.close(kernel.open(path))
        except PermissionError as error:
            process = calling_process(kernel)
            yield diagnosis.not_permitted(path, error.errno or 0, user=process.user, raw_io=process.raw_io)
    bound = found.driver is not None and "vfio" in found.driver
    if bound and found.group_path is None and found.cdev is None:
        notes.unknown.append(
            f"{found.address} is bound to {found.driver}, and sysfs shows neither a group node nor a device node of it"
        )
    if found.vfio is not None and found.driver is None and found.bus != "mdev":
        notes.unknown.append(f"{found.address} has a directory vfio-dev and no driver")


def _function(kernel: Kernel, found: HostDevice, notes: _Notes) -> Iterator[Finding | None]:
    """Check the power state, the reset methods and the configuration space of a PCI function."""
    if found.bus != "pci":
        return
    power = attribute(kernel, f"{found.path}/power_state")
    status = attribute(kernel, f"{found.path}/power/runtime_status")
    notes.expect("power state", power, _POWER_STATES)
    notes.expect("runtime power", status, _RUNTIME_STATES)
    yield diagnosis.d3cold(found.address, power)
    if status != "suspended" and power != "D3cold":  # a read would wake it
        with suppress(OSError):
            yield diagnosis.no_answer(found.address, kernel.read_file(f"{found.path}/config")[:64])
    yield diagnosis.no_reset(found.address, attribute(kernel, f"{found.path}/reset_method"))
    yield diagnosis.bar_unassigned(found.address, attribute(kernel, f"{found.path}/resource"))
    yield diagnosis.behind_vmd(found.address, _vmd_above(kernel, found))
    yield diagnosis.msi_off(found.address, list(_without_msi(kernel, found)))
    if found.physical_function is not None:
        above = device(found.physical_function, kernel)
        if above.driver == "vfio-pci" and found.driver == "vfio-pci":
            yield diagnosis.vf_token_needed(found.address, above.address)


def _above(found: HostDevice) -> Iterator[str]:
    """Yield the sysfs directories of the device and of the devices above it, the device's first."""
    path = found.path
    while path.count("/") > 3:  # not /sys/devices/pci0000:00 itself
        yield path
        path = path.rpartition("/")[0]


def _vmd_above(kernel: Kernel, found: HostDevice) -> str | None:
    above = (path for path in _above(found) if path != found.path)
    return next((path.rpartition("/")[2] for path in above if link_name(kernel, f"{path}/driver") == "vmd"), None)


def _without_msi(kernel: Kernel, found: HostDevice) -> Iterator[str]:
    """Yield the settings that switch MSI off for a device, each with its file."""
    for word in (attribute(kernel, "/proc/cmdline") or "").split():
        if word.startswith("pci=") and "nomsi" in word[4:].split(","):
            yield f"/proc/cmdline has {word}"
    for path in _above(found):
        if attribute(kernel, f"{path}/msi_bus") == "0":
            yield f"{path}/msi_bus is 0"


def _holders(kernel: Kernel, found: HostDevice) -> Iterator[Finding | None]:
    if holders := holders_of(found.nodes, kernel):
        yield diagnosis.held(found.address, [str(holder) for holder in holders])


# Limits, and features that were asked for


def _limits(kernel: Kernel, notes: _Notes) -> None:
    process = calling_process(kernel)
    notes.hints += _present(diagnosis.memory_limit_low(process.limit, unlimited=process.unlimited))
    entry_limit = attribute(kernel, "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    if entry_limit is not None:
        if entry_limit.isdecimal():
            notes.hints += _present(diagnosis.mapping_limit_low(int(entry_limit)))
        else:
            notes.unknown.append(f"dma_entry_limit is {entry_limit!r}")


#: the features for the parameter `need`: name -> the kernel's release and option that has it
NEEDS = {
    "iommufd": "Linux 6.2 has it, with CONFIG_IOMMUFD",
    "device-nodes": "Linux 6.6 has them, with CONFIG_VFIO_DEVICE_CDEV",
    "containers": "it is built with CONFIG_VFIO_CONTAINER",
    "dma-logging": "Linux 6.1 has it, for devices with a VFIO driver of their own",
    "migration": "Linux 5.18 has it, for devices with a VFIO driver of their own",
}


def _memory(guest_memory: int | None) -> int | None:
    return None if guest_memory is None else arguments.u64(guest_memory, "guest_memory")


def _needed(need: Iterable[str]) -> tuple[str, ...]:
    if isinstance(need, str) or not isinstance(need, Iterable):
        raise arguments.wrong_type(need, "need", f"names out of {', '.join(NEEDS)}")
    needed = tuple(need)
    if wrong := [name for name in needed if name not in NEEDS]:
        raise ValueError(f"need must be of {', '.join(NEEDS)}, not {wrong[0]!r}")
    return needed


def _needs(kernel: Kernel, needed: Iterable[str], found: HostDevice | None) -> Iterator[Finding | None]:
    paths = {"iommufd": "/dev/iommu", "containers": "/dev/vfio/vfio", "device-nodes": "/dev/vfio/devices"}
    for name in needed:
        if name in paths:
            if not kernel.exists(paths[name]):
                yield diagnosis.kernel_lacks(name, NEEDS[name], (f"{paths[name]} does not exist",))
        elif found is not None:
            yield diagnosis.variant_driver(found.address, found.driver, _variants(kernel, found), needed=True)


def _guest(kernel: Kernel, size: int, found: list[HostDevice]) -> Iterator[Finding | None]:
    """Check whether the memory of a guest can be mapped, locked and put on huge pages."""
    regions = list(unmappable(kernel, found))
    # QEMU chooses the layout by the vCPU's vendor, which is the host's with -cpu host.
    machine = x86.Machine(size, amd_cpu=any((start, last) == x86.AMD_HT for start, last, _ in regions))
    clashes, before = (_clashes(layout(machine), regions) for layout in (x86.merged, x86.as_before))
    yield diagnosis.guest_memory(size, clashes, [] if clashes else before)
    process = calling_process(kernel)
    if process.limit is not None and process.locked + size > process.limit:
        yield diagnosis.memory_limit(size, process.limit, process.locked, unlimited=process.unlimited)
    pages = re.search(r"HugePages_Free:\s*(\d+)", attribute(kernel, "/proc/meminfo") or "")
    one = re.search(r"Hugepagesize:\s*(\d+) kB", attribute(kernel, "/proc/meminfo") or "")
    if pages and one:
        page = int(one[1]) << 10
        few = diagnosis.huge_pages(size, int(pages[1]) * page, page)
        yield few
        node = found[0].numa_node if len(found) == 1 else None
        if few is None and node is not None:
            file = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{one[1]}kB/free_hugepages"
            if (free := number(kernel, file)) is not None:
                yield diagnosis.huge_pages_node(size, free * page, node, page)
    limits = list(_memory_limits(kernel))
    if limits:
        yield diagnosis.memory_cgroup(size, *min(limits))


def _memory_limits(kernel: Kernel) -> Iterator[tuple[int, str]]:
    """Yield the limits on the memory of this process's control group (version 2) and of those above it, each with its directory."""
    for line in (attribute(kernel, "/proc/self/cgroup") or "").splitlines():
        hierarchy, _, path = line.split(":", 2)
        while hierarchy == "0" and path.strip("/"):
            limit = attribute(kernel, f"/sys/fs/cgroup{path}/memory.max")
            if limit not in (None, "max"):
                yield int(limit or 0), f"/sys/fs/cgroup{path}"
            path = path.rpartition("/")[0]


def _clashes(layout: x86.Layout, regions: Iterable[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """Return where a guest's memory overlaps addresses that cannot be mapped: the first address, and a description."""
    return [
        (f"{conflict.range.start:#x}", what)
        for start, last, what in regions
        for conflict in layout.conflicts(IovaSet([IovaRange(start, last)]))
    ]


def unmappable(kernel: Kernel, found: list[HostDevice]) -> Iterator[tuple[int, int, str]]:
    """Yield the ranges that the IOMMUs of devices cannot map: first address, last address, description."""
    numbers = sorted({one.group for one in found if one.group is not None})
    for one in numbers:
        for region in group(one, kernel).reserved_regions:
            if region.type != "direct-relaxable":
                yield (
                    region.range.start,
                    region.range.last,
                    f"[{region.range.start:#x}, {region.range.last:#x}] ({region.type})",
                )
    for name in sorted({one.iommu for one in found if one.iommu is not None}):
        capabilities = attribute(kernel, f"/sys/class/iommu/{name}/intel-iommu/cap")
        if capabilities is not None:
            width = (int(capabilities, 16) >> 16 & 0x3F) + 1
            if width < 64:
                yield 1 << width, 2**64 - 1, f"the {width} bits of {name}'s addresses"
