# SPDX-License-Identifier: MIT
"""The number of steps of scripts/bench_growth's computations: in proportion to their input, or a little more.

Steps are instructions of Python, which no load of the machine changes.
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
    """Return the benchmark, which is no module by its name."""
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
    """Return how many instructions a call executes."""
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
    """Close what a case has opened."""
    yield
    BENCHMARK.close_devices()


@pytest.mark.parametrize("name", CASES)
def test_no_computation_takes_quadratic_steps(name: str) -> None:
    # Before the second run, Python 3.12 and 3.13 do not count all instructions of code that had not been traced.
    _, few, many = (steps(CASES[name](size)) for size in (FEW, FEW, MANY))
    # Eight times the input; the logarithm of a sort is not in it, which native code does.
    assert many < 1.5 * MANY / FEW * (few + 500), f"{few} steps for {FEW}, {many} for {MANY}"


def test_steps_show_what_is_quadratic() -> None:
    def work(size: int) -> Callable[[], object]:
        return lambda: [one for one in range(size) if all(other != one for other in range(one))]

    assert steps(work(320)) > 50 * steps(work(40))
