# SPDX-License-Identifier: MIT
"""QEMU's start and stop of dirty tracking on all devices of a container, and its fallback if a device cannot log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from pyvfio._core import arguments
from pyvfio.guest.qemu_release import NEWEST, release

T = TypeVar("T")


class Era(Enum):
    """Versions of QEMU's texts."""

    SEED = "2023"
    CURRENT = "since 9.1"

    @classmethod
    def of(cls, version: str = NEWEST) -> Era:
        """Return the texts of a version of QEMU.

        :param version: QEMU's, from "8.0" on
        :raises ValueError: the version is not known, or before 8.0, which does not log by the device
        """
        return cls.SEED if release(version, since=(8, 0)) < (9, 1) else cls.CURRENT


@arguments.checked(
    name=arguments.string,
    tracking=arguments.boolean,
    start=arguments.within(0, 4095),
    stop=arguments.within(0, 4095),
)
class Device(NamedTuple):
    """An assigned device when logging is started."""

    name: str
    tracking: bool = False
    """Whether it logs already."""
    start: int = 0
    """The errno that its START returns."""
    stop: int = 0
    """The errno that its STOP returns."""


class Started(NamedTuple):
    """The outcome of starting DMA logging on all devices of a container."""

    ok: bool
    calls: list[str]
    """`START name` and `STOP name`, in order."""
    tracking: dict[str, bool]
    """Each device's flag afterwards."""
    messages: list[str]
    """The error's lines, the first one first; since 2024 there is one."""
    warnings: list[str]


def start_all(devices: Sequence[Device], era: Era | None = None, *, version: str = NEWEST) -> Started:
    """Start logging on every device that does not log yet; at the first failure stop *all*, those that logged before
    too.

    QEMU neither tries again with fewer ranges nor falls back to the IOMMU's dirty tracking.

    :param devices: the devices, in the order in which QEMU starts them, the reverse of the command line's: :func:`start_order`
    :param era: the era of QEMU's texts; by default that of the version
    :param version: QEMU's. Up to "9.0" each refusal is two lines with a negative errno, from "9.1" on one line with the errno's text
    :raises ValueError: the version is not known, or before 8.0, which does not log by the device
    """
    devices = arguments.instances(devices, "devices", Device)
    era = _era(era, version)
    calls: list[str] = []
    tracking = {device.name: device.tracking for device in devices}
    messages: list[str] = []
    warnings: list[str] = []
    for device in devices:
        if device.tracking:
            continue
        calls.append(f"START {device.name}")
        if device.start:
            messages = start_failure(device.name, device.start, era)
            break
        tracking[device.name] = True
    if messages:
        for device in devices:
            if not tracking[device.name]:
                continue
            calls.append(f"STOP {device.name}")
            if device.stop:
                printed = device.stop if era is Era.CURRENT else -device.stop
                warnings.append(
                    f"{device.name}: Failed to stop DMA logging, err {printed} ({os.strerror(device.stop)})"
                )
            tracking[device.name] = False
    return Started(not messages, calls, tracking, messages, warnings)


def start_order(command_line: Sequence[T]) -> list[T]:
    """Return the devices of a container in the order in which QEMU starts and stops logging on them: the last of the command line first.

    A device is put at the head of its container's list (QLIST_INSERT_HEAD: hw/vfio/device.c of 10.2.2, container.c and iommufd.c of
    10.0.13; run with 11.1.3). A device that is plugged later counts as the last of the command line.

    :param command_line: the devices in the order of the command line
    """
    if isinstance(command_line, str) or not isinstance(command_line, Sequence):
        raise arguments.wrong_type(command_line, "command_line", "a sequence of devices")
    return list(reversed(command_line))


def start_failure(name: str, number: int, era: Era | None = None, *, version: str = NEWEST) -> list[str]:
    """Return the lines that QEMU prints when a device refuses to start logging.

    :param name: the name of the device, as QEMU prints it
    :param number: the errno of its START
    :param era: the era of QEMU's texts; by default that of the version
    :param version: QEMU's, as for :func:`start_all`
    :raises ValueError: the version is not known, or before 8.0, which does not log by the device
    """
    name, number = arguments.string(name, "name"), arguments.integer(number, "number", 0, 4095)
    era = _era(era, version)
    text = os.strerror(number)
    if era is Era.SEED:
        return [
            f"{name}: Failed to start DMA logging, err -{number} ({text})",
            f"vfio: Could not start dirty page tracking, err: -{number} ({text})",
        ]
    return [f"vfio: Could not start dirty page tracking - {name}: Failed to start DMA logging: {text}"]


def _era(era: Era | None, version: str) -> Era:
    usual = Era.of(version)
    return usual if era is None else arguments.member(era, "era", Era)


class Backend(Enum):
    """The tracker of dirty pages in a migration."""

    DEVICE = "device"
    """Every device logs its own DMA."""
    CONTAINER = "container"
    """The IOMMU's dirty tracking (iommufd's HWPT, or type1's pinned pages)."""
    NONE = "none"
    """No tracker: every page counts as dirty."""


@arguments.checked(
    supported=arguments.boolean, option=lambda value, name: arguments.choice(value, name, ("auto", "on", "off"))
)
class Tracker(NamedTuple):
    """QEMU's knowledge of a device before a migration."""

    supported: bool
    """Whether the probe for DMA_LOGGING_START succeeded."""
    option: str = "auto"
    """Its x-device-dirty-page-tracking: `auto`, `on` or `off`."""


def backend(devices: Sequence[Tracker], container_supports: bool) -> Backend:
    """Return the tracker: the devices if all can log and none is configured not to, else the container. QEMU chooses before anything starts.

    :param devices: the devices of the container, as QEMU knows them
    :param container_supports: whether the IOMMU can track dirty pages
    """
    devices = arguments.instances(devices, "devices", Tracker)
    container_supports = arguments.boolean(container_supports, "container_supports")
    if all(device.supported and device.option != "off" for device in devices):
        return Backend.DEVICE
    return Backend.CONTAINER if container_supports else Backend.NONE


class Query(NamedTuple):
    """The outcome of a dirty bitmap query."""

    ioctls: int
    marked: tuple[int, int] | None
    """The (guest RAM address, size) that is marked dirty without a report."""


def query(all_devices: bool, container: bool, ram_address: int, size: int, devices: int = 1) -> Query:
    """Return the outcome of a query of one section: without a tracker all of it is marked dirty, and no ioctl is made.

    :param all_devices: whether all devices of the container log
    :param container: whether the IOMMU tracks
    :param ram_address: the address of the section in the guest's RAM
    :param size: bytes of the section
    :param devices: the number of devices of the container
    """
    all_devices, container = arguments.boolean(all_devices, "all_devices"), arguments.boolean(container, "container")
    ram_address, size = arguments.u64(ram_address, "ram_address"), arguments.integer(size, "size", 0, 2**64)
    devices = arguments.u32(devices, "devices")
    if all_devices:
        return Query(devices, None)
    if container:
        return Query(1, None)
    return Query(0, (ram_address, size))
