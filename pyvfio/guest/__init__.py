"""A hypervisor's view of devices that it assigns: pure computation, no ioctl, nothing asked of the host.

==============================  ==========================================================================
:mod:`~pyvfio.guest.sections`   the pieces of a guest's address space, and which count for DMA
:mod:`~pyvfio.guest.bars`       PCI base address registers, and what sizing one maps by accident
:mod:`~pyvfio.guest.plan`   sections -> the ranges to log dirty pages in, by strategy, fitted to limits
:mod:`~pyvfio.guest.limits`     what the kernel and a device's driver answer to a START of logging
:mod:`~pyvfio.guest.mapping`    what the kernel answers to a DMA mapping
:mod:`~pyvfio.guest.reserved`   what a virtual IOMMU must reserve, and how it tells the guest
:mod:`~pyvfio.guest.x86`        where guest RAM lies, and AMD's hole below 1 TiB
:mod:`~pyvfio.guest.blockers`   what makes a guest impossible to migrate
:mod:`~pyvfio.guest.qemu`       QEMU's own results and messages, bug for bug
:mod:`~pyvfio.guest.iova_tree`  QEMU's IOVA tree, which was not used in the end
==============================  ==========================================================================

What these need from a host is passed in and comes in one call: an address space's ``iova_ranges`` and
``page_sizes``, a device's limits, a group's reserved regions.
"""
