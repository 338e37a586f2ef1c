# SPDX-License-Identifier: MIT
"""The request layer: each request has one declaration, one function makes requests, and one place explains refusals."""

from __future__ import annotations

import ast
import errno
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyvfio
from pyvfio import Container, Ioas, abi, mock
from pyvfio._abi import ffi, lib
from pyvfio._core.request import DECLARED, Call, Reason, Request
from pyvfio.errors import RequestError
from pyvfio.spaces.base import AddressSpace
from pyvfio.spaces.other_modes import OtherModes

PACKAGE = Path(pyvfio.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "mock" not in path.parents]


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Yield every syntax node of a kind in the package outside the mock, with its place."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}", node


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


# --- the source -----------------------------------------------------------------------------------------------------------


def test_one_place_makes_exceptions_for_refused_requests() -> None:
    made = [place for place, node in nodes(ast.Call) if called(node) == "RequestError"]
    assert [place.partition(":")[0] for place in made] == ["_core/request.py"]


def test_no_other_module_makes_a_bare_oserror() -> None:
    # Exceptions: kernel.py is the operating system, host/ reads sysfs, guest/qemu/ gives QEMU's errors, vfio_mock.py a
    # device's.
    bare = [place for place, node in nodes(ast.Call) if called(node) == "OSError"]
    assert [
        place for place in bare if not place.startswith(("kernel.py", "host/", "guest/", "errors.py", "vfio_mock.py"))
    ] == []


def test_one_place_makes_ioctls() -> None:
    made = {place.partition(":")[0] for place, node in nodes(ast.Call) if called(node) == "ioctl"}
    # tracing/replay.py repeats recorded requests byte by byte, and does not raise for errors.
    assert made == {"_core/fd.py", "_core/request.py", "tracing/replay.py"}


def test_no_object_uses_the_private_descriptor_of_another() -> None:
    reached = [
        place
        for place, node in nodes(ast.Attribute)
        if node.attr == "_fd" and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert reached == []


# --- the declarations -----------------------------------------------------------------------------------------------------


def test_every_declared_struct_starts_with_its_size() -> None:
    for request in DECLARED.values():
        if request.struct is not None:
            native = request.new(8)
            fields = ffi.typeof(request.struct).fields
            assert fields is not None
            first = fields[0][0]
            assert getattr(native, first) == ffi.sizeof(request.struct) + 8


def test_the_numbers_of_a_kind_differ() -> None:
    for kind, names in abi.NAMES.items():
        assert len({abi.number(name) for name in names}) == len(names), kind


def test_an_operation_is_told_from_its_struct() -> None:
    option = DECLARED["IOMMU_OPTION"]
    native = option.new(option_id=lib.IOMMU_OPTION_HUGE_PAGES, op=lib.IOMMU_OPTION_OP_SET)
    assert option.tell is not None
    assert f"IOMMU_OPTION {option.tell(native)}" in DECLARED
    feature = DECLARED["VFIO_DEVICE_FEATURE"]
    native = feature.new(8, flags=lib.VFIO_DEVICE_FEATURE_SET | lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE)
    ffi.cast("uint32_t *", native.data)[0] = lib.VFIO_DEVICE_STATE_STOP
    assert feature.tell is not None
    assert feature.tell(native) == "SET MIG_DEVICE_STATE STOP"


def test_a_declaration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot be changed"):
        DECLARED["IOMMU_DESTROY"].name = "IOMMU_OPTION"


def test_every_declaring_module_is_collected() -> None:
    declares = re.compile(r"^\w+ = ((Request|Feature)\(|.*\.operation\()", re.MULTILINE)
    declaring = {path.relative_to(PACKAGE).as_posix() for path in FILES if declares.search(path.read_text())}
    listed = {Path(module.__file__ or "").relative_to(PACKAGE).as_posix() for module in abi.DECLARING}
    assert listed == declaring


def test_a_second_declaration_of_a_request_is_refused() -> None:
    destroy = DECLARED["IOMMU_DESTROY"]
    with pytest.raises(ValueError, match="IOMMU_DESTROY is declared twice"):
        Request("IOMMU_DESTROY", "iommufd", "struct iommu_destroy")
    with pytest.raises(ValueError, match="VFIO_IOMMU_UNMAP_DMA ALL is declared twice"):
        DECLARED["VFIO_IOMMU_UNMAP_DMA"].operation("ALL")
    assert DECLARED["IOMMU_DESTROY"] is destroy


def test_documented_operations_succeed_unless_they_cannot() -> None:
    documented = abi.documented()
    assert documented["VFIO_DEVICE_FEATURE SET DMA_LOGGING_STOP"] == ["ok"]
    assert documented["VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE ERROR"] == ["EINVAL"]
    assert documented["IOMMU_IOAS_COPY"] == ["ENOENT"]


# --- the exceptions -------------------------------------------------------------------------------------------------------

OPEN = Call("open", errnos={errno.EACCES: Reason("why", ("do this",)), errno.ENOTTY: Reason("no x", unsupported=True)})


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EAGAIN, errno.EINTR, errno.EINVAL]
)
def test_a_refusal_is_the_class_that_python_has_for_its_errno(number: int) -> None:
    error = OPEN.refused("/dev/x", number)
    assert isinstance(error, RequestError)
    assert isinstance(error, type(OSError(number, "")))
    assert type(error) is type(OPEN.refused("/dev/y", number))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.errno, str(again), again.__dict__) == (number, str(error), error.__dict__)


def test_a_refusal_has_request_arguments_reason_and_advice() -> None:
    error = OPEN.refused("/dev/x", errno.EACCES, {"size": 1 << 21, "iova": 0x1000, "fd": 12, "left": None})
    assert isinstance(error, RequestError)
    assert str(error) == "[Errno 13] open /dev/x (size=2 MiB, iova=0x1000, fd=12): Permission denied: why"
    assert (error.request, error.reason, error.advice) == ("open", "why", ("do this",))
    assert error.arguments["size"] == 1 << 21
    assert error.__notes__ == ["do this"]


def test_an_errno_that_means_absence_is_unsupported() -> None:
    error = OPEN.refused("/dev/x", errno.ENOTTY)
    assert isinstance(error, pyvfio.Unsupported)
    assert (error.errno, str(error)) == (errno.ENOTTY, "no x (open /dev/x: ENOTTY)")


def test_a_reason_that_cannot_be_found_hides_nothing() -> None:
    def broken(_: int) -> Any:
        raise ZeroDivisionError

    error = Call("open", default=lambda facts: Reason(facts.x)).refused("/dev/x", errno.EIO, facts=broken)
    assert str(error) == "[Errno 5] open /dev/x: Input/output error"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (pyvfio.Closed("x"), errno.EBADF),
        (pyvfio.Unsupported("x"), errno.EOPNOTSUPP),
        (pyvfio.NotViable("x", 7), errno.EPERM),
        (pyvfio.BadReply("x"), errno.EPROTO),
        (pyvfio.InvalidRequest("x"), errno.EINVAL),
        (pyvfio.InvalidRequest(errno.ENOSPC, "x"), errno.ENOSPC),
    ],
)
def test_every_error_is_an_oserror_with_an_errno(error: pyvfio.Error, number: int) -> None:
    assert isinstance(error, OSError)
    assert (error.errno, str(error)) == (number, "x")


# --- the methods of other modes -------------------------------------------------------------------------------------------


def others() -> list[str]:
    return [name for name in vars(OtherModes) if not name.startswith("_")]


@pytest.mark.parametrize("name", others())
def test_a_method_of_one_mode_is_defined_in_all(name: str) -> None:
    base = inspect.getattr_static(AddressSpace, name)
    owners = [kind for kind in (Container, Ioas) if inspect.getattr_static(kind, name) is not base]
    assert len(owners) == 1
    own = inspect.getattr_static(owners[0], name)
    assert type(own) is type(base)
    if not isinstance(own, property):
        assert inspect.signature(own) == inspect.signature(base)
    elif own.fget is not None:
        assert base.fget is not None
        assert inspect.signature(own.fget) == inspect.signature(base.fget)


def test_another_mode_is_named() -> None:
    kernel = mock.Kernel("amd")
    by_cdev, by_group = pyvfio.address_space("iommufd", kernel=kernel), pyvfio.address_space("type1v2", kernel=kernel)
    with (
        by_cdev,
        pytest.raises(pyvfio.Unsupported, match="mode iommufd has no start_dirty_tracking: mode type1v2, and"),
    ):
        by_cdev.start_dirty_tracking()
    with by_group, pytest.raises(pyvfio.Unsupported, match="mode type1v2 has no map_file: mode iommufd has it"):
        by_group.map_file(0, 0, 4096)
