# SPDX-License-Identifier: MIT
"""The virtual function of a busy network card in the profiles mlx5 and pds."""

from __future__ import annotations

import errno

import pytest

import pyvfio
from pyvfio import IovaRange, mock
from pyvfio.spaces.opening import Mode

ADDRESS = "0000:41:10.1"
RAM = (IovaRange(0, 0x807FFFFF), IovaRange(0x100000000, 0x27FFFFFFF))


@pytest.mark.parametrize("mode", ["iommufd", "type1v2", "iommufd-type1v2", "iommufd-type1", "type1"])
@pytest.mark.parametrize("profile", ["mlx5", "pds"])
def test_it_receives_by_itself_into_what_is_mapped(profile: str, mode: Mode) -> None:
    with pyvfio.open(ADDRESS, mode=mode, kernel=mock.Kernel(profile)) as device:
        mapping = device.address_space.alloc(2 << 20)
        with device.dirty_log([mapping.range]) as log:
            first = list(log.read().runs())
            second = list(log.read().runs())
    assert first
    assert second
    assert first != second
    assert all(mapping.range.__contains__(run) for run in first + second)


def test_it_writes_the_pages_that_it_reports_and_no_others() -> None:
    with pyvfio.open(ADDRESS, kernel=mock.Kernel("mlx5")) as device:
        mapping = device.address_space.alloc(2 << 20)
        with device.dirty_log([mapping.range]) as log:
            pages = {(page - mapping.iova) // 4096 for page in log.read().pages()}
        view = mapping.buffer.view
        assert pages == {n for n in range(512) if any(view[n * 4096 : (n + 1) * 4096])}


def test_it_receives_the_same_in_every_run() -> None:
    def received() -> list[IovaRange]:
        with pyvfio.open(ADDRESS, mode="type1v2", kernel=mock.Kernel("mlx5")) as device:
            space = device.address_space
            mapping = space.map(pyvfio.DmaBuffer(1 << 20), 0x10000000)
            with device.dirty_log([mapping.range]) as log:
                return [IovaRange(*run) for run in log.read().runs()]

    assert received() == received()


def test_mlx5_refuses_what_is_too_much_in_all() -> None:
    # The ranges of QEMU 8.1, with a BAR that the firmware placed at the top (SPEC A-51), and those of 8.2, without the
    # gap.
    with pyvfio.open(ADDRESS, kernel=mock.Kernel("mlx5")) as device:
        with pytest.raises(OSError, match="2\\^46") as refused:
            device.dirty_log([RAM[0], IovaRange(0x100000000, 0x3838000FFFFF)])
        assert refused.value.errno == errno.EOPNOTSUPP
        with device.dirty_log([*RAM, IovaRange(0x383800000000, 0x3838000FFFFF)]) as log:
            assert log.page_size == 4096


def test_a_device_of_one_range_joins_them_over_the_gap() -> None:
    # SPEC A-54: the joined range has the same total, so it is refused too.
    limits = mock.LogLimits(ranges=1)
    with (
        pyvfio.open(ADDRESS, kernel=mock.Kernel("mlx5", log=limits)) as device,
        pytest.raises(OSError, match="DMA_LOGGING_START") as refused,
    ):
        device.dirty_log([*RAM, IovaRange(0x383800000000, 0x3838000FFFFF)])
    assert refused.value.errno == errno.EOPNOTSUPP


def test_pds_takes_the_total_that_mlx5_refuses() -> None:
    with (
        pyvfio.open(ADDRESS, kernel=mock.Kernel("pds")) as device,
        device.dirty_log([RAM[0], IovaRange(0x100000000, 0x3838000FFFFF)]) as log,
    ):
        assert log.page_size == 4096


def test_no_other_host_has_it() -> None:
    with pytest.raises(OSError, match="no device") as missing:
        pyvfio.open(ADDRESS, kernel=mock.Kernel("amd"))
    assert missing.value.errno == errno.ENODEV


def test_it_belongs_to_a_card() -> None:
    kernel = mock.Kernel("mlx5")
    function = pyvfio.host.device(ADDRESS, kernel)
    assert function.physical_function == "0000:41:00.0"
    card = pyvfio.host.device("0000:41:00.0", kernel)
    assert (card.driver, card.virtual_functions) == ("mlx5_core", (ADDRESS,))
