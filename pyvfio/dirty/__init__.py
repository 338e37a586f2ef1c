# SPDX-License-Identifier: MIT
"""Dirty pages: logged by devices (:mod:`pyvfio.dirty.log`), or tracked by devices or the IOMMU (:mod:`pyvfio.dirty.tracker`)."""
