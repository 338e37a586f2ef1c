# SPDX-License-Identifier: MIT
"""The base class of the generators of episodes: random choices from a seed, and short methods for steps."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from pyvfio._abi import ffi
from tests.differential.steps import PAGE, Episode, Step

T = TypeVar("T")


class Maker:
    """A builder of one episode."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.steps: Episode = []

    def chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    def a_request(self, *requests: str | int) -> str | int:
        """Choose a request, given by name or, if it has none, by number."""
        return self.random.choice(requests)

    def one_of(self, *values: T) -> T:
        return self.random.choice(values)

    def step(self, do: str, **fields: Any) -> None:
        step: Step = {"do": do, **fields}
        self.steps.append(step)

    def ioctl(
        self,
        slot: str,
        request: str | int,
        struct: str | None,
        values: Any = None,
        *,
        extra: bytes = b"",
        **fields: Any,
    ) -> None:
        """Make a request with a struct as its argument; sometimes with an argument that cannot be read or written."""
        data = b"" if struct is None else bytes(ffi.buffer(ffi.new(f"{struct} *", values or {})))
        arg = data + extra
        if self.chance(0.4):
            # NULL, unmapped addresses, and addresses in the kernel's half.
            self.step("ioctl", slot=slot, request=request, value=self.one_of(0, 0x1000, 1 << 46, 1 << 63, 2**64 - 4096))
            return
        if self.chance(0.7) and len(arg) <= PAGE:
            # The kernel cannot write its answer, so do not take new descriptors or ids from it.
            fields = {key: value for key, value in fields.items() if key not in ("take", "keep")} | {"readonly": True}
        self.step("ioctl", slot=slot, request=request, arg=arg.hex(), **fields)

    def argsz(self, size: int, *others: int) -> int:
        """Return a value for an argsz field, which is nearly always right."""
        if self.chance(93):
            return size
        return self.one_of(0, size - 1, size + 1, size + 64, 4, 8, size - 4, 0xFFFFFFFF, *others)

    def pages(self, count: int) -> int:
        return PAGE * self.random.randrange(count)


def offset(struct: str, field: str) -> int:
    return int(ffi.offsetof(struct, field))
