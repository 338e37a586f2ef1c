# SPDX-License-Identifier: MIT
"""The exit codes of scripts/vm, and the exception that ends it with one of them."""

from __future__ import annotations

import enum

from vmtest.problems import Problem


class ExitCode(enum.IntEnum):
    """Exit codes with which the machine reports a problem. Every other exit code is the command's own."""

    USAGE = 2
    KERNEL_COMPLAINED = 200
    TIME_LIMIT = 201
    MACHINE_FAILED = 202
    CANNOT_RUN = 203
    STALLED = 204


class MachineError(Problem):
    """The machine cannot run or did not run. The text is for the user."""

    def __init__(self, text: str, code: ExitCode) -> None:
        super().__init__(text)
        self.code = code
