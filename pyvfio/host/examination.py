# SPDX-License-Identifier: MIT
"""Examining a device: collect the facts that the catalogue of findings asks for, and list what keeps the device from being used."""

from __future__ import annotations

import os

from pyvfio.host import diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.discovery import HostDevice, device, no_group
from pyvfio.host.holders import holders_of
from pyvfio.host.in_use import uses
from pyvfio.host.iommu_group import group
from pyvfio.host.sysfs import attribute, entries
from pyvfio.kernel import Kernel, resolve


def examine(where: str | HostDevice, /, kernel: Kernel | str | None = None) -> list[Finding]:
    """Return what keeps a device from being opened, the most fundamental first; an empty list if nothing is found.

    It reads sysfs and procfs, and opens the device's own node for a moment to see whether that is permitted. Nothing is changed.

    :param where: the device's address, or what :func:`device` returned
    :raises ValueError: not a valid device name
    :raises OSError: ENODEV, no such device
    """
    kernel = resolve(kernel)
    found = device(where.address if isinstance(where, HostDevice) else where, kernel)
    if found.is_bridge:
        return [diagnosis.bridge(found.address, found.class_code)]
    findings = [*_host(kernel, found), *_driver(kernel, found), *_group(kernel, found), *_nodes(kernel, found)]
    if holders := holders_of(found.nodes, kernel):
        findings.append(diagnosis.held(found.address, [str(holder) for holder in holders]))
    return [finding for finding in findings if finding is not None]


def _host(kernel: Kernel, found: HostDevice) -> list[Finding | None]:
    findings: list[Finding | None] = []
    if not kernel.exists("/dev/vfio"):
        findings.append(diagnosis.vfio_missing(modules=entries(kernel, "/sys/module")))
    if found.no_iommu:
        findings.append(diagnosis.no_iommu_refused(found.address, enabled=True))
    elif found.group is None:
        if attribute(kernel, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y":
            findings.append(diagnosis.no_iommu_refused(found.address, enabled=True))
        else:
            virtual = " hypervisor" in (attribute(kernel, "/proc/cpuinfo") or "")
            findings.append(no_group(kernel, found.address, virtual=virtual))
    return findings


def _driver(kernel: Kernel, found: HostDevice) -> list[Finding | None]:
    if found.vfio is not None or (found.driver is not None and "vfio" in found.driver):
        return []
    findings: list[Finding | None] = []
    if found.bus != "mdev":
        drivers = entries(kernel, f"/sys/bus/{found.bus}/drivers")
        findings.append(diagnosis.driver_missing(diagnosis.vfio_driver(found.bus), found.bus, drivers))
    findings.append(
        diagnosis.used_by_system(
            found.address, {use.name: use.why for use in uses(kernel) if use.carried_by(found.path)}
        )
    )
    findings.append(diagnosis.not_bound(found.address, found.bus, found.driver))
    return findings


def _group(kernel: Kernel, found: HostDevice) -> list[Finding | None]:
    if found.group is None or found.no_iommu:
        return []
    facts = group(found.group, kernel)
    direct = [(region.range.start, region.range.last) for region in facts.reserved_regions if region.type == "direct"]
    return [
        diagnosis.direct_region(found.address, direct),
        # What is to be done about the device itself is said already.
        diagnosis.group_not_viable(found.group, facts.members, but=found.address),
    ]


def _nodes(kernel: Kernel, found: HostDevice) -> list[Finding | None]:
    findings: list[Finding | None] = [
        diagnosis.node_missing(path, in_sysfs=True)
        for path in (found.group_path, found.cdev)
        if path is not None and not kernel.exists(path)
    ]
    if found.cdev is not None and kernel.exists(found.cdev):
        try:
            kernel.close(kernel.open(found.cdev))
        except PermissionError as error:
            findings.append(diagnosis.not_permitted(found.cdev, error.errno or 0, user=os.geteuid()))
    return findings
