# SPDX-License-Identifier: MIT
"""Errors of the host: the error has the kernel's answer to a write, with its most likely meaning."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pyvfio import host, mock
from pyvfio.errors import HostError
from pyvfio.host.binding import _why_not

IGB, EDU, NVME = "0000:00:07.0", "0000:00:03.0", "0000:00:04.0"


class Writing(mock.Kernel):
    """A mock that records writes to files, and makes some of them fail.

    :ivar failing: functions that return the exception of a write, by the end of the path
    :ivar written: the recorded writes
    """

    def __init__(self) -> None:
        super().__init__("intel-39")
        self.failing: dict[str, Callable[[], OSError]] = {}
        self.written: list[tuple[str, bytes]] = []

    def write_file(self, path: str, data: bytes) -> None:
        for end, error in self.failing.items():
            if path.endswith(end):
                raise error()
        self.written.append((path.rpartition("/")[2], data))
        super().write_file(path, data)


@pytest.fixture
def kernel() -> Writing:
    return Writing()


def refusing(number: int) -> Callable[[], OSError]:
    return lambda: OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.EBUSY, errno.ENODEV, errno.EACCES]
)
@pytest.mark.parametrize("name", ["sriov_numvfs", "sriov_drivers_autoprobe"])
def test_a_refused_number_of_functions_is_that_error(kernel: Writing, name: str, number: int) -> None:
    kernel.failing[name] = refusing(number)
    with pytest.raises(OSError, match=f"virtual functions of {IGB}.*: {os.strerror(number)}") as caught:
        host.create_vfs(IGB, 2, kernel=kernel)
    assert caught.value.errno == number
    assert isinstance(caught.value, HostError)
    assert host.device(IGB, kernel).virtual_functions == ()


@pytest.mark.parametrize("name", ["sriov_numvfs", "sriov_drivers_autoprobe"])
def test_an_error_without_a_number_is_eio(kernel: Writing, name: str) -> None:
    kernel.failing[name] = lambda: OSError("it is odd")
    with pytest.raises(HostError, match="virtual functions") as caught:
        host.create_vfs(IGB, 2, kernel=kernel)
    assert caught.value.errno == errno.EIO


def test_a_time_limit_is_told_as_such(kernel: Writing) -> None:
    kernel.failing["sriov_numvfs"] = TimeoutError
    with pytest.raises(HostError, match=r"to 2: not done after 1\.5 s$") as caught:
        host.create_vfs(IGB, 2, timeout=1.5, kernel=kernel)
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("probe", [True, False])
def test_whether_drivers_are_probed_is_written_first_and_stays(kernel: Writing, probe: bool) -> None:
    found = host.create_vfs(IGB, 2, probe=probe, kernel=kernel)
    assert kernel.written == [("sriov_drivers_autoprobe", b"1" if probe else b"0"), ("sriov_numvfs", b"2")]
    assert [one.address for one in found] == list(host.device(IGB, kernel).virtual_functions)
    with pytest.raises(
        HostError, match=rf"has 2 virtual functions; call pyvfio.host.remove_vfs\('{IGB}'\) first"
    ) as caught:
        host.create_vfs(IGB, 1, kernel=kernel)
    assert caught.value.errno == errno.EBUSY
    host.remove_vfs(IGB, kernel=kernel)
    assert host.device(IGB, kernel).virtual_functions == ()
    assert kernel.written[2:] == [("sriov_numvfs", b"0")]
    host.remove_vfs(IGB, kernel=kernel)
    assert len(kernel.written) == 3


def test_what_was_probed_before_comes_back_after_a_failure(kernel: Writing) -> None:
    kernel.failing["sriov_numvfs"] = refusing(errno.EIO)
    with pytest.raises(HostError):
        host.create_vfs(IGB, 2, probe=False, kernel=kernel)
    assert kernel.written == [("sriov_drivers_autoprobe", b"0"), ("sriov_drivers_autoprobe", b"1\n")]


@pytest.mark.parametrize("count", [0, -1, 8, 100])
def test_a_count_is_one_to_the_most_there_can_be(kernel: Writing, count: int) -> None:
    with pytest.raises(ValueError, match=f"count must be 1 to 7, the total_vfs of {IGB}, not {count}"):
        host.create_vfs(IGB, count, kernel=kernel)
    assert kernel.written == []
    assert len(host.create_vfs(IGB, 7, kernel=kernel)) == 7


@pytest.mark.parametrize(
    ("number", "bound_to", "driver", "group", "why"),
    [
        (errno.ENOENT, None, "vfio-pci", 1, "the driver is not loaded (modprobe vfio-pci)"),
        (errno.ENODEV, None, "vfio-pci", 1, "it is not in that driver's list of devices"),
        (errno.EBUSY, "nvme", "vfio-pci", 1, "it is bound to nvme"),
        (errno.EBUSY, None, "vfio-pci", 1, None),
        (errno.EINVAL, None, "vfio-pci", None, "it is in no IOMMU group"),
        (errno.EINVAL, None, "vfio-pci", 0, None),
        (errno.EINVAL, None, "nvme", None, None),
        (errno.EIO, "nvme", "vfio-pci", None, None),
    ],
)
def test_a_failed_bind_has_what_it_most_likely_means(
    number: int, bound_to: str | None, driver: str, group: int | None, why: str | None
) -> None:
    found = SimpleNamespace(driver=bound_to, group=group)
    assert _why_not(found, driver, OSError(number, "")) == why  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENODEV, errno.EBUSY])
def test_a_bind_that_the_driver_refuses_changes_nothing(kernel: Writing, number: int) -> None:
    kernel.failing["vfio-pci/bind"] = refusing(number)
    with pytest.raises(HostError, match=f"binding {EDU} to vfio-pci: {os.strerror(number)}") as caught:
        host.bind(EDU, "vfio-pci", kernel=kernel)
    assert caught.value.errno == number
    found = host.device(EDU, kernel)
    assert (found.driver, found.driver_override) == (None, None)
    assert host.bindings(kernel) == []


def test_of_two_restores_the_second_does_the_rest_alone(kernel: Writing) -> None:
    binding = host.bind([EDU, NVME], "vfio-pci", kernel=kernel)
    kernel.failing["drivers/nvme/bind"] = refusing(errno.EIO)
    with pytest.raises(HostError, match=NVME):
        binding.restore()
    assert host.device(EDU, kernel).driver is None
    del kernel.failing["drivers/nvme/bind"]
    kernel.written.clear()
    binding.restore()
    assert host.device(NVME, kernel).driver == "nvme"
    assert kernel.written
    assert all(EDU.encode() not in data for _, data in kernel.written)
    kernel.written.clear()
    binding.restore()
    assert kernel.written == []
    assert repr(binding).startswith("<Binding to vfio-pci, restored: ")
