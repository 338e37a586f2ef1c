# SPDX-License-Identifier: MIT
"""QEMU's own migration blockers, in the order in which it adds them, and the errors that keep it from starting.

It follows vfio_migration_realize (hw/vfio/migration.c), read in 10.0.13 and 10.2.2; 8.1 to 9.2 and 11.0 are known from the commits that
:func:`pyvfio.guest.blockers.find` names, and 11.1.3 and 10.0.13 have run (tests/qemu). :mod:`pyvfio.guest.blockers` also has advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.blockers import LARGEST_BITMAP, SYSTEM_MEMORY, GuestDevice
from pyvfio.guest.qemu import messages
from pyvfio.guest.qemu_release import NEWEST, release


class Blocking(NamedTuple):
    """The outcome of realizing the devices of a command line."""

    blockers: list[str]
    """The reasons that `migrate` refuses with (query-migrate's blocked-reasons), the first one first."""
    error: str | None
    """The error with which QEMU exits, because a device with enable-migration=on cannot migrate; None if QEMU starts."""
    warnings: list[str]


def migration_blockers(
    devices: Sequence[GuestDevice],
    *,
    iommu_tracks: bool = False,
    page_size: int = 4096,
    guest_memory: int = 0,
    version: str = NEWEST,
) -> Blocking:
    """Return the migration blockers that QEMU has after realizing these devices.

    A device adds at most one blocker: its later checks are not made. Several devices without peer-to-peer states cause one blocker together.

    :param devices: the devices, in the order of the command line
    :param iommu_tracks: the default for devices whose :attr:`GuestDevice.iommu_tracks` is None
    :param guest_memory: -m, bytes
    :param version: QEMU's, from "8.1" on
    """
    devices = arguments.instances(devices, "devices", GuestDevice)
    guest_memory = arguments.integer(guest_memory, "guest_memory", 0)
    iommu_tracks = arguments.boolean(iommu_tracks, "iommu_tracks")
    largest = LARGEST_BITMAP * 8 * arguments.page_size(page_size)
    known = release(version, since=(8, 1))
    blockers: list[str] = []
    warnings: list[str] = []
    several = messages.several_devices_blocker(version=version)
    peer_to_peer: list[bool] = []
    for device in devices:
        forced = device.enable_migration == "on"
        tracks = iommu_tracks if device.iommu_tracks is None else device.iommu_tracks
        unaided = not device.tracks_itself and (not tracks or device.type1 or known < (9, 1))
        blocker: str | None = None
        if device.enable_migration == "off":
            blocker = messages.disabled_blocker(device.name)
        elif not device.migrates:
            blocker = messages.no_migration_blocker(device.name, device.migration_errno, version=version)
        else:
            peer_to_peer.append(device.p2p)
            untracked = messages.no_tracking_blocker(device.name, version=version)
            if unaided and not forced:
                blocker = untracked
            elif unaided and known >= (11, 0) and device.type1 and guest_memory > largest:
                blocker = messages.large_memory_blocker(device.name)
            else:
                if unaided:
                    warnings.append(untracked)
                if len(peer_to_peer) > 1 and (known < (8, 2) or not all(peer_to_peer)):
                    if forced:
                        return Blocking(blockers, several, warnings)
                    if several not in blockers:
                        blockers.append(several)
                if device.address_space != SYSTEM_MEMORY:
                    blocker = messages.viommu_blocker(
                        [device.address_space], device.name, version=version, device_tracking=device.tracks_itself
                    )
        if blocker and forced:
            return Blocking(blockers, blocker, warnings)
        if blocker:
            blockers.append(blocker)
    return Blocking(blockers, None, warnings)
