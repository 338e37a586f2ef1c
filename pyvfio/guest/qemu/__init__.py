# SPDX-License-Identifier: MIT
"""QEMU's own results, including its bugs, to compare with: the ranges that it asks devices to log, its log lines, messages and history.

Advice is in :mod:`pyvfio.guest.planning`, not here. Functions whose result differs between releases have a parameter `version`, a text such
as "10.2", by default the newest release that is known (:mod:`pyvfio.guest.qemu_release`); the docstrings say what changed in which release.

=======================================  =============================================================
:mod:`~pyvfio.guest.qemu.ranges`         the ranges that QEMU asks devices to log, and its trace lines
:mod:`~pyvfio.guest.qemu.dirty_logging`  the requests, as QEMU fills them in
:mod:`~pyvfio.guest.qemu.starting`       starting and stopping on all devices; the choice of the tracker
:mod:`~pyvfio.guest.qemu.logs`           reading and writing log lines
:mod:`~pyvfio.guest.qemu.messages`       messages about migration, virtual IOMMUs and failed mappings
:mod:`~pyvfio.guest.qemu.blocking`       the migration blockers, in QEMU's order and words
:mod:`~pyvfio.guest.qemu.virtio_iommu`   the virtio-iommu's reserved regions and granule
:mod:`~pyvfio.guest.qemu.layouts`        layouts of x86 guests that were proposed and not merged
:mod:`~pyvfio.guest.qemu.iova_tree`      the IOVA tree, which was not merged for VFIO
=======================================  =============================================================

The names of the first five are here too.
"""

from __future__ import annotations

from pyvfio.guest.qemu.dirty_logging import (
    PROBE_START,
    VFIO_DEVICE_FEATURE,
    Bitmap,
    Control,
    ReportRequest,
    StartRequest,
    StopRequest,
    bitmap_size,
    query_of,
)
from pyvfio.guest.qemu.logs import count_migrations, query_line, read_sections, read_start
from pyvfio.guest.qemu.messages import SYSTEM_MEMORY, MapFailure, map_failure, to_user, viommu_blocker, width_refusal
from pyvfio.guest.qemu.ranges import Algorithm, OneShotListener, Pair, Tracking, dropped_line, track
from pyvfio.guest.qemu.starting import (
    Backend,
    Device,
    Era,
    Query,
    Started,
    Tracker,
    backend,
    query,
    start_all,
    start_failure,
    start_order,
)

__all__ = [
    "PROBE_START",
    "SYSTEM_MEMORY",
    "VFIO_DEVICE_FEATURE",
    "Algorithm",
    "Backend",
    "Bitmap",
    "Control",
    "Device",
    "Era",
    "MapFailure",
    "OneShotListener",
    "Pair",
    "Query",
    "ReportRequest",
    "StartRequest",
    "Started",
    "StopRequest",
    "Tracker",
    "Tracking",
    "backend",
    "bitmap_size",
    "count_migrations",
    "dropped_line",
    "map_failure",
    "query",
    "query_line",
    "query_of",
    "read_sections",
    "read_start",
    "start_all",
    "start_failure",
    "start_order",
    "to_user",
    "track",
    "viommu_blocker",
    "width_refusal",
]
