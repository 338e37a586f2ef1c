# SPDX-License-Identifier: MIT
"""Say whether ranges of IOVAs may be mapped for a device, and if not why, and what is near.

Without ranges: list what may be mapped. All is computed from sysfs: the reserved regions of the IOMMU group, and the width of
an Intel IOMMU. With --open the kernel's own list of usable ranges is used. The exit code is 1 if a range may not be mapped."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, NamedTuple

from pyvfio.cli import addresses, exit_code, session
from pyvfio.cli.call import Call
from pyvfio.cli.numbers import iova_range
from pyvfio.cli.output import address
from pyvfio.errors import Unsupported
from pyvfio.host.examination import unmappable
from pyvfio.iova import WHOLE, IovaRange, IovaSet
from pyvfio.spaces.refusals import HOLES


class _Usable(NamedTuple):
    """The usable ranges, their source, the page size, and the unusable ranges, each with the reason."""

    source: str
    ranges: IovaSet
    page_size: int
    kept: list[tuple[IovaRange, str]]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument(
        "range",
        metavar="RANGE",
        nargs="*",
        type=iova_range,
        help="START+SIZE or START-LAST: 0x100000+2M; an address alone stands for its page of 4 KiB",
    )
    parser.add_argument("--open", action="store_true", help=f"ask the kernel. {session.OPENING}")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Answer for each range, or list the usable ones."""
    usable = _by_opening(call) if call.arguments.open else _by_sysfs(call)
    answers = [_answer(usable, one) for one in call.arguments.range]
    if call.out.json:
        call.out.document(
            {
                "source": usable.source,
                "usable": [_document(one) for one in usable.ranges],
                "page_size": usable.page_size,
                "ranges": answers,
            }
        )
    else:
        _print(call, usable, answers)
    return exit_code.DONE if all(one["mappable"] for one in answers) else exit_code.FAILED


def _by_opening(call: Call) -> _Usable:
    with session.opened(call) as device:
        space = device.address_space
        ranges = space.iova_ranges
        sizes = space.page_sizes
        kept = list(unmappable(call.kernel, [addresses.device(call.kernel, device.address)]))
        if ranges is None:
            raise Unsupported(f"{device.address}: the kernel does not say which IOVAs are usable")
    return _Usable(space.mode, ranges, sizes & -sizes or 4096, [(IovaRange(*one[:2]), one[2]) for one in kept])


def _by_sysfs(call: Call) -> _Usable:
    found = addresses.device(call.kernel, call.arguments.address)
    kept = [(IovaRange(start, last), what) for start, last, what in unmappable(call.kernel, [found])]
    taken = IovaSet([range_ for range_, _ in kept])
    return _Usable("sysfs", taken.complement(WHOLE), 4096, kept)


def _answer(usable: _Usable, wanted: IovaRange) -> dict[str, Any]:
    reason = None
    if wanted.start % usable.page_size or wanted.size % usable.page_size:
        reason = f"start and size have to be multiples of the page size, {usable.page_size:#x}"
    elif usable.ranges.holding(wanted) is None:
        crossed = [_named(range_, what) for range_, what in usable.kept if range_.overlaps(wanted)]
        reason = f"it crosses {', '.join(crossed)}" if crossed else "the kernel's usable ranges do not have it whole"
    nearest = [] if reason is None else usable.ranges.nearest(wanted, usable.page_size)
    return {
        **_document(wanted),
        "mappable": reason is None,
        "reason": reason,
        "nearest": [_document(one) for one in nearest],
    }


def _named(range_: IovaRange, what: str) -> str:
    """Describe an unusable range, with the name of a known hole, as the library's errors do."""
    return ", ".join([what, *(name for hole, name in HOLES if hole == range_)])


def _document(range_: IovaRange) -> dict[str, str | None]:
    return {"start": address(range_.start), "last": address(range_.last)}


def _print(call: Call, usable: _Usable, answers: list[dict[str, Any]]) -> None:
    out = call.out
    if not answers:
        out.line(
            f"usable, by {usable.source}:"
            + ("" if usable.source != "sysfs" else " (the IOMMU's width may end it earlier)")
        )
        for one in usable.ranges:
            out.line(f"  {one.start:#x}-{one.last:#x}")
        return
    for answer in answers:
        text = f"{answer['start']}-{answer['last']}: "
        if answer["mappable"]:
            out.line(f"{text}yes")
            continue
        out.line(f"{text}no: {answer['reason']}")
        if answer["nearest"]:
            out.line("  near: " + ", ".join(f"{one['start']}-{one['last']}" for one in answer["nearest"]))
