# SPDX-License-Identifier: MIT
"""Episodes about PCI functions: writes anywhere in configuration space, each driver's features, mappings of regions, reserved regions."""

from __future__ import annotations

from tests.differential import type1
from tests.differential.devices import EDU, FAR_EDU, DeviceMaker
from tests.differential.steps import PAGE
from tests.differential.type1 import EDGES, MOCKS

NVME, CARD = "0000:00:04.0", "0000:00:06.0"
CONFIG = 7 << 40
_COMMAND, _BARS, _ROM, _LINE = 0x04, range(0x10, 0x28, 4), 0x30, 0x3C
#: Offsets of capabilities: MSI, MSI-X, power management, PCI Express; ARI and DSN; error reporting, which is listed
#: twice to be more likely.
CAPABILITIES = {
    EDU: (0x40,),
    FAR_EDU: (0x40,),
    NVME: (0x40, 0x60, 0x80, 0x100),
    CARD: (0xA0, 0xC8, 0xD0, 0xE0, 0x100, 0x100, 0x140),
}
#: Offsets of the power management control register, and (below) of PCI Express's device control register.
_POWER = {NVME: 0x64, CARD: 0xCC}
_CONTROL = {NVME: 0x88, CARD: 0xE8}


class FunctionMaker(DeviceMaker):
    """An episode with a PCI function that is bound to vfio-pci, in a type1 container."""

    device_name = EDU
    config_size = 256

    def start_function(self, device: str) -> None:
        self.start(device)
        self.device_name = device
        self.config_size = 256 if device in (EDU, FAR_EDU) else 4096
        # Overwrite all values that the firmware chose: the addresses of BARs, and the Interrupt Line.
        for place in (*_BARS, _LINE):
            self.step("pwrite", slot="d0", offset=CONFIG + place, data="ffffffff" if place != _LINE else "05")

    # Configuration space.

    def read_config(self, place: int, size: int) -> None:
        # Mask the ROM's BAR, because the mock has no ROMs, and the power management data, which a saved configuration
        # space does not show.
        mask = []
        for first, count in [(_ROM, 4), (_POWER[CARD] + 1, 1)] if self.device_name == CARD else []:
            start, end = max(first, place), min(first + count, place + size)
            if start < end:
                mask.append([start - place, end - start])
        self.step("pread", slot="d0", offset=CONFIG + place, size=size, mask=mask)

    def config_everywhere(self) -> None:
        """Read the first 256 bytes of configuration space, and a part of the rest."""
        for place in range(0, 256, 64):
            self.read_config(place, 64)
        if self.config_size > 256:
            self.read_config(self.random.randrange(0x100, 0x300, 64), 64)

    def config_somewhere(self) -> None:
        """Read or write at any offset, with any size, also beyond the end."""
        limit = self.one_of(0x40, 0x100, 0x100, self.config_size)
        place = self.random.randrange(limit) if self.chance(95) else self.config_size - self.one_of(0, 1, 2, 4, -4)
        size = self.one_of(1, 2, 4, 4, 4, 3, 5, 8, 16)
        if self.chance(60):
            self.step("pwrite", slot="d0", offset=CONFIG + place, data=self.value(size).hex())
        self.read_config(place, size)

    def config_register(self) -> None:
        """Read or write a register of the header or of a capability, with its own width or another."""
        starts = CAPABILITIES[self.device_name]
        place = (
            self.one_of(*range(0, 0x40, 4)) if self.chance(50) else self.one_of(*starts) + self.one_of(*range(0, 28, 2))
        )
        width = self.one_of(1, 2, 4)
        place = place & -width
        self.step("pwrite", slot="d0", offset=CONFIG + place, data=self.value(width).hex())
        self.read_config(place & ~3, 4)
        self.read_config(_COMMAND, 4)

    def value(self, size: int) -> bytes:
        one = self.random.randrange(8 * size)
        return self.one_of(
            bytes(size),
            b"\xff" * size,
            self.random.randbytes(size),
            (1 << one).to_bytes(size, "little"),
            b"\7".ljust(size, b"\0"),
        )

    def power(self) -> None:
        """Set a power state: D0, D3hot, or one that is not supported. Write registers before that, and in the state."""
        if place := _POWER.get(self.device_name):
            for _ in range(self.one_of(1, 2, 3)):
                if self.chance(50):
                    self.config_register()
                state = self.one_of(0, 0, 3, 3, 1, 2)
                self.step("pwrite", slot="d0", offset=CONFIG + place, data=bytes([state, 0]).hex())
                self.read_config(place, 2)
            self.step("pread", slot="d0", offset=0, size=4, mask=[[0, 4]])
            self.step("pwrite", slot="d0", offset=CONFIG + place, data="0000")
            self.config_everywhere()

    def function_reset(self) -> None:
        """Start a function-level reset through configuration space, if the device has one."""
        if place := _CONTROL.get(self.device_name):
            self.step("pwrite", slot="d0", offset=CONFIG + place + 1, data=self.one_of("80", "a0", "90"))
            self.config_everywhere()

    def decode(self) -> None:
        """Switch memory decoding on or off, and read the first register."""
        self.step(
            "pwrite", slot="d0", offset=CONFIG + _COMMAND, data=self.one_of("0200", "0300", "0000", "0100", "0204")
        )
        # Mask the value of the register: the mock has no model of these devices.
        self.step("pread", slot="d0", offset=0, size=4, mask=[[0, 4]] if self.device_name in (NVME, CARD) else [])
        self.read_config(_COMMAND, 4)

    # Regions.

    def bar_info(self) -> None:
        index = self.one_of(0, 1, 2, 3, 4, 5, 7, 8, 9)
        self.ioctl(
            "d0",
            "VFIO_DEVICE_GET_REGION_INFO",
            None,
            extra=bytes((32, 0, 0, 0, 165, 165, 165, 165, index)) + bytes(23 + 32),
        )

    def bar_mmap(self) -> None:
        """Map a part of a region that cannot be mapped, or of none."""
        index = self.one_of(0, 1, 4, 5, 6, 7, 8, 9)
        size, offset = PAGE * self.one_of(1, 2, 300), PAGE * self.one_of(0, 1, 256, 300)
        if index < 2 and offset < 256 * PAGE:
            offset = 256 * PAGE  # behind the BAR: mapping registers is an intended difference of the mock
        self.step("mmap", slot="d0", offset=(index << 40) + offset, size=size, prot=self.one_of(1, 2, 3))

    def mock_mmap(self) -> None:
        """Map vfio-mock's memory, completely or partly, or something that cannot be mapped."""
        index = self.random.randrange(9)
        size, offset = PAGE * self.one_of(1, 1, 2, 4, 16, 256, 257), PAGE * self.one_of(0, 0, 1, 2, 4, 15, 255, 256)
        self.step("mmap", slot="d0", offset=(index << 40) + offset, size=size, prot=self.one_of(1, 2, 3, 0))

    # Reserved regions.

    def reserved(self) -> None:
        name = self.one_of("reserved_regions", "reserved_regions", "type")
        self.step(
            "file", path=f"/sys/bus/pci/devices/{self.one_of(EDU, FAR_EDU, NVME)}/iommu_group/{name}", how="read_file"
        )

    def near_an_edge(self) -> None:
        """Map at the end of the IOVAs that an IOMMU supports, or across it."""
        size = PAGE * self.one_of(1, 1, 2, 3, 16)
        iova = (self.one_of(*EDGES) + PAGE * self.random.randrange(-17, 4)) % 2**64
        self.map_at(iova, size)

    def map_at(self, iova: int, size: int) -> None:
        self.ioctl(
            "c",
            "VFIO_IOMMU_MAP_DMA",
            None,
            extra=b"".join(
                n.to_bytes(w, "little") for n, w in ((32, 4), (self.one_of(1, 2, 3), 4), (0, 8), (iova, 8), (size, 8))
            ),
            put=[[8, 8, ["arena", self.pages(32)]]],
        )
        if self.chance(60):
            self.ioctl(
                "c",
                "VFIO_IOMMU_UNMAP_DMA",
                None,
                extra=b"".join(n.to_bytes(w, "little") for n, w in ((24, 4), (0, 4), (iova, 8), (size, 8))),
            )


def configured(make: FunctionMaker) -> None:
    make.start_function(make.one_of(EDU, FAR_EDU, NVME, CARD))
    make.run(
        40,
        config_register=10,
        config_somewhere=6,
        config_everywhere=2,
        power=2,
        function_reset=1,
        decode=2,
        set_irqs=2,
        reset=1,
        bar_info=1,
    )
    make.config_everywhere()


def asked(make: FunctionMaker) -> None:
    make.start_function(make.one_of(EDU, FAR_EDU, NVME, CARD))
    make.run(
        40,
        probe=6,
        plain_feature=4,
        device_info=1,
        irq_info=2,
        bar_info=2,
        bar_mmap=3,
        reserved=2,
        set_irqs=2,
        config_somewhere=1,
    )


def bounded(make: FunctionMaker) -> None:
    make.start_function(make.one_of(EDU, FAR_EDU, NVME, CARD))
    make.run(30, near_an_edge=10, reserved=2)


def mapped(make: FunctionMaker) -> None:
    make.start(make.one_of(*MOCKS))
    make.run(30, mock_mmap=10, near_an_edge=2, region_info=2)


KINDS = ((configured, 6), (asked, 2), (bounded, 1), (mapped, 1))
MAKER = FunctionMaker
DEVICES = tuple(sorted({*type1.DEVICES, NVME, CARD}))
#: Devices for which the mock has the machine's saved configuration space, but no model.
SPACES = (NVME, CARD)
