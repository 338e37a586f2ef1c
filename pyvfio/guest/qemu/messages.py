# SPDX-License-Identifier: MIT
"""QEMU's messages about migration that is not possible, virtual IOMMUs and failed mappings."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from pyvfio._core import arguments
from pyvfio.guest.qemu_release import NEWEST, release

SYSTEM_MEMORY = "address_space_memory"
_VIOMMU_TEXT = "Migration is currently not supported with vIOMMU enabled"


def viommu_blocker(
    address_spaces: Iterable[str],
    device: str | None = None,
    *,
    version: str = NEWEST,
    device_tracking: bool = True,
) -> str | None:
    """Return the message with which QEMU blocks migration because of a virtual IOMMU; None if it does not.

    QEMU checks only whether an address space is not the system's memory: a vIOMMU that is present but switched off, or in
    passthrough mode, blocks migration too.

    :param address_spaces: those of all containers for QEMU 8.0 (e46883204c), where the blocker is global; that of the device alone since
        3c26c80a0a of July 2023 (by its date in 8.1; no source between 8.0 and 9.2 was read)
    :param device: the device that the message names, where the blocker is the device's own
    :param version: QEMU's
    :param device_tracking: whether the device's own dirty tracking is used. If it is not (the device cannot log, or has
        x-device-dirty-page-tracking=off), migration is not blocked from 11.0 on (0e3c1e2b2b24)
    """
    known = release(version, since=(8, 0))
    address_spaces = arguments.strings(address_spaces, "address_spaces")
    device = None if device is None else arguments.string(device, "device")
    device_tracking = arguments.boolean(device_tracking, "device_tracking")
    if all(space == SYSTEM_MEMORY for space in address_spaces) or (known >= (11, 0) and not device_tracking):
        return None
    if known < (8, 1):
        device = None
    return f"{device}: {_VIOMMU_TEXT}" if device else _VIOMMU_TEXT


def disabled_blocker(device: str) -> str:
    """Return the message about a device with enable-migration=off (8.1 on)."""
    device = arguments.string(device, "device")
    return f"{device}: Migration is disabled for VFIO device"


def no_migration_blocker(device: str, number: int = errno.ENOTTY, *, version: str = NEWEST) -> str:
    """Return the message about a device that the kernel does not migrate (8.1 on).

    The text of 11.1.3 differs from that of 10.2.2. The text for ENOTTY was seen; those for other errnos were found in the program. 11.0 is
    assumed to be like 11.1.

    :param number: the errno of VFIO_DEVICE_FEATURE_MIGRATION: ENOTTY without the feature, EOPNOTSUPP without STOP_COPY
    :param version: QEMU's
    """
    device = arguments.string(device, "device")
    number = arguments.integer(number, "number", 1, 4095)
    text = os.strerror(number)
    if release(version, since=(8, 1)) >= (11, 0):
        if number == errno.EOPNOTSUPP:
            return f"{device}: VFIO migration init failed: VFIO_MIGRATION_STOP_COPY is not supported"
        what = "migration is not supported in kernel" if number == errno.ENOTTY else "failed to query migration flags"
        return f"{device}: VFIO migration init failed: {what}: {text}"
    if number == errno.ENOTTY:
        return f"{device}: VFIO migration is not supported in kernel"
    return f"{device}: Migration couldn't be initialized for VFIO device, err: {-number} ({text})"


def no_tracking_blocker(device: str, *, version: str = NEWEST) -> str:
    """Return the message about a device whose writes are not tracked: a blocker with enable-migration=auto, a warning with `on`.

    Read in 10.0.13 and 10.2.2. Before 9.1, which first uses the IOMMU's tracking, the text does not name the IOMMU.
    """
    device = arguments.string(device, "device")
    what = "device and IOMMU" if release(version, since=(8, 1)) >= (9, 1) else "device"
    return f"{device}: VFIO device doesn't support {what} dirty tracking"


def large_memory_blocker(device: str) -> str:
    """Return the message about more guest memory than a type1 container's largest dirty bitmap covers (46c763311419, 11.0 on)."""
    device = arguments.string(device, "device")
    return f"{device}: Migration is currently not supported with large memory VM due to dirty tracking limitation in backend"


def several_devices_blocker(*, version: str = NEWEST) -> str:
    """Return the message about several devices: in 8.1 about any two, since 8.2 if one of them has no peer-to-peer states."""
    if release(version, since=(8, 1)) < (8, 2):
        return "Migration is currently not supported with multiple VFIO devices"
    return "Multiple VFIO devices migration is supported only if all of them support P2P migration"


def untracked_warning(device: str) -> str:
    """Return the warning about a device under iommufd whose page table does not track, while another's in its container does (9.1 on)."""
    device = arguments.string(device, "device")
    return f"IOMMU instance for device {device} doesn't support dirty tracking"


class MapFailure(NamedTuple):
    """QEMU's reaction to a DMA mapping that fails."""

    fatal: bool
    level: str
    """The way in which QEMU reports it."""
    how: str
    """The consequence."""
    hint: str | None = None


def map_failure(*, ram_device: bool, at_init: bool = False, device: str = "") -> MapFailure:
    """Return QEMU's reaction (10.2, 11.1) to a failed map: it continues without a BAR, but not without RAM.

    :param ram_device: whether the section is a BAR or other device memory
    :param at_init: whether the machine, or the device, is just being created
    :param device: the PCI device that owns the BAR; QEMU's hint names it
    """
    ram_device, at_init = arguments.boolean(ram_device, "ram_device"), arguments.boolean(at_init, "at_init")
    device = arguments.string(device, "device")
    if ram_device:
        hint = f"{device}: PCI peer-to-peer transactions on BARs are not supported." if device else None
        return MapFailure(False, "warning, once per process", "the BAR stays unmapped", hint)
    if at_init:
        return MapFailure(True, "error", "device realize fails with the first error")
    return MapFailure(True, "error", 'hw_error("vfio: DMA mapping failed, unable to continue") aborts')


def width_refusal(viommu_bits: int, host_bits: int) -> str | None:
    """Return intel-iommu's refusal of a host whose IOMMU is narrower than itself (vtd_check_hiod, 9.1 on); None if it fits.

    :param viommu_bits: intel-iommu's aw-bits, 1 to 64
    :param host_bits: the width of the host IOMMU's addresses, 1 to 64
    """
    viommu_bits = arguments.integer(viommu_bits, "viommu_bits", 1, 64)
    host_bits = arguments.integer(host_bits, "host_bits", 1, 64)
    return f"aw-bits {viommu_bits} > host aw-bits {host_bits}" if viommu_bits > host_bits else None


def to_user(message: str, device: str = "") -> str:
    """Return an error of a virtual IOMMU in the form that -device vfio-pci prints.

    :param message: the error
    :param device: the device of the error; "" for none
    """
    message, device = arguments.string(message, "message"), arguments.string(device, "device")
    return f"Failed to set vIOMMU: {device}: {message}" if device else f"Failed to set vIOMMU: {message}"
