# SPDX-License-Identifier: MIT
"""Checks that any VFIO device can be put through: pytest tests that ship with the package.

`pyvfio check ADDRESS` runs them with their own configuration; `pytest --pyargs pyvfio.conformance --vfio-device ADDRESS` does it with
yours. By default they write no register; but the device is opened and closed by each, which resets the function where it can be reset.

=====================  ==========================================================================
`--vfio-write`         write registers of configuration space, and restore them
`--vfio-destructive`   reset and migrate the device
`--vfio-dma-faults`    make the device write where it may not; a host with strict error handling may not survive that
`--vfio-driver`        MODULE:CLASS, which makes the device do DMA: :mod:`pyvfio.conformance.driver`
=====================  ==========================================================================
"""
