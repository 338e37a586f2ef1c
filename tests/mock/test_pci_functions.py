# SPDX-License-Identifier: MIT
"""PCI functions of the mock: effects of configuration space, large BARs, the place of the MSI-X table, impossible descriptions."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, host, mock
from pyvfio.mock.vfio.dma_fault import DmaFault

NAME = "0000:00:0a.0"
BARS = {0: mock.Bar(4096), 2: mock.Bar(1 << 16, wide=True, prefetchable=True, memory=True)}
EXPRESS = mock.Function((0x1234, 0x11E8), bars=BARS, msi=4, msix=8, intx=True, express=True, resets=True)
CONVENTIONAL = mock.Function((0x1234, 0x11E8), bars=BARS, intx=True, advanced_features=True, resets=True)
POWER = mock.Function((0x1234, 0x11E8), bars=BARS, msix=8, express=True, power_management=True, resets=True)


class Opened:
    """A device with a given function on a new mock, opened."""

    def __init__(self, function: mock.Function, mode: Any = "iommufd", base: type[mock.Device] = mock.Device) -> None:
        self.kernel = mock.Kernel("intel-48")
        self.model = base(self.kernel, NAME, function=function, driver="vfio-pci")
        self.device = pyvfio.open(NAME, mode=mode, kernel=self.kernel)


@pytest.fixture
def opened() -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def make(*args: Any, **more: Any) -> Opened:
        made.append(Opened(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.device.close()


# Function-level resets through configuration space.


def flr_register(device: Device) -> tuple[int, int]:
    """Return the offset of the register that starts a function-level reset, and its bit."""
    if express := device.config.capability("PCI Express"):
        return express.offset + 8, 1 << 15
    advanced = device.config.capability(0x13)
    assert advanced is not None
    return advanced.offset + 4, 1


@pytest.mark.parametrize("function", [EXPRESS, CONVENTIONAL], ids=["express", "advanced-features"])
def test_a_function_level_reset_by_configuration_space_resets(
    opened: Callable[..., Opened], function: mock.Function
) -> None:
    """C06: registers get their reset values, the bit reads 0, and the command register is kept.

    So does Linux 7.3 with QEMU's igb and nvme.
    """
    device = opened(function).device
    device.config.bus_master = True
    device.regions[0].write32(0, 0xDEADBEEF)
    device.regions[2].write32(0x8000, 1)
    offset, bit = flr_register(device)
    device.config.write16(offset, device.config.read16(offset) | bit)
    assert device.regions[0].read32(0) == 0
    assert device.regions[2].read32(0x8000) == 0
    assert not device.config.read16(offset) & bit
    assert device.config.bus_master


def test_a_function_level_reset_takes_dma_bufs_away(opened: Callable[..., Opened]) -> None:
    one = opened(EXPRESS)
    with one.device.regions[2].dma_buf() as buffer:
        one.device.address_space.map_file(buffer.fileno(), 0, buffer.size, 0x100000)
        one.device.config.bus_master = True
        one.model.dma_write(0x100000, b"\x01")
        assert one.kernel.faults == []
        offset, bit = flr_register(one.device)
        one.device.config.write16(offset, bit)
        one.model.dma_write(0x100000, b"\x01")
        assert len(one.kernel.faults) == 1


def test_without_the_capability_the_reset_bit_does_nothing(opened: Callable[..., Opened]) -> None:
    device = opened(POWER).device
    device.regions[0].write32(0, 5)
    offset, bit = flr_register(device)
    device.config.write16(offset, bit)
    assert device.regions[0].read32(0) == 5
    assert not device.config.read16(offset) & bit


@pytest.mark.parametrize("how", ["ioctl", "configuration space"])
def test_a_reset_leaves_the_command_register(opened: Callable[..., Opened], how: str) -> None:
    device = opened(EXPRESS).device
    device.config.bus_master = True
    if how == "ioctl":
        device.reset()
    else:
        offset, bit = flr_register(device)
        device.config.write16(offset, bit)
    assert device.config.bus_master
    assert device.config.memory_enabled


# Power management.


def test_in_d3hot_bars_do_not_answer(opened: Callable[..., Opened]) -> None:
    """As Linux 7.3 with QEMU's e1000e: BARs give EIO, mapping a dma-buf ENODEV, interrupts EINVAL.

    In D0 all of them work again.
    """
    device = opened(POWER).device
    device.regions[0].write32(0, 5)
    power = device.config.capability("Power Management")
    assert power is not None
    device.config.write16(power.offset + 4, 3)
    assert device.config.read16(power.offset + 4) & 3 == 3
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        device.regions[0].read32(0)
    with (
        device.regions[2].dma_buf() as buffer,
        pytest.raises(OSError, check=lambda error: error.errno == errno.ENODEV),
    ):
        device.address_space.map_file(buffer.fileno(), 0, buffer.size)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        device.irqs.msix.enable()
    assert device.config.memory_enabled
    device.config.write16(power.offset + 4, 0)
    assert device.regions[0].read32(0) == 0
    with device.regions[2].dma_buf() as buffer:
        device.address_space.map_file(buffer.fileno(), 0, buffer.size)
    device.irqs.msix.enable()


def test_a_reset_ends_d3hot(opened: Callable[..., Opened]) -> None:
    device = opened(POWER).device
    power = device.config.capability("Power Management")
    assert power is not None
    device.config.write16(power.offset + 4, 3)
    device.reset()
    assert device.config.read16(power.offset + 4) & 3 == 0
    device.regions[0].read32(0)


def test_d1_and_d2_are_not_entered(opened: Callable[..., Opened]) -> None:
    device = opened(POWER).device
    power = device.config.capability("Power Management")
    assert power is not None
    for state in (1, 2):
        device.config.write16(power.offset + 4, state)
        assert device.config.read16(power.offset + 4) & 3 == 0


# The status register.


def test_the_status_register_shows_an_asserted_intx(opened: Callable[..., Opened]) -> None:
    """As QEMU's edu under Linux 7.3: bit 3 at offset 6 is set, whether INTx is enabled or not."""
    one = opened(EXPRESS)
    assert not one.device.config.read16(6) & 8
    one.model.interrupt()
    assert one.device.config.read16(6) & 8
    assert one.device.config.read8(6) & 8
    assert one.device.config.read32(4) >> 16 & 8
    one.model.deassert()
    assert not one.device.config.read16(6) & 8


def test_intx_stays_asserted_over_a_close_without_a_reset(opened: Callable[..., Opened]) -> None:
    """As QEMU's edu, which has no reset, under Linux 7.3."""
    one = opened(mock.Function((1, 2), bars=BARS, intx=True))
    one.model.interrupt()
    one.device.close()
    with pyvfio.open(NAME, kernel=one.kernel) as device:
        assert device.config.read16(6) & 8


def test_a_reset_ends_an_interrupt(opened: Callable[..., Opened]) -> None:
    one = opened(EXPRESS)
    one.model.interrupt()
    one.device.reset()
    assert not one.device.config.read16(6) & 8


# Bus master.


def test_dma_without_bus_master_is_no_iommu_fault(opened: Callable[..., Opened]) -> None:
    one = opened(EXPRESS)
    one.model.dma_write(0x1000, b"x")
    assert one.model.dma_read(0x2000, 4) == bytes(4)
    assert one.kernel.faults == []
    assert one.kernel.dma_without_bus_master == [DmaFault(NAME, 0x1000, True, 0), DmaFault(NAME, 0x2000, False, 0)]
    one.device.config.bus_master = True
    one.model.dma_write(0x1000, b"x")
    assert len(one.kernel.faults) == 1
    assert len(one.kernel.dma_without_bus_master) == 2


# Large BARs.


def test_a_bar_of_32_gib_costs_nothing_until_it_is_touched() -> None:
    """C07: a GPU with BARs of 16 MiB, 32 GiB and 32 MiB."""
    bars = {
        0: mock.Bar(16 << 20),
        1: mock.Bar(32 << 30, wide=True, prefetchable=True),
        3: mock.Bar(32 << 20, wide=True),
    }
    function = mock.Function((0x10DE, 0x20B7), 0x030200, bars=bars, msix=6, express=True, resets=True)
    before = resource.getrlimit(resource.RLIMIT_AS)
    kernel = mock.Kernel("intel-48")
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), before[1]))
    try:
        mock.Device(kernel, NAME, function=function, driver="vfio-pci")
        with pyvfio.open(NAME, mode="type1v2", kernel=kernel) as device:
            assert device.regions[1].size == 32 << 30
            last = (32 << 30) - 4
            device.regions[1].write32(last, 7)
            assert device.regions[1].read32(last) == 7
            device.reset()
            assert device.regions[1].read32(last) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_reset_clears_what_a_program_has_mapped(opened: Callable[..., Opened]) -> None:
    device = opened(EXPRESS).device
    mapped = device.regions[2].mmap()
    mapped.write32(0x8000, 9)
    device.reset()
    assert mapped.read32(0x8000) == 0
    mapped.write32(0x8000, 10)
    assert device.regions[2].read32(0x8000) == 10


# The MSI-X table.


class Counting(mock.Device):
    """A model that counts the accesses to its registers."""

    function = mock.Function((0x10EE, 0x9038), bars={0: mock.Bar(4096)}, msix=4)

    def __init__(self, *args: Any, **more: Any) -> None:
        self.writes: list[tuple[int, int]] = []
        super().__init__(*args, **more)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        self.writes.append((bar, offset))
        super().write(bar, offset, width, value)


def test_the_msix_table_lies_over_no_register(opened: Callable[..., Opened]) -> None:
    """A first model usually has one BAR and a few vectors.

    The MSI-X table gets another BAR, whose accesses never reach the model.
    """
    one = opened(Counting.function, base=Counting)
    one.device.regions[0].write32(0, 5)
    assert one.device.regions[0].read32(0) == 5
    assert one.device.regions[1].size == 4096
    one.device.regions[1].write32(0x800, 6)
    assert one.device.regions[1].read32(0x800) == 6
    assert one.device.regions[1].read32(0) == 0xFFFFFFFF
    assert one.model.writes == [(0, 0)]  # type: ignore[attr-defined]
    table = one.device.config.capability("MSI-X")
    assert table is not None
    assert one.device.config.read32(table.offset + 4) == 1
    assert one.device.config.read32(table.offset + 8) == 4 * 16 | 1


def test_a_model_chooses_the_place_of_its_msix_table(opened: Callable[..., Opened]) -> None:
    function = mock.Function(
        (1, 2), bars={0: mock.Bar(1 << 14)}, msix=5, msix_table=(0, 0x2000), msix_pending=(0, 0x3000)
    )
    device = opened(function).device
    table = device.config.capability("MSI-X")
    assert table is not None
    assert (device.config.read32(table.offset + 4), device.config.read32(table.offset + 8)) == (0x2000, 0x3000)
    bar = device.regions[0]
    assert bar.read(0x1FFC, 0x58) == bytes(4) + b"\xff" * 0x50 + bytes(4)
    bar.write(0x1FFC, b"\1" * 0x58)
    assert bar.read(0x1FFC, 0x58) == b"\1" * 4 + b"\xff" * 0x50 + b"\1" * 4


def test_a_bar_that_programs_map_tells_of_its_msix_table(opened: Callable[..., Opened]) -> None:
    function = mock.Function((1, 2), bars={0: mock.Bar(1 << 14, memory=True)}, msix=5, msix_table=(0, 0))
    assert opened(function).device.regions[0].info.msix_mappable


# Impossible descriptions of PCI functions.


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda: mock.Bar(100), "size=0x64"),
        (lambda: mock.Bar(8), "power of two from 16"),
        (lambda: mock.Bar(4 << 30), "32 bits"),
        (lambda: mock.Bar(2 << 40, wide=True), "64 bits"),
        (lambda: mock.Bar(512, ports=True), "ports"),
        (lambda: mock.Bar(32, ports=True, memory=True), "ports=True"),
        (lambda: mock.Function((1, 2), msi=33), "msi=33"),
        (lambda: mock.Function((1, 2), msi=3), "msi=3"),
        (lambda: mock.Function((1, 2), msix=2049, bars=BARS), "msix"),
        (lambda: mock.Function((1, 2), bars={9: mock.Bar(4096)}), "BAR9"),
        (lambda: mock.Function((1, 2), bars={5: mock.Bar(4096, wide=True)}), "BAR5"),
        (lambda: mock.Function((1, 2), bars={0: mock.Bar(4096, wide=True), 1: mock.Bar(4096)}), "BAR1"),
        (lambda: mock.Function((1, 2), bars={2: mock.Bar(4096)}, bridge=True), "BAR2"),
        (lambda: mock.Function((0x10000, 2)), "ids"),
        (lambda: mock.Function((1, 2), 0x1000000), "class_code"),
        (lambda: mock.Function((1, 2), virtual=4), "express=True"),
        (lambda: mock.Function((1, 2), virtual=4, express=True, virtual_at=(0, 1)), "virtual_at"),
        (lambda: mock.Function((1, 2), bars=BARS, msix=8, msix_table=(1, 0)), "msix_table"),
        (lambda: mock.Function((1, 2), bars=BARS, msix=8, msix_table=(0, 4)), "multiple of 8"),
        (lambda: mock.Function((1, 2), bars=BARS, msix=8, msix_table=(0, 4096 - 64)), "msix_table"),
        (lambda: mock.Function((1, 2), bars=BARS, msix=8, msix_table=(0, 4096 - 128)), "msix_pending"),
        (lambda: mock.Function((1, 2), bars={n: mock.Bar(4096) for n in range(6)}, msix=8), "msix_table="),
    ],
)
def test_a_description_that_pci_does_not_allow_is_refused(what: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        what()


def test_all_devices_of_the_mocks_host_can_be_described() -> None:
    for profile in ("intel-39", "mlx5", "pds", "none"):
        assert len(host.devices(mock.Kernel(profile))) > 8


# Mappings of registers.


class Widths(mock.Device):
    """A model that records the accesses to its registers."""

    function = mock.Function(
        (1, 2), bars={0: mock.Bar(1 << 16), 2: mock.Bar(1 << 16, memory=True), 3: mock.Bar(256)}, msix=4
    )

    def __init__(self, *args: Any, **more: Any) -> None:
        self.accesses: list[tuple[str, int, int]] = []
        super().__init__(*args, **more)

    def read(self, bar: int, offset: int, width: int) -> int:
        self.accesses.append(("read", offset, width))
        return super().read(bar, offset, width)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        self.accesses.append(("write", offset, width))
        super().write(bar, offset, width, value)


def test_mapped_registers_make_single_accesses_of_each_width(opened: Callable[..., Opened]) -> None:
    """Programs run unchanged: the methods of a mapping reach the model, and reads of the region show the written values."""
    one = opened(Widths.function, base=Widths)
    mapped = one.device.regions[0].mmap()
    assert mapped.size == 1 << 16
    values = {8: 0x11, 16: 0x2233, 32: 0x44556677, 64: 0x8899AABBCCDDEEFF}
    for at, (width, value) in enumerate(values.items()):
        getattr(mapped, f"write{width}")(0x100 + 8 * at, value)
        assert getattr(mapped, f"read{width}")(0x100 + 8 * at) == value
    expected = [(how, 0x100 + 8 * at, 1 << at) for at in range(4) for how in ("write", "read")]
    assert one.model.accesses == expected  # type: ignore[attr-defined]
    assert mapped.poll(0x108, 0xFFFF, 0x2233, 0, width=16) == 0x2233
    part = one.device.regions[0].mmap(0x1000, 0x1000)
    part.write32(0x10, 5)
    assert one.device.regions[0].read32(0x1010) == 5


def test_a_mapping_of_registers_has_no_memory(opened: Callable[..., Opened]) -> None:
    one = opened(Widths.function, base=Widths)
    mapped = one.device.regions[0].mmap()
    for get in (lambda: mapped.view, lambda: mapped.address, lambda: one.device.address_space.map(mapped, 0x100000)):
        with pytest.raises(pyvfio.InvalidRequest, match=r"would not see such accesses; use read32\(\)"):
            get()
    region = one.device.regions[0]
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        one.kernel.mmap(one.device.fileno(), 4096, offset=region.info.offset, prot=3)
    memory = one.device.regions[2].mmap()
    memory.view[0] = 7
    assert memory.read8(0) == 7


def test_a_mapping_of_registers_refuses_what_memory_refuses(opened: Callable[..., Opened]) -> None:
    one = opened(Widths.function, base=Widths)
    mapped = one.device.regions[0].mmap()
    for call, kind in (
        (lambda: mapped.read32(2), pyvfio.InvalidRequest),
        (lambda: mapped.read64(0x10000), pyvfio.InvalidRequest),
        (lambda: mapped.write8(0, 256), ValueError),
        (lambda: mapped.write32(0, "1"), TypeError),  # type: ignore[arg-type]
    ):
        with pytest.raises(kind):
            call()
    one.device.config.memory_enabled = False
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        mapped.read32(0)
    assert one.model.accesses == []  # type: ignore[attr-defined]
    mapped.close()
    with pytest.raises(pyvfio.Closed):
        mapped.read32(0)


def test_every_bar_of_memory_can_be_mapped(opened: Callable[..., Opened]) -> None:
    device = opened(Widths.function, base=Widths).device
    assert [region.mmappable for region in device.regions][:6] == [True, True, True, False, False, False]
    assert device.regions[1].info.msix_mappable
