# SPDX-License-Identifier: MIT
"""Checks that any VFIO device can be put through, and the drivers that make a device do DMA for them."""
