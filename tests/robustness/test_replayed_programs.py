# SPDX-License-Identifier: MIT
"""A replay makes the requests of the traced program: the same ones with the same fields, in order, with the same results.

The programs are those of test_request_answers, and one with a hot reset. The replay runs on a new kernel, where descriptors have other
numbers, and is traced too, so that both traces can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import pyvfio
from pyvfio import host, mock, tracing
from pyvfio.tracing.replay import Replay
from tests.robustness.test_request_answers import ALL, Program, requests, same

#: Two functions of one card, which a hot reset resets together.
FUNCTIONS = ("0000:01:00.0", "0000:01:00.1")
#: Programs whose requests depend on more than requests: migration data, contents of memory, IOVAs that follow from addresses in the process.
OTHERWISE = {"save_and_load", "registers_and_interrupts", "attachments"}


def _hot_reset() -> Program:
    kernel = mock.Kernel("intel-48")
    mock.Device(kernel, FUNCTIONS[1], parent="0000:00:08.0", driver="vfio-pci")

    def run() -> None:
        with (
            host.bind(FUNCTIONS[0], "vfio-pci", kernel=kernel),
            pyvfio.address_space("type1v2", kernel=kernel) as space,
            space.attach(FUNCTIONS[0]) as first,
            space.attach(FUNCTIONS[1]),
        ):
            first.hot_reset()

    return run, lambda: None, kernel


PROGRAMS: dict[str, Callable[[], Program]] = {
    **{name: program for name, program in ALL.items() if name not in OTHERWISE},
    "hot_reset": _hot_reset,
}


def _traced(file: Path, run: Callable[[], object]) -> list[str]:
    """Run a function, and return its requests."""
    with tracing.trace(file):
        run()
    return [same(line) for line in requests(tracing.load(file)) if " on " in line]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_replay_makes_the_same_requests(tmp_path: Path, name: str) -> None:
    run, end, _ = PROGRAMS[name]()
    first = _traced(tmp_path / "first.json", run)
    end()
    held = [os.dup(0) for _ in range(9)]
    try:
        _, end, kernel = PROGRAMS[name]()
        replay = Replay(kernel)
        events = tracing.load(tmp_path / "first.json")
        differences: list[object] = []
        second = _traced(tmp_path / "second.json", lambda: differences.extend(replay.run(events)))
        end()
    finally:
        for number in held:
            os.close(number)
    assert [str(one) for one in differences] == []
    assert second == first
    assert len(second) == replay.made
    assert [line for line in replay.skipped if "no request gave" not in line] == []
