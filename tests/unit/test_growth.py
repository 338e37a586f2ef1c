# SPDX-License-Identifier: MIT
"""The number of steps of scripts/bench_growth's computations grows in proportion to the input, or a little more.

Steps are bytecode instructions, so the result does not depend on the load of the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


def benchmark() -> Any:
    """Load the benchmark as a module, although its file name has no suffix."""
    path = Path(__file__).parents[2] / "scripts" / "bench_growth"
    spec = spec_from_loader("bench_growth", SourceFileLoader("bench_growth", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    sys.modules["bench_growth"] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = benchmark()
CASES: dict[str, Callable[[int], Callable[[], object]]] = BENCHMARK.CASES
FEW, MANY = 40, 320


def steps(work: Callable[[], object]) -> int:
    """Return the number of bytecode instructions that a call executes."""
    count = 0

    def instruction(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "opcode"
        return instruction

    def called(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return instruction

    outer = sys.gettrace()
    sys.settrace(called)
    try:
        work()
    finally:
        sys.settrace(outer)
    return count


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close the devices that a case has opened."""
    yield
    BENCHMARK.close_devices()


@pytest.mark.parametrize("name", CASES)
def test_no_computation_takes_quadratic_steps(name: str) -> None:
    # Run twice for the small size: in the first traced run, Python 3.12 and 3.13 do not report all instructions.
    _, few, many = (steps(CASES[name](size)) for size in (FEW, FEW, MANY))
    # The input is eight times as large. The logarithmic factor of sorts does not count, because sorting is native code.
    assert many < 1.5 * MANY / FEW * (few + 500), f"{few} steps for {FEW}, {many} for {MANY}"


def test_steps_show_what_is_quadratic() -> None:
    def work(size: int) -> Callable[[], object]:
        return lambda: [one for one in range(size) if all(other != one for other in range(one))]

    assert steps(work(320)) > 50 * steps(work(40))
