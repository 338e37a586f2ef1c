# SPDX-License-Identifier: MIT
"""Plant faults in the mock, one at a time, to test that the recorded episodes find them.

`python tests/differential/mutations.py [NUMBER ...]` plants all faults, or those with these numbers, and prints for
each the first recorded step that the mock then answers wrongly. `none` plants no fault.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from tests.differential.steps import load

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / "pyvfio" / "mock"


class Mutation(NamedTuple):
    """A fault: in a file below pyvfio/mock, `old`, which must occur once, is replaced by `new`.

    :ivar subject: the subject whose recording found the fault last time
    :ivar episode: the episode that found it. It is tried first, and all others only if it does not find the fault
    """

    file: str
    old: str
    new: str
    subject: str
    episode: int


MUTATIONS = (
    # A wrong errno.
    Mutation("vfio/type1/iommu.py", "            raise Errno(errno.EEXIST)", "            raise Errno(errno.EBUSY)", "type1", 0),
    Mutation("vfio/type1/iommu.py", "            raise Errno(errno.ENOENT)", "            raise Errno(errno.EINVAL)", "type1", 5),
    Mutation("vfio/type1/tracking.py", "            raise Errno(errno.EOVERFLOW)", "            raise Errno(errno.EINVAL)", "type1", 2),
    Mutation("vfio/group.py", "            raise Errno(errno.EBADFD)", "            raise Errno(errno.EBADF)", "systematic", 22),
    # Off by one at the end of a range.
    Mutation("vfio/type1/iommu.py", "        last = iova + size - 1\n        if last > _U64 or", "        last = iova + size\n        if last > _U64 or", "type1", 0),
    Mutation("vfio/type1/usable.py", "range_.start <= iova and last <= range_.last", "range_.start <= iova and last < range_.last", "type1", 8),
    Mutation("vfio/mappings.py", "return item if iova <= item.last else None", "return item if iova < item.last else None", "iommufd", 1),
    Mutation("vfio/mappings.py", "following = item.last + 1", "following = item.last + 4097", "type1", 18),
    Mutation("vfio/type1/space.py", "(offset + count - 1) // self._iommu.granule", "(offset + count) // self._iommu.granule", "type1", 43),
    Mutation("machine/memlock.py", "self.pages + pages > self.limit", "self.pages + pages >= self.limit", "type1", 84),
    # A bit that is not cleared, or too many bits that are.
    Mutation("vfio/type1/tracking.py", "            dirty.clear()\n", "", "type1", 0),
    Mutation("vfio/type1/dirty.py", "            left[whole] &= _WORD << rest", "            del left[whole]", "type1", 0),
    Mutation("vfio/type1/dirty.py", "            if before:\n", "            if False:\n", "type1", 0),
    Mutation("vfio/type1/tracking.py", "        if mapping.pinned:\n            mapping.dirty.mark_all()\n", "", "type1", 27),
    Mutation("vfio/type1/tracking.py", "            self._mark_pins(mapping, dirty)\n", "", "type1", 83),
    # A flag that is ignored.
    Mutation("vfio/type1/iommu.py", "if invalidates and self.emulated:", "if False:", "type1", 2),
    Mutation("vfio/type1/iommu.py", "if self.v2 and not everything:", "if not everything:", "type1", 3),
    Mutation("vfio/type1/space.py", "self._mapping(iova, READ | WRITE)\n", "self._mapping(iova, WRITE)\n", "type1", 21),
    Mutation("vfio/type1/iommu.py", "bool(prot) == bool(updates) or", "not prot and not updates or", "type1", 1),
    # A step that is left out.
    Mutation("vfio/type1/iommu.py", "            self.available += 1\n", "", "type1", 1),
    Mutation("vfio/type1/iommu.py", "            mapping.unpin(self.locked, self.page)\n            self.mappings.remove", "            self.mappings.remove", "type1", 69),
    Mutation("vfio/type1/usable.py", "if groups else _WHOLE", "", "type1", 2),
    Mutation("vfio/group.py", "        if not self.container.lets_go and self.container in self.group.users.values():", "        if False:", "type1", 11),
    # A check that is too strict or too lax.
    Mutation("vfio/type1/iommu.py", "    if number in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL):", "    if number in (lib.VFIO_TYPE1_IOMMU, lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_UNMAP_ALL, lib.VFIO_UPDATE_VADDR):", "type1", 7),
    # Code that only other subjects reach.
    Mutation("vfio/log.py", "                self._words[word] = held ^ taken", "                self._words[word] = held", "devices", 3),
    Mutation("vfio/feature.py", "    if start + length > LARGEST:", "    if start + length - 1 > LARGEST:", "devices", 17),
    Mutation("vfio/pci/irq.py", "        if index == INTX and (what.start or what.count != 1):\n            raise Errno(errno.EINVAL)\n", "", "systematic", 45),
    Mutation("vfio/pci/config.py", "self.data[at] & ~mask | byte & mask", "self.data[at] & ~mask | byte", "devices", 2),
    Mutation("vfio/pci/region.py", "            if offset + size > self.config.size:", "            if offset + size >= self.config.size:", "systematic", 51),
    Mutation("vfio/pci/dma_buf.py", "        if area.offset + area.size > device", "        if area.offset + area.size >= device", "systematic", 39),
    Mutation("vfio/pci/ioeventfd.py", "len(self._set) >= _MOST", "len(self._set) > _MOST", "systematic", 36),
    Mutation("vfio/pci/power.py", "            self._eventfd.signal()\n", "", "systematic", 35),
    Mutation("devices/vfio_mock/migration.py", "session.error is not None or not session.whole or", "session.error is not None or", "systematic", 62),
    Mutation("iommufd/rw.py", "        if not area.prot & prot:\n            raise Errno(errno.EPERM)\n", "", "iommufd", 46),
    Mutation("iommufd/iopt.py", "        if sum(length for _, _, length in found) != size:\n            raise Errno(errno.ENOENT)\n", "", "iommufd", 3),
    Mutation("iommufd/ioas.py", "        if ctx.objects:\n            raise Errno(errno.EBUSY)\n", "", "iommufd", 7),
    Mutation("iommufd/domain.py", "                pages.difference_update(found)", "                pass", "selftest", 80),
    Mutation("iommufd/fault_queue.py", "            self.answers.append((self.pending.pop(cookie), code))", "            self.answers.append((self.pending[cookie], code))", "selftest", 22),
    Mutation("iommufd/event_queue.py", "& 0x7FFFFFFF\n", "& 0x7FFFFFFE\n", "selftest", 37),
    Mutation("host/host.py", "        if ids in driver.ids:\n            raise Errno(errno.EEXIST)\n", "", "systematic", 68),
    # Configuration space, and other code that the later subjects reach.
    Mutation("vfio/pci/config.py", "            data[self.msix_control + 1 - offset] |= _MSIX_ENABLE\n", "            pass\n", "functions", 50),
    Mutation("vfio/pci/config.py", "            if not self._unknown[at]:\n                self.data[at] = first", "            self.data[at] = first", "functions", 6),
    Mutation("vfio/pci/config.py", "mask = self._through[at] if self._kept[at] else 0", "mask = 0", "functions", 9),
    Mutation("vfio/pci/config.py", "& ~through | byte & through", "& ~through | 255 & through", "functions", 2),
    Mutation("vfio/pci/config.py", "(control & _ECRC_ABLE) << 1", "0", "functions", 64),
    Mutation("vfio/pci/config.py", "_DEVICE_CONTROL = 0xF0E0", "_DEVICE_CONTROL = 0xF0E1", "functions", 2),
    Mutation("vfio/pci/device.py", "        return self._decodes and not self._off", "        return self._decodes", "functions", 2),
    Mutation("vfio/pci/device.py", "off = self._off if wanted in (1, 2) else", "off = False if wanted in (1, 2) else", "functions", 4),
    Mutation("vfio/pci/device.py", "        if not self.irqs.enabled[MSI]:\n            control &= ~_MSI_ENABLE\n", "", "functions", 7),
    Mutation("vfio/pci/saved.py", "return 10 + 4 * (flags >> 7 & 1) + 10 * (flags >> 8 & 1)", "return 10 + 10 * (flags >> 8 & 1)", "functions", 48),
    Mutation("vfio/pci/irq.py", "        if any(self.enabled[other] for other in (INTX, MSI, MSIX) if other != index):\n            raise Errno(errno.EINVAL)\n", "", "systematic", 45),
    Mutation("vfio/pci/irq.py", "            if not what.start + what.count:\n                raise Errno(errno.ERANGE)\n", "", "systematic", 45),
    Mutation("vfio/feature.py", "        if not self.flags & (GET | SET) or self.size < least:", "        if not self.flags & (GET | SET):", "devices", 3),
    Mutation("vfio/feature.py", "    if header.flags & SET and header.flags & GET and not header.flags & PROBE:", "    if header.flags & SET and header.flags & GET:", "devices", 4),
    Mutation("vfio/migration.py", "state == ERROR or (state == STOP_COPY and wanted in (PRE_COPY, PRE_COPY_P2P))", "state == ERROR or (state == STOP_COPY and wanted == PRE_COPY)", "devices", 65),
    Mutation("vfio/group.py", "        if self.cdevs or self.file is not None:", "        if self.file is not None:", "iommufd", 5),
    Mutation("vfio/group.py", "        if self.claimed and self.owner is not owner:\n            raise Errno(errno.EPERM)\n", "", "systematic", 2),
    Mutation("vfio/group.py", "            if not self.container.lets_go:\n                self.hold()\n", "            self.hold()\n", "programs", 19),
    Mutation("vfio/group.py", "            if not container.lets_go:\n                self.drop()\n", "", "programs", 18),
    Mutation("iommufd/ioas.py", "        if start >= last or any(", "        if start > last or any(", "iommufd", 0),
    Mutation("iommufd/ioas.py", "    if number > room:\n        raise Errno(errno.EMSGSIZE)\n", "", "iommufd", 7),
    Mutation("iommufd/ioas.py", "    if LAST in numbers:\n        raise Errno(errno.EOVERFLOW)\n", "", "iommufd", 87),
    Mutation("iommufd/ioas.py", "    if start + size - 1 > LAST:", "    if start + size > LAST:", "systematic", 12),
    # What pages that stay pinned show first.
    Mutation("iommufd/iopt.py", "            for area in self.areas:\n                area.unpin()\n        self.unreserve", "            pass\n        self.unreserve", "iommufd", 0),
    Mutation("iommufd/hw_queue.py", "            area.unpin_access(first, end)\n", "            area.accesses -= 1\n", "selftest", 5),
    Mutation("iommufd/area.py", "        if self.pages.is_dma_buf:\n            raise Errno(errno.EINVAL)\n        self.pages.pin", "        self.pages.pin", "systematic", 55),
)  # fmt: skip


class _Planted(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


class Planter(importlib.abc.MetaPathFinder):
    """An import hook that loads one module with a mutation."""

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


class Place(NamedTuple):
    """An episode of a recorded file."""

    subject: str
    episode: int


def found(records: dict[str, Any], first: Iterable[Place]) -> str:
    """Return the first step that the mock answers differently from the kernel: in the episodes `first`, each on a new mock, or else in all."""
    whole = [(subject, range(len(record["episodes"]))) for subject, record in records.items()]
    # After a new recording, an episode of that number may not exist.
    known = [
        # A device's registers survive a close. So in `functions`, an episode depends on all earlier ones.
        (subject, range(0 if subject == "functions" else episode, episode + 1))
        for subject, episode in first
        if episode < len(records[subject]["episodes"])
    ]
    for subject, episodes in (*known, *whole):
        if place := _found(records[subject], episodes):
            return f"{subject}, {place}"
        # Free the descriptors of the previous mock: episodes count descriptors.
        gc.collect()
    return "no disagreement"


def _found(record: dict[str, Any], episodes: range) -> str | None:
    from tests.differential import replay
    from tests.differential.compare import differ

    with replay.on_mock(record["devices"], record["profile"], record.get("spaces", ())) as replayer:
        for episode in episodes:
            steps, answers = record["episodes"][episode], record["answers"][episode]
            for at, (step, expected, got) in enumerate(zip(steps, answers, replayer.episode(steps), strict=True)):
                if differ(step, expected, got):
                    return f"episode {episode}, step {at}"
            if replayer.left:
                return f"episode {episode}, pages stay pinned"
    return None


def main() -> None:
    numbers = sys.argv[1:] or list(map(str, range(len(MUTATIONS))))
    from tests.differential import replay  # noqa: F401  # import all modules but the mock before the fork

    records = {
        file.name.split(".")[0].partition("-")[2]: load(file) for file in sorted((HERE / "recorded").glob("*.json.gz"))
    }
    gc.freeze()
    places = {number: Place(mutation.subject, mutation.episode) for number, mutation in enumerate(MUTATIONS)}
    for number in numbers:
        child = os.fork()
        if child == 0:
            if number == "none":
                outcome = found(records, sorted(set(places.values())))
            else:
                sys.meta_path.insert(0, Planter(MUTATIONS[int(number)]))
                outcome = found(records, [places[int(number)]])
            print(f"{number}: {outcome}", flush=True)
            # Exit without waiting for threads of the mock.
            os._exit(0)
        if code := os.waitpid(child, 0)[1]:
            sys.exit(f"{number}: ended with {os.waitstatus_to_exitcode(code)}")


if __name__ == "__main__":
    main()
