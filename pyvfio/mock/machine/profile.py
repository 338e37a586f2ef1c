# SPDX-License-Identifier: MIT
"""Profiles of hosts: the IOMMU, its limits, and the limits of DMA logging."""

from __future__ import annotations

from typing import Any, NamedTuple


class Reserved(NamedTuple):
    """A reserved region of the IOMMU, `last` included; `type` as in sysfs: `direct`, `reserved`, `msi`."""

    start: int
    last: int
    type: str


class LogLimits(NamedTuple):
    """The limits of a device's DMA logging.

    :ivar ranges: maximum number of tracked ranges; more are combined, smallest gaps first, or refused with E2BIG if
        `refuse`
    :ivar log2_size_min: minimum of ceil(log2(sum of the lengths)); `log2_size_max`: its maximum; EOPNOTSUPP outside
    :ivar page_size_min: minimum page size; `page_size_max`: maximum; a page size outside is clamped
    """

    ranges: int = 255
    refuse: bool = False
    log2_size_min: int = 12
    log2_size_max: int = 42
    page_size_min: int = 4096
    page_size_max: int = 2 << 20


class Profile(NamedTuple):
    """A kind of host.

    :class:`pyvfio.mock.Kernel` takes a profile by its name, and replacements of its fields by keyword.

    :ivar name: the name
    :ivar iommu: the IOMMU driver, with its features and hardware information: `intel`, `amd`, `smmu`, `virtio`, or
        `selftest` (CONFIG_IOMMUFD_TEST); `none`: the host has no IOMMU, and vfio.enable_unsafe_noiommu_mode is on
    :ivar width: bits of an IOVA
    :ivar page_sizes: bitmap of the IOMMU's page sizes
    :ivar reserved: the reserved regions of each IOMMU group
    :ivar coherent: the IOMMU prevents devices from bypassing the CPU caches (VFIO_DMA_CC_IOMMU)
    :ivar dirty_tracking: the page tables support dirty tracking
    :ivar pasid_bits: width of the PASIDs that devices can use; 0: no PASIDs
    :ivar page_size: page size of the CPU
    :ivar dma_entry_limit: maximum number of mappings of a type1 container (vfio_iommu_type1.dma_entry_limit)
    :ivar memlock: limit of pinned memory in bytes (RLIMIT_MEMLOCK); None: the caller has CAP_IPC_LOCK
    :ivar descriptors: limit of open descriptors (RLIMIT_NOFILE); None: the mock has no limit
    :ivar log: limits of the devices' DMA logging
    :ivar isolated: the host remaps interrupts; without that, VFIO requires allow_unsafe_interrupts
    :ivar vectors: number of interrupt vectors that the host has for one device; None: as many as requested
    :ivar compared: the behaviour was compared with such hardware, real or emulated; else it follows the kernel's source
        alone
    """

    name: str
    iommu: str
    width: int
    page_sizes: int
    reserved: tuple[Reserved, ...] = (Reserved(0xFEE00000, 0xFEEFFFFF, "msi"),)
    coherent: bool = False
    dirty_tracking: bool = False
    pasid_bits: int = 0
    page_size: int = 4096
    dma_entry_limit: int = 65535
    memlock: int | None = None
    descriptors: int | None = None
    log: LogLimits = LogLimits()
    isolated: bool = True
    vectors: int | None = None
    compared: bool = True


_AMD_HOLE = Reserved(0xFD00000000, 0xFFFFFFFFFF, "reserved")
_MSI = Reserved(0xFEE00000, 0xFEEFFFFF, "msi")
_INTEL_SIZES = 1 << 12 | 1 << 21 | 1 << 30

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("intel-39", "intel", 39, _INTEL_SIZES),
        Profile("intel-48", "intel", 48, _INTEL_SIZES),
        Profile("intel-57", "intel", 57, _INTEL_SIZES),
        Profile("amd", "amd", 48, 0x7F7FFFFFF000, (_MSI, _AMD_HOLE), coherent=True),
        Profile(
            "smmu-64k",
            "smmu",
            48,
            1 << 16 | 1 << 29,
            (Reserved(0x8000000, 0x80FFFFF, "msi"),),
            page_size=1 << 16,
        ),
        Profile("virtio", "virtio", 64, 2**64 - 4096),
        # All features that the other profiles lack: dirty tracking, nesting, virtual IOMMUs, page faults, PASIDs
        # (CONFIG_IOMMUFD_TEST).
        Profile("selftest", "selftest", 56, 1 << 11 | 1 << 12 | 1 << 20, (), dirty_tracking=True, pasid_bits=20),
        # The page table (AMD v1 format) in which iommufd keeps the mappings for devices without an IOMMU
        # (hwpt_noiommu.c).
        Profile("none", "none", 64, 0x7F7FFFFFF000, ()),
        # The same host as intel-48, with the DMA logging limits of ConnectX (mlx5_vfio_pci) and of Pensando's DSC
        # (pds_vfio_pci).
        Profile("mlx5", "intel", 48, _INTEL_SIZES, log=LogLimits(page_size_max=1 << 31), compared=False),
        Profile("pds", "intel", 48, _INTEL_SIZES, log=LogLimits(1, False, 0, 64, 1, 1 << 63), compared=False),
    )
}


def profile(name: str = "intel-39", **fields: Any) -> Profile:
    """Return a profile by its name, with the given fields replaced.

    :raises ValueError: there is no such profile
    :raises TypeError: a profile has no such field
    """
    if name not in PROFILES:
        raise ValueError(f"no profile is named {name!r}; there are {', '.join(PROFILES)}")
    if unknown := set(fields) - set(Profile._fields):
        raise TypeError(f"a profile has no {', '.join(sorted(unknown))}; it has {', '.join(Profile._fields)}")
    return PROFILES[name]._replace(**fields)
