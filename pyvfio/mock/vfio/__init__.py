# SPDX-License-Identifier: MIT
"""VFIO in the mock: containers, groups, devices and VFIO's core (drivers/vfio)."""
