"""Virtual functions of the nvme: made, opened with tokens or without, taken away."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyvfio
from pyvfio import host
from pyvfio._abi import ffi, lib
from tests.contract import guest
from tests.contract.processes import writing

if TYPE_CHECKING:
    from pyvfio import Device

# The firmware's table for QEMU's AMD IOMMU lists the functions that there were at start: virtual ones get no group.
# Opening one on Linux 6.1 and 6.12 takes 65 s: in vain they wait for QEMU's function to come back from its reset. And 6.12 asks for no
# token where a device is opened by its own node.
pytestmark = [
    pytest.mark.require("linux"),
    pytest.mark.only(iommu=["intel", "virtio"], mode=["type1v2", "iommufd"], device="edu", kernel="newest"),
]

ENABLE_SRIOV = Path("/sys/module/vfio_pci/parameters/enable_sriov")
TOKEN = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
OTHER_TOKEN = "fedcba98-7654-3210-fedc-ba9876543210"
NVME = 0x010802


@pytest.fixture
def physical(other: Callable[[str], str]) -> Iterator[str]:
    """The nvme in vfio-pci's hands, which makes virtual functions only when its module's parameter says so."""
    before = ENABLE_SRIOV.read_text()
    ENABLE_SRIOV.write_text("Y")
    try:
        yield other("nvme")
    finally:
        ENABLE_SRIOV.write_text(before)


@pytest.fixture
def virtual(physical: str) -> Iterator[list[str]]:
    """Its two virtual functions, in vfio-pci's hands too."""
    functions = host.create_vfs(physical, 2, probe=False)
    try:
        with contextlib.ExitStack() as stack:
            for function in functions:
                stack.enter_context(host.bind(function.address, "vfio-pci"))
            yield [function.address for function in functions]
    finally:
        host.remove_vfs(physical)


@pytest.fixture
def opened(mode: str, kernel: Any) -> Callable[..., Device]:
    def opened(address: str, **arguments: Any) -> Device:
        return pyvfio.open(address, mode=mode, kernel=kernel, **arguments)

    return opened


def test_they_are_functions_of_their_own(physical: str, virtual: list[str]) -> None:
    there = host.device(physical)
    assert there.virtual_functions == tuple(virtual)
    functions = [host.device(address) for address in virtual]
    assert {function.physical_function for function in functions} == {physical}
    assert {function.class_code for function in functions} == {NVME}
    assert len({function.group for function in functions} | {there.group}) == 3
    assert None not in {function.group for function in functions}


def test_the_token_that_the_physical_functions_owner_sets_opens_them(
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
    for arguments in ({}, {"vf_token": TOKEN}, {"vf_token": bytes(16)}):
        with pytest.raises(PermissionError, match="vf_token"):
            opened(virtual[1], **arguments)


def test_opening_the_physical_function_with_a_token_sets_it(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    with opened(physical, vf_token=TOKEN), opened(virtual[0], vf_token=TOKEN) as function:
        assert function.info.is_pci


def test_while_one_is_open_the_physical_function_takes_the_token_too(
    physical: str, virtual: list[str], opened: Callable[..., Device]
) -> None:
    owner = opened(physical, vf_token=TOKEN)
    with opened(virtual[0], vf_token=TOKEN) as function:
        # The owner goes early: what is open stays open.
        owner.close()
        assert function.info.is_pci
        assert function.regions[0].size >= 0x1000
        for arguments, word in (({}, "missing"), ({"vf_token": OTHER_TOKEN}, "wrong")):
            with pytest.raises(PermissionError, match=word):
                opened(physical, **arguments)
        with opened(physical, vf_token=TOKEN) as again:
            # It can be changed meanwhile: it is asked for at opening alone.
            again.set_vf_token(OTHER_TOKEN)
            with opened(virtual[1], vf_token=OTHER_TOKEN):
                pass
    with opened(physical) as alone:
        assert alone.info.is_pci


def test_a_token_that_nobody_wants_is_refused(
    virtual: list[str], address: str, physical: str, opened: Callable[..., Device]
) -> None:
    with pytest.raises(OSError, match="does not take a vf_token") as caught:
        opened(address, vf_token=TOKEN)
    assert caught.value.errno == errno.EINVAL
    for token in ("not a token", b"short", str(TOKEN)[:-1]):
        with pytest.raises(ValueError, match="vf_token"):
            opened(virtual[0], vf_token=token)
    with opened(physical) as owner, pytest.raises(ValueError, match="16"):
        owner.set_vf_token(b"\0" * 17)


def test_what_is_no_token_the_kernel_refuses_too(physical: str, mode: str, opened: Callable[..., Device]) -> None:
    with opened(physical) as owner:
        with pytest.raises(OSError, match="PCI_VF_TOKEN") as caught:
            owner.features.set(lib.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, ffi.new("uint8_t[15]"))
        assert caught.value.errno == errno.EINVAL
        if mode == "iommufd":
            return  # the request for a cdev has 16 bytes in any case
        assert owner.group is not None
        for text in ("", str(TOKEN)[:-1], str(TOKEN).replace("-", "_")):
            with pytest.raises(OSError, match="GET_DEVICE_FD") as caught:
                owner.group.device_fd(f"{physical} vf_token={text}")
            assert caught.value.errno == errno.EINVAL


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
        assert request.wait(10) >= 1
        function.close()
        assert removal.wait(30) == 0
    assert host.device(physical).virtual_functions == ()
    with pytest.raises(OSError, match=virtual[0]):
        host.device(virtual[0])


def _set(opened: Callable[..., Device], physical: str) -> uuid.UUID:
    with opened(physical, vf_token=TOKEN):
        pass
    return TOKEN


def test_how_many_there_can_be_is_checked(physical: str, virtual: list[str]) -> None:
    with pytest.raises(OSError, match="has 2 virtual functions"):
        host.create_vfs(physical, 1)
    host.remove_vfs(physical)
    host.remove_vfs(physical)
    for count in (0, 3, -1):
        with pytest.raises(ValueError, match="1 to 2"):
            host.create_vfs(physical, count)
    ENABLE_SRIOV.write_text("N")
    with pytest.raises(OSError, match="enable_sriov"):
        host.create_vfs(physical, 1)
    assert os.listdir(f"/sys/bus/pci/devices/{physical}/") != []
