# SPDX-License-Identifier: MIT
"""Kinds of hosts: the IOMMU, its limits, and what devices can log."""

from __future__ import annotations

from typing import Any, NamedTuple


class Reserved(NamedTuple):
    """A region that the IOMMU keeps back, `last` inclusive; `type` as in sysfs: `direct`, `reserved`, `msi`."""

    start: int
    last: int
    type: str


class LogLimits(NamedTuple):
    """The limits of a device's DMA logging.

    :ivar ranges: most ranges that are tracked; more are combined, smallest gaps first, or refused with E2BIG if `refuse`
    :ivar log2_size_min: smallest and largest total, as ceil(log2(sum of the lengths)); EOPNOTSUPP outside
    :ivar page_size_min: page sizes outside are brought inside
    """

    ranges: int = 255
    refuse: bool = False
    log2_size_min: int = 12
    log2_size_max: int = 42
    page_size_min: int = 4096
    page_size_max: int = 2 << 20


class Profile(NamedTuple):
    """:class:`pyvfio.mock.Kernel` takes one by name, and any field of it by keyword.

    :ivar iommu: `intel`, `amd`, `smmu`, `virtio`, or `selftest`, the kernel's own mock IOMMU: what it can, and what its hardware
        information says; `none`: the host has none, and vfio.enable_unsafe_noiommu_mode is on
    :ivar width: bits of an IOVA
    :ivar page_sizes: bitmap of those that the IOMMU has
    :ivar coherent: the IOMMU keeps devices from bypassing the processor's caches (VFIO_DMA_CC_IOMMU)
    :ivar dirty_tracking: its page tables can keep dirty bits
    :ivar pasid_bits: of the PASIDs that devices can use; 0 for none
    :ivar page_size: the processor's
    :ivar dma_entry_limit: mappings per type1 container (vfio_iommu_type1.dma_entry_limit)
    :ivar memlock: bytes that may be pinned (RLIMIT_MEMLOCK); None with CAP_IPC_LOCK
    :ivar descriptors: most that may be open (RLIMIT_NOFILE); None for no limit of the mock's own
    :ivar isolated: it remaps interrupts; without, VFIO takes a device only with allow_unsafe_interrupts
    :ivar vectors: interrupt vectors that the host has for one device; None: as many as it asks for
    :ivar compared: whether its answers were compared with such hardware, real or emulated; the others follow the kernel's source alone
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
            compared=False,
        ),
        Profile("virtio", "virtio", 64, 2**64 - 4096),
        # What no IOMMU of the others has: dirty tracking, nesting, virtual IOMMUs, page faults, PASIDs (CONFIG_IOMMUFD_TEST).
        Profile("selftest", "selftest", 56, 1 << 11 | 1 << 12 | 1 << 20, (), dirty_tracking=True, pasid_bits=20),
        # What iommufd keeps account with, for devices that do not ask it.
        Profile("none", "none", 64, 0x7F7FFFFFF000, ()),
        # The same host as intel-48; the devices log as ConnectX does (SPEC: vfio-pci-mlx5) and as Pensando's DSC does.
        Profile("mlx5", "intel", 48, _INTEL_SIZES, log=LogLimits(page_size_max=1 << 31), compared=False),
        Profile("pds", "intel", 48, _INTEL_SIZES, log=LogLimits(1, False, 0, 64, 1, 1 << 63), compared=False),
    )
}


def profile(name: str = "intel-39", **fields: Any) -> Profile:
    """The profile of that name, with some of its fields replaced.

    :raises ValueError: there is none of that name
    :raises TypeError: a profile has no such field
    """
    if name not in PROFILES:
        raise ValueError(f"no profile is named {name!r}; there are {', '.join(PROFILES)}")
    if unknown := set(fields) - set(Profile._fields):
        raise TypeError(f"a profile has no {', '.join(sorted(unknown))}; it has {', '.join(Profile._fields)}")
    return PROFILES[name]._replace(**fields)
