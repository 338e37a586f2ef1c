# SPDX-License-Identifier: MIT
"""Device features: probe, read and set them by number with VFIO_DEVICE_FEATURE."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core.arguments import integer, string, u32, wrong_type
from pyvfio._core.device_file import DeviceFile
from pyvfio._core.fd import Fd
from pyvfio._core.request import DECLARED, Arguments, Explanation, Facts, Reason, Request
from pyvfio.errors import RequestError, Unsupported

__all__ = ["Feature", "Features", "feature_name"]

GET = lib.VFIO_DEVICE_FEATURE_GET
SET = lib.VFIO_DEVICE_FEATURE_SET
PROBE = lib.VFIO_DEVICE_FEATURE_PROBE
_HEADER = ffi.sizeof("struct vfio_device_feature")


class FeatureFacts(NamedTuple):
    """The address of a device, and the name of the feature that it was asked for."""

    address: str
    feature: str


def no_feature(facts: FeatureFacts) -> Reason:
    """Return the reason for ENOTTY."""
    return Reason(f"{facts.address} has no feature {facts.feature}", unsupported=True)


def _describe_feature(native: Any) -> str:
    name = feature_name(native.flags)
    if native.flags & lib.VFIO_DEVICE_FEATURE_MASK == lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE and native.flags & SET:
        state = ffi.cast("uint32_t *", native.data)[0]
        return f"{name} {_STATES.get(state, state)}"
    return name


FEATURE = Request(
    "VFIO_DEVICE_FEATURE",
    "device",
    "struct vfio_device_feature",
    otherwise={errno.ENOTTY: no_feature},
    tell=_describe_feature,
)


class Feature:
    """A feature that pyvfio has a method for, as an operation of VFIO_DEVICE_FEATURE.

    :param detail: `GET` or `SET`, and the name without `VFIO_DEVICE_FEATURE_`; more words if there are several operations of it
    :param errnos: documented errno -> reason
    :param otherwise: further errno whose reason is known -> reason
    :param default: the reason for all other errnos
    :param documented: whether the tests must see it succeed on a real kernel, and fail with each documented errno
    :param succeeds: False if the request can only fail
    """

    def __init__(
        self,
        detail: str,
        *,
        errnos: Mapping[int, Explanation] | None = None,
        otherwise: Mapping[int, Explanation] | None = None,
        default: Explanation = None,
        documented: bool = True,
        succeeds: bool = True,
    ) -> None:
        self.request = FEATURE.operation(
            detail,
            errnos=errnos or {},
            otherwise=otherwise or {},
            default=default,
            documented=documented,
            succeeds=succeeds,
        )
        op, self.name, *_ = detail.split()
        self.flags: int = getattr(lib, f"VFIO_DEVICE_FEATURE_{self.name}") | (GET if op == "GET" else SET)

    def exchange(
        self, file: DeviceFile, value: Any = None, arguments: Arguments | None = None, facts: Facts | None = None
    ) -> int:
        """Make the request with data in and out, and return its result, most often 0.

        :param file: the device
        :param value: pointer to a C struct, or a C array, from `ffi.new`; overwritten by the answer, on a failure too
        :param arguments: name -> value, for the text of an error
        :param facts: returns the facts for a reason; called only if the request fails
        """
        return _exchange(file, self.request, self.flags, value, arguments, facts)

    def receive(
        self,
        file: DeviceFile,
        value: Any,
        received: tuple[int | None, Fd | Object],
        arguments: Arguments | None = None,
        facts: Facts | None = None,
    ) -> int:
        """Make the request, and hand the descriptor or id that it returns to an owner; see :meth:`Request.receive`.

        :param file: the device
        :param value: pointer to a C struct, or a C array, from `ffi.new`
        :param received: where the kernel writes the descriptor or id, as an offset in the data (None: the request's result); and the owner
        :param arguments: name -> value, for the text of an error
        :param facts: returns the facts for a reason; called only if the request fails
        """
        return _exchange(file, self.request, self.flags, value, arguments, facts, received)

    def get(self, file: DeviceFile, struct: str) -> Any:
        """Return the data of the feature as a C struct.

        :param file: the device
        :param struct: the name of a C struct of the ABI, with the word `struct`
        """
        value = ffi.new(f"{struct} *")
        self.exchange(file, value)
        return value


class Features:
    """The features of a device. Since Linux 5.7 (PCI), 5.18 for all drivers.

    The methods that take C data are raw: they do not check the data. Use pyvfio's own methods for the features that have them:
    :meth:`~pyvfio.Device.dirty_log`, :meth:`~pyvfio.Device.low_power`, :meth:`Region.dma_buf`, ...
    """

    def __init__(self, file: DeviceFile) -> None:
        self._file = file

    def probe(self, feature: int, *, get: bool = False, set: bool = False) -> bool:
        """Whether the device has a feature, and supports the operations that are asked for.

        :param feature: VFIO_DEVICE_FEATURE_*
        :param get: whether the feature must be readable
        :param set: whether the feature must be settable
        :raises OSError: any error but ENOTTY, EINVAL and EOPNOTSUPP, which mean False
        """
        feature = _number(feature)
        flags = feature | PROBE | (GET if get else 0) | (SET if set else 0)
        try:
            _exchange(self._file, FEATURE, flags, None)
        except Unsupported:
            return False
        except RequestError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def __contains__(self, feature: int) -> bool:
        return self.probe(feature)

    @property
    def available(self) -> list[str]:
        """The names, without `VFIO_DEVICE_FEATURE_`, of the features that the device has. One request for each known feature."""
        return [name for number, name in sorted(_names().items()) if self.probe(number)]

    def get(self, feature: int, struct_: str) -> Any:
        """Read a feature's data as a C struct.

        :param feature: VFIO_DEVICE_FEATURE_*
        :param struct_: the name of a C struct of the ABI, with the word `struct`
        :raises Unsupported: the device does not have the feature
        :raises OSError: from the device's driver
        """
        feature = _number(feature)
        try:
            value = ffi.new(f"{string(struct_, 'struct_')} *")
        except ffi.error as error:
            raise ValueError(f"struct_ must name a struct of the ABI, not {struct_!r}: {error}") from None
        self.exchange(feature | GET, value)
        return value

    def set(self, feature: int, value: Any = None) -> None:
        """Set a feature, with C data (see :meth:`exchange`) or without.

        :param feature: VFIO_DEVICE_FEATURE_*
        :param value: pointer to a C struct, or a C array, from `ffi.new`; None for a feature without data
        :raises Unsupported: the device does not have the feature
        :raises OSError: from the device's driver
        """
        self.exchange(_number(feature) | SET, value)

    def exchange(self, flags: int, value: Any = None) -> int:
        """Make one VFIO_DEVICE_FEATURE with data in and out, and return its result, most often 0.

        :param flags: the feature, with GET or SET
        :param value: pointer to a C struct, or a C array, from `ffi.new`; overwritten by the answer, on a failure too
        """
        flags = u32(flags, "flags")
        if value is not None:
            _check_data(value)
        request = DECLARED.get(f"{FEATURE.name} {feature_name(flags)}", FEATURE)
        return _exchange(self._file, request, flags, value)


def _exchange(
    file: DeviceFile,
    request: Request,
    flags: int,
    value: Any,
    arguments: Arguments | None = None,
    facts: Facts | None = None,
    received: tuple[int | None, Fd | Object] | None = None,
) -> int:
    size = 0
    if value is not None:
        size = ffi.sizeof(value if ffi.typeof(value).kind == "array" else value[0])
    native = request.new(size, flags=flags)
    if value is not None:
        ffi.memmove(native.data, value, size)
    if arguments is None:
        arguments = {} if request.detail else {"feature": feature_name(flags)}
    facts = facts or (lambda _: FeatureFacts(file.address, feature_name(flags)))
    try:
        if received is None:
            return request.send(file.fd, native, arguments, facts)
        offset, owner = received
        place = ffi.NULL if offset is None else native.data + offset
        return request.receive(file.fd, native, (place, owner), arguments=arguments, facts=facts)
    finally:
        if value is not None:
            ffi.memmove(value, native.data, size)


def _number(feature: object) -> int:
    return integer(feature, "feature", 0, lib.VFIO_DEVICE_FEATURE_MASK)


def _check_data(value: object) -> None:
    """Check that C data can be copied into a request: a pointer to a struct, or an array."""
    kind = ""
    if not isinstance(value, str):  # ffi.typeof() takes a str for the name of a C type
        with suppress(TypeError):
            kind = ffi.typeof(value).kind
    if kind not in ("array", "pointer") or (kind == "pointer" and value == ffi.NULL):
        raise wrong_type(value, "value", "a pointer to a C struct or a C array, from ffi.new, or None")


def feature_name(flags: int) -> str:
    """Return the name of a feature with the operation: `SET DMA_LOGGING_START`.

    :param flags: the flags of `struct vfio_device_feature`: the feature's number with GET, SET and PROBE
    """
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


# Constants with the prefix VFIO_DEVICE_FEATURE_ that are not features.
_WORDS = ("MASK", "GET", "SET", "PROBE", "CLEAR_MASTER", "SET_MASTER")
_NOT_FEATURES = {f"VFIO_DEVICE_FEATURE_{name}" for name in _WORDS}
_STATES = {
    getattr(lib, name): name.removeprefix("VFIO_DEVICE_STATE_")
    for name in dir(lib)
    if name.startswith("VFIO_DEVICE_STATE_") and not name.startswith("VFIO_DEVICE_STATE_V1_")
}
