"""The emulated IOMMUs: QEMU's options and the kernel's parameters for each."""

from __future__ import annotations

from typing import NamedTuple

# Emulated AMD and virtio IOMMUs do not isolate interrupts, and VFIO refuses such groups unless told not to.
UNSAFE_INTERRUPTS = "vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1"


class Iommu(NamedTuple):
    """An emulated IOMMU, or none."""

    options: tuple[str, ...]
    """QEMU's options."""
    parameters: str
    """The kernel's parameters."""


IOMMUS = {
    "intel": Iommu(
        ("-machine", "q35,kernel-irqchip=split", "-device", "intel-iommu,intremap=on,caching-mode=on"),
        "intel_iommu=on",
    ),
    "amd": Iommu(("-machine", "q35", "-device", "amd-iommu,intremap=on"), UNSAFE_INTERRUPTS),
    "virtio": Iommu(("-machine", "q35", "-device", "virtio-iommu-pci,addr=2.0"), UNSAFE_INTERRUPTS),
    "none": Iommu(("-machine", "q35"), "vfio.enable_unsafe_noiommu_mode=1"),
}
