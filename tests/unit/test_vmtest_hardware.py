# SPDX-License-Identifier: MIT
"""QEMU's options for a machine: addresses, and differences between releases of QEMU."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from vmtest.addresses import Addresses
from vmtest.devices import DEVICES, Device, VirtualFunctions, addresses_of
from vmtest.exit_code import ExitCode, MachineError
from vmtest.hardware import Hardware
from vmtest.iommus import IOMMUS
from vmtest.qemu import Qemu
from vmtest.shares import Share
from vmtest.vm import parse_arguments, settings_of

KERNEL = {"kernel": "/kernel", "initramfs": None}


class FakeQemu(Qemu):
    """A QEMU with given properties of its IOMMUs, and with all devices except those in `without`."""

    known: dict[str, frozenset[str]]
    without: Sequence[str]

    def __init__(self, properties: Mapping[str, Sequence[str]], without: Sequence[str] = ()) -> None:
        super().__init__(("qemu",), {}, "1.2.3 (fake)")
        known = {name: frozenset(names) for name, names in properties.items()}
        object.__setattr__(self, "known", known)
        object.__setattr__(self, "without", without)

    def has_device(self, name: str) -> bool:
        return name not in self.without

    def device_properties(self, name: str) -> frozenset[str]:
        return self.known.get(name, frozenset())


OLD = FakeQemu({"intel-iommu": ["aw-bits", "x-scalable-mode"], "amd-iommu": ["intremap"]}, without=["igb"])
NEW = FakeQemu({"intel-iommu": ["scalable-mode", "fsts"], "amd-iommu": ["dma-remap", "xtsup"]})
BETWEEN = FakeQemu({"intel-iommu": ["x-scalable-mode", "x-flts"]})


def options(qemu: Qemu, iommu: str = "intel", shares: int = 2, sockets: Sequence[Path] = ()) -> list[str]:
    hardware = Hardware(qemu, IOMMUS[iommu], "1G", 2, sockets)
    directories = [Share(f"share{number}", Path(f"/{number}")) for number in range(shares)]
    channels = {name: number for number, name in enumerate(("log", "out", "err", "control", "alive"), 3)}
    return hardware.options(directories, channels, {"monitor": 8, "port": 9, "host": 10}, Path("/drive"))


def devices(words: list[str]) -> list[str]:
    """Return the values of the options -device."""
    return [value for option, value in itertools.pairwise(words) if option == "-device"]


def address(option: str) -> str | None:
    words = [word.removeprefix("addr=") for word in option.split(",") if word.startswith("addr=")]
    return words[0] if words else None


def test_every_pci_device_has_an_address() -> None:
    without = [option.partition(",")[0] for option in devices(options(NEW)) if address(option) is None]
    assert set(without) == {"intel-iommu", "virtserialport", "nvme-subsys", "nvme-ns"}


@pytest.mark.parametrize("iommu", sorted(IOMMUS))
def test_no_two_devices_have_the_same_address(iommu: str) -> None:
    placed = [
        (address(option), "bus=port1" in option, "bus=port2" in option)
        for option in devices(options(NEW, iommu, shares=16))
        if address(option)
    ]
    assert len(placed) == len(set(placed))
    free_of_virtual_functions = {(slot, False, False) for slot in ("17.0", "18.0", "4.1", "4.2")}
    assert not free_of_virtual_functions & set(placed)


def test_too_many_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="no PCI slot is free for the share share17"):
        options(NEW, shares=18)


def test_a_virtual_function_meets_a_device_at_its_address() -> None:
    addresses = addresses_of(DEVICES)
    with pytest.raises(ValueError, match=r"virtio-serial and virtual function 4 of igb .* 18\.0"):
        addresses.take("18.0", "virtio-serial")


def test_two_devices_at_one_address_are_refused() -> None:
    with pytest.raises(ValueError, match=r"edu at 3\.0"):
        addresses_of([Device("3.0", "nvme"), Device("3.0", "edu")])


def test_the_same_slot_on_another_bus_is_no_collision() -> None:
    addresses_of([Device("3.0", "nvme"), Device("3.0", "edu", bus="port1")])


def test_a_virtual_function_on_another_bus_is_refused() -> None:
    far = Device("1d.0", "igb", virtual_functions=VirtualFunctions(8, offset=0x80, stride=2))
    with pytest.raises(ValueError, match="another bus"):
        addresses_of([far])


def test_a_free_slot_has_no_function_in_use() -> None:
    addresses = Addresses()
    addresses.take("3.7", "one")
    assert [addresses.take_free_slot("two"), addresses.take_free_slot("three")] == ["4.0", "5.0"]


def test_igb_is_left_out_where_qemu_has_none() -> None:
    assert any(option.startswith("igb,") for option in devices(options(NEW)))
    assert not any(option.startswith("igb,") for option in devices(options(OLD)))


@pytest.mark.parametrize(
    ("qemu", "iommu", "device"),
    [
        (OLD, "intel", "intel-iommu,intremap=on,caching-mode=on,aw-bits=39"),
        (NEW, "intel", "intel-iommu,intremap=on,caching-mode=on,aw-bits=39"),
        (OLD, "amd", "amd-iommu,intremap=on"),
        (NEW, "amd", "amd-iommu,intremap=on,dma-remap=on"),
        (NEW, "amd-x2apic", "amd-iommu,intremap=on,dma-remap=on,xtsup=on"),
        (
            BETWEEN,
            "intel-fs",
            "intel-iommu,intremap=on,caching-mode=on,aw-bits=48,x-scalable-mode=on,x-flts=on",
        ),
        (NEW, "intel-fs", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48,scalable-mode=on,fsts=on"),
        (NEW, "virtio", "virtio-iommu-pci,addr=2.0"),
    ],
)
def test_properties_of_an_iommu_follow_from_what_qemu_knows(qemu: Qemu, iommu: str, device: str) -> None:
    assert device in devices(options(qemu, iommu))


@pytest.mark.parametrize(
    ("iommu", "message"),
    [
        ("intel-fs", "intel-iommu has no property fsts or x-flts; try --qemu newest"),
        ("amd-x2apic", "amd-iommu has no property xtsup; try --qemu newest"),
    ],
)
def test_an_iommu_that_qemu_lacks_is_refused(iommu: str, message: str) -> None:
    with pytest.raises(MachineError, match=message) as caught:
        options(OLD, iommu)
    assert caught.value.code == ExitCode.CANNOT_RUN


def test_no_deprecated_option_is_used() -> None:
    assert "-mon" not in options(NEW)


@pytest.mark.parametrize("initramfs", [None, "/initramfs"])
def test_a_ready_kernel_has_an_initramfs(initramfs: str | None) -> None:
    hardware = Hardware(NEW, IOMMUS["amd"], "1G", 1)
    words = hardware.kernel_options(KERNEL | {"initramfs": initramfs}, Path("/init"), "more=1")
    assert ("-initrd" in words) == (initramfs is not None)
    parameters = words[words.index("-append") + 1].split()
    assert {"init=/init", "more=1", "iommufd.allow_unsafe_interrupts=1"} <= set(parameters)
    assert ("nokaslr" in parameters) == (initramfs is not None)


def test_served_devices_have_addresses_and_the_guests_memory() -> None:
    sockets = [Path("/tmp/a,b"), Path("/tmp/c")]
    words = options(NEW, "amd", shares=3, sockets=sockets)
    served = [json.loads(option) for option in devices(words) if option.startswith("{")]
    assert [one["socket"]["path"] for one in served] == [str(path) for path in sockets]
    others = {address(option) for option in devices(words) if not option.startswith("{")}
    placed = [one["addr"] for one in served]
    assert len(set(placed)) == 2
    assert not {*placed} & others
    assert "memory-backend-memfd,id=ram,size=1G,share=on" in words
    hardware = Hardware(NEW, IOMMUS["amd"], "1G", 2, sockets)
    shares = [Share(f"share{number}", Path(f"/{number}")) for number in range(3)]
    named = {device.guest_address: device.name for device in hardware.served_devices(shares)}
    assert named == {f"0000:00:{at.zfill(4)}": f"vfio-user:{path}" for at, path in zip(placed, sockets, strict=True)}


def test_a_qemu_without_vfio_user_is_refused() -> None:
    without = FakeQemu({"amd-iommu": ["xtsup"]}, without=["vfio-user-pci"])
    with pytest.raises(MachineError, match="has no vfio-user-pci; try --qemu newest") as caught:
        options(without, "amd", sockets=[Path("/tmp/a")])
    assert caught.value.code == ExitCode.CANNOT_RUN
    assert options(without, "amd")


@pytest.mark.parametrize("name", ["/tmp/socket", "vfio-user:", "virtio:/tmp/socket", "vfio-user:/nonexistent"])
def test_a_device_without_a_server_is_wrong_usage(name: str) -> None:
    with pytest.raises(MachineError, match="--device") as caught:
        settings_of(parse_arguments(["--device", name, "true"]))
    assert caught.value.code == ExitCode.USAGE


def test_a_device_is_given_by_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.chdir(tmp_path)

    def require_qemu(choice: str) -> Qemu:
        chosen.append(choice)
        return NEW

    monkeypatch.setattr("vmtest.vm.require_qemu", require_qemu)
    monkeypatch.setattr("vmtest.vm.require_kernel", lambda _: KERNEL)
    monkeypatch.setattr("vmtest.vm.require_check", lambda: Path("/check"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("device")
        settings = settings_of(parse_arguments(["--device", "vfio-user:device", "true"]))
    assert settings.sockets == [tmp_path / "device"]
    settings_of(parse_arguments(["true"]))
    assert chosen == ["newest", "system"]
