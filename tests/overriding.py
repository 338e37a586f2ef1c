# SPDX-License-Identifier: MIT
"""A mock with overridden answers to single requests, which can be answers that no real kernel gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyvfio import abi, mock
from pyvfio._abi import ffi
from pyvfio._core.request import DECLARED

#: A result or negative errno, or a function of the argument's address that returns one; None to let the mock answer.
Answer = int | Callable[[int], int | None]


class Overriding(mock.Kernel):
    """The mock, with answers that a test overrides.

    :ivar answers: the answers, by the name of a request or of an operation (`VFIO_DEVICE_FEATURE SET LOW_POWER_ENTRY`)
    :ivar calls: the names of the requests made so far
    """

    def __init__(self, which: str = "intel-39", **fields: Any) -> None:
        super().__init__(which, **fields)
        self.answers: dict[str, Answer] = {}
        self.calls: list[str] = []

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        name = operation = abi.name(self.files[fd].kind if fd in self.files else "closed", request)
        if (declared := DECLARED.get(name)) is not None and declared.tell is not None:
            operation = f"{name} {declared.tell(ffi.cast(f'{declared.struct} *', argument))}"
        self.calls.append(name)
        answer = self.answers.get(operation, self.answers.get(name))
        if callable(answer):
            answer = answer(argument)
        return super().ioctl(fd, request, argument) if answer is None else answer
