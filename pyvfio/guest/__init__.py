# SPDX-License-Identifier: MIT
"""Advice for any hypervisor about the devices that it assigns: pure computation, no ioctl, nothing asked of the host.

=================================  ==========================================================================
:mod:`~pyvfio.guest.sections`      the pieces of a guest's address space, and which count for DMA
:mod:`~pyvfio.guest.bars`          PCI base address registers, and what sizing one maps by accident
:mod:`~pyvfio.guest.planning`      from sections to the ranges to log dirty pages in, fitted to limits
:mod:`~pyvfio.guest.limits`        what the kernel and a device's driver answer to a START of logging
:mod:`~pyvfio.guest.mapping`       what the kernel answers to a DMA mapping
:mod:`~pyvfio.guest.reserved`      the addresses that a guest's own IOMMU must reserve
:mod:`~pyvfio.guest.x86`           where guest RAM lies, and AMD's hole below 1 TiB
:mod:`~pyvfio.guest.blockers`      the reasons why a guest cannot be migrated
:mod:`~pyvfio.guest.qemu`          QEMU's own results, hazards included; its logs, messages and history
:mod:`~pyvfio.guest.qemu_release`  the releases of QEMU that are known, as `version=` takes them
=================================  ==========================================================================

Facts about the host are passed in, and each comes from one call: an address space's `iova_ranges` and `page_sizes`, a
device's limits, a group's reserved regions.
"""
