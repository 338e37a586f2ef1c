"""VFIO_DEVICE_FEATURE: one request for many small abilities of a device, each probed, read or set by its number."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pyvfio._abi import ffi, lib
from pyvfio._core import explain
from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio.device import Device

GET = lib.VFIO_DEVICE_FEATURE_GET
SET = lib.VFIO_DEVICE_FEATURE_SET
PROBE = lib.VFIO_DEVICE_FEATURE_PROBE
_HEADER = ffi.sizeof("struct vfio_device_feature")


class Features:
    """The features of a device. Since Linux 5.7 (PCI), 5.18 for all drivers.

    The calls that take C data are raw: they check nothing. What pyvfio has methods for (:meth:`~pyvfio.Device.dirty_log`,
    :meth:`~pyvfio.Device.low_power`, :meth:`Region.dma_buf`, ...) is safer there.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def probe(self, feature: int, *, get: bool = False, set: bool = False) -> bool:
        """Whether the device has a feature, and can do all of what is asked with it.

        :param feature: VFIO_DEVICE_FEATURE_*
        :raises OSError: what is neither success nor a plain no
        """
        flags = feature | PROBE | (GET if get else 0) | (SET if set else 0)
        error = self._call(flags, ffi.new("char[]", _HEADER))
        if error in (-errno.ENOTTY, -errno.EINVAL, -errno.EOPNOTSUPP) and not self._device._fd.closed:
            return False
        if error < 0:
            raise self._failed(error, flags)
        return True

    def __contains__(self, feature: int) -> bool:
        return self.probe(feature)

    @property
    def available(self) -> list[str]:
        """The names, without VFIO_DEVICE_FEATURE_, of those that the device has; the kernel is asked for each."""
        return [name for number, name in sorted(_names().items()) if self.probe(number)]

    def get(self, feature: int, struct_: str) -> Any:
        """Read a feature's data as a C struct.

        :raises Unsupported: the device does not have the feature
        :raises OSError: as the driver says
        """
        value = ffi.new(f"{struct_} *")
        self.exchange(feature | GET, value)
        return value

    def set(self, feature: int, value: Any = None, *, reasons: Mapping[int, str] | None = None) -> None:
        """Set a feature from C data (see :meth:`exchange`), or from nothing for one that has no data.

        :param reasons: errno -> what it means of this feature, for the error's text
        :raises Unsupported: the device does not have the feature
        :raises OSError: as the driver says
        """
        self.exchange(feature | SET, value, reasons=reasons)

    def exchange(self, flags: int, value: Any = None, *, reasons: Mapping[int, str] | None = None) -> int:
        """One VFIO_DEVICE_FEATURE with data in and out; returns the request's result, most often 0.

        :param flags: the feature, with GET or SET
        :param value: pointer to a C struct, or a C array, from `ffi.new`; overwritten by the answer, on a failure too
        :param reasons: errno -> what it means of this feature, for the error's text
        """
        size = 0
        if value is not None:
            size = ffi.sizeof(value if ffi.typeof(value).kind == "array" else value[0])
        memory = ffi.new("char[]", _HEADER + size)
        data = memory + _HEADER
        if value is not None:
            ffi.memmove(data, value, size)
        result = self._call(flags, memory)
        if value is not None:
            ffi.memmove(value, data, size)
        if result < 0:
            raise self._failed(result, flags, reasons)
        return result

    def _call(self, flags: int, memory: Any) -> int:
        feature = ffi.cast("struct vfio_device_feature *", memory)
        feature.argsz = len(memory)
        feature.flags = flags
        return self._device._fd.ioctl(lib.VFIO_DEVICE_FEATURE, feature)

    def _failed(self, error: int, flags: int, reasons: Mapping[int, str] | None = None) -> Exception:
        name = feature_name(flags)
        if error == -errno.ENOTTY and not self._device._fd.closed:
            return Unsupported(f"{self._device.address} has no feature {name} (VFIO_DEVICE_FEATURE: ENOTTY)")
        reason = (reasons or {}).get(-error)
        return explain.failed(self._device._fd, error, "VFIO_DEVICE_FEATURE", name, lambda: (reason, []))


def feature_name(flags: int) -> str:
    """`DMA_LOGGING_START`, say, with the operation: `SET DMA_LOGGING_START`."""
    number = flags & lib.VFIO_DEVICE_FEATURE_MASK
    words = [word for bit, word in ((PROBE, "PROBE"), (GET, "GET"), (SET, "SET")) if flags & bit]
    return " ".join([*words, _names().get(number, str(number))])


@cache
def _names() -> dict[int, str]:
    return {
        getattr(lib, name): name.removeprefix("VFIO_DEVICE_FEATURE_")
        for name in dir(lib)
        if name.startswith("VFIO_DEVICE_FEATURE_") and name not in _NOT_FEATURES
    }


# Of the same prefix, and no features.
_WORDS = ("MASK", "GET", "SET", "PROBE", "CLEAR_MASTER", "SET_MASTER")
_NOT_FEATURES = {f"VFIO_DEVICE_FEATURE_{name}" for name in _WORDS}
