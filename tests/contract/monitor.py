# SPDX-License-Identifier: MIT
"""Use QEMU's monitor from inside the machine: to plug and unplug devices, and to inject errors."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORTS = Path("/sys/class/virtio-ports")


class Monitor:
    """A QMP client on a virtio port."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self._number = time.monotonic_ns()
        # An earlier test may have opened the session already.
        with contextlib.suppress(RuntimeError):
            self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return the answer.

        :raises RuntimeError: QEMU refused the command
        :raises TimeoutError: QEMU did not answer
        """
        self._number += 1
        request = {"execute": command, "arguments": arguments, "id": self._number}
        os.write(self._fd, json.dumps(request).encode() + b"\n")
        while (answer := json.loads(self._line())).get("id") != self._number:
            pass  # skip the greeting, events, and answers to commands of earlier tests
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, line: str) -> str:
        """Execute a command of the human monitor and return the answer."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            if not select.select([self._fd], [], [], 30)[0]:
                raise TimeoutError("QEMU's monitor does not answer")
            self._rest += os.read(self._fd, 1 << 16)
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextlib.contextmanager
def monitor() -> Iterator[Monitor]:
    # A port without a name has no file `name`.
    name = next(name for name in PORTS.glob("*/name") if name.read_text().strip() == "pyvfio.qmp")
    fd = os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Monitor(fd)
    finally:
        os.close(fd)
