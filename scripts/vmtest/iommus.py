# SPDX-License-Identifier: MIT
"""The emulated IOMMUs: QEMU's options and the kernel's parameters for each."""

from __future__ import annotations

from dataclasses import dataclass

from vmtest.exit_code import ExitCode, MachineError
from vmtest.qemu import Qemu

# Emulated AMD and virtio IOMMUs do not isolate interrupts, and VFIO refuses such groups unless told not to.
UNSAFE_INTERRUPTS = "vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1"


@dataclass(frozen=True)
class Iommu:
    """An emulated IOMMU, or none.

    Releases of QEMU have different properties, so these are looked up in the QEMU at hand and never derived from its
    version.
    """

    parameters: str
    """The kernel's parameters."""
    device: str | None = None
    """QEMU's name of the model."""
    machine: str = "q35"
    properties: tuple[str, ...] = ()
    """Properties that every supported QEMU has, with their values."""
    where_known: tuple[str, ...] = ()
    """Properties for QEMUs that know them; others behave so without."""
    needed: tuple[tuple[str, ...], ...] = ()
    """For each feature its property, by one name or another: the first that QEMU knows is taken."""

    def options(self, qemu: Qemu) -> list[str]:
        """Return QEMU's options.

        :raises MachineError: this QEMU lacks the device or a property that is needed
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


# A newer QEMU's amd-iommu passes DMA through untranslated, in silence, unless `dma-remap` is on.
_AMD = Iommu(UNSAFE_INTERRUPTS, "amd-iommu", properties=("intremap=on",), where_known=("dma-remap=on",))
_INTEL_MACHINE = "q35,kernel-irqchip=split"

IOMMUS = {
    # The default of a newer QEMU is 48 bits. With 39 there is a limit to run into.
    "intel": Iommu(
        "intel_iommu=on",
        "intel-iommu",
        _INTEL_MACHINE,
        properties=("intremap=on", "caching-mode=on", "aw-bits=39"),
    ),
    # First-stage page tables: those of the processor, with 48 bits.
    "intel-fs": Iommu(
        "intel_iommu=on,sm_on",
        "intel-iommu",
        _INTEL_MACHINE,
        properties=("intremap=on", "caching-mode=on", "aw-bits=48"),
        needed=(("scalable-mode", "x-scalable-mode"), ("fsts", "x-flts")),
    ),
    "amd": _AMD,
    # Linux remaps interrupts only if the IOAPIC that the firmware names is an ISA bridge or SMBus in PCI
    # (check_sb_ioapic in drivers/iommu/amd/init.c). QEMU's table names 00:14.0, where q35 has nothing; its ISA bridge
    # is 00:1f.0.
    "amd-x2apic": Iommu(
        "ivrs_ioapic=0@0000:00:1f.0",
        _AMD.device,
        properties=_AMD.properties,
        where_known=_AMD.where_known,
        needed=(("xtsup",),),
    ),
    # A newer QEMU takes the processor's 39 bits by default; the 64 of an older one have ends of their own.
    "virtio": Iommu(UNSAFE_INTERRUPTS, "virtio-iommu-pci", properties=("addr=2.0",), where_known=("aw-bits=64",)),
    "none": Iommu("vfio.enable_unsafe_noiommu_mode=1"),
}
