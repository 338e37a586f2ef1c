# SPDX-License-Identifier: MIT
"""The reasons why a guest with assigned devices cannot be migrated, known before anything is started.

Each :class:`Blocker` names the obstacle and what to do about it. Nothing is asked of the host here: the facts are passed in as
:class:`GuestDevice`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.limits import CORE, Limits
from pyvfio.guest.planning import Plan, fit
from pyvfio.iova import IovaRange

SYSTEM_MEMORY = "system"
"""The address space of a device behind no virtual IOMMU."""


class Kind(Enum):
    """Kinds of obstacles."""

    VIOMMU = "the device is behind a virtual IOMMU"
    NO_LOGGING = "no one tracks the device's writes"
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
    """Migration is impossible; otherwise it is possible and needs care."""

    def __str__(self) -> str:
        return f"{self.device}: {self.message} {self.advice}"


class Peer(NamedTuple):
    """Another member of a device's IOMMU group."""

    name: str
    driver: str | None = None
    """The host driver that it is bound to; None: none."""
    bridge: bool = False
    """It is a bridge, as a root port."""


class GuestDevice(NamedTuple):
    """An assigned device, as far as migration goes."""

    name: str
    logs: bool = True
    """It answers the probe for VFIO_DEVICE_FEATURE_DMA_LOGGING_START."""
    limits: Limits = CORE
    """The limits of its driver."""
    address_space: str = SYSTEM_MEMORY
    """The address space its DMA goes through: :data:`SYSTEM_MEMORY`, or a virtual IOMMU's."""
    viommu_bits: int | None = None
    """That IOMMU's width, if it has one."""
    p2p: bool = True
    """Its migration has the states that stop peer-to-peer DMA (VFIO_MIGRATION_P2P, Linux 5.18)."""
    peers: tuple[Peer, ...] = ()
    """The other members of its IOMMU group."""


def find(
    devices: Sequence[GuestDevice],
    plan: Plan | None = None,
    *,
    iommu_tracks: bool = False,
    page_size: int = 4096,
    assigned: Sequence[str] = (),
) -> list[Blocker]:
    """Return everything that keeps a guest with these devices from being migrated.

    :param plan: the ranges that will be logged; without, limits are not checked
    :param iommu_tracks: the host IOMMU tracks dirty pages (IOMMU_HW_CAP_DIRTY_TRACKING, Linux 6.7), so that devices
        that do not log can do without
    :param page_size: the host's page size
    :param assigned: all devices given to the guest, for telling apart which of a group's other members are given too
    """
    devices = arguments.instances(devices, "devices", GuestDevice)
    found: list[Blocker] = []
    ours = {device.name for device in devices} | set(assigned)
    # The choice is QEMU's: all devices log, or the IOMMU tracks for all.
    devices_log = all(device.logs for device in devices)
    for device in devices:
        found += _viommu(device)
        if not device.logs and not iommu_tracks:
            found.append(
                Blocker(
                    Kind.NO_LOGGING,
                    device.name,
                    "The device does not log its DMA and the IOMMU does not track it, so every page counts as dirty in every report.",
                    "Use a device and driver with DMA logging, or iommufd on an IOMMU with dirty tracking; else unplug it first.",
                )
            )
        if plan is not None and devices_log:
            found += _start(device, plan, page_size)
        found += _group(device, ours)
    if len(devices) > 1:
        found += [
            Blocker(
                Kind.SEVERAL_DEVICES,
                device.name,
                "It has no peer-to-peer states, so no moment exists at which all devices are quiet.",
                "With more than one device, each needs VFIO_MIGRATION_P2P (QEMU 8.2 on; 8.0 and 8.1 allow one device only).",
            )
            for device in devices
            if not device.p2p
        ]
    return found


def _viommu(device: GuestDevice) -> list[Blocker]:
    # By address space, not by whether translation is on: with iommu=pt there is nothing to see when the device is
    # realized.
    if device.address_space == SYSTEM_MEMORY:
        return []
    advice = "Attach it to a bus outside the virtual IOMMU (bypass_iommu=on)"
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
            f"Its DMA goes through {device.address_space}, so its IOVAs are not guest addresses; QEMU up to 10.2 refuses to migrate.",
            advice,
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
