# SPDX-License-Identifier: MIT
"""The devices of the mock's host, the drivers that they are bound to, and how sysfs and udev show them."""
