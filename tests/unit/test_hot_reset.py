# SPDX-License-Identifier: MIT
"""Hot resets and groups with impossible answers of a kernel, and impossible requests of a caller."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

import pyvfio
from pyvfio import host
from pyvfio._abi import ffi
from tests.overriding import Overriding

EDU = "0000:00:03.0"
pytestmark = pytest.mark.vfio(profile="amd", mode="type1v2", device=EDU)


@pytest.mark.parametrize(
    ("error", "count"), [(0, 9), (0, 100000), (errno.ENOSPC, 2**32 - 1), (errno.ENOSPC, 2**16 + 1)]
)
def test_impossible_number_of_devices_is_a_bad_reply(
    kernel: Overriding, device: pyvfio.Device, error: int, count: int
) -> None:
    def answer(argument: int) -> int:
        ffi.cast("struct vfio_pci_hot_reset_info *", argument).count = count
        return -error

    kernel.answers["VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"] = answer
    with pytest.raises(pyvfio.BadReply, match=f"HOT_RESET_INFO reported {count} devices where"):
        _ = device.hot_reset_info


@pytest.mark.parametrize(
    ("number", "error"), [("../null", TypeError), (1.0, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_group_takes_its_number_only(kernel: Overriding, number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^number must be "):
        pyvfio.Group(number, kernel=kernel)


def test_name_with_a_nul_fails(kernel: Overriding) -> None:
    with host.bind(EDU, "vfio-pci", kernel=kernel) as binding:
        assert binding.device.group is not None
        number: Any = np.int64(binding.device.group)
        with pyvfio.Group(number, kernel=kernel) as group:
            with pytest.raises(ValueError, match=r"^name must not have a NUL character"):
                group.device_fd(f"{EDU}\0junk")
            with pytest.raises(TypeError, match=r"^name must be a str, not int"):
                group.device_fd(5)  # type: ignore[arg-type]
