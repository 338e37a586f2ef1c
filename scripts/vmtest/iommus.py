# SPDX-License-Identifier: MIT
"""The emulated IOMMUs: QEMU's options and the kernel's parameters for each."""

from __future__ import annotations

from dataclasses import dataclass

from vmtest.exit_code import ExitCode, MachineError
from vmtest.qemu import Qemu

# Emulated AMD and virtio IOMMUs do not isolate interrupts. VFIO refuses such groups unless allow_unsafe_interrupts is
# set.
UNSAFE_INTERRUPTS = "vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1"


@dataclass(frozen=True)
class Iommu:
    """An emulated IOMMU, or none.

    Properties of devices differ between releases of QEMU. So the code asks the QEMU itself for its properties, and
    never derives them from the version.
    """

    parameters: str
    """The kernel's parameters."""
    device: str | None = None
    """QEMU's name for the IOMMU's model."""
    machine: str = "q35"
    properties: tuple[str, ...] = ()
    """Properties with their values, which every supported QEMU has."""
    where_known: tuple[str, ...] = ()
    """Properties to set if this QEMU has them; a QEMU without them behaves like that anyway."""
    needed: tuple[tuple[str, ...], ...] = ()
    """Required properties, each as its names in different releases: the first name that QEMU knows is used."""

    def options(self, qemu: Qemu) -> list[str]:
        """Return QEMU's options.

        :raises MachineError: this QEMU lacks the device or a required property
        """
        options = ["-machine", self.machine]
        if self.device is None:
            return options
        if not qemu.has_device(self.device):
            raise MachineError(f"QEMU {qemu.version} has no device {self.device}", ExitCode.CANNOT_RUN)
        known = qemu.device_properties(self.device)
        words = [self.device, *self.properties]
        words += [setting for setting in self.where_known if setting.partition("=")[0] in known]
        for names in self.needed:
            name = next((name for name in names if name in known), None)
            if name is None:
                raise MachineError(
                    f"QEMU {qemu.version} cannot emulate this IOMMU: its {self.device} has no property "
                    f"{' or '.join(names)}; try --qemu newest",
                    ExitCode.CANNOT_RUN,
                )
            words.append(f"{name}=on")
        return [*options, "-device", ",".join(words)]


# In newer QEMUs, amd-iommu silently passes DMA through without translation unless `dma-remap` is on.
_AMD = Iommu(UNSAFE_INTERRUPTS, "amd-iommu", properties=("intremap=on",), where_known=("dma-remap=on",))
_INTEL_MACHINE = "q35,kernel-irqchip=split"

IOMMUS = {
    # The default of newer QEMUs is 48 bits. With 39, tests can reach the limit.
    "intel": Iommu(
        "intel_iommu=on",
        "intel-iommu",
        _INTEL_MACHINE,
        properties=("intremap=on", "caching-mode=on", "aw-bits=39"),
    ),
    # First-stage page tables, which have the format of the processor's page tables, with 48 bits.
    "intel-fs": Iommu(
        "intel_iommu=on,sm_on",
        "intel-iommu",
        _INTEL_MACHINE,
        properties=("intremap=on", "caching-mode=on", "aw-bits=48"),
        needed=(("scalable-mode", "x-scalable-mode"), ("fsts", "x-flts")),
    ),
    "amd": _AMD,
    # Linux remaps interrupts only if the PCI device that the firmware names as IOAPIC is an ISA bridge or SMBus
    # (check_sb_ioapic in drivers/iommu/amd/init.c). QEMU's ACPI table names 00:14.0, but q35 has no device there; its
    # ISA bridge is 00:1f.0.
    "amd-x2apic": Iommu(
        "ivrs_ioapic=0@0000:00:1f.0",
        _AMD.device,
        properties=_AMD.properties,
        where_known=_AMD.where_known,
        needed=(("xtsup",),),
    ),
    # The default of newer QEMUs is the processor's 39 bits, that of older ones 64. The edges of 64 bits need tests of
    # their own.
    "virtio": Iommu(UNSAFE_INTERRUPTS, "virtio-iommu-pci", properties=("addr=2.0",), where_known=("aw-bits=64",)),
    "none": Iommu("vfio.enable_unsafe_noiommu_mode=1"),
}
