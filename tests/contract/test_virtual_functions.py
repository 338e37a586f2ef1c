# SPDX-License-Identifier: MIT
"""Virtual functions of nvme and igb: they are created, opened with and without a VF token, and removed.

Those of igb also do DMA.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from examples.igb import BUFFER, ETHERTYPE, OWN_POOL, Igb, IgbVf

import pyvfio
from pyvfio import DmaBuffer, host
from pyvfio._abi import ffi, lib
from pyvfio.spaces.opening import Mode
from tests.contract import guest
from tests.contract.power import D0, D3HOT, set_power_state
from tests.contract.processes import writing

if TYPE_CHECKING:
    from vmtest.matrix import Cell

    from pyvfio import Device

# nvme is tested in edu's cells, with any QEMU, because its own cells take long already. The ACPI table for the AMD
# IOMMU of QEMU 7.2 lists only functions that existed at boot, so virtual functions get no group there. On Linux 6.1 and
# 6.12, opening a virtual function takes 65 s: they wait in vain for QEMU's function to become ready after its reset.
# And 6.12 requires no token if a device is opened by its cdev.
pytestmark = [
    pytest.mark.require("linux"),
    pytest.mark.only(iommu=["intel", "virtio"], mode=["type1v2", "iommufd"], device="edu", kernel="newest"),
    pytest.mark.only(iommu=["intel", "amd", "virtio"], mode=["type1v2", "iommufd"], device="igb", kernel="newest"),
]
of_nvme = pytest.mark.only(iommu=["intel", "virtio"], mode=["type1v2", "iommufd"], device="edu", kernel="newest")
of_igb = pytest.mark.only(iommu=["intel", "amd", "virtio"], mode=["type1v2", "iommufd"], device="igb", kernel="newest")

ENABLE_SRIOV = Path("/sys/module/vfio_pci/parameters/enable_sriov")
TOKEN = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
OTHER_TOKEN = "fedcba98-7654-3210-fedc-ba9876543210"
#: Class code and number of virtual functions of the physical function, by the cell's device.
CLASS = {"edu": 0x010802, "igb": 0x020000}
TOTAL = {"edu": 2, "igb": 8}
PAGE = 4096


@pytest.fixture
def physical(other: Callable[[str], str], address: str, cell: Cell) -> Iterator[str]:
    """The physical function, bound to vfio-pci, with the module parameter enable_sriov set: without it vfio-pci creates no virtual functions."""
    before = ENABLE_SRIOV.read_text()
    ENABLE_SRIOV.write_text("Y")
    try:
        yield address if cell.device == "igb" else other("nvme")
    finally:
        ENABLE_SRIOV.write_text(before)


@pytest.fixture
def virtual(physical: str) -> Iterator[list[str]]:
    """Two virtual functions of the physical function, bound to vfio-pci."""
    functions = host.create_vfs(physical, 2, probe=False)
    try:
        with contextlib.ExitStack() as stack:
            for function in functions:
                stack.enter_context(host.bind(function.address, "vfio-pci"))
            yield [function.address for function in functions]
    finally:
        host.remove_vfs(physical)


@pytest.fixture
def opened(mode: Mode, kernel: Any) -> Callable[..., Device]:
    def opened(address: str, **arguments: Any) -> Device:
        return pyvfio.open(address, mode=mode, kernel=kernel, **arguments)

    return opened


def test_virtual_functions_are_devices_with_groups(physical: str, virtual: list[str], cell: Cell) -> None:
    there = host.device(physical)
    assert there.virtual_functions == tuple(virtual)
    functions = [host.device(address) for address in virtual]
    assert {function.physical_function for function in functions} == {physical}
    assert {function.class_code for function in functions} == {CLASS[cell.device]}
    assert len({function.group for function in functions} | {there.group}) == 3
    assert None not in {function.group for function in functions}


def test_the_token_set_by_the_physical_functions_owner_opens_them(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    with opened(physical) as owner:
        owner.set_vf_token(TOKEN)
        for token in (TOKEN, str(TOKEN)):
            with opened(virtual[0], vf_token=token) as function:
                assert function.config.read(0, 4) == b"\xff\xff\xff\xff" or function.info.is_pci
                assert function.regions[0].size >= 0x1000
        with pytest.raises(PermissionError, match="vf_token is wrong") as caught:
            opened(virtual[0], vf_token=OTHER_TOKEN)
        assert caught.value.errno == errno.EACCES
        with pytest.raises(PermissionError, match="vf_token is missing"):
            opened(virtual[0])


def test_until_it_is_set_nobody_knows_it(virtual: list[str], opened: Callable[..., Device]) -> None:
    for arguments in ({}, {"vf_token": uuid.uuid4()}, {"vf_token": bytes(16)}):
        with pytest.raises(PermissionError, match="vf_token"):
            opened(virtual[1], **arguments)


def test_opening_the_physical_function_with_a_token_sets_it(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    with opened(physical, vf_token=TOKEN), opened(virtual[0], vf_token=TOKEN) as function:
        assert function.info.is_pci


def test_the_physical_function_needs_the_token_while_one_is_open(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    owner = opened(physical, vf_token=TOKEN)
    with opened(virtual[0], vf_token=TOKEN) as function:
        # Close the physical function first: the virtual function stays open.
        owner.close()
        assert function.info.is_pci
        assert function.regions[0].size >= 0x1000
        for arguments, word in (({}, "missing"), ({"vf_token": OTHER_TOKEN}, "wrong")):
            with pytest.raises(PermissionError, match=word):
                opened(physical, **arguments)
        with opened(physical, vf_token=TOKEN) as again:
            # The token can be changed while a virtual function is open: it is checked only when a function is opened.
            again.set_vf_token(OTHER_TOKEN)
            with opened(virtual[1], vf_token=OTHER_TOKEN):
                pass
    with opened(physical) as alone:
        assert alone.info.is_pci


def test_a_token_that_nobody_wants_is_refused(
    virtual: list[str], other: Callable[[str], str], physical: str, opened: Callable[..., Device]
) -> None:
    with pytest.raises(OSError, match="does not take a vf_token") as caught:
        opened(other("0000:01:00.0"), vf_token=TOKEN)
    assert caught.value.errno == errno.EINVAL
    for token in ("not a token", b"short", str(TOKEN)[:-1]):
        with pytest.raises(ValueError, match="vf_token"):
            opened(virtual[0], vf_token=token)
    with opened(physical) as owner, pytest.raises(ValueError, match="16"):
        owner.set_vf_token(b"\0" * 17)


def test_what_is_no_token_the_kernel_refuses_too(physical: str, mode: Mode, opened: Callable[..., Device]) -> None:
    with opened(physical) as owner:
        with pytest.raises(OSError, match="PCI_VF_TOKEN") as caught:
            owner.features.set(lib.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, ffi.new("uint8_t[15]"))
        assert caught.value.errno == errno.EINVAL
        if mode == "iommufd":
            return  # in the request for a cdev, a token always has 16 bytes
        assert owner.group is not None
        for text in ("", str(TOKEN)[:-1], str(TOKEN).replace("-", "_")):
            with pytest.raises(OSError, match="GET_DEVICE_FD") as caught:
                owner.group.device_fd(f"{physical} vf_token={text}")
            assert caught.value.errno == errno.EINVAL


@of_nvme
def test_with_a_native_driver_above_them_they_take_no_token(opened: Callable[..., Device]) -> None:
    physical = guest.address_of("nvme")
    assert host.device(physical).driver == "nvme"
    functions = host.create_vfs(physical, 1, probe=False)
    try:
        with host.bind(functions[0].address, "vfio-pci") as bound:
            with opened(bound.address) as function:
                assert function.info.is_pci
            with pytest.raises(OSError, match="does not take a vf_token"):
                opened(bound.address, vf_token=TOKEN)
    finally:
        host.remove_vfs(physical)
    assert host.device(physical).virtual_functions == ()


def test_a_program_is_asked_to_give_back_one_that_is_taken_away(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    function = opened(virtual[0], vf_token=_set(opened, physical))
    (request,) = function.irqs.req.enable()
    function.address_space.alloc(4096)
    with pytest.raises(OSError, match="still open in this process"):
        host.remove_vfs(physical)
    path = Path(host.device(physical).path, "sriov_numvfs")
    with writing("0", path) as removal:
        assert request.wait(60) >= 1
        function.close()
        assert removal.wait(120) == 0
    assert host.device(physical).virtual_functions == ()
    with pytest.raises(OSError, match=virtual[0]):
        host.device(virtual[0])


def _set(opened: Callable[..., Device], physical: str) -> uuid.UUID:
    with opened(physical, vf_token=TOKEN):
        pass
    return TOKEN


def test_how_many_there_can_be_is_checked(physical: str, virtual: list[str], cell: Cell) -> None:
    total = TOTAL[cell.device]
    with pytest.raises(OSError, match="has 2 virtual functions"):
        host.create_vfs(physical, 1)
    host.remove_vfs(physical)
    host.remove_vfs(physical)
    for count in (0, total + 1, -1):
        with pytest.raises(ValueError, match=f"1 to {total}"):
            host.create_vfs(physical, count)
    ENABLE_SRIOV.write_text("N")
    with pytest.raises(OSError, match="enable_sriov"):
        host.create_vfs(physical, 1)
    assert os.listdir(f"/sys/bus/pci/devices/{physical}/") != []


# --- DMA of the functions of a network card ---------------------------------------------------------------------------


@pytest.fixture
def card(physical: str, opened: Callable[..., Device]) -> Iterator[Igb]:
    """The driver of the physical function, with `shared=True` for virtual functions. The VF token is TOKEN."""
    with opened(physical, vf_token=TOKEN) as owner, Igb(owner, shared=True) as card:
        yield card


def check_a_frame(sender: Igb | IgbVf, receiver: Igb | IgbVf, iova: int) -> None:
    """Send a frame from an IOVA of one address space to the same IOVA of another."""
    out = sender.device.address_space.map(DmaBuffer(PAGE), iova)
    in_ = receiver.device.address_space.map(DmaBuffer(PAGE), iova)
    out.buffer.view[:] = receiver.mac + sender.mac + ETHERTYPE.to_bytes(2, "big") + os.urandom(PAGE - 14)
    receiver.offer(*range(iova, iova + 1024, BUFFER))
    sender.send((iova, 1024))
    assert receiver.receive() == 1024
    assert in_.buffer.view[:1024] == out.buffer.view[:1024]
    assert not any(in_.buffer.view[1024:])
    out.unmap()
    in_.unmap()


@of_igb
@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "by MSI-X"])
def test_functions_of_one_card_translate_an_iova_differently(
    card: Igb, virtual: list[str], opened: Callable[..., Device], interrupt: bool
) -> None:
    with (
        opened(virtual[1], vf_token=TOKEN) as device,
        IgbVf(device, card, 1, interrupt=interrupt) as function,
    ):
        check_a_frame(card, function, 0x10_0000)
        check_a_frame(function, card, 0x10_0000)


@of_igb
def test_a_virtual_function_reaches_its_own_mappings_alone(
    card: Igb, virtual: list[str], opened: Callable[..., Device]
) -> None:
    with opened(virtual[0], vf_token=TOKEN) as device, IgbVf(device, card, 0) as function:
        own = device.address_space.map(DmaBuffer(2 * PAGE), 0x10_0000)
        others = card.device.address_space.map(DmaBuffer(PAGE), 0x20_0000)
        own.buffer.view[:] = os.urandom(2 * PAGE)
        others.buffer.view[:] = secret = os.urandom(PAGE)
        # The function writes to an IOVA at which only the physical function has memory. The IOMMU blocks it; the card
        # reports no error.
        function.copy(others.iova, own.iova, 1024)
        assert others.buffer.view == secret
        # The function reads from that IOVA: QEMU's card sends zeros, or nothing.
        with contextlib.suppress(TimeoutError):
            function.copy(own.iova, others.iova, 1024)
        assert own.buffer.view[:1024] != secret[:1024]
        own.buffer.view[:] = os.urandom(2 * PAGE)
        function.copy(own.iova + PAGE, own.iova, 1024)
        assert own.buffer.view[PAGE : PAGE + 1024] == own.buffer.view[:1024]


@of_igb
def test_seven_virtual_functions_copy_in_groups_of_their_own(
    card: Igb, physical: str, opened: Callable[..., Device]
) -> None:
    functions = host.create_vfs(physical, OWN_POOL, probe=False)
    try:
        with contextlib.ExitStack() as stack:
            assert len({function.group for function in functions}) == OWN_POOL
            for number, function in enumerate(functions):
                stack.enter_context(host.bind(function.address, "vfio-pci"))
                device = stack.enter_context(opened(function.address, vf_token=TOKEN))
                driver = stack.enter_context(IgbVf(device, card, number))
                memory = device.address_space.map(DmaBuffer(2 * PAGE), 0x10_0000)
                memory.buffer.view[:PAGE] = os.urandom(PAGE)
                driver.copy(memory.iova + PAGE, memory.iova, PAGE)
                assert memory.buffer.view[:PAGE] == memory.buffer.view[PAGE:]
    finally:
        host.remove_vfs(physical)


def test_the_physical_function_stays_awake_while_there_are_virtual_ones(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    with opened(physical, vf_token=TOKEN) as owner:
        assert set_power_state(owner, D3HOT) == D0
        assert owner.regions[0].read32(0) != 0xFFFFFFFF
    host.remove_vfs(physical)
    with opened(physical) as owner:
        assert set_power_state(owner, D3HOT) == D3HOT
        assert set_power_state(owner, D0) == D0
