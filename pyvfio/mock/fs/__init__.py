# SPDX-License-Identifier: MIT
"""The mock's file system: /dev, /sys and /proc."""
