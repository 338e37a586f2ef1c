# SPDX-License-Identifier: MIT
"""Conformance checks for any VFIO device: pytest tests that ship with the package.

`pyvfio check ADDRESS` runs them with their own configuration of pytest; `pytest --pyargs pyvfio.conformance --vfio-device ADDRESS` runs
them with yours. By default they write no register. But each check opens and closes the device, which resets a function that can be reset.

=====================  ==========================================================================
`--vfio-write`         write registers of configuration space, and restore them
`--vfio-destructive`   reset and migrate the device
`--vfio-dma-faults`    make the device write to unmapped addresses; a host with strict error handling may crash
`--vfio-driver`        MODULE:CLASS, which makes the device do DMA: :mod:`pyvfio.conformance.driver`
=====================  ==========================================================================
"""
