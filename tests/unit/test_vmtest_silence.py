# SPDX-License-Identifier: MIT
"""A machine without a sign of life: the measured time, and the answers of QEMU's monitor."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vmtest.monitor import Monitor, MonitorError
from vmtest.silence import TICK, Silence
from vmtest.state import describe_state


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pass_time(clock: Clock, silence: Silence, seconds: int) -> bool:
    """Check once in each tick, and return whether the silence became too long."""
    for _ in range(seconds):
        clock.now += TICK
        if silence.is_too_long():
            return True
    return False


def test_silence_is_too_long_at_its_limit(clock: Clock) -> None:
    silence = Silence(60, clock)
    assert not pass_time(clock, silence, 59)
    assert pass_time(clock, silence, 1)


def test_a_sign_of_life_ends_silence(clock: Clock) -> None:
    silence = Silence(60, clock)
    pass_time(clock, silence, 59)
    silence.end()
    assert not pass_time(clock, silence, 59)
    assert pass_time(clock, silence, 1)


def test_time_in_which_this_process_did_not_run_is_no_silence(clock: Clock) -> None:
    silence = Silence(60, clock)
    pass_time(clock, silence, 30)
    clock.now += 3600
    assert not silence.is_too_long()
    assert pass_time(clock, silence, 28)


def test_signs_that_come_late_on_a_busy_host_are_signs(clock: Clock) -> None:
    silence = Silence(60, clock)
    for _ in range(20):
        assert not pass_time(clock, silence, 45)
        silence.end()


Answers = Callable[[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Monitor]]:
    """A function that returns a monitor with given answers."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answers: Answers, timeout: float = 60) -> Monitor:
        ours, theirs = socket.socketpair()
        opened.append(ours)

        def run() -> None:
            # A monitor that waits no longer may close its end before this thread has said anything.
            with contextlib.suppress(OSError), theirs, theirs.makefile("rw") as file:
                file.write('{"QMP": {}}\n{"event": "RESET"}\n')
                file.flush()
                for line in file:
                    request = json.loads(line)
                    answer = answers(request["execute"], request["arguments"])
                    if answer:
                        file.write(json.dumps(answer | {"id": request["id"]}) + "\n")
                        file.flush()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return Monitor(ours, timeout)

    yield start
    for connection in opened:
        connection.close()
    for thread in threads:
        thread.join()


def test_monitor_begins_the_session_and_skips_events(serve: Callable[..., Monitor]) -> None:
    commands: list[str] = []

    def answers(command: str, _: dict[str, Any]) -> dict[str, Any]:
        commands.append(command)
        return {"return": {"status": "paused"}}

    monitor = serve(answers)
    assert monitor.execute("query-status") == {"status": "paused"}
    monitor.execute("query-status")
    assert commands == ["qmp_capabilities", "query-status", "query-status"]


def test_monitor_raises_what_qemu_refuses(serve: Callable[..., Monitor]) -> None:
    monitor = serve(
        lambda command, _: {"return": {}} if command == "qmp_capabilities" else {"error": {"desc": "not known"}}
    )
    with pytest.raises(MonitorError, match="nonsense: not known"):
        monitor.execute("nonsense")


def test_monitor_does_not_wait_for_ever(serve: Callable[..., Monitor]) -> None:
    monitor = serve(lambda command, _: {"return": {}} if command == "qmp_capabilities" else {})
    monitor.execute("qmp_capabilities")
    monitor._timeout = 0.1
    with pytest.raises(MonitorError, match="does not answer query-status"):
        monitor.execute("query-status")


def test_state_has_registers_and_interrupt_controllers(serve: Callable[..., Monitor]) -> None:
    human = {
        "info registers -a": "CPU#0\nRAX=1 RBX=2\nFPR0=0 0\nRIP=ffff RFL=2 HLT=1\n",
        "info lapic 0": "dumping local APIC state for CPU 0\r\nIRR 236\r\n",
        "info pic": "pin 0 masked\npin 4 edge\n",
    }

    def answers(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "human-monitor-command":
            line = arguments["command-line"]
            return {"return": human.get(line, "00000000fed00010: 0x00000003 0x00000001\n")}
        return {
            "return": {"query-status": {"status": "running"}, "query-cpus-fast": [{"cpu-index": 0}]}.get(command, {})
        }

    lines = list(describe_state(serve(answers), os.getpid(), pause=0))
    assert lines.count("RIP=ffff RFL=2 HLT=1") == 2
    assert "IRR 236" in lines
    assert "pin 4 edge" in lines
    assert "pin 0 masked" not in lines
    assert not any("FPR0" in line for line in lines)
    assert any("counter 0x100000003" in line for line in lines)
    assert any(f"QEMU's thread {os.getpid()} " in line for line in lines)


def test_without_a_monitor_the_state_is_what_the_host_knows(
    serve: Callable[..., Monitor],
) -> None:
    lines = list(describe_state(serve(lambda *_: {}, timeout=0.1), os.getpid(), pause=0))
    assert lines[-1].startswith("QEMU's monitor does not answer qmp_capabilities")
    assert any(f"QEMU's thread {os.getpid()} " in line for line in lines)
