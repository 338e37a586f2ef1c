# SPDX-License-Identifier: MIT
"""The IOMMU drivers by their names in a profile."""

from __future__ import annotations

from pyvfio.mock.iommufd.driver import Amd, Driver, Intel, NoIommu, Smmu
from pyvfio.mock.iommufd.selftest_driver import Selftest

DRIVERS: dict[str, type[Driver]] = {
    "intel": Intel, "amd": Amd, "smmu": Smmu, "virtio": Driver, "selftest": Selftest, "none": NoIommu,
}  # fmt: skip
