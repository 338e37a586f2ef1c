# SPDX-License-Identifier: MIT
"""The test harness of pyvfio: virtual machines, kernels, and the run of all tests.

The modules need only Python 3.11 and the standard library, because they run before `.venv` exists.
The commands in `scripts/` are thin wrappers: `scripts/test` calls `vmtest.runner`, and so on.
"""
