# SPDX-License-Identifier: MIT
"""The catalogue of findings: what can keep a device from being used, how it is recognised, and what to do about it.

Each finding has an id, the evidence that it was recognised by, and a cure. A function of this module takes plain facts (names,
numbers, what a file holds) and returns the :class:`Finding`, or None where the facts do not show it. None of them asks the
kernel: :mod:`pyvfio.host.examination` collects facts and asks all of them, and errors ask the one that fits the errno.

A reason is written to follow a colon: "opening /dev/vfio/7: Permission denied: REASON". What is only likely says so itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pyvfio.errors import HostError

#: The drivers, besides VFIO's own, that leave DMA to others (`driver_managed_dma`, Linux 5.19).
HARMLESS_DRIVERS = ("pcieport", "pci-stub")


class Finding(NamedTuple):
    """One thing that was found.

    :ivar id: its name in :data:`CATALOGUE`
    :ivar subject: the device, group, file or module that it is about
    :ivar reason: what is wrong, to follow a colon, without a full stop
    :ivar evidence: what was looked at and what was there, one line each
    :ivar cure: what to do; what is code or a command can be pasted. None where nothing can be done
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
    advice = () if finding.cure is None else (finding.cure,)
    return HostError(_ERRNOS[finding.id], str(finding), reason=finding.reason, advice=advice)


#: The catalogue: id -> what it means, in one sentence.
CATALOGUE: dict[str, str] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _finds(**meanings: str) -> Callable[[_Function], _Function]:
    """Enter the findings that a function can return in the catalogue; `_` stands for `-` in an id."""

    def enter(function: _Function) -> _Function:
        CATALOGUE.update({id_.replace("_", "-"): meaning for id_, meaning in meanings.items()})
        return function

    return enter


# The IOMMU


@_finds(
    iommu_off="The host has no IOMMU that is switched on, so no device is in an IOMMU group.",
    iommu_not_for_device="The host's IOMMUs do not translate for this device, so it is in no IOMMU group.",
)
def no_group(address: str, iommus: Collection[str] | None, *, virtual: bool = False) -> Finding:
    """A device is in no IOMMU group.

    :param iommus: the names in /sys/class/iommu; None: not looked at
    :param virtual: the host is a virtual machine, as far as that is known
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
    """The host cannot keep a device from sending any interrupt. To be asked only when no other cause is visible.

    :param parameter: the one that allows it: `iommufd.allow_unsafe_interrupts` or `vfio_iommu_type1.allow_unsafe_interrupts`
    """
    return Finding(
        "interrupts-not-isolated",
        address,
        "most likely the IOMMU does not isolate interrupts (interrupt remapping is off)",
        ("no other device of the group is in the way, and no other program is seen to hold the group",),
        "switch interrupt remapping on in the firmware (x2APIC, VT-d) and take intremap=off off the kernel's command line; "
        f"only where every device and its user is trusted, {parameter}=1",
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
        f"the firmware wants {listed} mapped one to one for {address} at all times (RMRR or IVMD)",
        tuple(f"reserved_regions: {start:#018x} {last:#018x} direct" for start, last in regions),
        "switch off what in the firmware uses the device (USB legacy support, the management controller's access), "
        "or use another slot or device",
    )


@_finds(no_iommu_refused="The device has no IOMMU, and neither the program nor the administrator has accepted that.")
def no_iommu_refused(address: str, *, enabled: bool) -> Finding:
    """A device without an IOMMU was not taken.

    :param enabled: whether vfio's parameter enable_unsafe_noiommu_mode is Y
    """
    if enabled:
        return Finding(
            "no-iommu-refused",
            address,
            f"{address} has no IOMMU, so it can write to all memory, and no_iommu=True was not given",
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
        return None
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

    :param driver: what it is bound to
    """
    evidence = (
        f"its link driver leads to {driver}" if driver else "it has no link driver",
        "it has no directory vfio-dev",
    )
    held = f"{address} is bound to " + (f"{driver}, not to a VFIO driver" if driver else "no driver")
    if bus == "mdev":
        return Finding("mdev-parent", address, held, evidence, "load its parent's VFIO driver")
    to = vfio_driver(bus)
    return Finding(
        "kernel-driver" if driver else "not-bound", address, held, evidence, f"pyvfio.host.bind({address!r}, {to!r})"
    )


def vfio_driver(bus: str) -> str:
    """Return VFIO's general driver for a bus."""
    return "vfio-platform" if bus == "platform" else f"vfio-{bus}"


# Groups, nodes and owners


@_finds(group_not_viable="Another device of the IOMMU group is bound to a driver that does DMA for the kernel.")
def group_not_viable(group: int, members: Mapping[str, str | None], *, but: str | None = None) -> Finding | None:
    """Some devices of a group keep VFIO from all of it. The kernel alone decides; this names the likely ones.

    :param members: address -> driver, or None where none is bound
    :param but: an address that is not to be named
    """
    culprits = in_the_way(members)
    culprits.pop(but or "", None)
    if not culprits:
        return None
    named = ", ".join(f"{address} ({driver})" for address, driver in culprits.items())
    binds = "; ".join(f"pyvfio.host.bind({address!r}, 'vfio-pci')" for address in culprits)
    return Finding(
        "group-not-viable",
        f"group {group}",
        f"IOMMU group {group} also holds {named}, whose driver is not VFIO's",
        tuple(f"{address}: {driver or 'no driver'}" for address, driver in members.items()),
        f"{binds}; or pci-stub in place of vfio-pci, or a slot with a group of its own",
    )


def in_the_way(members: Mapping[str, str | None]) -> dict[str, str]:
    """Return the members of a group whose drivers are likely to keep VFIO from it: address -> driver."""
    return {
        address: driver
        for address, driver in members.items()
        if driver is not None and "vfio" not in driver and driver not in HARMLESS_DRIVERS
    }


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
    path: str, number: int, *, user: int, owner: int | None = None, mode: int | None = None, raw_io: bool = True
) -> Finding:
    """A node cannot be opened.

    :param number: EACCES or EPERM
    :param user: the effective user's number
    :param owner: the node's owner; None: not known
    :param mode: its permission bits; None: not known
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
        return Finding(
            "device-cgroup",
            path,
            "most likely the device cgroup of this container or service does not allow it",
            ("the kernel answered EPERM, not EACCES",),
            f"--device {path} for a container, DeviceAllow={path} rw for a service",
        )
    if user == 0 or (user == owner and mode is not None and mode & 0o600 == 0o600):
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
        f"root, or the owner of the file, may open it{shown}",
        (f"this process runs as user {user}",),
        f'chown {user} {path}, or a udev rule: SUBSYSTEM=="vfio", OWNER="USER"',
    )


@_finds(
    device_held="A process has the device open.",
    group_held="A process has the device's group open; a group can be opened only once.",
)
def held(what: str, holders: Sequence[str], *, group: bool = False) -> Finding:
    """Somebody has a device or a group open.

    :param holders: who, as :class:`pyvfio.host.Holder` shows itself; empty if that cannot be seen
    """
    who = "; ".join(holders) or "a process that cannot be seen from here"
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


@_finds(in_use="The running system uses the device: a mounted disk, the default route, the console.")
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
def vf_token(address: str, *, given: bool, wanted: bool) -> Finding | None:
    """A token is missing, wrong, or not wanted.

    :param given: a token was given
    :param wanted: the kernel asked for one (EACCES); else it did not want the one that was given (EINVAL)
    """
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
            "the device takes no vf_token: it is no virtual function, or its physical function is not bound to vfio-pci",
            ("the kernel answered EINVAL",),
            f"pyvfio.open({address!r}) without vf_token",
        )
    return None


# Limits


@_finds(memory_limit="The limit on locked memory (RLIMIT_MEMLOCK) is reached.")
def memory_limit(size: int, limit: int | None, locked: int, *, unlimited: bool) -> Finding | None:
    """A process may not lock as much memory as a mapping takes.

    :param size: what was asked for, bytes
    :param limit: RLIMIT_MEMLOCK, bytes; None: no limit
    :param locked: what is locked already (VmLck), bytes
    :param unlimited: the process has CAP_IPC_LOCK
    """
    if limit is None or unlimited:
        return None
    return Finding(
        "memory-limit",
        "RLIMIT_MEMLOCK",
        f"{readable(size)} more would exceed the limit on locked memory, {readable(limit)} (RLIMIT_MEMLOCK), "
        f"of which {readable(locked)} are used",
        (f"RLIMIT_MEMLOCK is {limit}", f"VmLck is {locked}", "CapEff is without CAP_IPC_LOCK"),
        "raise it with `ulimit -l`, LimitMEMLOCK= of a service, or /etc/security/limits.conf; CAP_IPC_LOCK lifts it",
    )


@_finds(mapping_limit="The limit on the number of mappings of a type1 container is reached.")
def mapping_limit(mapped: int) -> Finding:
    """A container takes no more mappings.

    :param mapped: how many ranges this program has mapped
    """
    return Finding(
        "mapping-limit",
        "vfio_iommu_type1.dma_entry_limit",
        "the limit on the number of mappings is reached",
        (f"mapped through this object: {mapped} ranges",),
        "map fewer, larger pieces; or raise the limit: "
        "echo N > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, before the container is opened",
    )


def readable(size: int) -> str:
    """Return a size in the largest unit that shows it exactly; hex where none does."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift and not size & ((1 << shift) - 1):
            return f"{size >> shift} {unit}"
    return f"{size:#x} bytes"
