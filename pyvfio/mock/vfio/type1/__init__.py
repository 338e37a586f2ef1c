# SPDX-License-Identifier: MIT
"""The type1 IOMMU of a container: mappings of the caller's memory, for devices with an IOMMU behind them and for emulated ones."""

from pyvfio.mock.vfio.type1.iommu import Type1 as Type1
from pyvfio.mock.vfio.type1.iommu import extension as extension
