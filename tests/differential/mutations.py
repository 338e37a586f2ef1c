"""Faults planted in the mock, one at a time, to see whether the recorded episodes find them.

`python tests/differential/mutations.py NUMBER RECORD ...` plants one, and prints the first disagreement that it makes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from steps import load

ROOT = Path(__file__).parents[2] / "pyvfio" / "mock"


class Mutation(NamedTuple):
    """In a file below pyvfio/mock, `old`, which is there once, becomes `new`."""

    file: str
    old: str
    new: str


MUTATIONS = (
    # An errno.
    Mutation("type1/iommu.py", "            raise Errno(errno.EEXIST)", "            raise Errno(errno.EBUSY)"),
    Mutation("type1/iommu.py", "            raise Errno(errno.ENOENT)", "            raise Errno(errno.EINVAL)"),
    Mutation("type1/tracking.py", "            raise Errno(errno.EOVERFLOW)", "            raise Errno(errno.EINVAL)"),
    Mutation("group.py", "            raise Errno(errno.EBADFD)", "            raise Errno(errno.EBADF)"),
    # One off, at the end of a range.
    Mutation("type1/iommu.py", "        last = iova + size - 1\n        if last > _U64 or", "        last = iova + size\n        if last > _U64 or"),
    Mutation("type1/usable.py", "range_.start <= iova and last <= range_.last", "range_.start <= iova and last < range_.last"),
    Mutation("mappings.py", "return item if iova <= item.last else None", "return item if iova < item.last else None"),
    Mutation("mappings.py", "following = item.last + 1", "following = item.last + 4097"),
    Mutation("type1/space.py", "(offset + count - 1) // self._iommu.granule", "(offset + count) // self._iommu.granule"),
    Mutation("memlock.py", "self.pages + pages > self.limit", "self.pages + pages >= self.limit"),
    # A bit that is not cleared, or too many.
    Mutation("type1/tracking.py", "            dirty.clear()\n", ""),
    Mutation("type1/dirty.py", "            left[whole] &= _WORD << rest", "            del left[whole]"),
    Mutation("type1/dirty.py", "            if before:\n", "            if False:\n"),
    Mutation("type1/tracking.py", "        if mapping.pinned:\n            mapping.dirty.mark_all()\n", ""),
    Mutation("type1/tracking.py", "            self._mark_pins(mapping, dirty)\n", ""),
    # A flag that is ignored.
    Mutation("type1/iommu.py", "if invalidates and self.emulated:", "if False:"),
    Mutation("type1/iommu.py", "if self.v2 and not everything:", "if not everything:"),
    Mutation("type1/space.py", "self._mapping(iova, READ | WRITE)\n", "self._mapping(iova, WRITE)\n"),
    Mutation("type1/iommu.py", "bool(prot) == bool(updates) or", "not prot and not updates or"),
    # What is forgotten.
    Mutation("type1/iommu.py", "            self.available += 1\n", ""),
    Mutation("type1/iommu.py", "            mapping.unpin(self.locked, self.page)\n            self.mappings.remove", "            self.mappings.remove"),
    Mutation("type1/usable.py", "if groups else _WHOLE", ""),
    Mutation("group.py", "        if self.users and not self.container.lets_go:", "        if False:"),
    # A case too many.
    Mutation("type1/iommu.py", "    if number in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL):", "    if number in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL, lib.VFIO_UPDATE_VADDR):"),
    # In what only other subjects reach.
    Mutation("log.py", "                self._words[word] = held ^ taken", "                self._words[word] = held"),
    Mutation("feature.py", "        if start + length > LARGEST:", "        if start + length - 1 > LARGEST:"),
    Mutation("pci_irq.py", "        if index == INTX and (what.start or what.count != 1):\n            raise Errno(errno.EINVAL)\n", ""),
    Mutation("config.py", "self.data[at] & ~mask | byte & mask", "self.data[at] & ~mask | byte"),
    Mutation("pci_region.py", "            if offset + size > self.config.size:", "            if offset + size >= self.config.size:"),
    Mutation("dma_buf.py", "        if area.offset + area.size > device", "        if area.offset + area.size >= device"),
    Mutation("ioeventfd.py", "len(self._set) >= _MOST", "len(self._set) > _MOST"),
    Mutation("power.py", "            self._eventfd.signal()\n", ""),
    Mutation("vfio_mock/migration.py", "session.error is not None or not session.whole or", "session.error is not None or"),
    Mutation("iommufd/rw.py", "        if not area.prot & prot:\n            raise Errno(errno.EPERM)\n", ""),
    Mutation("iommufd/iopt.py", "        if sum(length for _, _, length in found) != size:\n            raise Errno(errno.ENOENT)\n", ""),
    Mutation("iommufd/ioas.py", "        if ctx.objects:\n            raise Errno(errno.EBUSY)\n", ""),
    Mutation("iommufd/domain.py", "                pages.difference_update(found)", "                pass"),
    Mutation("iommufd/fault_queue.py", "            self.answers.append((self.pending.pop(cookie), code))", "            self.answers.append((self.pending[cookie], code))"),
    Mutation("iommufd/event_queue.py", "& 0x7FFFFFFF\n", "& 0x7FFFFFFE\n"),
    Mutation("host.py", "        if ids in driver.ids:\n            raise Errno(errno.EEXIST)\n", ""),
)  # fmt: skip


class _Planted(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


class Planter(importlib.abc.MetaPathFinder):
    """Has one module imported as a mutation has it."""

    def __init__(self, mutation: Mutation) -> None:
        self._path = ROOT / mutation.file
        source = self._path.read_text()
        if source.count(mutation.old) != 1:
            raise ValueError(f"{mutation.file} has {mutation.old!r} {source.count(mutation.old)} times")
        self._source = source.replace(mutation.old, mutation.new)
        self._name = ".".join(("pyvfio", "mock", *self._path.relative_to(ROOT).with_suffix("").parts))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Planted(fullname, str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def main() -> None:
    number, *records = sys.argv[1:]
    if number != "none":
        sys.meta_path.insert(0, Planter(MUTATIONS[int(number)]))
    import replay
    from compare import Disagreement, differ

    for file in records:
        record = load(Path(file))
        with replay.on_mock(record["devices"], record["profile"]) as replayer:
            for index, (episode, answers) in enumerate(zip(record["episodes"], record["answers"], strict=True)):
                for at, (step, expected, got) in enumerate(zip(episode, answers, replayer.episode(episode), strict=True)):
                    if differ(step, expected, got):
                        print(Disagreement(index, at, step, expected, got))
                        return
    print("no disagreement")


if __name__ == "__main__":
    main()
