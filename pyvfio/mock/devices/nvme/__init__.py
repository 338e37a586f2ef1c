# SPDX-License-Identifier: MIT
"""The model of an NVMe disk."""
