# SPDX-License-Identifier: MIT
"""Tests of the `pyvfio` command, on the kernel in this process."""
