# SPDX-License-Identifier: MIT
"""vfio-pci in the mock (drivers/vfio/pci)."""
