# SPDX-License-Identifier: MIT
"""Run single actions in other processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

#: Maximum number of forks until a child reaches its first statement.
TRIES = 3 if os.environ.get("PYVFIO_VM_QEMU") else 1


class Process:
    """A forked child.

    It inherits everything that is open, mapped BARs included, so it must not wait for these to be closed.

    Under QEMU 7.2's emulation, a child now and then dies of SIGSEGV in its first instructions, the fork handlers (seen
    at two unrelated places in hundreds of runs). Such a child has not begun its action, and another is forked instead.
    A child that dies later is not repeated.

    :ivar pid: its process id
    """

    def __init__(self, action: Callable[[], object]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._code: int | None = None
        for left in reversed(range(TRIES)):
            begun, begins = os.pipe()
            self.pid = os.fork()
            if self.pid == 0:
                os.write(begins, b"x")
                os.close(begins)
                _run(action)
            os.close(begins)
            with open(begun, "rb") as reader:
                has_begun = reader.read(1) == b"x"
            self._handle = os.pidfd_open(self.pid)
            if has_begun or not left or self.join(10) != -signal.SIGSEGV:
                return
            print(f"process {self.pid} died before its first statement; forking again", file=sys.stderr)
            os.close(self._handle)
            self._code = None

    def join(self, timeout: float) -> int:
        """Wait for the end of the process and return its exit code, negative for a signal.

        :raises TimeoutError: the process has not ended
        """
        if self._code is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} has not ended after {timeout:g} s")
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def kill(self) -> int:
        """Send SIGKILL, and return the exit code."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.join(60)


def _run(action: Callable[[], object]) -> NoReturn:
    """Run the action and end this process: with exit code 0, or with 1 after an exception."""
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def in_another_process(action: Callable[[], object]) -> Iterator[Process]:
    """Run an action in a forked process. Kill the process at the end of the block if it has not ended by then."""
    process = Process(action)
    try:
        yield process
    finally:
        process.kill()
        os.close(process._handle)


@contextlib.contextmanager
def holding(make: Callable[[], object]) -> Iterator[Process]:
    """Run a process that calls `make`, and keeps the result until it is killed at the end of the block."""
    reader, writer = os.pipe()

    def hold() -> None:
        _held = make()
        os.write(writer, b"x")
        signal.pause()

    with in_another_process(hold) as program:
        os.close(writer)
        with open(reader, "rb") as told:
            answer = told.read(1)
        assert answer == b"x", f"the process ended with {program.join(10)}"
        yield program


@contextlib.contextmanager
def writing(text: str, path: str | os.PathLike[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that writes to a file at once.

    The write may block as long as a device is open; the process itself has none open.
    """
    command = ["/bin/sh", "-c", 'echo; read -r _; printf %s "$1" > "$2"', "sh", text, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        try:
            # Wait until the shell has started, so that the write follows immediately.
            writer.stdout.readline()
            writer.stdin.write(b"\n")
            writer.stdin.flush()
            yield writer
        finally:
            writer.kill()
