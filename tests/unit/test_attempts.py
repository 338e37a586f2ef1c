# SPDX-License-Identifier: MIT
"""Series of actions that are all tried: which are called again, which exception is raised, and what its notes say."""

from __future__ import annotations

import pytest

from pyvfio._core.resource import Attempts


class Action:
    """A function that raises one of its outcomes at each call; None stands for success."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if (outcome := self.outcomes.pop(0)) is not None:
            raise outcome


def test_what_succeeds_is_called_once() -> None:
    attempts, action = Attempts(), Action(None)
    assert attempts.do(action)
    assert (action.calls, attempts.failures) == (1, [])
    attempts.raise_first("closing it")


def test_a_failure_is_kept_and_not_tried_again() -> None:
    attempts, failure = Attempts(), OSError("first")
    action = Action(failure)
    assert not attempts.do(action)
    assert action.calls == 1
    with pytest.raises(OSError, match="first") as caught:
        attempts.raise_first("closing it")
    assert caught.value is failure


def test_what_an_interrupt_ended_is_called_again() -> None:
    attempts, action = Attempts(), Action(KeyboardInterrupt(), None)
    assert attempts.do(action)
    assert action.calls == 2
    assert [type(one) for one in attempts.failures] == [KeyboardInterrupt]


def test_a_second_end_is_kept_too() -> None:
    attempts, action = Attempts(), Action(KeyboardInterrupt(), OSError("second"))
    assert not attempts.do(action)
    assert [type(one) for one in attempts.failures] == [KeyboardInterrupt, OSError]
    with pytest.raises(KeyboardInterrupt) as caught:
        attempts.raise_first("closing it")
    assert caught.value.__notes__ == ["while closing it, besides: OSError('second')"]


@pytest.mark.parametrize("done", [True, False])
def test_an_action_that_was_done_is_not_repeated(done: bool) -> None:
    attempts, action = Attempts(), Action(KeyboardInterrupt(), None)
    assert attempts.do(action, lambda: done)
    assert action.calls == (1 if done else 2)


def test_an_inner_series_that_was_interrupted_is_not_tried_again() -> None:
    """The inner series has already tried all of its actions itself."""
    inner_calls = 0

    def inner() -> None:
        nonlocal inner_calls
        inner_calls += 1
        series = Attempts()
        series.do(Action(KeyboardInterrupt(), None))
        series.raise_first("closing the inner one")

    attempts = Attempts()
    assert not attempts.do(inner)
    assert inner_calls == 1


def test_an_interrupt_precedes_the_failures_before_it() -> None:
    attempts = Attempts()
    attempts.do(Action(ValueError("one")))
    attempts.do(Action(OSError("two")))
    with pytest.raises(ValueError, match="one") as caught:
        attempts.raise_first("closing it")
    assert caught.value.__notes__ == ["while closing it, besides: OSError('two')"]
    attempts.do(Action(SystemExit(3), None))
    with pytest.raises(SystemExit):
        attempts.raise_first("closing it")
