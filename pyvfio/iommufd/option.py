# SPDX-License-Identifier: MIT
"""Options of an iommufd and of its address spaces (IOMMU_OPTION)."""

from __future__ import annotations

import errno
from typing import Any

from pyvfio._abi import lib
from pyvfio._core.request import Request
from pyvfio.iommufd.object import IOMMUFD

_OPTIONS = {lib.IOMMU_OPTION_RLIMIT_MODE: "RLIMIT_MODE", lib.IOMMU_OPTION_HUGE_PAGES: "HUGE_PAGES"}
_OPS = {lib.IOMMU_OPTION_OP_GET: "GET", lib.IOMMU_OPTION_OP_SET: "SET"}


def _option(native: Any) -> str:
    return f"{_OPS.get(native.op, native.op)} {_OPTIONS.get(native.option_id, native.option_id)}"


OPTION = Request("IOMMU_OPTION", "iommufd", "struct iommu_option", otherwise=IOMMUFD, tell=_option)
GET_RLIMIT_MODE = OPTION.operation("GET RLIMIT_MODE")
SET_RLIMIT_MODE = OPTION.operation(
    "SET RLIMIT_MODE",
    errnos={
        errno.EBUSY: "the iommufd already has objects; set the option before the first is allocated",
        errno.EPERM: "it requires CAP_SYS_RESOURCE",
    },
)
GET_HUGE_PAGES = OPTION.operation("GET HUGE_PAGES")
SET_HUGE_PAGES = OPTION.operation(
    "SET HUGE_PAGES",
    errnos={
        errno.EINVAL: "memory is mapped for an attached device; set the option before a device is attached",
        errno.EADDRINUSE: "a mapping is smaller than a page; unmap it first",
    },
)
