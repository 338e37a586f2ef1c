# SPDX-License-Identifier: MIT
"""I/O address spaces: containers and their groups; the base that iommufd's share; the two ways in."""
