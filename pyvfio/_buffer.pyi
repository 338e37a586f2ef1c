# SPDX-License-Identifier: MIT
from collections.abc import Callable as _Callable
from typing import Any as _Any
from typing import SupportsIndex as _SupportsIndex
from typing import TypeVar as _TypeVar

from typing_extensions import Buffer as _Buffer

_T = _TypeVar("_T")

def pinned(buffer: _Buffer, writable: bool, /) -> tuple[int, int, memoryview]: ...

class Buffer:
    """A buffer of u64 values."""

    def _export(
        self, owner: object, address: int, rows: int, columns: int, readonly: bool, width: int = 8, /
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Window:
    """Registers of a device that are reached in memory."""

    def _open(self, address: int, size: int, /) -> None: ...
    def read8(self, offset: _SupportsIndex, /) -> int: ...
    def read16(self, offset: _SupportsIndex, /) -> int: ...
    def read32(self, offset: _SupportsIndex, /) -> int: ...
    def read64(self, offset: _SupportsIndex, /) -> int: ...
    def write8(self, offset: _SupportsIndex, value: _SupportsIndex, /) -> None: ...
    def write16(self, offset: _SupportsIndex, value: _SupportsIndex, /) -> None: ...
    def write32(self, offset: _SupportsIndex, value: _SupportsIndex, /) -> None: ...
    def write64(self, offset: _SupportsIndex, value: _SupportsIndex, /) -> None: ...

class Door:
    """The owner of a descriptor, and the way of every call to it."""

    fd: int
    native: _Any
    name: _Any
    def __init__(self, kernel: object | None, /) -> None: ...
    def take(self, function: _Callable[..., int], /, *arguments: _Any) -> int: ...
    def _connect(self, native: object, address: int, /) -> None: ...
    def ioctl(self, request: int, argument: int, /) -> int: ...
    def call(self, function: _Callable[..., _T], /, *arguments: _Any) -> _T: ...
    def shut(self) -> bool: ...
    def inherit(self) -> None: ...
    def waker(self, itself: bool, /) -> int: ...

class Object:
    """An object of the kernel's: one that is there, or one that a request is to make."""

    id: int
    def __init__(self, id: int = ..., /) -> None: ...
    @property
    def present(self) -> bool: ...
    @property
    def gone(self) -> bool: ...
    def end(self, door: Door, request: int, argument: int, /) -> int: ...

def receive(
    door: Door, request: int, argument: int, places: tuple[int, ...], receivers: tuple[Door | Object, ...], /
) -> int: ...
def barrier() -> None: ...
def in_call() -> bool: ...
def caller() -> int: ...
def before_fork() -> None: ...
def after_fork() -> None: ...
def uninterrupted(function: _Callable[..., _T], /, *arguments: _Any, **more: _Any) -> _T: ...

PYTHON_IOCTL: int

class Record:
    """A DMA mapping as the ledger keeps it."""

    space: _Any
    buffer: _Any
    iova: int
    size: int
    _held: _Any
    _under: Record | None
    _address: int
    _protection: int
    _serial: int
    _state: int

_R = _TypeVar("_R", bound=Record)

class Ledger:
    """What is mapped in an address space."""

    at: dict[int, _Any]
    maps: int
    mapping: int
    unknown: int
    def __init__(self, door: Door, ioas: int, /) -> None: ...
    def map_dma(
        self,
        type: type[_R],
        space: object,
        buffer: object,
        held: object,
        address: int,
        iova: int,
        size: int,
        protection: int,
        /,
    ) -> _R | int: ...
    def place(
        self,
        type: type[_R],
        space: object,
        buffer: object,
        held: object,
        size: int,
        protection: int,
        request: int,
        argument: int,
        offset: int,
        /,
    ) -> _R | int: ...
    def add(
        self,
        type: type[_R],
        space: object,
        buffer: object,
        held: object,
        address: int,
        iova: int,
        size: int,
        protection: int,
        /,
    ) -> _R: ...
    def unmap_dma(self, iova: int, size: int, /) -> int | None: ...
    def raw_map(self, address: int, iova: int, size: int, protection: int, /) -> int: ...
    def raw_unmap(self, iova: int, size: int, /) -> int: ...
    def run(self, rows: _Buffer, protection: int, state: _Buffer, /) -> int: ...
    def request(self, request: int, argument: int, state: _Buffer, /) -> int: ...
    def settle(self, record: Record, present: bool, /) -> None: ...
