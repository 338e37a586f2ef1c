# SPDX-License-Identifier: MIT
"""VFIO in the mock: containers, groups, devices and what is common to all drivers of them (drivers/vfio)."""
