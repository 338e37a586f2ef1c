# SPDX-License-Identifier: MIT
"""Devices, groups and findings as JSON documents. The text output is made from them too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pyvfio.cli.words import for_shell
from pyvfio.host import Finding, HostDevice, Use
from pyvfio.host.nodes import without_iommu


def state(found: HostDevice) -> str:
    """Return the owner of a device: `vfio`, `kernel` (another driver of the kernel) or `unbound`."""
    if found.vfio is not None or (found.driver is not None and "vfio" in found.driver):
        return "vfio"
    return "unbound" if found.driver is None else "kernel"


def device_document(found: HostDevice, uses: Sequence[Use], holders: Sequence[str]) -> dict[str, Any]:
    """Return a device as JSON.

    :param uses: every use by the system
    :param holders: the processes that have the device open
    """
    return {
        "address": found.address,
        "bus": found.bus,
        "state": state(found),
        "driver": found.driver,
        "driver_override": found.driver_override,
        "vendor": None if found.vendor is None else f"{found.vendor:04x}",
        "device": None if found.device is None else f"{found.device:04x}",
        "class": None if found.class_code is None else f"{found.class_code:06x}",
        "vendor_name": found.vendor_name,
        "device_name": found.device_name,
        "class_name": found.class_name,
        "group": found.group,
        "group_node": found.group_path,
        "cdev": found.cdev,
        "vfio": found.vfio,
        "iommu": found.iommu,
        "no_iommu": without_iommu(found.group_path, found.cdev, found.vfio),
        "numa_node": found.numa_node,
        "physical_function": found.physical_function,
        "virtual_functions": list(found.virtual_functions),
        "total_vfs": found.total_vfs,
        "uses": [str(use) for use in uses if use.carried_by(found.path)],
        "holders": list(holders),
    }


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON, with its cure as a shell command."""
    return {
        "id": finding.id,
        "subject": finding.subject,
        "reason": finding.reason,
        "evidence": list(finding.evidence),
        "cure": None if finding.cure is None else for_shell(finding.cure),
    }


def ids(document: dict[str, Any]) -> str:
    """Return vendor and device id of a document, as lspci writes them; empty on other buses."""
    return "" if document["vendor"] is None else f"{document['vendor']}:{document['device']}"


def name(document: dict[str, Any]) -> str:
    """Return a device's name in the hardware database, or else its class."""
    names = [document["vendor_name"], document["device_name"]]
    text = " ".join(one for one in names if one)
    return text or document["class_name"] or ""


def node(document: dict[str, Any]) -> str:
    """Return a device's nodes without their directory: `7 vfio0`."""
    return " ".join(os.path.basename(path) for path in (document["group_node"], document["cdev"]) if path)
