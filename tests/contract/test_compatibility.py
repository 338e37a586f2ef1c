"""iommufd in the place of a container: VFIO's requests and its own on one file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from refused import refused

from pyvfio import Container, DmaBuffer, Unsupported
from pyvfio._abi import lib

if TYPE_CHECKING:
    from pyvfio.space import AddressSpace

pytestmark = pytest.mark.only(mode=["iommufd-type1v2", "iommufd-type1"])

PAGE = 4096


def test_its_address_space_has_large_pages_unless_it_must_split(space: AddressSpace, mode: str) -> None:
    assert isinstance(space, Container)
    number = space.iommufd.vfio_ioas_id
    get = (lib.IOMMU_OPTION_HUGE_PAGES, lib.IOMMU_OPTION_OP_GET, number, 0)
    assert space.iommufd._option(*get) == (mode == "iommufd-type1v2")


def test_what_vfio_mapped_is_copied_to_an_address_space_of_iommufds_own(space: AddressSpace) -> None:
    assert isinstance(space, Container)
    mapping = space.map(DmaBuffer(4 * PAGE), 0x10_0000)
    iommufd = space.iommufd
    ioas = iommufd.ioas()
    assert iommufd.vfio_ioas_id != ioas.id
    copied = ioas.copy_range(iommufd.vfio_ioas_id, mapping.range, 0x20_0000)
    assert mapping.unmap() == copied.unmap() == 4 * PAGE
    ioas.map(DmaBuffer(PAGE), 0x10_0000)
    # Closing this face of the file ends what was made by it, and nothing of the container's.
    number = ioas.id
    iommufd.close()
    assert ioas.closed
    with refused(errno.ENOENT):
        space.iommufd._option(lib.IOMMU_OPTION_HUGE_PAGES, lib.IOMMU_OPTION_OP_GET, number, 0)
    assert space.map(DmaBuffer(PAGE), 0x10_0000).unmap() == PAGE


@pytest.mark.only(mode="type1v2", device="vfio-mock")
def test_vfios_own_container_has_no_iommufd(space: AddressSpace) -> None:
    assert isinstance(space, Container)
    with pytest.raises(Unsupported, match="iommufd-type1v2"):
        _ = space.iommufd
