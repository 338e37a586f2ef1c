# SPDX-License-Identifier: MIT
"""The reports of the library, when the reply to one request is odd, are those recorded in answers/.

Each look reads some public attributes. For each request that it makes, each field of the reply is replaced in turn by a value at an
edge: 0, 1, one more, all bits. The lines that differ from the usual ones are recorded in answers/replies.NAME.txt: a wrong shift,
limit or flag shows in one of them, and so does a check of a reply that is missing. `PYVFIO_WRITE_ANSWERS=1 pytest tests/robustness -k
answers` records them again. Check the changes before you commit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import pyvfio
from pyvfio import DmaBuffer, abi, host
from pyvfio._abi import ffi, lib
from pyvfio._core.request import DECLARED
from pyvfio.spaces.opening import Mode
from tests.overriding import Overriding
from tests.robustness.test_answers import answer
from tests.robustness.test_request_answers import same
from tests.robustness.written import compare

EDU, NVME, MOCK = "0000:00:03.0", "0000:00:04.0", "vfio-mock.0"
PAGE = 4096
#: Words behind a struct (capabilities, ranges) that are replaced. Later ones repeat what these have.
WORDS = 10
Look = Callable[[Any], Iterator[tuple[str, Any]]]


class Odd(Overriding):
    """The mock, with one word of one reply replaced.

    :ivar replies: of each reply so far, the request's name, and name, offset and size of each word
    :ivar change: the number of a reply, offset and size of a word in it, and a function of the word's value; None to change nothing
    """

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.replies: list[tuple[str, list[tuple[str, int, int]]]] = []
        self.change: tuple[int, int, int, Callable[[int], int]] | None = None

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        name = abi.name(self.files[fd].kind if fd in self.files else "closed", request)
        declared = DECLARED.get(name)
        plain = declared is None or declared.struct is None or not declared.struct.startswith("struct")
        room = 0 if plain else ffi.cast("uint32_t *", argument)[0]  # the kernel's answer may name a larger size
        result = super().ioctl(fd, request, argument)
        if result < 0 or declared is None or declared.struct is None or plain:
            return result
        words = list(self._words(declared.struct, room))
        if declared.tell is not None:
            name = f"{name} {declared.tell(ffi.cast(f'{declared.struct} *', argument))}".strip()
        if self.change is not None and self.change[0] == len(self.replies):
            _, at, size, new = self.change
            place = ffi.buffer(ffi.cast("char *", argument + at), size)
            place[:] = (new(int.from_bytes(place[:], "little")) % (1 << 8 * size)).to_bytes(size, "little")
        self.replies.append((name, words))
        return result

    @staticmethod
    def _words(struct: str, room: int) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of each integer of a reply, including those behind the struct.

        :param room: the size that the caller gave
        """
        kind = ffi.typeof(struct)
        for name, field in kind.fields or ():
            # Without the descriptors: closing another number than one's own would hurt the test itself.
            if (
                field.type.kind == "primitive"
                and not name.endswith("fd")
                and field.type.cname.startswith(("uint", "int"))
            ):
                yield name, field.offset, ffi.sizeof(field.type)
        size = ffi.sizeof(kind)
        state = room == size + ffi.sizeof("struct vfio_device_feature_mig_state")
        for at in range(size, min(room, size + 4 * WORDS) - 3, 4):
            if state and at == size + 4 and struct == "struct vfio_device_feature":
                continue  # the descriptor of the data
            yield f"+{at - size}", at, 4


NEW: dict[str, Callable[[int], int]] = {
    "0": lambda value: 0,
    "1": lambda value: 1,
    "one more": lambda value: value + 1,
    "all bits": lambda value: -1,
}
#: Counts, of which the library makes as many objects; they are not replaced by all bits.
COUNTS = {"num_regions", "num_irqs", "count", "num_iovas", "data_len"}


def _attributes(thing: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name in names:
        yield name, lambda name=name: getattr(thing, name)


def _device(device: Any) -> Iterator[tuple[str, Any]]:
    yield from _attributes(device, "info", "address", "regions", "irqs")
    yield "repr", lambda: repr(device)
    yield "hot reset", lambda: device.hot_reset_info


def _regions(device: Any) -> Iterator[tuple[str, Any]]:
    for index in (0, 1, 7):
        yield f"{index}", lambda index=index: device.regions[index]
        yield f"{index} info", lambda index=index: device.regions[index].info
        yield f"{index} areas", lambda index=index: device.regions[index].info.areas
    yield "names", lambda: [one.name for one in device.regions]
    yield "read", lambda: device.regions[0].read32(0)


def _irqs(device: Any) -> Iterator[tuple[str, Any]]:
    for index in range(5):
        yield f"{index}", lambda index=index: device.irqs[index].info
        yield f"{index} repr", lambda index=index: repr(device.irqs[index])
    yield "enable", lambda: len(device.irqs.msi.enable_all())
    yield "vectors", lambda: device.irqs.msi.vectors
    yield "disable", lambda: [device.irqs.msi.disable()]


def _config(device: Any) -> Iterator[tuple[str, Any]]:
    for name in ("device_id", "class_code", "bus_master", "capabilities"):
        yield name, lambda name=name: getattr(device.config, name)


def _features(device: Any) -> Iterator[tuple[str, Any]]:
    yield "available", lambda: sorted(device.features.available)
    yield (
        "migration",
        lambda: device.features.get(lib.VFIO_DEVICE_FEATURE_MIGRATION, "struct vfio_device_feature_migration").flags,
    )


def _migration(device: Any) -> Iterator[tuple[str, Any]]:
    for name in ("has_p2p", "has_pre_copy", "states", "state"):
        yield name, lambda name=name: getattr(device.migration, name)

    def change(name: str) -> Any:
        device.migration.state = pyvfio.migration.State[name]
        return device.migration.state

    for name in ("PRE_COPY", "STOP_COPY"):
        yield name, lambda name=name: change(name)
        yield f"{name} stream", lambda: len(device.migration.stream.read(8) or b"")
        if name == "PRE_COPY":
            yield "precopy info", lambda: device.migration.precopy_info[1:]
    yield "RUNNING", lambda: change("RUNNING")


def _log(device: Any) -> Iterator[tuple[str, Any]]:
    mapping = device.address_space.alloc(16 * PAGE, 1 << 30)

    def read() -> Any:
        with device.dirty_log([mapping.range]) as log:
            return log.page_size, log.ranges, log.read()

    yield "read", read
    yield "unmap", mapping.unmap


def _space(device: Any) -> Iterator[tuple[str, Any]]:
    space = device.address_space
    yield from _attributes(space, "iova_ranges", "page_sizes")
    yield "repr", lambda: repr(space)
    yield "map", lambda: space.alloc(PAGE).iova >> 40
    buffer = DmaBuffer(2 * PAGE)
    yield "map here", lambda: space.map(buffer, 1 << 30).range
    yield "mapped", lambda: [one.range for one in space.mappings if one.iova >= 1 << 30]
    yield "part", lambda: space.unmap(1 << 30, PAGE)
    yield "unmap", lambda: space.unmap(1 << 30, 2 * PAGE)
    yield "left", lambda: [one.range for one in space.mappings if one.iova >= 1 << 30]
    yield "unmap all", space.unmap_all
    if isinstance(space, pyvfio.Container):
        yield from _attributes(space, "info", "groups", "tracks_dirty_pages")


def _tracking(device: Any) -> Iterator[tuple[str, Any]]:
    space = device.address_space
    mapping = space.alloc(16 * PAGE, 1 << 30)

    def track() -> Any:
        with space.track_dirty([mapping.range]) as tracker:
            return tracker.source, tracker.page_size, tracker.read(), tracker.read()

    yield "track", track


def _tables(device: Any) -> Iterator[tuple[str, Any]]:
    space = device.address_space
    made: list[Any] = []

    def hardware() -> Any:
        try:
            return device.bound.hw_info()
        except OSError as error:  # the text has an address
            return error.errno

    yield "hardware", hardware
    yield "table", lambda: made.append(space.hwpt(device.bound))
    yield "attach", lambda: device.attach(made[0])
    yield "detach", device.detach
    yield "destroy", lambda: [one.destroy() for one in made]
    yield "ioas", lambda: space.iommufd.ioas().iova_ranges


#: name -> the mock's profile, mode, device, and the look
LOOKS: dict[str, tuple[str, Mode, str, Look]] = {
    "device": ("amd", "iommufd", EDU, _device),
    "device-by-group": ("intel-48", "type1v2", EDU, _device),
    "regions": ("amd", "iommufd", EDU, _regions),
    "regions-of-mock": ("amd", "iommufd", MOCK, _regions),
    "irqs": ("amd", "iommufd", EDU, _irqs),
    "irqs-of-mock": ("amd", "type1v2", MOCK, _irqs),
    "config": ("amd", "iommufd", EDU, _config),
    "features": ("amd", "iommufd", MOCK, _features),
    "migration": ("amd", "iommufd", MOCK, _migration),
    "log": ("amd", "iommufd", MOCK, _log),
    "space-iommufd": ("amd", "iommufd", EDU, _space),
    "space-iommufd-type1": ("amd", "iommufd-type1", EDU, _space),
    "space-type1": ("intel-48", "type1", EDU, _space),
    "space-type1v2": ("intel-48", "type1v2", EDU, _space),
    "tracking-by-container": ("intel-48", "type1v2", NVME, _tracking),
    "tables": ("amd", "iommufd", EDU, _tables),
}


def _lines(name: str, change: tuple[int, int, int, Callable[[int], int]] | None) -> tuple[list[str], Odd]:
    """Return the lines of a look."""
    profile, mode, address, look = LOOKS[name]
    kernel = Odd(profile)
    lines: list[str] = []
    with ExitStack() as stack:
        if address != MOCK:
            stack.enter_context(host.bind(address, "vfio-pci", kernel=kernel))
        kernel.change = change
        try:
            device = pyvfio.open(address, mode=mode, kernel=kernel)
        except Exception as error:
            return [same(f"open: {type(error).__name__}: {error}")], kernel
        for label, read in look(device):
            lines.append(same(f"{label}: {answer(read, makes=False)}"))
        lines.append(same(f"close: {answer(device.close, makes=False)}"))
    return lines, kernel


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", LOOKS)
def test_odd_replies_are_answered_as_was_written_down(name: str) -> None:
    usual, kernel = _lines(name, None)
    found = [f"usual {line}" for line in usual]
    seen: set[tuple[str, str]] = set()
    for number, (request, words) in enumerate(kernel.replies):
        for field, at, size in words:
            if (request, field) in seen or at == 0 or "reserved" in field or field == "pad":
                continue
            seen.add((request, field))
            by_lines: dict[tuple[str, ...], list[str]] = {}
            for label, new in NEW.items():
                if (label == "all bits" and field in COUNTS) or (field[0] == "+" and label in ("0", "1")):
                    continue
                lines, _ = _lines(name, (number, at, size, new))
                differs = tuple(line for line in lines if line not in usual)
                by_lines.setdefault(differs, []).append(label)
            for differs, labels in by_lines.items():
                found += [f"{request} {field} {', '.join(labels)}: {line}" for line in differs]
    compare(f"replies.{name}", found)
