# SPDX-License-Identifier: MIT
"""The methods that address spaces have in some modes only. All address spaces define them, so that help and type checkers know them.

A :class:`pyvfio.Container` and a :class:`pyvfio.Ioas` override the methods that they support. The others raise
:class:`pyvfio.Unsupported`, which names the mode that has the method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio.bitmap import DirtyBitmap
    from pyvfio.device import Device
    from pyvfio.iommufd.bound import BoundDevice
    from pyvfio.iommufd.fault_queue import FaultQueue
    from pyvfio.iommufd.hwpt import Hwpt
    from pyvfio.iommufd.ioas import Ioas
    from pyvfio.iova import IovaRange
    from pyvfio.spaces.container import IommuInfo
    from pyvfio.spaces.group import Group
    from pyvfio.spaces.mapping import Mapping

_PAGE = 4096


class OtherModes:
    """The methods that only some modes have. Each raises Unsupported."""

    mode: str

    def _lacks(self, name: str, *, by_group: bool = False) -> NoReturn:
        where = "mode type1v2, and the other modes by group, have" if by_group else "mode iommufd has"
        raise Unsupported(f"mode {self.mode} has no {name}: {where} it")

    # Of containers.

    @property
    def api_version(self) -> int:
        """See :attr:`Container.api_version`."""
        self._lacks("api_version", by_group=True)

    def has_extension(self, extension: int) -> bool:
        """See :meth:`Container.has_extension`."""
        self._lacks("has_extension", by_group=True)

    def fileno(self) -> int:
        """See :meth:`Container.fileno`."""
        self._lacks("fileno", by_group=True)

    @property
    def groups(self) -> list[Group]:
        """See :attr:`Container.groups`."""
        self._lacks("groups", by_group=True)

    def add_group(self, number: int) -> Group:
        """See :meth:`Container.add_group`."""
        self._lacks("add_group", by_group=True)

    @property
    def info(self) -> IommuInfo:
        """See :attr:`Container.info`."""
        self._lacks("info", by_group=True)

    def unmap_dirty(self, iova: int, size: int) -> DirtyBitmap:
        """See :meth:`Container.unmap_dirty`."""
        self._lacks("unmap_dirty", by_group=True)

    def invalidate_addresses(self, mapping: Mapping | None = None) -> None:
        """See :meth:`Container.invalidate_addresses`."""
        self._lacks("invalidate_addresses", by_group=True)

    def set_address(self, mapping: Mapping, buffer: Any) -> Mapping:
        """See :meth:`Container.set_address`."""
        self._lacks("set_address", by_group=True)

    @property
    def tracks_dirty_pages(self) -> bool:
        """See :attr:`Container.tracks_dirty_pages`."""
        self._lacks("tracks_dirty_pages", by_group=True)

    def start_dirty_tracking(self) -> None:
        """See :meth:`Container.start_dirty_tracking`."""
        self._lacks("start_dirty_tracking", by_group=True)

    def stop_dirty_tracking(self) -> None:
        """See :meth:`Container.stop_dirty_tracking`."""
        self._lacks("stop_dirty_tracking", by_group=True)

    def read_dirty(self, iova: int, size: int) -> DirtyBitmap:
        """See :meth:`Container.read_dirty`."""
        self._lacks("read_dirty", by_group=True)

    # Of an Ioas.

    @property
    def id(self) -> int:
        """See :attr:`Ioas.id`."""
        self._lacks("id")

    def destroy(self) -> None:
        """See :meth:`Ioas.destroy`."""
        self._lacks("destroy")

    @property
    def alignment(self) -> int:
        """See :attr:`Ioas.alignment`."""
        self._lacks("alignment")

    def allow(self, ranges: Iterable[IovaRange]) -> None:
        """See :meth:`Ioas.allow`."""
        self._lacks("allow")

    @property
    def huge_pages(self) -> bool:
        """See :attr:`Ioas.huge_pages`."""
        self._lacks("huge_pages")

    @huge_pages.setter
    def huge_pages(self, allowed: bool) -> None:
        self._lacks("huge_pages")

    def map_file(
        self, fd: int, start: int, size: int, iova: int | None = None, *, read: bool = True, write: bool = True
    ) -> Mapping:
        """See :meth:`Ioas.map_file`."""
        self._lacks("map_file")

    def copy(self, source: Mapping, iova: int | None = None, *, read: bool = True, write: bool = True) -> Mapping:
        """See :meth:`Ioas.copy`."""
        self._lacks("copy")

    def copy_range(
        self,
        source_id: int,
        range: IovaRange,
        iova: int | None = None,
        *,
        read: bool = True,
        write: bool = True,
        keep: Any = None,
    ) -> Mapping:
        """See :meth:`Ioas.copy_range`."""
        self._lacks("copy_range")

    def physical_address(self, iova: int, size: int = _PAGE) -> tuple[int, int]:
        """See :meth:`Ioas.physical_address`."""
        self._lacks("physical_address")

    @property
    def ioas(self) -> Ioas:
        """See :attr:`Ioas.ioas`."""
        self._lacks("ioas")

    def hwpt(self, device: Device | BoundDevice, *, flags: int = 0, fault_queue: FaultQueue | None = None) -> Hwpt:
        """See :meth:`Ioas.hwpt`."""
        self._lacks("hwpt")
