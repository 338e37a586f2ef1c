# SPDX-License-Identifier: MIT
"""Log which pages a device writes, and print them per interval, until Ctrl-C or --intervals.

Memory is allocated and mapped for it. A freshly opened device writes nothing: --driver names a class that makes it copy memory.
The log is the device's own where it has one; else the IOMMU's or, if nobody tracks, every page counts as dirty (`nobody`)."""

from __future__ import annotations

import errno
import sys
import time
from argparse import ArgumentParser
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from pyvfio.cli import addresses, exit_code, session
from pyvfio.cli.call import Call, UsageError
from pyvfio.cli.numbers import number, size
from pyvfio.cli.output import address
from pyvfio.conformance.driver import Copying, driving
from pyvfio.errors import Error, Unsupported
from pyvfio.iova import IovaRange

if TYPE_CHECKING:
    from pyvfio import Mapping

_BAR = 20
#: runs that are shown in a line of text
_SHOWN = 4


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("--size", type=size, default=2 << 20, metavar="SIZE", help="of the memory (2M)")
    parser.add_argument("--iova", type=number, metavar="IOVA", help="where it is mapped; default: where it fits")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two reports (%(default)s)"
    )
    parser.add_argument("--intervals", type=int, metavar="NUMBER", help="end after so many")
    parser.add_argument(
        "--driver",
        metavar="MODULE:CLASS",
        help="a driver that copies a page in each interval, to the next page each time",
    )
    parser.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="log the device of a program that has it open; takes --iova and --size. Its own log cannot start meanwhile",
    )
    session.add_options(parser)


def execute(call: Call) -> int:
    """Print the dirty pages."""
    given = call.arguments
    if not 0 <= given.interval < 1e6 or (given.intervals is not None and given.intervals < 1):
        raise UsageError("--interval must be 0 or more seconds, and --intervals 1 or more")
    if given.pid is not None:
        return _of_program(call)
    with ExitStack() as stack:
        device = stack.enter_context(session.opened(call))
        mapping = device.address_space.alloc(given.size, given.iova)
        driver = stack.enter_context(driving(given.driver, device)) if given.driver else None
        if driver is not None and device.info.is_pci:
            device.set_bus_master(True)
        tracker = stack.enter_context(device.address_space.track_dirty([mapping.range]))
        pages = mapping.size // tracker.page_size
        if not call.out.json:
            call.out.live(
                f"{pages} pages of {tracker.page_size} bytes at {mapping.iova:#x}, tracked by {tracker.source}"
                + ("" if driver else "; without --driver nothing makes the device write")
            )
        with suppress(KeyboardInterrupt):
            index = 0
            while given.intervals is None or index < given.intervals:
                if driver is not None:
                    _copy(driver, mapping, index, tracker.page_size)
                time.sleep(given.interval)
                report = tracker.read()
                _report(
                    call, index, report.count(), pages, [(one.start, one.last) for one in report.runs()], tracker.source
                )
                index += 1
    return exit_code.DONE


def _of_program(call: Call) -> int:
    """Print the dirty pages of a device that another program has open, from a log that this command starts.

    If the other program has a log, it is not read: a report clears the log, and the program's migration would lose pages. The kernel
    refuses a second log.
    """
    given = call.arguments
    if given.iova is None or given.driver:
        raise UsageError("--pid takes --iova and --size, which the program has mapped, and no --driver")
    found = addresses.device(call.kernel, given.address)
    with session.taken(call, found) as device:
        with suppress(Unsupported):
            if (state := device.migration.state.name) != "RUNNING":
                raise Error(errno.EBUSY, f"{device.address} is being migrated: it is in {state}; its log is left alone")
        try:
            log = device.dirty_log([IovaRange.of(given.iova, given.size)])
        except OSError as error:
            error.add_note("if the program logs already (a migration), its log is left alone")
            raise
        with log, suppress(KeyboardInterrupt):
            print(f"pyvfio: while this runs, process {given.pid} cannot start a log (a migration)", file=sys.stderr)
            pages = given.size // log.page_size
            index = 0
            while given.intervals is None or index < given.intervals:
                time.sleep(given.interval)
                report = log.read()
                _report(call, index, report.count(), pages, [(one.start, one.last) for one in report.runs()], "device")
                index += 1
    return exit_code.DONE


def _copy(driver: Copying, mapping: Mapping, index: int, page: int) -> None:
    """Make the device write one page, each time another one."""
    pages = mapping.size // page
    if pages < 2:
        raise UsageError("--size must be two pages or more, to copy between")
    target = 1 + index % (pages - 1)
    mapping.buffer.view[:8] = index.to_bytes(8, "little")
    driver.copy(mapping.iova + target * page, mapping.iova, page)


def _report(call: Call, index: int, count: int, pages: int, runs: list[tuple[int, int]], source: str) -> None:
    if call.out.json:
        shown: list[dict[str, Any]] = [{"start": address(start), "last": address(last)} for start, last in runs]
        call.out.event({"interval": index, "dirty": count, "pages": pages, "source": source, "runs": shown})
        return
    filled = -(-count * _BAR // pages) if pages else 0
    text = ", ".join(f"{start:#x}-{last:#x}" for start, last in runs[:_SHOWN]) + (", ..." if len(runs) > _SHOWN else "")
    call.out.live(f"{index:4}  {count:6}  [{'#' * filled:<{_BAR}}]  {text}".rstrip())
