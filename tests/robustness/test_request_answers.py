# SPDX-License-Identifier: MIT
"""Programs make the requests that were written down, and say what was written down when one of them fails.

The programs are those that the sweeps of this folder stop at each point. Each request has its fields, as a trace has them. Then each call of a program
fails in turn, and the text of what it raises is a line of answers/requests.NAME.txt. `PYVFIO_WRITE_ANSWERS=1 pytest tests/robustness -k answers`
writes them anew; look at what changed before you commit it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvfio import tracing
from tests.robustness.conftest import MODES
from tests.robustness.other_programs import PROGRAMS, Stage
from tests.robustness.program import FIRST, World
from tests.robustness.written import compare

ERRNOS = (errno.EINVAL, errno.EBUSY, errno.ENOTTY)
#: what is a number of this process
NUMBERS = ("user_va", "vaddr", "ranges", "bitmap")
#: name -> a program, its end, and its kernel
Program = tuple[Callable[[], object], Callable[[], object], Any]


def _typical(mode: Any) -> Program:
    world = World(mode)
    return world.run, world.close, world.kernel


def _other(program: Callable[[Stage], None]) -> Program:
    stage = Stage(*PROGRAMS[program])
    return lambda: program(stage), stage.left, stage.kernel


ALL: dict[str, Callable[[], Program]] = {
    **{mode: lambda mode=mode: _typical(mode) for mode in MODES},  # type: ignore[misc]  # the default is the mode
    **{program.__name__: lambda program=program: _other(program) for program in PROGRAMS},  # type: ignore[misc]  # as above
}


def same(text: str) -> str:
    """Replace what differs from run to run."""
    text = re.sub(r"0x[567][0-9a-f]{10,11}\b|(?<=ptr=)0x[0-9a-f]{5,}", "ADDRESS", text)
    text = re.sub(rf"\b{os.getpid()}\b", "PID", text)
    text = re.sub(r"(?<=iova=)0x[0-9a-f]{4,5}\b", "PLACED", text)
    return re.sub(r"(fd=|\b[Ff]d |descriptor )\d+", r"\1N", text)


def _fields(name: str, fields: dict[str, Any]) -> str:
    shown = []
    for key, value in fields.items():
        # iommufd places by the address in the process.
        placed = "IOAS" in name and key.endswith("iova") and isinstance(value, int) and value < FIRST
        if isinstance(value, dict):
            shown.append(f"{key}: {_fields(name, value)}")
            continue
        number = key in NUMBERS or key.endswith(("fd", "ptr")) or placed
        shown.append(f"{key}={'N' if number and value not in (0, -1) else value}")
    return ", ".join(shown)


def requests(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        name, args = event["name"], event.get("args", {})
        if event["ph"] == "C":
            yield f"  {name} {args}"
        elif "in" in args:
            result = args["result"] if not isinstance(args["result"], int) or args["result"] < 3 else "a number"
            out = f" -> {_fields(name, args['out'])}" if "out" in args else ""
            yield f"{name} on {args['on']}: {_fields(name, args['in'])}{out}; {result}"
        elif event["ph"] == "i":
            yield f"{name} {args.get('kind', '')}"


@pytest.mark.parametrize("name", ALL)
def test_programs_make_the_requests_that_were_written_down(tmp_path: Path, name: str) -> None:
    run, end, _ = ALL[name]()
    with tracing.trace(tmp_path / "trace.json"):
        run()
    end()
    found = json.loads((tmp_path / "trace.json").read_text())
    events = found if isinstance(found, list) else found["traceEvents"]
    lines = [same(line) for line in requests(events)]
    # Lines are compared by what they are, not by where: so each has its place.
    compare(f"requests.{name}", [f"{at:3} {line}" for at, line in enumerate(lines)])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ALL)
def test_programs_say_what_was_written_down_when_a_call_fails(name: str) -> None:
    lines = []
    answers: dict[str, list[str]] = {}
    at, left = 0, 0
    while not left:
        at += 1
        answers = {}
        for number in ERRNOS:
            run, end, kernel = ALL[name]()
            failure = kernel.failures.fail(number, nth=at)
            try:
                run()
                text = "goes on"
            except Exception as error:
                text = " | ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
            left = failure.left
            kernel.failures.clear()
            end()
            answers.setdefault(same(text).replace("\n", " "), []).append(errno.errorcode[number])
        lines += [f"call {at}, {' '.join(numbers)}: {text}" for text, numbers in answers.items()]
    compare(f"failures.{name}", lines[: -len(answers)])
