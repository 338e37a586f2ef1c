# SPDX-License-Identifier: MIT
"""Branches that no other test takes. The line map of scripts/mutants found them."""

from __future__ import annotations

import errno
import importlib
import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FunctionType
from typing import Any

import pytest

import pyvfio
from pyvfio import DmaBuffer, IovaRange, IovaSet, Unsupported, host, iommufd, kernels, mock, process_memory
from pyvfio._abi import ffi
from pyvfio.cli import describe, program
from pyvfio.cli.commands import report
from pyvfio.dirty.tracker import ContainerTracking
from pyvfio.host import discovery, open_nodes
from pyvfio.host.discovery import HostDevice
from pyvfio.host.nodes import no_device
from pyvfio.iommufd import Ioas
from pyvfio.kernel import LinuxKernel
from pyvfio.low_power import LowPowerWithWakeup
from pyvfio.pci import SavedConfig
from pyvfio.spaces import refusals
from pyvfio.spaces.base import AddressSpace
from pyvfio.spaces.opening import Mode
from pyvfio.spaces.other_modes import OtherModes
from tests.fixtures import edu
from tests.overriding import Overriding

__all__ = ["edu"]
PAGE = 4096
EDU = "0000:00:03.0"

#: Names that only containers have; the others belong to an Ioas.
BY_GROUP = {
    "api_version", "has_extension", "fileno", "groups", "add_group", "info", "unmap_dirty", "invalidate_addresses", "set_address",
    "tracks_dirty_pages", "start_dirty_tracking", "stop_dirty_tracking", "read_dirty",
}  # fmt: skip


@pytest.fixture
def ioas(kernel: Overriding) -> Iterator[Ioas]:
    """An IOAS."""
    with pyvfio.Iommufd(kernel=kernel) as file:
        yield file.ioas()


class Bare(OtherModes):
    """A mode without attributes of its own."""

    mode = "bare"


@pytest.mark.parametrize("name", [name for name in vars(OtherModes) if not name.startswith("_") and name != "mode"])
def test_what_only_other_modes_have_says_which(name: str) -> None:
    found = vars(OtherModes)[name]
    where = "type1v2, and the other modes by group, have" if name in BY_GROUP else "iommufd has"
    bare = Bare()
    count = found.__code__.co_argcount - len(found.__defaults__ or ()) - 1 if isinstance(found, FunctionType) else 0
    with pytest.raises(Unsupported, match=f"^mode bare has no {name}: mode {where} it") as caught:
        getattr(bare, name)(*[0] * count)
    assert caught.value.errno
    if isinstance(found, property) and found.fset:
        with pytest.raises(Unsupported, match=name):
            setattr(bare, name, True)


def test_the_names_of_iommufd_are_loaded_when_used() -> None:
    homes = iommufd._HOMES
    for name, home in homes.items():
        value = iommufd.__getattr__(name)
        assert (value.__name__, value.__module__) == (name, f"pyvfio.iommufd.{home}")  # type: ignore[attr-defined]  # classes
        assert vars(iommufd)[name] is value
    assert {*homes} <= {*iommufd.__dir__()}
    with pytest.raises(AttributeError, match="has no attribute 'Ios'"):
        iommufd.__getattr__("Ios")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "0000:00:03.0 1234:11e8 (vfio-pci, group 3)"),
        ({"driver": None, "group": None}, "0000:00:03.0 1234:11e8 (no driver, no IOMMU group)"),
        ({"vendor": None}, "0000:00:03.0 (vfio-pci, group 3)"),
        ({"device": None}, "0000:00:03.0 (vfio-pci, group 3)"),
        ({"group": 0, "vendor": 0x1, "device": 0x2}, "0000:00:03.0 0001:0002 (vfio-pci, group 0)"),
    ],
)
def test_a_device_of_the_host_is_told_in_a_line(fields: dict[str, Any], text: str) -> None:
    kernel = mock.Kernel("amd")
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        found: HostDevice = host.device(EDU, kernel)
    assert str(found._replace(**({"group": 3} | fields))) == text


def test_only_block_devices_can_be_claimed(tmp_path: Path) -> None:
    kernel = LinuxKernel()
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert [kernel.device_number(path) for path in ("/dev/null", str(file), "/no/such")] == ["char/1:3", None, None]
    assert [kernel.claimed(path) for path in ("/dev/null", str(file), "/no/such")] == [False] * 3


def test_linux_has_no_variants() -> None:
    with pytest.raises(ValueError, match="no kernel is named 'linux:x'; the real one is 'linux'"):
        kernels.named("linux:x")
    assert isinstance(kernels.named("linux"), LinuxKernel)


def test_free_pages_are_those_of_the_pool_of_the_area(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = tmp_path / "hugepages-4kB"
    pool.mkdir()
    (pool / "free_hugepages").write_text("3\n")
    monkeypatch.setattr(process_memory, "_POOLS", str(tmp_path))
    # Shared memory is a separate area in /proc/self/maps.
    with mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as memory:
        start = ffi.from_buffer(memory)
        assert process_memory._free_huge(int(ffi.cast("uintptr_t", start))) == 3 * PAGE
        assert process_memory._free_huge(1) is None
        del start
    assert process_memory._free_pages(8192) is None


def test_memory_of_files_in_memory_is_told_from_others() -> None:
    with open("/proc/self/mountinfo") as mounts:
        kinds = {line.split()[2]: line.partition(" - ")[2].split()[0] for line in mounts}
    for number, kind in kinds.items():
        major, minor = map(int, number.split(":"))
        assert process_memory._in_memory(major, minor) == (kind in process_memory._IN_MEMORY)
    assert process_memory._in_memory(4095, 1 << 19)


@pytest.mark.parametrize("count", [3, 5, 40])
def test_batches_are_found_by_their_rows(space: AddressSpace, device: pyvfio.Device, count: int) -> None:
    """Compare with a model, for numbers of arrays that are searched one by one, and for more."""
    buffer, chance = DmaBuffer(PAGE), Random(count)
    starts = list(range(count))
    chance.shuffle(starts)
    batches = []
    for start in starts:
        base = (1 << 30) + 16 * PAGE * start
        rows = array("Q", [one for n in range(3) for one in (buffer.address, base + 2 * n * PAGE, PAGE)])
        batches.append(space.map_many(rows, keep=buffer))
    model = {(1 << 30) + 16 * PAGE * start + 2 * n * PAGE for start in starts for n in range(3)}

    def agrees() -> None:
        # Not by `mappings`: batches whose rows have objects are not looked for any more.
        assert space.mapped_ranges == IovaSet(IovaRange.of(iova, PAGE) for iova in model)

    agrees()
    for iova in chance.sample(sorted(model), count):
        assert space.unmap(iova, PAGE) == PAGE
        model.discard(iova)
    agrees()
    with pytest.raises(FileExistsError):
        space.map(buffer, min(model))
    # Unmap rows of several arrays.
    wanted = sorted(model)[:4]
    assert space.unmap_many(array("Q", [one for iova in wanted for one in (iova, PAGE)])) == len(wanted) * PAGE
    model -= {*wanted}
    agrees()
    assert sorted(one.iova for one in space.mappings) == sorted(model)
    assert sum(one.mapped for batch in batches for one in batch) == len(model)
    left = len(model) * PAGE
    assert sum(batch.unmap() for batch in batches) == left
    assert (space.mappings, space.mapped_ranges) == ([], IovaSet())


def test_an_array_whose_row_is_refused_is_undone(space: AddressSpace, device: pyvfio.Device) -> None:
    buffer = DmaBuffer(4 * PAGE)
    there = space.map(buffer, 1 << 30)
    rows = array("Q", [one for iova in (1 << 31, (1 << 31) + PAGE, 1 << 30) for one in (buffer.address, iova, PAGE)])
    with pytest.raises(FileExistsError, match=r"row 2 of 3"):
        space.map_many(rows, keep=buffer)
    assert space.mappings == [there]
    assert space.mapped_ranges == IovaSet([there.range])
    assert len(space.map_many(rows[:6], keep=buffer)) == 2


@pytest.mark.vfio(mode="type1v2")
def test_a_mapping_that_cannot_be_unmapped_says_so_at_the_end_of_with(
    kernel: Overriding, space: AddressSpace, device: pyvfio.Device
) -> None:
    kernel.answers["VFIO_IOMMU_UNMAP_DMA"] = -errno.EIO
    with pytest.raises(OSError, match="VFIO_IOMMU_UNMAP_DMA"), space.alloc(PAGE):
        pass
    with pytest.raises(KeyError) as caught, space.alloc(PAGE) as mapping:
        raise KeyError
    (note,) = caught.value.__notes__
    assert note.startswith(f"unmapping {mapping!r} failed too: ")
    kernel.answers.clear()
    assert len(space.mappings) == 2
    assert space.unmap_all() == 2 * PAGE


def test_a_device_that_stays_awake_is_told_at_close(kernel: Overriding, edu: pyvfio.Device) -> None:
    low = LowPowerWithWakeup(edu)
    kernel.answers["VFIO_DEVICE_FEATURE SET LOW_POWER_EXIT"] = -errno.EIO
    with pytest.raises(OSError, match="LOW_POWER_EXIT"):
        low.close()
    assert low.wakeup.closed
    kernel.answers.clear()


def test_changes_are_closed_at_the_end_of_with() -> None:
    with host.Changes(mock.Kernel("amd")) as changes:
        assert changes.wait(0) is None
    with pytest.raises(pyvfio.Closed):
        changes.wait(0)


@pytest.mark.vfio(mode="iommufd", profile="selftest")
@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_any_number_of_usable_ranges_is_read(ioas: Ioas, count: int) -> None:
    allowed = [IovaRange.of((1 << 30) + 4 * PAGE * n, 2 * PAGE) for n in range(count)]
    ioas.allow(allowed)
    ranges = ioas.iova_ranges
    assert ranges is not None
    assert all(one in ranges for one in allowed)


class Listing(LinuxKernel):
    """A kernel with directories and files that a test gives."""

    def __init__(self, directories: dict[str, list[str]], files: dict[str, bytes] | None = None) -> None:
        self.directories = directories
        self.contents = files or {}

    def listdir(self, path: str) -> list[str]:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "not there", path)
        return self.directories[path]

    def read_file(self, path: str) -> bytes:
        if path not in self.contents:
            raise FileNotFoundError(errno.ENOENT, "not there", path)
        return self.contents[path]

    def realpath(self, path: str) -> str:
        return path


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        ([], "none"),
        (["0000:00:01.0"], "0000:00:01.0"),
        ([f"0000:03:0{n}.0" for n in range(8)], ", ".join(f"0000:03:0{n}.0" for n in range(8))),
        ([f"0000:03:0{n}.0" for n in range(9)], ", ".join(f"0000:03:0{n}.0" for n in range(8)) + ", ..."),
        (["0000:00:01.0", "0000:02:00.0", "0000:02:1f.0"], "0000:02:00.0, 0000:02:1f.0"),
    ],
)
def test_a_missing_device_is_told_with_up_to_eight_near_ones(there: list[str], shown: str) -> None:
    error = no_device(Listing({"/sys/bus/pci/devices": there}), "0000:02:03.0")
    assert str(error).endswith(f"no device 0000:02:03.0 on any bus; PCI functions there: {shown}")
    assert error.errno == errno.ENODEV


def test_a_node_of_nvidia_is_found_by_its_minor_number() -> None:
    root = "/proc/driver/nvidia/gpus"
    files = {
        f"{root}/0000:02:00.0/information": b"Model: x\nDevice Minor: \t 11\n",
        f"{root}/0000:03:00.0/information": b"Device Minor: 1\n",
    }
    kernel = Listing({root: ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]}, files)
    assert open_nodes._nvidia(kernel, "1") == {"/sys/bus/pci/devices/0000:03:00.0"}
    assert open_nodes._nvidia(kernel, "11") == {"/sys/bus/pci/devices/0000:02:00.0"}
    assert open_nodes._nvidia(kernel, "2") == set()


def test_a_saved_space_is_read_to_its_last_byte() -> None:
    saved = SavedConfig(bytes(range(64)))
    assert [saved.read(offset, size) for offset, size in ((0, 0), (63, 1), (255, 1), (256, 0))] == [
        b"",
        b"\x3f",
        b"\0",
        b"",
    ]
    for offset, size in ((256, 1), (255, 2), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match=r"offset|size"):
            saved.read(offset, size)


def test_a_device_that_goes_while_it_is_looked_for_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = mock.Kernel("amd")
    monkeypatch.setattr(discovery, "_described", lambda *_: None)
    with pytest.raises(OSError, match=f"no device {EDU}") as caught:
        host.device(EDU, kernel)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.vfio(mode="iommufd", profile="selftest")
def test_a_page_table_that_is_closed_is_detached_from_first(kernel: Overriding) -> None:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.Iommufd(kernel=kernel) as file:
        device, one = file.bind(EDU), file.ioas()
        device.attach(one)
        assert device.is_attached_to(one)
        one.close()
        assert not device.is_attached_to(one)
        assert "VFIO_DEVICE_DETACH_IOMMUFD_PT" in kernel.calls
        device.attach(file.ioas())


def test_a_report_has_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cmdline": b"ro intel_iommu=on quiet\n",
        "/etc/os-release": b'NAME="x"\nPRETTY_NAME="An = OS"\nnothing\n',
        "/proc/cpuinfo": b"flags : a b\nmodel name\t: A: CPU\nmodel name\t: Other\n",
        "/proc/sys/kernel/osrelease": b"7.3.4\n",
    }
    directories = {
        "/sys/class/iommu": ["dmar0"], "/sys/kernel/iommu_groups": ["0", "1"], "/sys/module": ["vfio", "loop", "vfio_pci", "iommufd"],
    }  # fmt: skip
    kernel = Listing(directories, files)
    monkeypatch.setattr(kernel, "exists", lambda path: path == "/dev/iommu")
    found = report._host(kernel)
    assert found | {"kernel": "", "machine": ""} == {
        "kernel": "", "machine": "", "release": "7.3.4", "distribution": "An = OS", "processor": "A: CPU", "command_line": ["intel_iommu=on"],
        "iommus": ["dmar0"], "groups": 2, "modules": ["iommufd", "vfio", "vfio_pci"], "nodes": ["/dev/iommu"],
    }  # fmt: skip
    assert report._host(Listing({}))["distribution"] is None


@pytest.mark.parametrize(
    ("area", "write", "text"),
    [
        ({"on_disk": True}, True, "file on a disk's file system"),
        ({"on_disk": True}, False, None),
        ({}, True, None),
        ({"writable": False}, True, "is read-only"),
        ({"writable": False}, False, None),
        ({"readable": False}, False, "may not be read"),
        ({"size": 2 * PAGE}, True, None),
        ({"size": 2 * PAGE - 1}, True, "is too short"),
        ({"size": 2 * PAGE, "offset": 1}, True, "is too short"),
        ({"free": PAGE}, True, "most likely the file system of f"),
        ({"free": 0}, True, "the file system of f"),
        ({"free": 2 * PAGE}, True, None),
        ({"free": 0, "huge": True}, True, "pool of huge pages has too few"),
        ({"path": "anon_inode:[vfio-device]"}, True, "does not decode memory now"),
    ],
)
def test_why_pages_of_an_area_cannot_be_had(area: dict[str, Any], write: bool, text: str | None) -> None:
    wanted = refusals.Wanted(
        errno.EFAULT, "type1v2", None, None, IovaSet(), (), PAGE, 0, 2 * PAGE, 16 * PAGE, write=write
    )
    backing = process_memory.Backing(16 * PAGE, 18 * PAGE - 1, True, True, "f")._replace(**area)
    found = refusals._kept_from(wanted, backing)
    assert (found is None) == (text is None)
    assert found is None or text in str(found[0])  # type: ignore[operator]  # both are None, or neither


@pytest.mark.parametrize(
    ("size", "offset", "number"),
    [
        (0, 0, errno.EINVAL),
        (PAGE, 1, errno.EINVAL),
        (PAGE, -1, errno.EOVERFLOW),
        (PAGE, -PAGE, errno.EOVERFLOW),
        (PAGE, 1 << 63, errno.EOVERFLOW),
        (1 << 62, 0, errno.ENOMEM),
    ],
)
def test_mapping_what_no_file_can_have_is_refused(tmp_path: Path, size: int, offset: int, number: int) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * PAGE))
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError) as caught:
        LinuxKernel().mmap(file.fileno(), size, offset=offset, prot=mmap.PROT_READ)
    assert caught.value.errno == number


@pytest.mark.parametrize("name", program.COMMANDS)
def test_help_of_a_command_is_its_whole_description(name: str) -> None:
    module = importlib.import_module(f"pyvfio.cli.commands.{name.replace('-', '_')}")
    (commands,) = (action.choices for action in program.parser(name)._actions if isinstance(action.choices, dict))
    assert module.__doc__
    assert commands[name].description == module.__doc__.strip()


@pytest.mark.parametrize("need", ["iommufd", 7, None])
def test_needs_are_several_names(need: Any) -> None:
    with pytest.raises(TypeError, match="need must be names out of iommufd, "):
        host.diagnose_host(mock.Kernel("amd"), need=need)
    with pytest.raises(ValueError, match=r"need must be of iommufd, .*, not 'x'"):
        host.diagnose_host(mock.Kernel("amd"), need=["iommufd", "x"])


@pytest.mark.parametrize("mode", ["type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd"])
def test_an_unmap_drops_the_records_of_what_it_unmaps(mode: Mode) -> None:
    """Each span of three mappings, the middle one of a batch too: what is recorded is what the kernel has."""
    buffer = DmaBuffer(PAGE)
    base = 1 << 30
    with pyvfio.open("vfio-mock.0", mode=mode, kernel=mock.Kernel()) as device:
        space = device.address_space
        for first, count, batch in [
            (first, count, batch) for first in range(-1, 4) for count in range(1, 6) for batch in range(4)
        ]:
            for at in range(3):
                if at == batch:
                    space.map_many(array("Q", (buffer.address, base + at * PAGE, PAGE)), keep=buffer)
                else:
                    space.map(buffer, base + at * PAGE)
            met = [at for at in range(3) if first <= at < first + count]
            try:
                assert space.unmap(base + first * PAGE, count * PAGE) == len(met) * PAGE
            except OSError as error:
                # Where nothing is mapped, iommufd refuses.
                assert (error.errno, met) == (errno.ENOENT, [])  # noqa: PT017 (whether it is raised depends on the mode)
            assert [one.iova for one in space.mappings] == [base + at * PAGE for at in range(3) if at not in met]
            assert space.unmap_all() == (3 - len(met)) * PAGE


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("Red Hat", "NVMe", "Storage"), "Red Hat NVMe"),
        (("Red Hat", None, "Storage"), "Red Hat"),
        ((None, "NVMe", "Storage"), "NVMe"),
        ((None, None, "Storage"), "Storage"),
        ((None, None, None), ""),
    ],
)
def test_a_device_has_the_names_that_the_database_has(names: tuple[str | None, ...], text: str) -> None:
    assert describe.name(dict(zip(("vendor_name", "device_name", "class_name"), names, strict=True))) == text


def test_a_container_is_asked_for_its_smallest_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        host.bind(EDU, "vfio-pci", kernel=(kernel := mock.Kernel("amd"))),
        pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device,
    ):
        container = device.address_space
        info = container.info
        mapping = container.alloc(4 * PAGE)
        for sizes, page in ((0x203000, PAGE), (0, PAGE), (0x200000, 1 << 21)):
            monkeypatch.setattr(type(container), "info", info._replace(dirty_page_sizes=sizes))
            ranges = [mapping.range] if page == PAGE else [IovaRange.of(0, 1 << 21)]
            monkeypatch.setattr(type(container), "start_dirty_tracking", lambda _: None)
            monkeypatch.setattr(type(container), "stop_dirty_tracking", lambda _: None)
            with ContainerTracking(container, ranges) as tracker:  # type: ignore[arg-type]  # type1v2's is a container
                assert tracker.page_size == page


@pytest.mark.vfio(mode="iommufd")
def test_a_group_that_is_in_use_by_nobody_known_says_so(kernel: Overriding) -> None:
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        kernel.answers["VFIO_DEVICE_BIND_IOMMUFD"] = -errno.EBUSY
        with pytest.raises(OSError, match=r"its group is in use: it is open through /dev/vfio/N, or a driver"):
            pyvfio.open(EDU, mode="iommufd", kernel=kernel)
