# SPDX-License-Identifier: MIT
"""The reasons why a guest with assigned devices cannot be migrated, known before anything is started.

Each :class:`Blocker` names the obstacle, what to do about it, and QEMU's own message if QEMU detects it. The facts are passed in as
:class:`GuestDevice`; the host is not asked. :mod:`pyvfio.guest.qemu.blocking` computes the list that QEMU itself keeps.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.limits import CORE, Limits
from pyvfio.guest.planning import Plan, fit
from pyvfio.guest.qemu import messages
from pyvfio.guest.qemu_release import NEWEST, Release, release
from pyvfio.iova import IovaRange

__all__ = ["LARGEST_BITMAP", "SYSTEM_MEMORY", "Blocker", "GuestDevice", "Kind", "Peer", "find"]

SYSTEM_MEMORY = "system"
"""The address space of a device behind no virtual IOMMU."""

LARGEST_BITMAP = 1 << 28
"""The largest dirty bitmap that a type1 container takes, bytes: with pages of 4 KiB it covers 8 TiB."""


class Kind(Enum):
    """Kinds of obstacles."""

    DISABLED = "migration is switched off for the device"
    NO_MIGRATION = "the kernel does not migrate the device"
    NO_LOGGING = "no one tracks the device's writes"
    UNTRACKED = "the device's writes are lost, since others are tracked by the IOMMU"
    LARGE_MEMORY = "the guest has more memory than a container's dirty bitmap covers"
    VIOMMU = "the device is behind a virtual IOMMU"
    SEVERAL_DEVICES = "several devices without peer-to-peer states"
    START_WILL_FAIL = "the device will refuse to start logging"
    START_WILL_LOSE = "the device will track less than it says"
    GROUP_NOT_VIABLE = "the group's other members are in use"
    GROUP_SHARED = "the group has other members"


class Blocker(NamedTuple):
    """One obstacle."""

    kind: Kind
    device: str
    message: str
    advice: str
    fatal: bool = True
    """Whether migration is impossible; otherwise it is possible and needs care."""
    qemu: str = ""
    """QEMU's message; '' if QEMU does not detect the obstacle before the migration."""

    def __str__(self) -> str:
        return f"{self.device}: {self.message} {self.advice}"


@arguments.checked(name=arguments.string, driver=arguments.optional(arguments.string), bridge=arguments.boolean)
class Peer(NamedTuple):
    """Another member of a device's IOMMU group."""

    name: str
    driver: str | None = None
    """The host driver that it is bound to; None without a driver."""
    bridge: bool = False
    """Whether it is a bridge, such as a root port."""


@arguments.checked(
    name=arguments.string,
    logs=arguments.boolean,
    limits=arguments.of_class(Limits),
    address_space=arguments.string,
    viommu_bits=arguments.optional(arguments.within(1, 64)),
    p2p=arguments.boolean,
    peers=arguments.every(arguments.of_class(Peer)),
    migrates=arguments.boolean,
    migration_errno=arguments.within(1, 4095),
    enable_migration=lambda value, name: arguments.choice(value, name, ("auto", "on", "off")),
    device_tracking=arguments.boolean,
    iommu_tracks=arguments.optional(arguments.boolean),
    type1=arguments.boolean,
)
class GuestDevice(NamedTuple):
    """The facts about an assigned PCI device that matter for migration.

    Devices of other kinds are not handled: QEMU never migrates vfio-ap and vfio-ccw ("State blocked by non-migratable device"), and makes no
    attempt with vfio-platform. Nor are PCI devices with failover_pair_id, which are unplugged instead.
    """

    name: str
    logs: bool = True
    """Whether the probe for VFIO_DEVICE_FEATURE_DMA_LOGGING_START succeeds."""
    limits: Limits = CORE
    """The limits of its driver."""
    address_space: str = SYSTEM_MEMORY
    """The address space its DMA goes through: :data:`SYSTEM_MEMORY`, or a virtual IOMMU's."""
    viommu_bits: int | None = None
    """The width of that virtual IOMMU, if there is one."""
    p2p: bool = True
    """Whether it has the migration states that stop peer-to-peer DMA (VFIO_MIGRATION_P2P, Linux 5.18)."""
    peers: tuple[Peer, ...] = ()
    """The other members of its IOMMU group."""
    migrates: bool = True
    """Whether its driver has VFIO_DEVICE_FEATURE_MIGRATION with STOP_COPY (vfio-pci itself does not)."""
    migration_errno: int = errno.ENOTTY
    """If it does not migrate: the errno that QEMU gets for VFIO_DEVICE_FEATURE_MIGRATION; EOPNOTSUPP for a driver without STOP_COPY."""
    enable_migration: str = "auto"
    """QEMU's enable-migration (8.1 on): `auto`; `off`, always a blocker; `on`: an obstacle keeps QEMU from starting, but a device whose DMA
    is not tracked only causes a warning."""
    device_tracking: bool = True
    """False with QEMU's x-device-dirty-page-tracking=off (9.1 on): the device's own logging is not used."""
    iommu_tracks: bool | None = None
    """Whether its page table in the host's IOMMU tracks dirty pages, which QEMU finds out for each device under iommufd; None for the
    default, the argument `iommu_tracks` of :func:`find`."""
    type1: bool = False
    """Whether it is in a type1 container (a -device without iommufd=), for which QEMU never uses the IOMMU's tracking."""

    @property
    def tracks_itself(self) -> bool:
        """Whether the device can log its own DMA and QEMU may use that."""
        return self.logs and self.device_tracking


def find(
    devices: Sequence[GuestDevice],
    plan: Plan | None = None,
    *,
    iommu_tracks: bool = False,
    page_size: int = 4096,
    assigned: Sequence[str] = (),
    guest_memory: int | None = None,
    version: str = NEWEST,
) -> list[Blocker]:
    """Return all obstacles to migrating a guest with these devices: device by device, in the order of QEMU's checks.

    =========  =================================================================================================================
    8.1        one device only; behind a virtual IOMMU none; a device must log its own DMA
    8.2        several devices if all have peer-to-peer states
    9.1        the IOMMU's dirty tracking (iommufd) does instead of the device's
    11.0       a virtual IOMMU is no obstacle where the IOMMU tracks (0e3c1e2b2b24); more than 8 TiB in a type1 container is one
               with enable-migration=on (46c763311419)
    =========  =================================================================================================================

    Obstacles that depend on a migration's own parameters are not covered, such as postcopy, which QEMU refuses with VFIO devices.

    :param devices: the guest's VFIO devices
    :param plan: the ranges that will be logged; without a plan, limits are not checked
    :param iommu_tracks: whether the host IOMMU tracks dirty pages (IOMMU_HW_CAP_DIRTY_TRACKING, Linux 6.7) for every device whose
        :attr:`GuestDevice.iommu_tracks` is None, so that devices need not log
    :param page_size: the host's page size
    :param assigned: all devices that are assigned to the guest, to know which other members of a group are
    :param guest_memory: the guest's memory (-m), bytes; without it, its size is not checked
    :param version: QEMU's, from "8.1" on
    :raises ValueError: the version is not known
    """
    devices = arguments.instances(devices, "devices", GuestDevice)
    known = release(version, since=(8, 1))
    if guest_memory is not None:
        guest_memory = arguments.integer(guest_memory, "guest_memory", 0)
    page_size = arguments.page_size(page_size)
    plan = None if plan is None else arguments.instance(plan, "plan", Plan)
    iommu_tracks = arguments.boolean(iommu_tracks, "iommu_tracks")
    found: list[Blocker] = []
    ours = {device.name for device in devices}.union(arguments.strings(assigned, "assigned"))
    migrating = [device for device in devices if _may_migrate(device)]
    # QEMU chooses for each container: either all its devices log, or the IOMMU tracks for all.
    by_iommu = {_container(device) for device in devices if not device.tracks_itself}
    tracked = {device.name for device in migrating if _iommu_tracks(device, iommu_tracks, known)}
    iommu_in_use = by_iommu & {_container(device) for device in migrating if device.name in tracked}
    for device in devices:
        if device in migrating:
            found += _tracking(device, device.name in tracked, _container(device) in iommu_in_use, known)
            found += _large_memory(device, device.name in tracked, guest_memory, page_size, known)
            if len(migrating) > 1 and (known < (8, 2) or not device.p2p):
                found.append(_several_devices(device, known))
            found += _viommu(device, device.name in tracked, known)
            if plan is not None and _container(device) not in by_iommu:
                found += _start(device, plan, page_size)
        else:
            found.append(_cannot_migrate(device, known))
        found += _group(device, ours)
    return found


def _container(device: GuestDevice) -> tuple[str, bool]:
    """Return a key for the container that QEMU puts a device into: QEMU has one for each address space, separately for type1 and iommufd."""
    return device.address_space, device.type1


def _may_migrate(device: GuestDevice) -> bool:
    return device.migrates and device.enable_migration != "off"


def _iommu_tracks(device: GuestDevice, by_default: bool, known: Release) -> bool:
    """Whether QEMU uses the IOMMU's dirty tracking for a device."""
    tracks = by_default if device.iommu_tracks is None else device.iommu_tracks
    return bool(tracks) and not device.type1 and known >= (9, 1)


def _cannot_migrate(device: GuestDevice, known: Release) -> Blocker:
    if device.enable_migration == "off":
        return Blocker(
            Kind.DISABLED,
            device.name,
            "Its enable-migration is off.",
            "Leave the property out (auto), or unplug the device first.",
            qemu=messages.disabled_blocker(device.name),
        )
    return Blocker(
        Kind.NO_MIGRATION,
        device.name,
        f"Its driver has no migration ({errno.errorcode.get(device.migration_errno, device.migration_errno)}).",
        "Bind it to a VFIO driver of its own that migrates (mlx5_vfio_pci, pds_vfio_pci, ...), if there is one; else unplug it first.",
        qemu=messages.no_migration_blocker(device.name, device.migration_errno, version=str(known)),
    )


def _tracking(device: GuestDevice, iommu_tracks: bool, iommu_in_use: bool, known: Release) -> list[Blocker]:
    if iommu_tracks:
        return []
    found = []
    if not device.tracks_itself:
        forced = device.enable_migration == "on"
        found.append(
            Blocker(
                Kind.NO_LOGGING,
                device.name,
                "The device's own logging is switched off and the IOMMU does not track it, so every page counts as dirty in every report."
                if device.logs
                else "The device does not log its DMA and the IOMMU does not track it, so every page counts as dirty in every report.",
                "Use a device and driver with DMA logging, or iommufd on an IOMMU with dirty tracking; else unplug it first.",
                fatal=not forced,
                qemu=messages.no_tracking_blocker(device.name, version=str(known)),
            )
        )
    if iommu_in_use and not device.type1:
        # iommufd_set_dirty_page_tracking() and iommufd_query_dirty_bitmap() skip its page table (hw/vfio/iommufd.c in 10.0.13 and 10.2.2).
        found.append(
            Blocker(
                Kind.UNTRACKED,
                device.name,
                "Not all devices log, so QEMU uses the IOMMU's tracking for all, and passes over this one, which the IOMMU does not track: "
                "pages that it writes are not sent again.",
                "Give the guest devices that all log, or that the IOMMU all tracks.",
                qemu=messages.untracked_warning(device.name),
            )
        )
    return found


def _large_memory(
    device: GuestDevice, iommu_tracks: bool, guest_memory: int | None, page_size: int, known: Release
) -> list[Blocker]:
    largest = LARGEST_BITMAP * 8 * page_size
    if known < (11, 0) or guest_memory is None or guest_memory <= largest or not device.type1:
        return []
    if device.tracks_itself or iommu_tracks or device.enable_migration != "on":
        return []
    return [
        Blocker(
            Kind.LARGE_MEMORY,
            device.name,
            f"The guest has {guest_memory / 2**40:g} TiB of memory, and the largest dirty bitmap of its type1 container covers "
            f"{largest / 2**40:g} TiB.",
            "Use iommufd (-object iommufd, iommufd= at the device), or a device that logs its DMA.",
            qemu=messages.large_memory_blocker(device.name),
        )
    ]


def _several_devices(device: GuestDevice, known: Release) -> Blocker:
    return Blocker(
        Kind.SEVERAL_DEVICES,
        device.name,
        "It has no peer-to-peer states, so no moment exists at which all devices are quiet."
        if not device.p2p
        else f"QEMU {known} migrates one device only.",
        "With more than one device, each needs VFIO_MIGRATION_P2P (QEMU 8.2 on; 8.0 and 8.1 allow one device only).",
        qemu=messages.several_devices_blocker(version=str(known)),
    )


def _viommu(device: GuestDevice, iommu_tracks: bool, known: Release) -> list[Blocker]:
    # QEMU decides by the address space, not by whether translation is on: with iommu=pt, translation is off when the device is
    # realized.
    if device.address_space == SYSTEM_MEMORY or (known >= (11, 0) and not device.tracks_itself):
        return []
    advice = "Attach it to a bus outside the virtual IOMMU (bypass_iommu=on)"
    if iommu_tracks and known >= (11, 0):
        advice += ", or switch its own logging off (x-device-dirty-page-tracking=off): the IOMMU tracks it"
    elif not iommu_tracks:
        advice += ", or use QEMU 11.0 or later with x-device-dirty-page-tracking=off and iommufd on an IOMMU that tracks dirty pages"
    else:
        advice += ", or use QEMU 11.0 or later with x-device-dirty-page-tracking=off: the IOMMU tracks it"
    bits = device.viommu_bits
    if bits is None or bits > 63:
        advice += "; the whole of that IOMMU's address space cannot be logged."
    elif fit([_span_of(bits)], device.limits).accepted:
        advice += f", or use a VMM that logs all {bits} bits of the virtual IOMMU: this device can."
    else:
        advice += f"; this device cannot log all {bits} bits of the virtual IOMMU either, but perhaps a narrower one's."
    return [
        Blocker(
            Kind.VIOMMU,
            device.name,
            f"Its DMA goes through {device.address_space}, so its IOVAs are not guest addresses; QEMU {known} refuses to migrate it.",
            advice,
            qemu=messages.viommu_blocker([device.address_space], device.name, version=str(known)) or "",
        )
    ]


def _start(device: GuestDevice, plan: Plan, page_size: int) -> list[Blocker]:
    if not plan.ranges:
        return []
    held = fit(plan.ranges, device.limits, plan.page_size, page_size)
    if held.complete:
        return []
    kind = Kind.START_WILL_LOSE if held.accepted else Kind.START_WILL_FAIL
    if held.best is not None:
        advice = f"Ask for the {len(held.best)} ranges of fit(...).best."
    elif held.answer.errno == errno.EOPNOTSUPP and device.limits.max_ranges:
        advice = "Give the guest less memory or fewer holes in its address space; fewer ranges would only make the total larger."
    else:
        advice = "Use another way to track."
    return [Blocker(kind, device.name, held.explain(), advice)]


def _group(device: GuestDevice, ours: set[str]) -> list[Blocker]:
    found: list[Blocker] = []
    outsiders = [peer for peer in device.peers if peer.name not in ours]
    busy = [p for p in outsiders if not p.bridge and p.driver is not None and not p.driver.startswith("vfio")]
    if busy:
        names = ", ".join(f"{peer.name} ({peer.driver})" for peer in busy)
        found.append(
            Blocker(
                Kind.GROUP_NOT_VIABLE,
                device.name,
                f"Its IOMMU group also holds {names}, in use by the host.",
                "Unbind them from their drivers, bind them to vfio-pci, or move the device to a slot with a group of its own.",
            )
        )
    bridges = [peer for peer in outsiders if peer.bridge]
    if bridges:
        names = ", ".join(peer.name for peer in bridges)
        found.append(
            Blocker(
                Kind.GROUP_SHARED,
                device.name,
                f"It shares its IOMMU group with the bridge {names}: the group can be used, for a bridge's driver does no DMA, "
                "but nothing keeps the functions below that bridge from reaching each other past the IOMMU.",
                "Choose a slot whose root port has ACS; on the target too, since the group travels with the slot.",
                fatal=False,
            )
        )
    others = [peer for peer in device.peers if not peer.bridge and peer.name in ours and peer.name != device.name]
    if others:
        names = ", ".join(peer.name for peer in others)
        found.append(
            Blocker(
                Kind.GROUP_SHARED,
                device.name,
                f"It shares its IOMMU group with {names}, also of this guest.",
                "All must be in one address space; behind a virtual IOMMU a Linux guest learns reserved regions of the first only.",
                fatal=False,
            )
        )
    return found


def _span_of(bits: int) -> IovaRange:
    return IovaRange(0, (1 << bits) - 1)
