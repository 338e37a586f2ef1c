"""Hot resets and groups, with a kernel that reports what cannot be and a caller that asks for it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pyvfio
from pyvfio import host, mock
from pyvfio._abi import ffi, lib

EDU = "0000:00:03.0"


class Lying(mock.Kernel):
    """A mock whose kernel answers VFIO_DEVICE_GET_PCI_HOT_RESET_INFO as it is told to."""

    lie: Callable[[Any], int] | None = None

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        if self.lie is not None and request == lib.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
            return self.lie(ffi.cast("struct vfio_pci_hot_reset_info *", argument))
        return super().ioctl(fd, request, argument)


@pytest.fixture
def kernel() -> Lying:
    return Lying("amd")


@pytest.fixture
def device(kernel: Lying) -> Iterator[pyvfio.Device]:
    with host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        yield device


@pytest.mark.parametrize(
    ("error", "count"), [(0, 9), (0, 100000), (errno.ENOSPC, 2**32 - 1), (errno.ENOSPC, 2**16 + 1)]
)
def test_more_devices_than_can_be_are_a_bad_reply(kernel: Lying, device: pyvfio.Device, error: int, count: int) -> None:
    def lie(answer: Any) -> int:
        answer.count = count
        return -error

    kernel.lie = lie
    with pytest.raises(pyvfio.BadReply, match=f"HOT_RESET_INFO reported {count} devices where"):
        _ = device.hot_reset_info


@pytest.mark.parametrize(
    ("number", "error"), [("../null", TypeError), (1.0, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_group_is_opened_by_its_number_only(kernel: Lying, number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^number must be "):
        pyvfio.Group(number, kernel=kernel)


def test_a_name_with_a_nul_is_refused(kernel: Lying) -> None:
    with host.bind(EDU, "vfio-pci", kernel=kernel) as binding:
        assert binding.device.group is not None
        number: Any = np.int64(binding.device.group)
        with pyvfio.Group(number, kernel=kernel) as group:
            with pytest.raises(ValueError, match=r"^name must not have a NUL character"):
                group.device_fd(f"{EDU}\0junk")
            with pytest.raises(TypeError, match=r"^name must be a str, not int"):
                group.device_fd(5)  # type: ignore[arg-type]
