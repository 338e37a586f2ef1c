# SPDX-License-Identifier: MIT
"""The test harness of pyvfio: virtual machines, kernels, and the run of all tests.

Every module runs with Python 3.11 and the standard library alone, before `.venv` exists.
The commands in `scripts/` are thin: `scripts/test` calls `vmtest.runner`, and so on.
"""
