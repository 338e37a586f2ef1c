# SPDX-License-Identifier: MIT
"""Adapters, one for each operation of the vector file. An adapter turns the fields of an input into public calls, and the results
into fields.

An adapter gets a vector's input and its variant, but not the expected result. It may return more fields than are
expected.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable
from typing import Any

from pyvfio.guest import bars, limits, mapping, planning, qemu, reserved, sections, x86
from pyvfio.guest.qemu import iova_tree, layouts, virtio_iommu
from pyvfio.guest.qemu_release import NEWEST
from pyvfio.iova import WHOLE, IovaRange, IovaSet

Fields = dict[str, Any]
Adapter = Callable[[Fields, str], Fields]

ADAPTERS: dict[str, Adapter] = {}


def adapts(op: str) -> Callable[[Adapter], Adapter]:
    def register(function: Adapter) -> Adapter:
        ADAPTERS[op] = function
        return function

    return register


# Fields


def number(value: Any) -> int:
    """Convert an int or hexadecimal text, which may have a remark in brackets behind it."""
    return value if isinstance(value, int) else int(value.split()[0], 16)


def size_or_default(value: Any) -> int | None:
    """Convert a number; None for text that stands for a default."""
    return number(value) if isinstance(value, int) or str(value).startswith("0x") else None


def address(value: int) -> str:
    return f"0x{value:x}"


def range_of(pair: list[Any]) -> IovaRange:
    return IovaRange(number(pair[0]), number(pair[1]))


def ranges_of(given: Fields) -> list[IovaRange]:
    """Return the ranges in ``ranges`` (inclusive), or those that ``generate`` describes."""
    return [range_of(pair) for pair in given["ranges"]] if "ranges" in given else generated(given["generate"])


def generated(rule: Fields) -> list[IovaRange]:
    first, stride, length = number(rule["first_iova"]), number(rule["stride"]), number(rule["length"])
    return [IovaRange.of(first + i * stride, length) for i in range(number(rule["count"]))]


def pair(range_: IovaRange) -> list[str]:
    return [address(range_.start), address(range_.last)]


def pairs(ranges: Iterable[IovaRange]) -> list[list[str]]:
    return [pair(range_) for range_ in ranges]


def error(value: int) -> int | str:
    return "EOPNOTSUPP" if value == errno.EOPNOTSUPP else errno.errorcode[value] if value else 0


def error_number(value: Any) -> int:
    return getattr(errno, value) if isinstance(value, str) and hasattr(errno, value) else 0


def text(function: Callable[[Any], Any], value: Any) -> Any:
    """Call a function with a value. Return the result, or the message of a ValueError."""
    try:
        return function(value)
    except ValueError as refusal:
        return f"error: {refusal}"


# A: dirty-tracking ranges

ALGORITHMS = {
    "min32/min64": qemu.Algorithm.SPLIT_32_64,
    "min32/min64/minpci64": qemu.Algorithm.SPLIT_32_64_PCI,
    "brainstorm: every vfio-pci section to one pci range": qemu.Algorithm.ALL_PCI,
}


def section_of(given: Fields) -> sections.MemorySection:
    return sections.MemorySection(
        iova=number(given["offset_within_address_space"]),
        size=number(given["size"]),
        offset=number(given["offset_within_region"]),
        ram=given["is_ram"],
        iommu=given["is_iommu"],
        ram_device=given["is_ram_device"],
        protected=given["is_protected"],
        readonly=given["readonly"],
        discards=given["has_ram_discard_manager"],
        device="assigned" if given["owner_is_vfio_pci_in_container"] else "",
        owner=given.get("owner", ""),
    )


@adapts("dirty_ranges")
def dirty_ranges(given: Fields, variant: str) -> Fields:
    them = [section_of(each) for each in given["sections"]]
    # By default, vectors are for QEMU 10.2, which does not skip read-only sections yet.
    version = given.get("version", "10.2")
    tracked = qemu.track(them, ALGORITHMS[given["algorithm"]], given["page_size"], version=version)
    made: Fields = {
        "num_ranges": len(tracked.ranges),
        "ranges": [{"iova": address(iova), "length": address(length)} for iova, length in tracked.ranges],
        "update_traces": tracked.updates,
        "start_trace": tracked.start_line,
        "not_counted": [{"index": them.index(each.section), "reason": each.reason} for each in tracked.dropped],
        "kernel_start_errno": error(tracked.kernel_errno()),
    }
    try:
        tracked.prepare()
    except OSError as failure:
        made |= {
            "start_result": "error",
            "errno": error(failure.errno or 0),
            "message": failure.strerror,
            "ioctls": 0,
        }
    return made


@adapts("section_iova_range")
def section_iova_range(given: Fields, variant: str) -> Fields:
    pages = sections.trim(section_of(given["section"]), given["page_size"])
    if isinstance(pages, sections.Reason):
        return {"counted": False, "reason": str(pages)}
    return {"counted": True, "iova": address(pages.start), "end": address(pages.last)}


@adapts("dma_logging_start_request")
def dma_logging_start_request(given: Fields, variant: str) -> Fields:
    asked = [(number(iova), number(length)) for iova, length in given["ranges"]]
    request = qemu.StartRequest(asked, given["page_size"])
    return {
        "ioctl": address(qemu.VFIO_DEVICE_FEATURE),
        "argsz": request.argsz,
        "flags": address(request.flags),
        "control": request.control._asdict(),
        "range_bytes": request.range_bytes,
    }


@adapts("dma_logging_stop_request")
def dma_logging_stop_request(given: Fields, variant: str) -> Fields:
    request = qemu.StopRequest()
    return {
        "ioctl": address(qemu.VFIO_DEVICE_FEATURE),
        "argsz": request.argsz,
        "flags": address(request.flags),
    }


@adapts("dma_logging_report_request")
def dma_logging_report_request(given: Fields, variant: str) -> Fields:
    request = qemu.ReportRequest(number(given["iova"]), number(given["size"]), given["page_size"])
    return {
        "ioctl": address(qemu.VFIO_DEVICE_FEATURE),
        "argsz": request.argsz,
        "flags": address(request.flags),
        "report": {
            "iova": address(request.iova),
            "length": address(request.length),
            "page_size": request.page_size,
        },
        "bitmap_pages": request.bitmap.pages,
        "bitmap_bytes": request.bitmap.bytes,
    }


@adapts("bitmap_size")
def bitmap_size(given: Fields, variant: str) -> Fields:
    return qemu.bitmap_size(number(given["size"]), given["page_size"])._asdict()


@adapts("start_all")
def start_all(given: Fields, variant: str) -> Fields:
    devices = [
        qemu.Device(
            each["name"],
            each["dirty_tracking"],
            error_number(each.get("start")),
            error_number(each.get("stop")),
        )
        for each in given["devices"]
    ]
    started = qemu.start_all(devices, qemu.Era.SEED if variant == "seed" else qemu.Era.CURRENT)
    return {
        "calls": started.calls,
        "dirty_tracking": started.tracking,
        "result": started.ok,
        "message": "\n".join(started.messages),
        "warnings": started.warnings,
    }


@adapts("tracking_backend")
def tracking_backend(given: Fields, variant: str) -> Fields:
    devices = [
        qemu.Tracker(each["dirty_pages_supported"], each["device_dirty_page_tracking"]) for each in given["devices"]
    ]
    return {"backend": qemu.backend(devices, given["container_dirty_pages_supported"]).value}


@adapts("query_when_unsupported")
def query_when_unsupported(given: Fields, variant: str) -> Fields:
    answer = qemu.query(given["all_devices"], given["container"], number(given["ram_addr"]), number(given["size"]))
    return {
        "ioctls": answer.ioctls,
        "marks_dirty": [address(each) for each in answer.marked] if answer.marked else None,
    }


@adapts("kernel_logging_start")
def kernel_logging_start(given: Fields, variant: str) -> Fields:
    if "generate" in given:
        asked = [(each.start, each.size) for each in generated(given["generate"])]
    else:
        asked = [(number(iova), number(length)) for iova, length in given.get("ranges", [])]
    log_ops = all(given[field] for field in given if "log_ops" in field)
    page_size: int = given.get("page_size", 4096)
    host_page_size: int = given.get("host_page_size", 4096)
    return {"errno": error(limits.core_start(asked, page_size, host_page_size, log_ops=log_ops))}


@adapts("kernel_logging_report")
def kernel_logging_report(given: Fields, variant: str) -> Fields:
    iova, length = number(given.get("iova", 0)), number(given.get("length", 4096))
    return {"errno": error(limits.core_report(number(given["page_size"]), iova, length))}


@adapts("combine_ranges")
def combine_ranges(given: Fields, variant: str) -> Fields:
    return {"ranges": pairs(limits.combine(ranges_of(given), given["req_nodes"]))}


@adapts("mlx5_start")
def mlx5_start(given: Fields, variant: str) -> Fields:
    device = limits.mlx5(**given["caps"])
    answer = device.log_start(ranges_of(given))
    refused, total, log = answer.errno, answer.total, answer.log_space
    if "before the Feb 2023 fix" in variant:
        refused, total, log = limits.mlx5_start_as_merged(device, ranges_of(given))
    return {
        "device_ranges": pairs(answer.ranges),
        "total_len": address(total),
        "log_addr_space_size": log,
        "errno": error(refused),
    }


@adapts("mlx5_page_size")
def mlx5_page_size(given: Fields, variant: str) -> Fields:
    device = limits.mlx5(log_min_page_size=given["log_min_page_size"], log_max_page_size=given["log_max_page_size"])
    return {"selected": device.page_size(number(given["requested"]))}


@adapts("pds_start")
def pds_start(given: Fields, variant: str) -> Fields:
    answer = limits.pds(given["max_regions"]).log_start(ranges_of(given), given["page_size"])
    regions = [each._asdict() | {"dma_base": address(each.dma_base)} for each in limits.pds_regions(answer)]
    return {"errno": error(answer.errno), "regions": regions}


# B: the alternatives


@adapts("iova_tree_insert")
def iova_tree_insert(given: Fields, variant: str) -> Fields:
    tree = iova_tree.IovaTree()
    for each in given["existing"]:
        tree.insert(number(each["iova"]), number(each["size"]))
    new = given["map"]
    result = tree.insert(number(new["iova"]), number(new["size"]), iova_tree.Permission[new["perm"]])
    return {"ret": str(result), "errno": error(result.errno)}


@adapts("iova_tree_remove")
def iova_tree_remove(given: Fields, variant: str) -> Fields:
    tree = iova_tree.IovaTree()
    for each in map(range_of, given["existing"]):
        tree.insert(each.start, each.last - each.start)
    gone = range_of(given["remove"])
    tree.remove(gone.start, gone.last - gone.start)
    return {"left": [[address(entry.iova), address(entry.last)] for entry in tree]}


@adapts("wip_section_end")
def wip_section_end(given: Fields, variant: str) -> Fields:
    section = sections.MemorySection(number(given["offset"]), number(given["size"]))
    seen = iova_tree.wip_section(section, given["page_size"])
    return {
        "out_end": address(seen.out_end),
        "tree_size": address(seen.tree_size),
        "mapping_add_trace": seen.mapping_add,
        "range_variant_min": address(seen.range_min),
        "range_variant_max": address(seen.range_max),
    }


@adapts("collapse_to_limit")
def collapse_to_limit(given: Fields, variant: str) -> Fields:
    left = limits.combine(ranges_of(given), given["limit"])
    return {
        "ranges": pairs(left),
        "covered": address(sum(each.size for each in left)),
        "count": len(left),
        "first": pair(left[0]),
        "second": pair(left[1]) if len(left) > 1 else None,
        "last": pair(left[-1]),
    }


@adapts("split_at_gaps")
def split_at_gaps(given: Fields, variant: str) -> Fields:
    return {"ranges": pairs(planning.split_ranges_at_gaps(IovaSet(ranges_of(given)), number(given["min_gap"])))}


@adapts("single_range")
def single_range(given: Fields, variant: str) -> Fields:
    whole = planning.span(ranges_of(given))
    return {"range": pair(whole) if whole else None}


@adapts("collapse_retry")
def collapse_retry(given: Fields, variant: str) -> Fields:
    if "device" in given:
        device = limits.mlx5(log_max_addr_space=int(given["device"].removeprefix("mlx5 log_max ")))
    else:
        device = limits.Limits(max_ranges=given["device_accepts_at_most"])
    refusal = error_number(given["reject_errno"])
    asked = ranges_of(given)
    came = planning.start(
        planning.Plan(tuple(asked), IovaSet(asked), 4096),
        lambda plan: refusal if device.log_start(plan.ranges).errno else 0,
    )
    return {
        "attempts": list(came.tried),
        "final": pairs(came.plan.ranges) if came.plan else None,
        "errno": error(came.errno),
    }


@adapts("one_shot_listener")
def one_shot_listener(given: Fields, variant: str) -> Fields:
    listener = qemu.OneShotListener()
    made: Fields = {"region_del_callback": "region_del" in listener.callbacks}
    for event in given["events"]:
        if event == "register":
            listener.register()
        elif event == "unregister":
            listener.unregister()
        elif event.startswith("region_add"):
            listener.region_add(sections.MemorySection(0, 4096))
        elif event == "hotplug region_add":
            made["hotplug_counted"] = listener.region_add(sections.MemorySection(0x100000000, 4096))
    return made | {"ranges_fixed_at": listener.fixed_at}


@adapts("viommu_blocker")
def viommu_blocker(given: Fields, variant: str) -> Fields:
    spaces = given.get("container_address_spaces") or [given["address_space"]]
    version = given.get("version", "10.2")
    message = qemu.viommu_blocker(spaces, given.get("device") or given.get("name"), version=version)
    return {"blocked": message is not None, "message": message}


@adapts("viommu_max_iova_range")
def viommu_max_iova_range(given: Fields, variant: str) -> Fields:
    plan = planning.plan([], planning.max_iova(given["aw_bits"]))
    return {"ranges": pairs(plan.ranges), "mlx5_log": limits.MLX5.log_start(plan.ranges).log_space}


# C: spurious mappings, widths, the kernel's answers


@adapts("is_spurious")
def is_spurious(given: Fields, variant: str) -> Fields:
    return {"spurious": sections.is_spurious(number(given["offset_within_address_space"]))}


@adapts("bar_address")
def bar_address(given: Fields, variant: str) -> Fields:
    high = None if given["bar_high"] is None else number(given["bar_high"])
    low, size = number(given["bar_low"]), number(given["size"])
    where = bars.decode(low, high, size, memory_enabled=given["memory_enabled"])
    return {"mapped": where is not None, "range": pair(where) if where else None}


TRACE_HOST = mapping.Space(intel_width=48)
"""The host that the trace of 2014 was made on."""
BAR0 = 0x10


@adapts("seed_trace")
def seed_trace(given: Fields, variant: str) -> Fields:
    bar = bars.Bar(number(given["bar_low"]), number(given["bar_high"]), number(given["size"]))
    events = bars.replay(bar, [(number(where) - BAR0, number(value)) for where, value in given["writes"]])
    made: Fields = {"events": [str(event) for event in events], "dma_map": None}
    last = events[-1] if events else None
    if last and last.added and (variant == "seed" or not sections.is_spurious(last.range.start)):
        iova, size = last.range.start, last.range.size
        refused = mapping.type1_map(TRACE_HOST, iova, size, era=mapping.Era.BEFORE_5_4)
        made["dma_map"] = {"iova": address(iova), "size": address(size), "ret": -refused}
    return made


@adapts("dma_map_valid")
def dma_map_valid(given: Fields, variant: str) -> Fields:
    space = mapping.Space(usable=[range_of(each) for each in given["iova_list"]])
    return {"errno": error(mapping.type1_map(space, number(given["iova"]), number(given["size"])))}


@adapts("map_failure_policy")
def map_failure_policy(given: Fields, variant: str) -> Fields:
    policy = qemu.map_failure(
        ram_device=given["region"].startswith("ram_device"),
        at_init=given.get("when", "runtime") != "runtime",
        device=given.get("device", ""),
    )
    return policy._asdict()


@adapts("intel_map_width")
def intel_map_width(given: Fields, variant: str) -> Fields:
    return {"errno": error(mapping.intel_map(given["gaw"], number(given["iova"]), number(given["size"])))}


PAGE = 0x1000
OCCUPIED = mapping.Space(mapped=IovaSet([IovaRange.of(PAGE, PAGE)]))
RESERVING = mapping.Space(usable=IovaSet([IovaRange.of(0, PAGE)]))
TYPE1_CASES: dict[str, Callable[[], int]] = {
    "overlaps existing dma": lambda: mapping.type1_map(OCCUPIED, 0, 2 * PAGE),
    "no dma entries left": lambda: mapping.type1_map(mapping.Space(entries_left=0), 0, PAGE),
    "outside iova list": lambda: mapping.type1_map(RESERVING, PAGE, PAGE),
    "misaligned to smallest page size": lambda: mapping.type1_map(mapping.Space(), 1, PAGE),
    "neither READ nor WRITE": lambda: mapping.type1_map(mapping.Space(), 0, PAGE, read=False, write=False),
    "zero size": lambda: mapping.type1_map(mapping.Space(), 0, 0),
    "iova+size wraps": lambda: mapping.type1_map(mapping.Space(), -PAGE % 2**64, 2 * PAGE),
}
IOMMUFD_CASES: dict[str, Callable[[], int]] = {
    "iova misaligned": lambda: mapping.iommufd_map(mapping.Space(), 1, PAGE),
    "iova+length-1 overflows": lambda: mapping.iommufd_map(mapping.Space(), -PAGE % 2**64, 2 * PAGE),
    "intersects reserved iova": lambda: mapping.iommufd_map(RESERVING, 0, 2 * PAGE),
    "already mapped": lambda: mapping.iommufd_map(OCCUPIED, PAGE, PAGE),
}


@adapts("type1_map_errno")
def type1_map_errno(given: Fields, variant: str) -> Fields:
    return {"errnos": [error(TYPE1_CASES[case]()) for case in given["cases"]]}


@adapts("iommufd_map_errno")
def iommufd_map_errno(given: Fields, variant: str) -> Fields:
    return {"errnos": [error(IOMMUFD_CASES[case]()) for case in given["cases"]]}


@adapts("host_aw_bits")
def host_aw_bits(given: Fields, variant: str) -> Fields:
    return {"aw_bits": sections.address_width(IovaSet(map(range_of, given["iova_ranges"] or [])))}


@adapts("intel_iommu_check")
def intel_iommu_check(given: Fields, variant: str) -> Fields:
    message = qemu.width_refusal(given["viommu_aw_bits"], given["host_aw_bits"])
    return {"ok": message is None, "message": message}


# D: reserved regions


def regions_of(given: list[list[Any]]) -> list[reserved.ReservedRegion]:
    return [reserved.ReservedRegion(number(kind), number(start), number(last)) for kind, start, last in given]


def triples(regions: Iterable[reserved.ReservedRegion]) -> list[list[Any]]:
    return [[each.type, address(each.start), address(each.last)] for each in regions]


@adapts("inverse_ranges")
def inverse_ranges(given: Fields, variant: str) -> Fields:
    within = IovaRange(number(given["low"]), number(given["high"]))
    return {"ranges": pairs(IovaSet(ranges_of(given)).complement(within))}


@adapts("resolve_reserved")
def resolve_reserved(given: Fields, variant: str) -> Fields:
    return {"regions": triples(reserved.resolve(regions_of(given["inserts"])))}


def conveyance_of(variant: str) -> virtio_iommu.Conveyance:
    if "2023" in variant:
        return virtio_iommu.Conveyance.MEMORY_REGION_2023
    return virtio_iommu.Conveyance.SEED if "seed" in variant else virtio_iommu.Conveyance.CURRENT


FIRST_REGION_OF_THE_COVER_LETTER = 7
"""The number of the IOMMU memory region in the cover letter's example; a vector does not name it."""


def bdf_of(text_: str) -> reserved.Bdf:
    return reserved.Bdf.parse(text_.removeprefix("bus").replace("/", ":"))


@adapts("set_host_iova_ranges")
def set_host_iova_ranges(given: Fields, variant: str) -> Fields:
    viommu = virtio_iommu.VirtioIommu(conveyance=conveyance_of(variant), first_index=FIRST_REGION_OF_THE_COVER_LETTER)
    devices: dict[str, virtio_iommu.HostIommuDevice] = {}
    made: Fields = {"results": []}
    at = bdf_of("bus0/00.0")
    for step in given["steps"]:
        if "probe" in step:
            known = devices.get(step["probe"])
            viommu.probe(known.aliased if known else at)
            made["results"].append("probe")
        elif "unset" in step:
            viommu.unset_device(devices[step["unset"]])
            made["results"].append(None)
            made["after_unset"] = "host regions" if viommu.host_reserved(at) else "only property regions"
        else:
            name = step["set"]
            real = bdf_of(step["bdf"]) if "bdf" in step else reserved.Bdf(1 + sum(name.encode()) % 255, 0, 0)
            at = bdf_of(step["aliased"]) if "aliased" in step else real
            usable = IovaSet(map(range_of, step["usable"])) if "usable" in step else IovaSet([WHOLE])
            devices[name] = virtio_iommu.HostIommuDevice(name, real, at, usable, step.get("page_size_mask"))
            try:
                outcome = viommu.set_device(devices[name])
            except AssertionError as abort:
                made["results"].append(f"assertion {str(abort).replace('sdev->', '')}")
                continue
            made["results"].append(result_of(outcome))
            made["registered"] = outcome.registered
            made["page_size_mask_checked"] = outcome.page_sizes_checked
            if outcome.message:
                made["message"] = outcome.message
            if outcome.warning:
                made["warning"] = outcome.warning
    return made | {"host_resv": pairs(viommu.host_reserved(at)), "regions": triples(viommu.regions(at))}


def result_of(outcome: virtio_iommu.Outcome) -> int | str:
    if outcome.ok:
        return 0 if outcome.recorded else "true, nothing recorded"
    return error(outcome.errno) or "false"


@adapts("probe_fill")
def probe_fill(given: Fields, variant: str) -> Fields:
    reply = virtio_iommu.probe(regions_of(given["regions"]))
    return {"bytes_hex": reply.data.hex(), "status": reply.status.value}


@adapts("probe_capacity")
def probe_capacity(given: Fields, variant: str) -> Fields:
    one = reserved.ReservedRegion(reserved.RegionType.RESERVED, 0, 0xFFF)
    replies = [virtio_iommu.probe([one] * count, given["probe_size"]) for count in given["region_counts"]]
    return {"status": [reply.status.value for reply in replies]}


@adapts("page_size_mask")
def page_size_mask(given: Fields, variant: str) -> Fields:
    viommu = virtio_iommu.VirtioIommu(page_sizes=number(given["current"]))
    if given["granule_frozen"]:
        viommu.freeze_granule()
    name = given.get("name", "")
    at = reserved.Bdf(0, 0, 0)
    outcome = viommu.set_device(virtio_iommu.HostIommuDevice(name, at, at, IovaSet([WHOLE]), number(given["host"])))
    return {
        "ok": outcome.ok,
        "mask": address(viommu.page_sizes),
        "granule": address(reserved.granule(viommu.page_sizes)),
        "message": qemu.to_user(outcome.message) if outcome.message else None,
    }


@adapts("input_range")
def input_range(given: Fields, variant: str) -> Fields:
    asked = given["aw_bits"] if isinstance(given["aw_bits"], list) else [given["aw_bits"]]
    return {"end": [text(lambda bits: address(virtio_iommu.input_range(bits).last), each) for each in asked]}


@adapts("reserved_region_property")
def reserved_region_property(given: Fields, variant: str) -> Fields:
    return {
        "parsed": [text(lambda it: triples([virtio_iommu.parse_property(it)])[0], each) for each in given["strings"]]
    }


BDF = r"([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"


def path_of(words: str) -> tuple[reserved.Bdf, list[reserved.Bridge]]:
    device, *above = [reserved.Bdf.parse(each) for each in re.findall(BDF, words)]
    if "PCIe-to-PCI bridge" in words:
        secondary = re.search(r"secondary bus is (\d+)", words)
        bus = int(secondary[1]) if secondary else device.bus
        return device, [reserved.Bridge(reserved.BridgeKind.PCIE_TO_PCI, reserved.Bdf(0, 0, 0), bus)]
    if above:
        return device, [reserved.Bridge(reserved.BridgeKind.CONVENTIONAL, above[0], device.bus)]
    return device, [reserved.Bridge(reserved.BridgeKind.PCIE_PORT, reserved.Bdf(0, 0, 0), device.bus)]


@adapts("alias_bdf")
def alias_bdf(given: Fields, variant: str) -> Fields:
    return {"aliased": [str(reserved.aliased(*path_of(words))) for words in given["topology"]]}


@adapts("resv_lookup")
def resv_lookup(given: Fields, variant: str) -> Fields:
    them = regions_of(given["regions"])
    return {"result": [str(reserved.translate(them, number(each))) for each in given["addrs"]]}


# E: the AMD hole


def machine_of(given: Fields) -> x86.Machine:
    maxram = given.get("maxram_size")
    enforce = given.get("enforce_amd_1tb_hole", given.get("enforce_valid_iova", True)) is True
    return x86.Machine(
        ram_size=number(given["ram_size"]),
        board=x86.Board(given["board"]),
        maxram_size=None if maxram is None else number(maxram),
        slots=given.get("slots", 0),
        pci_hole64_size=size_or_default(given.get("pci_hole64_size")),
        phys_bits=given.get("phys_bits", 40),
        amd_cpu=given.get("amd_cpu", False),
        amd_host=given.get("amd_host", False),
        enforce_amd_1tb_hole=enforce,
        long_mode=given.get("long_mode", True),
        machine_type=given.get("machine_type"),
    )


def e820(layout: x86.Layout) -> list[list[Any]]:
    return [[address(each.start), address(each.size), each.type] for each in layout.e820]


@adapts("amd_1tb_merged")
def amd_1tb_merged(given: Fields, variant: str) -> Fields:
    layout = x86.merged(machine_of(given), version=given.get("version", NEWEST))
    made: Fields = {
        "below_4g_mem_size": address(layout.machine.below_4g),
        "above_4g_mem_size": address(layout.machine.above_4g),
        "max_used_gpa_before": address(layout.max_used_gpa_before),
        "above_4g_mem_start": address(layout.above_4g_start),
        "relocated": layout.relocated,
        "max_used_gpa": address(layout.max_used_gpa),
        "phys_bits": layout.machine.phys_bits,
        "e820": e820(layout),
        "pci_hole64_start": address(layout.pci_hole64_start),
    }
    if layout.device_memory:
        made["device_memory"] = [address(layout.device_memory.start), address(layout.device_memory.size)]
    if layout.error:
        made["error"] = layout.error
    return made


@adapts("amd_1tb_rfc")
def amd_1tb_rfc(given: Fields, variant: str) -> Fields:
    layout = layouts.rfc(machine_of(given))
    made: Fields = {
        "below_4g_mem_size": address(layout.machine.below_4g),
        "above_4g_mem_size": address(layout.machine.above_4g),
        "aliases": [
            [piece.name, *pair(piece.range), *pair(IovaRange.of(piece.offset, piece.range.size))]
            for piece in layout.ram[1:]
        ],
        "e820": e820(layout),
        "maxram_start": address(layout.above_4g_end),
        "above_1t_mem_size": address(layout.above_1t_size),
        "cmos_5b_5c_5d": list(layout.cmos),
        "pci_hole64_start": address(layout.pci_hole64_start),
    }
    if layout.device_memory:
        made["device_memory_base"] = address(layout.device_memory.start)
        made["device_memory_size"] = address(layout.device_memory.size)
    return made


@adapts("srat")
def srat(given: Fields, variant: str) -> Fields:
    nodes = [number(each) for each in given["nodes"]]
    below = number(given["below_4g_mem_size"])
    if "RFC" in variant:
        usable = layouts.RFC_AMD if given.get("amd_host", True) else layouts.RFC_OTHERS
        entries = layouts.srat_rfc(nodes, below, usable)
    else:
        entries = x86.srat(nodes, below, number(given["above_4g_mem_start"]))
    return {"entries": [[each.node, address(each.start), address(each.size)] for each in entries]}


@adapts("cmos_above_4g")
def cmos_above_4g(given: Fields, variant: str) -> Fields:
    return {"cmos_5b_5c_5d": list(x86.cmos_above_4g(number(given["above_4g_mem_size"])))}


@adapts("constants")
def constants(given: Fields, variant: str) -> Fields:
    return {
        "AMD_HT_START": address(x86.AMD_HT_START),
        "AMD_HT_END": address(x86.AMD_HT_END),
        "AMD_ABOVE_1TB_START": address(x86.AMD_ABOVE_1TB_START),
        "AMD_HT_SIZE": address(x86.AMD_HT_SIZE),
        "E820_RAM": x86.E820_RAM,
        "E820_RESERVED": x86.E820_RESERVED,
        "q35_hole64": address(x86.Q35_HOLE64),
        "i440fx_hole64": address(x86.I440FX_HOLE64),
    }


@adapts("seed_example")
def seed_example(given: Fields, variant: str) -> Fields:
    asked = IovaRange.of(number(given["iova"]), number(given["size"]))
    return {
        "end": address(asked.last),
        "gib": asked.size / x86.GIB,
        "crosses_ht": x86.crosses_hole(asked),
        "below_4g_if_total_is_1TiB": address(x86.TIB - asked.size),
    }


@adapts("ram_split")
def ram_split(given: Fields, variant: str) -> Fields:
    cases = [x86.ram_split(x86.Board(board), number(size)) for board, size in given["cases"]]
    return {"split": [[address(below), address(above)] for below, above in cases]}
