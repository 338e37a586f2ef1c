# SPDX-License-Identifier: MIT
"""The type1 backend of a container: mappings of the caller's memory, for devices behind an IOMMU and emulated ones."""

from pyvfio.mock.vfio.type1.iommu import Type1 as Type1
from pyvfio.mock.vfio.type1.iommu import extension as extension
