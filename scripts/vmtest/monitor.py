# SPDX-License-Identifier: MIT
"""A client of QEMU's monitor (QMP)."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from vmtest.lines import Lines
from vmtest.problems import Problem


class MonitorError(Problem):
    """QEMU's monitor refused a command, or did not answer in time."""


class Monitor:
    """A QMP client on a connected socket. The first command opens the session.

    :param timeout: seconds to wait for each answer
    """

    def __init__(self, connection: socket.socket, timeout: float = 10) -> None:
        self._connection, self._timeout = connection, timeout
        self._lines = Lines(connection)
        self._number = 0
        self._begun = False

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return the answer.

        :raises MonitorError: QEMU refused, or did not answer in time
        """
        if not self._begun:
            self._begun = True
            self.execute("qmp_capabilities")
        self._number += 1
        request = {"execute": command, "arguments": arguments, "id": self._number}
        limit = time.monotonic() + self._timeout
        try:
            self._connection.settimeout(self._timeout)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            # Skip the greeting, events, and late answers to earlier commands.
            while (answer := json.loads(self._lines.read(limit))).get("id") != self._number:
                pass
        except OSError as error:
            raise MonitorError(f"QEMU's monitor does not answer {command}: {error}") from error
        if "error" in answer:
            raise MonitorError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def execute_human(self, line: str) -> str:
        """Execute a command of the human monitor and return the answer.

        :raises MonitorError: QEMU did not answer in time
        """
        return str(self.execute("human-monitor-command", **{"command-line": line})).replace("\r\n", "\n")
