# SPDX-License-Identifier: MIT
"""The parts of the network card models, each by itself: interrupt causes, filters, PHY, NVM, rings, offloads; then registers.

The expected values are those of Intel's 82574 and 82576 datasheets.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from pyvfio import mock
from pyvfio.mock import devices
from pyvfio.mock.devices.ethernet import causes, nvm, offload, ring
from pyvfio.mock.devices.ethernet.causes import CauseRegister, Causes
from pyvfio.mock.devices.ethernet.filters import Filters
from pyvfio.mock.devices.ethernet.offload import Context
from pyvfio.mock.devices.ethernet.phy import Phy
from pyvfio.mock.devices.ethernet.ring import Ring

MAC = b"\x52\x54\x00\x12\x34\x56"
OTHER = b"\x52\x54\x00\x00\x00\x01"
GROUP = b"\x01\x00\x5e\x00\x00\xfb"
EVERYBODY = b"\xff" * 6

# --- causes ---------------------------------------------------------------------------------------------------------------


class TestExtendedCauses:
    """EICR, EICS, EIMS, EIMC, EIAC, EIAM."""

    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.sent: list[int] = []
        self.causes = Causes(self.sent.append)

    def registers(self) -> list[int]:
        return [self.causes.read(one) for one in (causes.CAUSE, causes.MASK_SET, causes.AUTO_CLEAR, causes.AUTO_MASK)]

    def write(self, *pairs: tuple[int, int]) -> None:
        for register, value in pairs:
            self.causes.write(register, value)

    def test_each_register_sets_its_bits(self) -> None:
        self.write((0x1520, 0x3), (0x1524, 0x30), (0x152C, 0x300), (0x1530, 0x3000))
        assert self.registers() == [0x3, 0x30, 0x300, 0x3000]
        self.write((0x1520, 0x4), (0x1524, 0x40), (0x152C, 0x400), (0x1530, 0x4000))
        assert self.registers() == [0x7, 0x70, 0x400, 0x4000]  # set registers add bits, the others are replaced
        self.write((0x1580, 0x2), (0x1528, 0x20))
        assert self.registers() == [0x5, 0x50, 0x400, 0x4000]
        assert self.causes.read(0x1528) == 0x50
        assert self.sent == []
        self.causes.reset()
        assert self.registers() == [0, 0, 0, 0]

    def test_a_cause_is_sent_once_until_it_is_cleared(self) -> None:
        self.write((0x1524, 0b1110))
        self.causes.add(1)
        self.causes.add(1)
        self.causes.add(3)
        self.causes.add(0)
        assert self.sent == [1, 3]
        self.write((0x1580, 0b0010))
        self.causes.add(1)
        assert self.sent == [1, 3, 1]
        assert self.registers()[0] == 0b1011

    def test_a_masked_cause_is_sent_when_it_is_unmasked(self) -> None:
        self.causes.add(2)
        assert self.sent == []
        self.write((0x1524, 0b100))
        self.write((0x1528, 0b100))
        self.write((0x1524, 0b100))
        assert self.sent == [2, 2]

    def test_automatic_clearing_and_masking(self) -> None:
        self.write((0x152C, 0b001), (0x1530, 0b010), (0x1524, 0b111), (0x1520, 0b111))
        assert self.sent == [0, 1, 2]
        assert self.registers()[:2] == [0b110, 0b101]
        self.write((0x1520, 0b111))
        assert self.sent == [0, 1, 2, 0]
        self.write((0x1524, 0b010))
        assert self.sent == [0, 1, 2, 0, 1]
        assert self.registers()[:2] == [0b110, 0b101]

    def test_the_highest_vector_is_sent(self) -> None:
        self.write((0x1524, 0x80000001), (0x1520, 0x80000001))
        assert self.sent == [0, 31]


class TestCauseRegister:
    """ICR, ICS, IMS, IMC, IAM."""

    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.log: list[str] = []
        self.register = CauseRegister(lambda: self.log.append("interrupt"), lambda: self.log.append("deassert"))

    def test_an_unmasked_cause_interrupts_each_time(self) -> None:
        self.register.allow(0b11)
        assert self.log == []
        for bits in 0b100, 0b001, 0b110, 0b001:
            self.register.add(bits)
        assert self.log == ["interrupt"] * 3
        assert self.register.cause == 0b111

    def test_unmasking_interrupts_if_a_cause_is_set(self) -> None:
        self.register.add(0b1)
        self.register.allow(0b10)
        assert self.log == []
        self.register.allow(0b01)
        assert self.log == ["interrupt"]
        self.register.allow(0b100)
        assert (self.log, self.register.mask) == (["interrupt"] * 2, 0b111)

    def test_masking_and_clearing_the_last_cause_deassert(self) -> None:
        self.register.allow(0b11)
        self.register.add(0b11)
        self.log.clear()
        self.register.forbid(0b01)
        self.register.clear(0b100)
        assert self.log == []
        self.register.clear(0b10)
        assert self.log == ["deassert"]
        self.register.allow(0b1)
        self.register.forbid(0b1)
        assert (self.log, self.register.mask, self.register.cause) == (["deassert", "interrupt", "deassert"], 0b10, 0b1)

    @pytest.mark.parametrize(
        ("cause", "mask", "auto", "masks", "found", "mask_after"),
        [
            (0b11, 0b01, 0b01, True, 1 << 31 | 0b11, 0),
            (0b11, 0b01, 0b01, False, 1 << 31 | 0b11, 0b01),
            (0b10, 0b01, 0b01, True, 0b10, 0b01),  # nothing was asserted
            (0b11, 0b11, 0b10, True, 1 << 31 | 0b11, 0b01),
            (0, 0b11, 0b11, True, 0, 0b11),
        ],
    )
    def test_a_read_clears_the_causes(
        self, cause: int, mask: int, auto: int, masks: bool, found: int, mask_after: int
    ) -> None:
        self.register.add(cause)
        self.register.allow(mask)
        self.register.auto_mask = auto
        self.log.clear()
        assert self.register.take(masks=masks) == found
        assert (self.register.cause, self.register.mask, self.log) == (0, mask_after, ["deassert"])

    def test_a_reset_clears_everything(self) -> None:
        self.register.cause = self.register.mask = self.register.auto_mask = 7
        self.register.reset()
        assert (self.register.cause, self.register.mask, self.register.auto_mask) == (0, 0, 0)
        assert self.log == ["deassert"]


# --- filters --------------------------------------------------------------------------------------------------------------

RCTL, MTA, VFTA, MRQC, VT_CTL, VMOLR, VFRE = 0x100, 0x5200, 0x5600, 0x5818, 0x581C, 0x5AD0, 0x0C8C
UPE, MPE, LPE, BAM, VFE = 1 << 3, 1 << 4, 1 << 5, 1 << 15, 1 << 18


def address(index: int, mac: bytes, pools: int = 0, valid: int = 1) -> dict[int, int]:
    """Return the two registers of a MAC address."""
    at = 0x5400 + 8 * index if index < 16 else 0x54E0 + 8 * (index - 16)
    return {
        at: int.from_bytes(mac[:4], "little"),
        at + 4: int.from_bytes(mac[4:], "little") | pools << 18 | valid << 31,
    }


def hashed(mac: bytes, shift: int) -> dict[int, int]:
    """Return the register of the multicast table with the one bit of an address."""
    value = int.from_bytes(mac[4:], "little") >> shift & 0xFFF
    return {MTA + 4 * (value >> 5): 1 << (value & 31)}


def filters(registers: dict[int, int], addresses: int = 24) -> Filters:
    return Filters(lambda offset: registers.get(offset, 0), addresses)


def frame_to(mac: bytes, size: int = 60, tag: int | None = None) -> bytes:
    vlan = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
    return (mac + OTHER + vlan + b"\x88\xb5").ljust(size, b"\0")


MULTI = b"\x01\x00\x5e\x01\xa5\xc3"


@pytest.mark.parametrize(
    ("registers", "frame", "accepted"),
    [
        (address(0, MAC), frame_to(MAC), True),
        (address(0, MAC), frame_to(OTHER), False),
        (address(0, MAC, valid=0), frame_to(MAC), False),
        (address(15, MAC), frame_to(MAC), True),
        (address(16, MAC), frame_to(MAC), True),
        (address(23, MAC), frame_to(MAC), True),
        (address(24, MAC), frame_to(MAC), False),
        ({RCTL: UPE}, frame_to(OTHER), True),
        ({RCTL: UPE}, frame_to(GROUP), False),
        ({RCTL: MPE}, frame_to(GROUP), True),
        ({RCTL: MPE}, frame_to(EVERYBODY), False),
        ({RCTL: MPE}, frame_to(OTHER), False),
        ({RCTL: BAM}, frame_to(EVERYBODY), True),
        ({RCTL: BAM}, frame_to(GROUP), False),
        (address(3, EVERYBODY), frame_to(EVERYBODY), False),
        (address(3, GROUP), frame_to(GROUP), True),
        (address(0, MAC), frame_to(MAC, 1514), True),
        (address(0, MAC), frame_to(MAC, 1515), False),
        (address(0, MAC), frame_to(MAC, 1518, 5), True),
        (address(0, MAC), frame_to(MAC, 1519, 5), False),
        (address(0, MAC) | {RCTL: LPE}, frame_to(MAC, 9000), True),
        (address(0, MAC) | {RCTL: VFE}, frame_to(MAC), True),
        (address(0, MAC) | {RCTL: VFE}, frame_to(MAC, 64, 0x025), False),
        (address(0, MAC) | {RCTL: VFE, VFTA + 4: 1 << 5}, frame_to(MAC, 64, 0x025), True),
        (address(0, MAC) | {RCTL: VFE, VFTA + 4: 1 << 5}, frame_to(MAC, 64, 0xF025), True),
        (address(0, MAC) | {RCTL: VFE, VFTA + 4: ~(1 << 5)}, frame_to(MAC, 64, 0x025), False),
        (address(0, MAC) | {RCTL: VFE, VFTA + 508: 1 << 31}, frame_to(MAC, 64, 0xFFF), True),
        (address(0, MAC) | {VFTA: 0}, frame_to(MAC, 64, 0x025), True),
        *[(hashed(MULTI, shift) | {RCTL: which << 12}, frame_to(MULTI), True) for which, shift in enumerate((4, 3, 2, 0))],
        *[(hashed(MULTI, shift - 1) | {RCTL: which << 12}, frame_to(MULTI), False) for which, shift in enumerate((4, 3, 2))],
        (hashed(MULTI, 1) | {RCTL: 3 << 12}, frame_to(MULTI), False),
    ],
)  # fmt: skip
def test_frames_that_a_card_accepts(registers: dict[int, int], frame: bytes, accepted: bool) -> None:
    assert filters(registers).accept(frame) is accepted


@pytest.mark.parametrize(
    ("mrqc", "by_pool"),
    [(0, False), (1, False), (2, False), (3, True), (4, False), (5, True), (6, False), (7, False), (0xB, True)],
)
def test_the_pools_are_used_with_vmdq(mrqc: int, by_pool: bool) -> None:
    assert filters({MRQC: mrqc}).by_pool is by_pool


ROMPE, AUPE, BAM_OF_POOL, MPME = 1 << 25, 1 << 24, 1 << 27, 1 << 28
ALL = {VFRE: 0xFF} | {VMOLR + 4 * pool: AUPE for pool in range(8)}


@pytest.mark.parametrize(
    ("registers", "frame", "from_wire", "pools"),
    [
        (address(0, MAC, 1 << 3), frame_to(MAC), True, [3]),
        (address(0, MAC, 0x81), frame_to(MAC), True, [0, 7]),
        (address(0, MAC, 1) | address(20, MAC, 2), frame_to(MAC), False, [0, 1]),
        (address(0, MAC, 0x81) | {VFRE: 0x80}, frame_to(MAC), True, [7]),
        (address(0, MAC, 6) | {VMOLR + 4: 0}, frame_to(MAC), True, [2]),
        (address(0, MAC, 6) | {VMOLR + 4: 0}, frame_to(MAC, tag=1), True, [1, 2]),
        # The default pool, for frames from the wire that belong to no other.
        ({VT_CTL: 5 << 7}, frame_to(OTHER), True, [5]),
        ({VT_CTL: 5 << 7}, frame_to(OTHER), False, []),
        ({VT_CTL: 5 << 7 | 1 << 29}, frame_to(OTHER), True, []),
        (address(0, MAC, 0) | {VT_CTL: 2 << 7}, frame_to(MAC), True, [2]),
        ({VT_CTL: 5 << 7}, frame_to(GROUP), True, []),
        # Groups: by address, by hash, all.
        (address(4, GROUP, 1 << 2), frame_to(GROUP), False, [2]),
        (address(4, GROUP, 1 << 2) | {VMOLR + 4: AUPE | MPME}, frame_to(GROUP), True, [1, 2]),
        ({VMOLR + 28: AUPE | MPME}, frame_to(GROUP), True, [7]),
        ({VMOLR + 4: AUPE | ROMPE}, frame_to(GROUP), True, []),
        (hashed(GROUP, 4) | {VMOLR + 4: AUPE | ROMPE, VMOLR + 8: AUPE}, frame_to(GROUP), True, [1]),
        ({VMOLR + 4: AUPE | BAM_OF_POOL}, frame_to(EVERYBODY), True, [1]),
        ({VMOLR + 4: AUPE | BAM_OF_POOL}, frame_to(GROUP), True, []),
        ({VMOLR + 4: AUPE | MPME}, frame_to(EVERYBODY), True, []),
    ],
)  # fmt: skip
def test_pools_that_receive_a_frame(registers: dict[int, int], frame: bytes, from_wire: bool, pools: list[int]) -> None:
    assert filters(ALL | registers).pools(frame, from_wire=from_wire) == pools


# --- PHY, NVM, rings ------------------------------------------------------------------------------------------------------


class TestPhy:
    def test_each_register_after_a_reset(self) -> None:
        found = [Phy(0x01410CB1).read(register) for register in range(32)]
        known = {
            0: 0x1140,
            1: 0x796D,
            2: 0x0141,
            3: 0x0CB1,
            4: 0x0DE1,
            5: 0x4DE1,
            6: 1,
            9: 0x300,
            10: 0x7C00,
            15: 0x3000,
            17: 0xC200,
        }
        assert found == [known.get(register, 0) for register in range(32)]

    def test_without_power_there_is_no_link(self) -> None:
        phy = Phy(0)
        assert phy.link
        assert phy.write(0, 0x1940)
        assert not phy.link
        assert [phy.read(register) for register in (1, 5, 10, 17)] == [0x7949, 0, 0, 0]
        assert phy.read(4) == 0x0DE1
        assert not phy.write(0, 0x1B40), "a negotiation needs power"
        assert phy.read(0) == 0x1940
        assert phy.write(0, 0x1140)
        assert phy.link

    @pytest.mark.parametrize(
        ("value", "changed", "kept"),
        [
            (0x1140, False, 0x1140),
            (0x1340, True, 0x1140),
            (0x9140, True, 0x1140),
            (0x0040, False, 0x0040),
            (0x8000, True, 0x1140),
        ],
    )
    def test_control(self, value: int, changed: bool, kept: int) -> None:
        phy = Phy(0)
        assert phy.write(0, value) is changed
        assert phy.read(0) == kept

    def test_registers_from_16_on_are_paged(self) -> None:
        phy = Phy(0)
        for page in (0, 0x20, 0xFFE0):
            assert not phy.write(31, page | 0x1F)
            for register in (15, 16, 30):
                assert not phy.write(register, page + register)
        found = {}
        for page in (0, 0x20, 0xFFE0):
            phy.write(31, page)
            found[page] = [phy.read(register) for register in (15, 16, 30)]
        assert found == {page: [0xFFE0 + 15, page + 16, page + 30] for page in (0, 0x20, 0xFFE0)}
        assert phy.read(17) == 0, "the status of the port is in page 0"
        assert not phy.write(4, 0x0200), "only control starts a negotiation"
        assert phy.read(4) == 0x0200
        assert phy.write(0, 0x8000), "a reset"
        assert [phy.read(register) for register in (4, 15, 16, 17)] == [0x0DE1, 0x3000, 0, 0xC200]


def test_the_words_of_the_nvm() -> None:
    words = nvm.words(MAC, (0x8086, 0x10D3), (0x1AF4, 0x1100))
    known = {
        0: 0x5452,
        1: 0x1200,
        2: 0x5634,
        8: 0x4D4F,
        9: 0x434B,
        0xB: 0x1100,
        0xC: 0x1AF4,
        0xD: 0x10D3,
        0xE: 0x8086,
        0x37: 0xFFFF,
    }
    assert words[:63] == [known.get(at, 0) for at in range(63)]
    assert len(words) == 64
    assert sum(words) & 0xFFFF == 0xBABA
    assert 0 <= words[63] <= 0xFFFF
    assert nvm.address("x") == b"\x52\x54\x00" + hashlib.blake2b(b"x", digest_size=3).digest()


class TestRing:
    def test_registers_keep_their_bits(self) -> None:
        one = Ring()
        for register in range(0, 0x40, 4):
            one[register] = 0x1_FFFFFFFF
        kept = {0x00: 0xFFFFFF80, 0x08: 0xFFF80, 0x10: 0xFFFF, 0x18: 0xFFFF}
        assert [one[register] for register in range(0, 0x40, 4)] == [
            kept.get(at, 0xFFFFFFFF) for at in range(0, 0x40, 4)
        ]
        one.reset()
        assert not any(one[register] for register in range(0, 0x40, 4))

    @pytest.mark.parametrize(
        ("length", "control", "always", "enabled"),
        [(128, 1 << 25, False, True), (0, 1 << 25, False, False), (128, 0, False, False), (128, 0, True, True), (0, 0, True, False), (128, ~(1 << 25), False, False)],
    )  # fmt: skip
    def test_a_ring_is_enabled(self, length: int, control: int, always: bool, enabled: bool) -> None:
        one = Ring(always=always)
        one[ring.LENGTH], one[ring.CONTROL] = length, control
        assert one.enabled is enabled

    def test_descriptors_come_round(self) -> None:
        one = Ring()
        one[ring.LENGTH], one[ring.BASE_LOW], one[ring.BASE_HIGH] = 128, 0x1000, 3
        one[ring.HEAD], one[ring.TAIL] = 6, 1
        assert one.entries == 8
        seen = []
        while one.available:
            seen.append((one[ring.HEAD], one.available, one.at))
            one.advance()
        assert seen == [(6, 3, 0x3_0000_1060), (7, 2, 0x3_0000_1070), (0, 1, 0x3_0000_1000)]

    def test_disabling_discards_what_is_unfinished(self) -> None:
        for control, kept in (1 << 25, True), (0, False):
            one = Ring()
            one.frame, one.contexts = bytearray(b"x"), {1: b"y"}
            one[ring.TAIL] = 0
            one[ring.CONTROL] = control
            assert (one.frame is not None, bool(one.contexts)) == (kept, kept)
        one = Ring()
        one.frame, one.contexts = bytearray(b"x"), {1: b"y"}
        one.reset()
        assert one.frame is None
        assert one.contexts == {}


# --- offloads -------------------------------------------------------------------------------------------------------------


def summed(data: bytes) -> int:
    """Return the Internet checksum of data. It is 0 if the data contains its correct checksum."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total ^ 0xFFFF


def test_a_context_is_decoded_field_by_field() -> None:
    data = struct.pack(
        "<4I", 0x2345 << 16 | 0x15 << 9 | 0x128, 0xFFFFFFFF, 1 << 10 | 2 << 11, 0x567 << 16 | 0x9A << 8 | 0xFF
    )
    assert Context.unpack(data) == Context(0x15, 0x128, 0x9A, True, 2, 0x567, 0x2345)
    data = struct.pack("<4I", 0, 0, ~(1 << 10 | 3 << 11) & 0xFFFFFFFF, 0)
    assert Context.unpack(data) == Context(0, 0, 0, False, 0, 0, 0)
    data = struct.pack("<4I", 0xFFFFFFFF, 0, 0xFFFFFFFF, 0xFFFFFFFF)
    assert Context.unpack(data) == Context(0x7F, 0x1FF, 0xFF, True, 3, 0xFFFF, 0xFFFF)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\xff\xff", b"\xff\xff\xff\xff\x00\x02", b"\xff" * 70_000, b"\x12\x34\x56"]
)
def test_checksums_of_the_internet(data: bytes) -> None:
    assert offload.checksum(data) == summed(data)
    assert offload.checksum(bytearray(data)) == summed(data)


IPV4, IPV6 = b"\x45" + bytes(19), b"\x60" + bytes(39)
ETHERNET = OTHER * 2


def whole(ip: bytes, l4: bytes, data: bytes) -> bytes:
    return ETHERNET + (b"\x08\x00" if ip == IPV4 else b"\x86\xdd") + ip + l4 + data


@pytest.mark.parametrize("ip", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("do_ip", "do_l4"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("protocol", "size", "at"), [(0, 8, 6), (1, 20, 16), (2, 12, None)], ids=["UDP", "TCP", "SCTP"]
)
def test_checksums_are_put_where_they_belong(
    ip: bytes, do_ip: bool, do_l4: bool, protocol: int, size: int, at: int | None
) -> None:
    l4 = bytearray(range(1, size + 1))
    if at is not None:
        l4[at : at + 2] = b"\x12\x34"  # the sum of the pseudo header
    ip_made = bytearray(ip)
    if ip == IPV4:
        ip_made[10:12] = b"\xaa\xbb"  # is ignored
    frame = whole(ip, b"", b"")[:14] + bytes(ip_made) + bytes(l4) + b"data!"
    expected = bytearray(frame)
    if do_ip and ip == IPV4:
        expected[24:26] = summed(ip).to_bytes(2, "big")
    if do_l4 and at is not None:
        start = 14 + len(ip)
        expected[start + at : start + at + 2] = summed(bytes(l4) + b"data!").to_bytes(2, "big")
    context = Context(14, len(ip), size, ip == IPV4, protocol, 0, 0)
    assert offload.with_checksums(frame, context, ip=do_ip, l4=do_l4) == expected


@pytest.mark.parametrize(("protocol", "size", "found"), [(0, 8, b"\xff\xff"), (1, 20, b"\0\0")], ids=["UDP", "TCP"])
def test_a_checksum_of_zero_is_ones_in_udp(protocol: int, size: int, found: bytes) -> None:
    at = 6 if protocol == 0 else 16
    l4 = bytearray(size)
    l4[at : at + 2] = b"\xff\xff"  # the sum over all is 0xFFFF, the checksum 0
    made = offload.with_checksums(
        whole(IPV4, bytes(l4), b""), Context(14, 20, size, True, protocol, 0, 0), ip=False, l4=True
    )
    assert made[34 + at : 36 + at] == found


@pytest.mark.parametrize("ip", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", [0, 1], ids=["UDP", "TCP"])
@pytest.mark.parametrize("size", [1, 99, 100, 101, 250])
def test_segments_have_adapted_headers(ip: bytes, protocol: int, size: int) -> None:
    ip_header = bytearray(ip)
    if ip == IPV4:
        ip_header[4:6] = b"\xff\xff"  # the identification, which wraps
    if protocol:
        l4 = bytearray(struct.pack(">HHIIBBHHH", 1, 2, 0xFFFFFFF0, 7, 0x50, 0xFF, 9, 0, 0))
    else:
        l4 = bytearray(struct.pack(">HHHH", 1, 2, 0, 0))
    data = bytes(index * 7 & 0xFF for index in range(size))
    frame = whole(ip, b"", b"")[:14] + bytes(ip_header) + bytes(l4) + data
    context = Context(14, len(ip), len(l4), ip == IPV4, protocol, 100, 0)
    found = offload.segments(frame, context, ip=True, l4=False)
    parts = [data[at : at + 100] for at in range(0, size, 100)]
    assert [one[14 + len(ip) + len(l4) :] for one in found] == parts
    for index, (one, part) in enumerate(zip(found, parts, strict=True)):
        header = one[14 : 14 + len(ip)]
        length = len(l4) + len(part)
        if ip == IPV4:
            assert struct.unpack(">HH", header[2:6]) == (20 + length, 0xFFFF + index & 0xFFFF)
            assert summed(header) == 0
        else:
            assert header == b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes(34)
        own = one[14 + len(ip) :][: len(l4)]
        if protocol:
            flags = 0xFF & ~(0x80 if index else 0) & ~(0x09 if index + 1 < len(parts) else 0)
            expected = struct.pack(
                ">HHIIBBHHH", 1, 2, 0xFFFFFFF0 + 100 * index & 0xFFFFFFFF, 7, 0x50, flags, 9, length, 0
            )
        else:
            expected = struct.pack(">HHHH", 1, 2, length, length)
        assert own == expected


def test_the_sum_of_the_pseudo_header_carries() -> None:
    l4 = struct.pack(">HHIIBBHHH", 0, 0, 0, 0, 0x50, 0, 0, 0xFFF0, 0)
    (one,) = offload.segments(whole(IPV4, l4, bytes(30)), Context(14, 20, 20, True, 1, 100, 0), ip=False, l4=False)
    assert one[50:52] == (0xFFF0 + 50 - 0xFFFF).to_bytes(2, "big")
    assert one[24:26] == b"\0\0", "without ip= the checksum is not inserted"


def test_a_segment_size_of_zero_sends_nothing() -> None:
    assert offload.segments(bytes(100), Context(14, 20, 20, True, 1, 0, 0), ip=True, l4=True) == []


def test_tags_are_inserted_and_removed() -> None:
    frame = frame_to(MAC)
    tagged = offload.with_tag(frame, 0x6005)
    assert tagged == frame[:12] + b"\x81\x00\x60\x05" + frame[12:]
    assert (offload.tag_of(frame), offload.tag_of(tagged)) == (None, 0x6005)
    assert offload.without_tag(tagged) == frame


# --- registers ------------------------------------------------------------------------------------------------------------


class Tap:
    """An end of a wire that stores the frames it receives."""

    def __init__(self, kernel: mock.Kernel) -> None:
        self.kernel = kernel
        self.wire: devices.Wire | None = None
        self.frames: list[bytes] = []

    def receive(self, frame: bytes) -> None:
        self.frames.append(frame)


KINDS = {"igb": devices.Igb, "e1000e": devices.E1000e}


@pytest.fixture(params=KINDS)
def card(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param](mock.Kernel("intel-48"), "0000:00:0a.0", mac=MAC)


def test_registers_after_a_reset(card: Any) -> None:
    known = {0x0000: 0x201, 0x0008: 0x80081, 0x0010: 0x1300, 0x5400: 0x12005452, 0x5404: 0x80005634}
    if isinstance(card, devices.Igb):
        known[0x1010] = 3 << 18
    found = {at: card.read(0, at, 4) for at in range(0, 0x20000, 4) if at != 0x5B50}
    assert {at: value for at, value in found.items() if value} == known
    assert [card.read(0, 0x5B50, 4), card.read(0, 0x5B50, 4)] == [0, 1]


def test_other_registers_store_what_is_written_until_a_reset(card: Any) -> None:
    for at, value in (
        (0x0028, 1),
        (0x3FFC, 2),
        (0x4130, 3),
        (0x5008, 4),
        (0x5BFC, 5),
        (0x1FFFC, 6),
        (0x5B50, 8),
        (0x0018, 9),
    ):
        card.write(0, at, 4, value)
        assert card.read(0, at, 4) == value
        assert card.read(0, at, 4) == value | (at == 0x5B50)
        for width in (1, 2):  # narrower writes do nothing
            card.write(0, at, width, 0x55)
        assert card.read(0, at, 4) == value | (at == 0x5B50)
    card.write(0, 0x5008, 8, 0x8877665544332211)
    assert card.read(0, 0x5008, 8) == 0x8877665544332211
    assert [card.read(0, 0x5008 + at, 1) for at in range(8)] == [0x11 * at for at in range(1, 9)]
    assert [card.read(0, 0x5008 + at, 2) for at in (0, 2, 4)] == [0x2211, 0x4433, 0x6655]
    card.write(0, 0, 4, 1 << 26)
    assert card.read(0, 0x5008, 8) == 0
    test_registers_after_a_reset(card)


def test_counters_are_cleared_by_a_read(card: Any) -> None:
    for at in (0x4000, 0x4010, 0x4074, 0x4080, 0x40D0, 0x40D4, 0x412C):
        card.count(at, at)
        assert [card.read(0, at, 4), card.read(0, at, 4)] == [2, 0]
    for at in (0x3FFC, 0x4130):
        card.count(at)
        assert [card.read(0, at, 4), card.read(0, at, 4)] == [1, 1]


@pytest.mark.parametrize(
    ("control", "status"),
    [
        (0x201, 0x80081),
        (1 << 6, 0x80083),
        (1 << 2, 0x81),
        (1 << 2 | 1 << 6, 0x83),
        (~(1 << 6 | 1 << 26 | 1 << 31) & 0xFFFFFFFF, 0x81),
    ],
)
def test_status_follows_control(card: Any, control: int, status: int) -> None:
    card.write(0, 0, 4, control)
    assert (card.read(0, 0, 4), card.read(0, 8, 4)) == (control, status)
    card.write(0, 8, 4, 0xFFFFFFFF)
    assert card.read(0, 8, 4) == status


def test_a_change_of_the_link_is_a_cause(card: Any) -> None:
    seen = []
    for control in (1, 1 << 6, 1 << 6 | 1, 0, 1 << 31, 1 << 31 | 1 << 6, 1 << 6):
        card.write(0, 0, 4, control)
        seen.append(card.read(0, 0xC0, 4))
    assert seen == [0, 4, 0, 4, 4, 4, 0]
    assert card.read(0, 0, 4) == 1 << 6, "the reset bits read as zeros"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (1 << 21 | 2 << 26 | 2 << 16 | 0xFFFF, None),
        (1 << 21 | 1 << 26 | 4 << 16 | 0x1234, 1 << 28 | 1 << 21 | 1 << 26 | 4 << 16 | 0x1234),
        (2 << 21 | 2 << 26 | 2 << 16, 5 << 28 | 2 << 21 | 2 << 26 | 2 << 16),
        (1 << 21 | 3 << 26 | 2 << 16, 5 << 28 | 1 << 21 | 3 << 26 | 2 << 16),
        (1 << 21 | 2 << 16, 5 << 28 | 1 << 21 | 2 << 16),
    ],
)
def test_accesses_to_the_phy(card: Any, written: int, read: int | None) -> None:
    card.write(0, 0x20, 4, written)
    identifier = 0x02A8 if isinstance(card, devices.Igb) else 0x0141
    assert card.read(0, 0x20, 4) == (written & ~0xFFFF | 1 << 28 | identifier if read is None else read)
    assert card.phy.read(4) == (0x1234 if written & 0xFFFF == 0x1234 else 0x0DE1)


@pytest.mark.parametrize(
    ("address", "word"), [(0, 0x5452), (2, 0x5634), (0x37, 0xFFFF), (64, 0xFFFF), (0x3FFF, 0xFFFF)]
)
def test_words_of_the_nvm_are_read(card: Any, address: int, word: int) -> None:
    card.write(0, 0x14, 4, address << 2 | 1)
    assert card.read(0, 0x14, 4) == word << 16 & 0xFFFFFFFF | address << 2 & 0xFFFFFFFF | 2


def test_causes_are_set_and_masked_by_registers(card: Any) -> None:
    card.write(0, 0xD0, 4, 0b0110)
    card.write(0, 0xD0, 4, 0b1000)
    card.write(0, 0xD8, 4, 0b0010)
    assert [card.read(0, at, 4) for at in (0xD0, 0xD8)] == [0b1100, 0b1100]
    card.write(0, 0xE0, 4, 0b0100)
    assert card.read(0, 0xE0, 4) == 0b0100
    card.write(0, 0xC8, 4, 0x80000003)  # INT_ASSERTED cannot be set
    assert card.read(0, 0xC0, 4) == 3
    card.write(0, 0xC8, 4, 0b0111)
    card.write(0, 0xC0, 4, 0b0010)
    assert card.read(0, 0xC0, 4) == 0x80000005
    assert card.read(0, 0xD0, 4) == 0b1100, "CTRL_EXT.IAME is not set"
    card.write(0, 0x18, 4, 1 << 27)
    card.write(0, 0xC8, 4, 0b1000)
    assert card.read(0, 0xC0, 4) == 0x80000008
    assert card.read(0, 0xD0, 4) == 0b1000


@pytest.mark.parametrize(("bits", "size"), [(0, 2048), (1, 1024), (2, 512), (3, 256)])
def test_buffer_sizes(card: Any, bits: int, size: int) -> None:
    card.write(0, 0x100, 4, bits << 16 | ~(3 << 16) & 0xFFFFFFFF)
    assert card.buffer_size == size


def test_short_frames_are_padded(card: Any) -> None:
    assert card.padded(b"x" * 20) == b"x" * 20
    card.write(0, 0x400, 4, 1 << 3)
    assert card.padded(b"x" * 20) == b"x" * 20 + bytes(40)
    assert card.padded(b"x" * 61) == b"x" * 61


def test_a_lost_frame_is_counted_and_is_a_cause(card: Any) -> None:
    card.lose()
    assert (card.read(0, 0x4010, 4), card.read(0, 0xC0, 4)) == (1, 1 << 6)


def test_older_and_newer_registers_of_the_igbs_rings() -> None:
    card = devices.Igb(mock.Kernel("intel-48"), "0000:00:0a.0", mac=MAC)
    for start, old in (0xC000, 0x2800), (0xE000, 0x3800):
        for queue in range(16):
            for register in (0x08, 0x38):
                card.write(0, start + 0x40 * queue + register, 4, 0x80 * (queue + 1) + register * (register == 0x38))
        for queue in range(4):
            assert card.read(0, old + 0x100 * queue + 0x08, 4) == 0x80 * (queue + 1)
            assert card.read(0, old + 0x100 * queue + 0x38, 4) == 0x80 * (queue + 1) + 0x38
            card.write(0, old + 0x100 * queue + 0x40, 4, 0xABCD)  # behind the ring: a register of its own
            assert card.read(0, old + 0x100 * queue + 0x40, 4) == 0xABCD
        assert [card.read(0, start + 0x40 * queue + 0x08, 4) for queue in range(16)] == [0x80 * n for n in range(1, 17)]
        assert card.read(0, old + 0x400 + 0x08, 4) == 0
        assert card.read(0, start + 0x400 + 0x08, 4) == 0
        assert card.read(0, start - 4, 4) == 0


@pytest.mark.parametrize(
    ("queue", "sent", "vector"),
    [(0, False, 0), (0, True, 1), (7, True, 3), (8, False, 4), (15, True, 5), (3, False, None)],
)
def test_the_vector_of_a_queue_is_in_its_byte(queue: int, sent: bool, vector: int | None) -> None:
    card = devices.Igb(mock.Kernel("intel-48"), "0000:00:0a.0", mac=MAC)
    card.write(0, 0x1514, 4, 1 << 4)
    card.write(0, 0x1700, 4, 0x0084_8180 | 0xFF << 24)
    card.write(0, 0x171C, 4, 0x8500_8300)
    card.write(0, 0x1524, 4, 0)
    card._queue_event(queue, sent=sent)
    assert card.read(0, 0x1580, 4) == (0 if vector is None else 1 << vector)
    card.write(0, 0x1580, 4, 0xFFFFFFFF)
    card.write(0, 0x1514, 4, 0)
    card._queue_event(queue, sent=sent)
    assert (card.read(0, 0x1580, 4), card.read(0, 0xC0, 4)) == (0, 1 if sent else 0x80)


def test_igbs_of_one_wire_get_frames_for_groups_from_pools() -> None:
    kernel = mock.Kernel("intel-48")
    card, tap = devices.Igb(kernel, "0000:00:0a.0", mac=MAC), Tap(kernel)
    devices.Wire(card, tap)
    # VMDq and the switch; pool 1 may send, and receives group frames.
    for at, value in (
        (MRQC, 3),
        (0x3500, 1 << 31),
        (0x0C90, 1 << 1),
        (VFRE, 2),
        (VMOLR + 4, AUPE | MPME),
        (0x0000, 1 << 6),
    ):
        card.write(0, at, 4, value)
    card.write(0, 0x5400, 4, int.from_bytes(OTHER[:4], "little"))
    card.write(0, 0x5404, 4, int.from_bytes(OTHER[4:], "little") | 1 << 31 | 2 << 18)
    group, own, other = frame_to(GROUP), frame_to(OTHER), frame_to(MAC)
    for frame in (group, own, other):
        card._transmit(1, frame)
    assert tap.frames == [group, other], "a frame for one of the pools stays in the card"
    card._transmit(0, group)
    assert len(tap.frames) == 2, "pool 0 may not send"
    card._transmit(9, group)
    assert len(tap.frames) == 3, "queue 9 is of pool 1"
    card._transmit(1, b"x" * 13)
    assert len(tap.frames) == 3, "less than an Ethernet header"
    card._transmit(1, GROUP + b"x" * 8)
    assert len(tap.frames) == 4
    assert card.read(0, 0x4080, 4) == 5


class _InRam:
    """The DMA of a card that goes to a buffer.

    :ivar ram: the buffer, from IOVA 0 on
    """

    ram: bytearray

    @property
    def bus_master(self) -> bool:
        return True

    def dma_read(self, iova: int, size: int) -> bytes:
        return bytes(self.ram[iova : iova + size])

    def dma_write(self, iova: int, data: bytes) -> None:
        self.ram[iova : iova + len(data)] = data


class Bench(_InRam, devices.E1000e):
    """An 82574 whose DMA goes to a buffer. Its transmit ring of 8 descriptors is at 0, its receive ring at 0x1000."""

    def __init__(self, kernel: mock.Kernel) -> None:
        self.ram = bytearray(0x10000)
        super().__init__(kernel, "0000:00:0a.0", mac=MAC)
        for at, value in (
            (0x3808, 128),
            (0x2800, 0x1000),
            (0x2808, 128),
            (0x0000, 1 << 6),
            (RCTL, 1 << 1 | 1 << 26 | 3 << 16),
            (0x400, 1 << 1),
        ):
            self.write(0, at, 4, value)
        self.read(0, 0xC0, 4)

    def send(self, *descriptors: tuple[int, int, int]) -> None:
        """Send descriptors, given as (address, length, command), from the head on."""
        at = self.read(0, 0x3810, 4)
        for address_, length, command in descriptors:
            struct.pack_into("<QHBBBBH", self.ram, 16 * at, address_, length, 0, command, 0, 0, 0)
            at = (at + 1) % 8
        self.write(0, 0x3818, 4, at)


class TestE1000e:
    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        kernel = mock.Kernel("intel-48")
        self.card, self.tap = Bench(kernel), Tap(kernel)
        devices.Wire(self.card, self.tap)

    def test_only_reported_descriptors_are_done_and_a_cause(self) -> None:
        self.card.ram[0x2000:0x2100] = bytes(range(256))
        self.card.send((0x2000, 100, 1))
        assert (self.card.ram[12], self.card.read(0, 0xC0, 4)) == (0, 0)
        self.card.send((0x2000, 60, 1 | 8))
        assert (self.card.ram[16 + 12], self.card.read(0, 0xC0, 4)) == (1, 1)
        assert self.tap.frames == [bytes(range(100)), bytes(range(60))]
        assert [self.card.read(0, at, 4) for at in (0x4080, 0x40D4, 0x3810)] == [2, 2, 2]

    def test_a_frame_is_gathered_and_extended_descriptors_are_skipped(self) -> None:
        self.card.ram[0x2000:0x2100] = bytes(range(256))
        self.card.send((0x2000, 30, 0), (0x2080, 40, 0x20 | 8), (0x2040, 40, 1))
        assert self.tap.frames == [bytes(range(30)) + bytes(range(0x40, 0x68))]
        assert [self.card.ram[16 * n + 12] for n in range(3)] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("room", "size", "statuses"),
        [(1, 256, [3]), (1, 257, []), (2, 257, [1, 3]), (2, 512, [1, 3]), (3, 513, [1, 1, 3])],
    )
    def test_a_frame_takes_as_many_buffers_as_it_needs(self, room: int, size: int, statuses: list[int]) -> None:
        for n in range(8):
            struct.pack_into("<Q", self.card.ram, 0x1000 + 16 * n, 0x4000 + 0x400 * n)
        self.card.write(0, 0x2818, 4, room)
        frame = (MAC + OTHER + b"\x08\x00").ljust(size, b"x")
        assert self.tap.wire is not None
        self.tap.wire.carry(self.tap, frame)
        found = [struct.unpack_from("<HHBBH", self.card.ram, 0x1008 + 16 * n) for n in range(room)]
        parts = [min(256, size - 256 * n) for n in range(len(statuses))]
        assert found == [(part, 0, status, 0, 0) for part, status in zip(parts, statuses, strict=True)] + [(0,) * 5] * (
            room - len(statuses)
        )
        if statuses:
            assert b"".join(bytes(self.card.ram[0x4000 + 0x400 * n :][:part]) for n, part in enumerate(parts)) == frame
        assert [self.card.read(0, at, 4) for at in (0x4010, 0x4074, 0x40D0, 0xC0, 0x2810)] == (
            [0, 1, 1, 1 << 7, room] if statuses else [1, 0, 0, 1 << 6, 0]
        )

    @pytest.mark.parametrize(
        ("control", "size", "found"), [(1 << 1, 60, 64), (1 << 1 | 1 << 26, 60, 60), (1 << 26, 60, 0), (1 << 1, 13, 0)]
    )
    def test_frames_that_are_received(self, control: int, size: int, found: int) -> None:
        self.card.write(0, RCTL, 4, control | 1 << 3)
        self.card.write(0, 0x2818, 4, 1)
        assert self.tap.wire is not None
        self.tap.wire.carry(self.tap, bytes(size))
        assert struct.unpack_from("<H", self.card.ram, 0x1008)[0] == found

    def test_in_loopback_the_card_receives_its_own_frames(self) -> None:
        self.card.write(0, RCTL, 4, 1 << 1 | 1 << 3 | 1 << 6 | 1 << 26)
        self.card.write(0, 0x2818, 4, 1)
        self.card.ram[0x2000:0x2100] = bytes(range(256))
        self.card.send((0x2000, 60, 1))
        assert self.tap.frames == []
        assert struct.unpack_from("<H", self.card.ram, 0x1008)[0] == 60

    def test_a_reset_by_a_register_keeps_heads_and_tails(self) -> None:
        self.card.write(0, 0x2818, 4, 5)
        self.card.send((0, 60, 1), (0, 60, 1))
        self.card.write(0, 0, 4, 1 << 26)
        assert [self.card.read(0, at, 4) for at in (0x3808, 0x3810, 0x3818, 0x2810, 0x2818, 0x2800)] == [
            0,
            2,
            2,
            0,
            5,
            0,
        ]
        self.card.power_on()
        assert [self.card.read(0, at, 4) for at in (0x3810, 0x3818, 0x2818)] == [0, 0, 0]


class TestVirtualFunction:
    """The registers of a virtual function of the 82576."""

    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        kernel = mock.Kernel("intel-48")
        kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")
        self.card = devices.Igb(kernel, "0000:00:0a.0", mac=MAC, driver="vfio-pci")
        kernel.write_file("/sys/bus/pci/devices/0000:00:0a.0/sriov_numvfs", b"3")
        assert self.card.virtual is not None
        self.one: Any = self.card.virtual.functions[2]

    def test_status_shows_the_number_of_functions(self) -> None:
        assert self.card.read(0, 8, 4) == self.one.read(0, 8, 4) == 0x80081 | 3 << 14

    def test_other_bars_and_widths_are_memory(self) -> None:
        self.one.write(1, 0x40, 4, 0x11223344)
        assert self.one.read(1, 0x40, 4) == 0x11223344
        self.one.write(0, 0x5000, 2, 0x5566)
        assert (self.one.read(0, 0x5000, 2), self.one.read(0, 0x5000, 4)) == (0x5566, 0)
        self.one.write(0, 0x5000, 4, 0x778899AA)
        assert (self.one.read(0, 0x5000, 4), self.one.read(0, 0x5000, 2)) == (0x778899AA, 0x5566)

    def test_its_rings_are_the_cards(self) -> None:
        for index in range(2):
            for old, new in ((0x2800, 0xC000), (0x3800, 0xE000)):
                self.one.write(0, old + 0x100 * index, 4, 0x1000 * (index + 1))
                assert self.card.read(0, new + 0x40 * (2 + 8 * index), 4) == 0x1000 * (index + 1)
                assert self.one.read(0, old + 0x100 * index, 4) == 0x1000 * (index + 1)
        for beside in (0x27FC, 0x2840, 0x2A00, 0x3A00):
            self.one.write(0, beside, 4, 0x1234567F)
            assert self.one.read(0, beside, 4) == 0x1234567F

    def test_a_reset_clears_what_is_its_own(self) -> None:
        for register, value in ((0x1524, 7), (0x1530, 7), (0x1700, 0x80), (0x5000, 9)):
            self.one.write(0, register, 4, value)
        for register in 0x0C8C, 0x0C90:
            self.card.write(0, register, 4, 0xFF)
        self.card.write(0, 0x0C88, 4, 0xFF)  # written ones clear
        self.one.write(0, 0x2808, 4, 128)
        self.one.write(0, 0, 4, 1 << 25)
        assert self.one.read(0, 0x1524, 4) == 7, "another bit of the register does nothing"
        self.one.write(0, 0, 4, 1 << 26)
        assert [self.one.read(0, register, 4) for register in (0x1524, 0x1530, 0x1700, 0x5000, 0x2808)] == [
            0,
            0,
            0,
            0,
            0,
        ]
        assert [self.card.read(0, register, 4) for register in (0x0C8C, 0x0C90, 0x0C88)] == [0xFB, 0xFB, 4]

    @pytest.mark.parametrize(("index", "sent", "vector"), [(0, False, 0), (0, True, 1), (1, False, 2), (1, True, None)])
    def test_its_queues_have_bytes_for_their_vectors(self, index: int, sent: bool, vector: int | None) -> None:
        self.one.write(0, 0x1700, 4, 0x02828180)
        self.card._queue_event(2 + 8 * index, sent=sent)
        assert self.one.read(0, 0x1580, 4) == (0 if vector is None else 1 << vector)


class IgbBench(_InRam, devices.Igb):
    """An 82576 whose DMA goes to a buffer. The receive ring of queue 0, of 8 descriptors with buffers of 1 KiB, is at 0x1000."""

    def __init__(self, kernel: mock.Kernel) -> None:
        self.ram = bytearray(b"\xee" * 0x10000)
        super().__init__(kernel, "0000:00:0a.0", mac=MAC)
        for at, value in (
            (0xC000, 0x1000),
            (0xC008, 128),
            (0xC00C, 1 << 25 | 1),
            (0xC028, 1 << 25),
            (0x0000, 1 << 6),
            (RCTL, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 26),
            (0x5004, 3000),
        ):
            self.write(0, at, 4, value)
        for n in range(8):
            struct.pack_into("<Q", self.ram, 0x1000 + 16 * n, 0x4000 + 0x400 * n)
        self.read(0, 0xC0, 4)


@pytest.mark.parametrize(
    ("control", "tag", "status", "kept"),
    [
        (1 << 6, None, 0, None),
        (1 << 6 | 1 << 30, 0x6005, 8, 0x6005),
        (1 << 6, 0x6005, 0, 0),
        (1 << 6 | 1 << 30, 0, 8, 0),
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["advanced", "legacy"])
def test_receive_descriptors_are_written_back_as_a_whole(
    control: int, tag: int | None, status: int, kept: int | None, old: bool
) -> None:
    card = IgbBench(mock.Kernel("intel-48"))
    card.write(0, 0, 4, control)
    card.write(0, 0xC018, 4, 2)
    if old:
        card.write(0, 0xC00C, 4, 1)
    card.receive(frame_to(MAC, 1100, tag))
    size = 1100 - 4 * bool(status)
    found = [bytes(card.ram[0x1000 + 16 * n :][:16]) for n in range(3)]
    for n, (part, done) in enumerate(((1024, 1), (size - 1024, 3))):
        if old:
            assert found[n] == struct.pack("<QHHBBH", 0x4000 + 0x400 * n, part, 0, done | status, 0, kept or 0)
        else:
            assert found[n] == struct.pack("<QIHH", 0, done | status, part, kept or 0)
    assert found[2] == struct.pack("<Q", 0x4800) + b"\xee" * 8
    assert [card.read(0, at, 4) for at in (0xC010, 0x4074, 0x40D0, 0x4010)] == [2, 1, 1, 0]
