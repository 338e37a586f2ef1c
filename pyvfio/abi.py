# SPDX-License-Identifier: MIT
"""Every request of VFIO and iommufd that pyvfio makes, by name and number, with its operations and documented errnos.

This module collects the declarations and makes no request. Each request is declared beside the method that makes it
(:mod:`pyvfio._core.request` says how), for example VFIO_IOMMU_MAP_DMA in :mod:`pyvfio.spaces.mapping`. The same number means different
things on different descriptors, for example `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` and `VFIO_IOMMU_GET_INFO`, so a number has a name only
together with the kind of its descriptor.
"""

from __future__ import annotations

from functools import cache

from pyvfio import device, dma_buf, feature, hot_reset, irq, low_power, migration, region
from pyvfio._abi import lib
from pyvfio._core import device_file
from pyvfio._core.request import DECLARED, Request
from pyvfio.dirty import log
from pyvfio.errors import errno_name
from pyvfio.iommufd import (
    bound,
    event_queue,
    fault_queue,
    hw_queue,
    hwpt,
    ioas,
    iommufd,
    object,
    option,
    vdevice,
    viommu,
)
from pyvfio.spaces import container, group, mapping

__all__ = ["DECLARING", "NAMES", "declared", "documented", "name", "number"]

#: The modules that declare requests, which importing them does.
DECLARING = (
    *(device, device_file, dma_buf, feature, hot_reset, irq, log, low_power, migration, region),
    *(bound, event_queue, fault_queue, hw_queue, hwpt, ioas, iommufd, object, option, vdevice, viommu),
    *(container, group, mapping),
)
#: kind of descriptor -> the requests that it takes, sorted by number. A container takes those of type1 once an IOMMU type is set. An
#: iommufd also takes the container's requests, whose numbers differ from its own.
NAMES: dict[str, tuple[str, ...]] = {}
for _request in sorted(DECLARED.values(), key=lambda request: request.number):
    if not _request.detail:
        NAMES[_request.kind] = (*NAMES.get(_request.kind, ()), _request.name)
NAMES["iommufd"] += NAMES["container"]


def number(name: str) -> int:
    """Return the number of a request, from the compiled declarations.

    :param name: such as VFIO_IOMMU_MAP_DMA
    """
    return int(getattr(lib, name))


@cache
def _names(kind: str) -> dict[int, str]:
    return {number(name): name for name in NAMES.get(kind, ())}


def name(kind: str, request: int) -> str:
    """Return the name of a number on a descriptor of that kind; the number in hex if it has none there.

    :param kind: the kind of descriptor, as in :data:`NAMES`
    :param request: the ioctl's number
    """
    return _names(kind).get(request, f"{request:#x}")


def declared(kind: str, request: int) -> Request | None:
    """Return the declaration of a number on a descriptor of that kind.

    :param kind: the kind of descriptor, as in :data:`NAMES`
    :param request: the ioctl's number
    """
    return DECLARED.get(name(kind, request))


def documented() -> dict[str, list[str]]:
    """Return the documented outcomes of each request and operation: `ok`, and the names of errnos.

    Only operations have `ok`: every request is expected to succeed.
    """
    found: dict[str, list[str]] = {}
    for label, request in DECLARED.items():
        outcomes = ["ok"] if request.detail and request.succeeds else []
        outcomes += [errno_name(number) for number in request.errnos]
        if outcomes and request.documented:
            found[label] = outcomes
    return found
