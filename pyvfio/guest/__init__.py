# SPDX-License-Identifier: MIT
"""Advice for any hypervisor about the devices that it assigns. It is computed from its arguments alone: no ioctl is made, no file is read.

=================================  ==========================================================================
:mod:`~pyvfio.guest.sections`      the sections of a guest's address space, and which of them count for DMA
:mod:`~pyvfio.guest.bars`          PCI base address registers, and addresses that are mapped while a guest sizes one
:mod:`~pyvfio.guest.planning`      the ranges in which to log dirty pages, made from sections and fitted to limits
:mod:`~pyvfio.guest.limits`        the answers of the kernel and a device's driver to DMA_LOGGING_START
:mod:`~pyvfio.guest.mapping`       the kernel's answers to a DMA mapping
:mod:`~pyvfio.guest.reserved`      the addresses that a guest's own IOMMU must reserve
:mod:`~pyvfio.guest.x86`           the layout of guest RAM, and AMD's hole below 1 TiB
:mod:`~pyvfio.guest.blockers`      the reasons why a guest cannot be migrated
:mod:`~pyvfio.guest.qemu`          QEMU's own results, hazards included; its logs, messages and history
:mod:`~pyvfio.guest.qemu_release`  the releases of QEMU that are known, as `version=` takes them
=================================  ==========================================================================

Facts about the host are passed in, and each comes from one call: an address space's `iova_ranges` and `page_sizes`, a
device's limits, a group's reserved regions.
"""
