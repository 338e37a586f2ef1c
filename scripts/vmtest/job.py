# SPDX-License-Identifier: MIT
"""A job: a command that runs in its own process group, with its output shown line by line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Seconds between SIGTERM and SIGKILL when a job is ended.
GRACE = 10.0
#: Seconds to wait for the end of the output after the command has ended: a process that it left behind may hold the
#: pipe open.
AFTERMATH = 2.0
#: Seconds to wait for a process to end after SIGKILL; a busy host may delay the end.
LAST_WAIT = 60.0
#: Width of the prefixes in front of lines of output.
WIDTH = 27


class Job:
    """A command in its own process group. All processes of the group end with the command.

    :param prefix: text to put in front of each line of output; empty to show lines unchanged
    :param log: a file for the output; without `echo` the output is written nowhere else
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        prefix: str | None = None,
        log: Path | None = None,
        echo: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [str(word) for word in command]
        self._prefix = "" if prefix is None else f"{prefix:<{WIDTH}} | "
        self._log = log
        self._echo = echo
        self._environment = {**os.environ, **(environment or {})}

    async def run(self) -> int:
        """Run the command and return its exit code, negative for a signal.

        If the call is cancelled, the whole process group is ended. When the command returns, so are processes that it
        left running.
        """
        # Our own pipe: with a pipe of asyncio, wait() would return only after the pipe is closed, not when the process
        # ends.
        reading, writing = os.pipe()
        stream = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", 0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=writing, stderr=writing, env=self._environment,
                process_group=0,
            )  # fmt: skip
        except OSError:
            transport.close()
            raise
        finally:
            os.close(writing)
        reader = asyncio.ensure_future(self._show(stream))
        try:
            code = await process.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reader), AFTERMATH)
            return code
        finally:
            await _end_group(process)
            # Let asyncio notice the end of the process before its event loop is closed.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), AFTERMATH)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader, AFTERMATH)
            transport.close()

    async def _show(self, stream: asyncio.StreamReader) -> None:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log.open("ab")) if self._log else None
            while line := await _read_line(stream):
                if log:
                    log.write(line)
                    log.flush()
                if self._echo and (line.strip() or not self._prefix):
                    print(self._prefix + line.decode(errors="replace").rstrip("\r\n"), flush=True)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(error.consumed)


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End every process of the group: by SIGTERM, and after GRACE seconds by SIGKILL."""
    for number, limit in ((signal.SIGTERM, GRACE), (signal.SIGKILL, LAST_WAIT)):
        if not _is_running(process.pid):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = asyncio.get_running_loop().time() + limit
        while _is_running(process.pid) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)


def _is_running(group: int) -> bool:
    """Whether a process of the group runs. kill(2) is no use: it counts zombies, which some containers never reap."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(number) == group and state not in "ZX":
                    return True
    return False
