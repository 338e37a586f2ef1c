# SPDX-License-Identifier: MIT
"""Enable interrupts of a device and print them as they come, until Ctrl-C, --count or --timeout.

A freshly opened device sends none by itself: `req` comes when the kernel wants the device back, --driver makes the device send
some, and --trigger fires them in software."""

from __future__ import annotations

import errno
import select
import time
from argparse import ArgumentParser
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pyvfio.cli import addresses, exit_code, session
from pyvfio.cli.call import Call, UsageError
from pyvfio.cli.steps import Session
from pyvfio.conformance.driver import driving
from pyvfio.kernel import LinuxKernel

if TYPE_CHECKING:
    from pyvfio import Vector


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument(
        "kind", metavar="KIND", nargs="?", default="msi", help="intx, msi, msix, err, req, or a number; default: msi"
    )
    parser.add_argument(
        "--vectors", type=int, default=1, metavar="NUMBER", help="how many vectors, from 0; 0 for all (%(default)s)"
    )
    parser.add_argument("--count", type=int, metavar="NUMBER", help="end after so many interrupts")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="end after so long without an interrupt, with exit code 1"
    )
    parser.add_argument(
        "--trigger", type=int, default=0, metavar="NUMBER", help="fire each vector so often in software"
    )
    parser.add_argument(
        "--driver",
        metavar="MODULE:CLASS",
        help="a driver whose send_msi() is called for each interrupt that is awaited",
    )
    session.add_options(parser)


def execute(call: Call) -> int:
    """Print the interrupts."""
    given = call.arguments
    if given.count is not None and given.count < 1:
        raise UsageError("--count must be 1 or more")
    if given.vectors < 0:
        raise UsageError("--vectors must be 0 or more")
    seen = 0
    began = time.monotonic()
    with ExitStack() as stack:
        device = stack.enter_context(session.opened(call))
        driver = stack.enter_context(driving(given.driver, device)) if given.driver else None
        irq = Session(device).irq(given.kind)
        vectors = irq.enable(range(given.vectors)) if given.vectors else irq.enable_all()
        for vector in vectors:
            for _ in range(given.trigger):
                vector.trigger()
        with suppress(KeyboardInterrupt):
            while given.count is None or seen < given.count:
                if driver is not None:
                    driver.send_msi()
                fired = _wait(vectors, given.timeout, polled=not isinstance(call.kernel, LinuxKernel))
                if not fired:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"no interrupt within {given.timeout:g} seconds; {seen} came before"
                    )
                for vector, count in fired:
                    seen += count
                    at = time.monotonic() - began
                    if call.out.json:
                        event = {"interrupt": irq.name, "vector": vector.index, "count": count, "seconds": round(at, 6)}
                        call.out.event(event)
                    else:
                        call.out.live(f"{at:10.6f}  {irq.name}[{vector.index}]  {count}")
                    if irq.info.automasked:
                        vector.unmask()
    return exit_code.DONE


def _wait(vectors: list[Vector], timeout: float | None, *, polled: bool) -> list[tuple[Vector, int]]:
    """Wait for any of the vectors; return those that fired, with their counts, or an empty list after the timeout.

    :param polled: whether to ask each vector in turn: a kernel in this process may notice an interrupt only when it is asked
    """
    limit = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if limit is None else max(0.0, limit - time.monotonic())
        if not polled:
            poll = select.poll()
            for vector in vectors:
                poll.register(vector, select.POLLIN)
            poll.poll(None if left is None else left * 1000)
        fired = []
        for vector in vectors:
            with suppress(TimeoutError):
                fired.append((vector, vector.wait(0)))
        if fired or left == 0:
            return fired
        if polled:
            time.sleep(0.002)
