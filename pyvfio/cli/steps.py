# SPDX-License-Identifier: MIT
"""The steps that `run` makes with an open device, one a line; `peek`, `poke`, `dump` and `config` are one of them each."""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvfio.cli import pci_registers
from pyvfio.cli.call import UsageError
from pyvfio.cli.expressions import evaluate, masked, register, seconds
from pyvfio.cli.opened_device import hexdump
from pyvfio.cli.output import address
from pyvfio.errors import Error, InvalidRequest

if TYPE_CHECKING:
    from pyvfio import Device, Irq, Mapping, Region, Vector

#: the default timeout of `poll` and `wait`, in seconds
TIMEOUT = 10.0


class Unmet(Error):
    """An `expect` that does not hold."""

    _errno = errno.EBADMSG


class Done(NamedTuple):
    """The result of a step: as JSON, and as text; the text may be empty."""

    document: dict[str, Any]
    text: str


class Session:
    """An open device, with the memory and the interrupts that the steps so far have made.

    :ivar names: the values of $NAME: the IOVAs of memory; `$?` is the value read last
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.names: dict[str, int] = {}
        self.memory: dict[str, Mapping] = {}

    def run(self, line: str) -> Done | None:
        """Make the step of a line; return None for an empty line or a comment.

        :raises UsageError: the line is malformed
        :raises OSError: the step failed
        """
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"{line.strip()}: {error}") from None
        return self.step(words[0], words[1:]) if words else None

    def step(self, name: str, words: Sequence[str]) -> Done:
        """Make a step, given its name and its words."""
        known = STEPS.get(name)
        if known is None:
            raise UsageError(f"{name!r} is not a step: one of {', '.join(STEPS)}")
        if not known.least <= len(words) <= known.most:
            raise UsageError(f"usage: {name} {known.usage}".rstrip())
        done = known.make(self, list(words))
        return Done({"step": name, **done.document}, done.text)

    # Lookup.

    def region(self, text: str) -> Region:
        """Return a region by name, in any case, or by number."""
        try:
            return self.device.regions[int(text) if text.isdecimal() else text]
        except (IndexError, ValueError) as error:
            raise UsageError(
                f"{text!r} is not a region of {self.device.address}, or @NAME of memory: {error}"
            ) from None

    def irq(self, text: str) -> Irq:
        """Return a kind of interrupt by name, in any case, or by number."""
        try:
            return self.device.irqs[int(text) if text.isdecimal() else text.replace("-", "")]
        except (IndexError, ValueError) as error:
            raise UsageError(f"{text!r} is not an interrupt of {self.device.address}: {error}") from None

    def vector(self, text: str) -> Vector:
        """Return an enabled vector: `msi` for its first, `msix[3]` for another."""
        kind, bracket, rest = text.partition("[")
        irq = self.irq(kind)
        number = evaluate(rest.removesuffix("]"), self.names, "a vector") if bracket else None
        for vector in irq.vectors:
            if number is None or vector.index == number:
                return vector
        raise UsageError(f"{text} is not enabled: `irq {kind}` enables it")

    def mapping(self, text: str) -> Mapping:
        """Return memory by @NAME."""
        if text[1:] not in self.memory:
            known = ", ".join(f"@{name}" for name in self.memory) or "none yet"
            raise UsageError(f"{text} is not known here; there is {known}: `alloc NAME SIZE` makes some")
        return self.memory[text[1:]]

    # Access.

    def load(self, where: str, offset: int, width: int) -> int:
        """Read a register of a region, or memory."""
        if where.startswith("@"):
            view = self._part(where, offset, width)
            return int.from_bytes(view, "little")
        return int(getattr(self.region(where), f"read{8 * width}")(offset))

    def store(self, where: str, offset: int, width: int, value: int) -> None:
        """Write a register of a region, or memory."""
        if where.startswith("@"):
            self._part(where, offset, width)[:] = value.to_bytes(width, "little")
        else:
            getattr(self.region(where), f"write{8 * width}")(offset, value)

    def _part(self, where: str, offset: int, size: int) -> memoryview:
        mapping = self.mapping(where)
        if offset + size > mapping.size:
            raise UsageError(f"{where} has {mapping.size:#x} bytes; offset {offset:#x} and {size} bytes lie outside")
        return mapping.buffer.view[offset : offset + size]  # type: ignore[no-any-return]  # a buffer may be of any type

    def bytes_of(self, where: str, offset: int, size: int) -> bytes:
        """Read bytes of a region or of memory."""
        if where.startswith("@"):
            return bytes(self._part(where, offset, size))
        return self.region(where).read(offset, size)

    def size_of(self, where: str) -> int:
        """Return the size of a region or of memory."""
        return self.mapping(where).size if where.startswith("@") else self.region(where).size

    def called(self, where: str) -> str:
        """Return the name of a region or of memory as it is shown."""
        return where if where.startswith("@") else self.region(where).name


# The steps. Each takes the session and its words.


def _peek(session: Session, words: list[str]) -> Done:
    where = words[0]
    offset, width = register(words[1], session.names)
    count = evaluate(words[2], session.names, "a count") if len(words) > 2 else 1
    if count < 1:
        raise UsageError(f"a count is 1 or more, not {count}")
    # Read all of them or none, since a read may have an effect on the device.
    if not where.startswith("@") and count > 1 and offset + count * width > (size := session.size_of(where)):
        raise InvalidRequest(
            f"{session.called(where)}: {count} times {width} bytes at offset {offset:#x} lie outside; it has {size:#x} bytes"
        )
    values = [session.load(where, offset + index * width, width) for index in range(count)]
    session.names["?"] = values[-1]
    shown = [f"{value:#0{2 + 2 * width}x}" for value in values]
    document = {"region": session.called(where), "offset": address(offset), "width": 8 * width, "values": shown}
    return Done(document, "\n".join(shown))


def _poke(session: Session, words: list[str]) -> Done:
    where = words[0]
    offset, width = register(words[1], session.names)
    value, mask = masked(words[2], session.names, width)
    before = None
    if mask is not None:
        before = session.load(where, offset, width)
        value = before & ~mask | value & mask
    session.store(where, offset, width, value)
    document = {
        "region": session.called(where),
        "offset": address(offset),
        "width": 8 * width,
        "value": address(value),
        "before": address(before),
    }
    return Done(document, "" if before is None else f"{before:#0{2 + 2 * width}x} -> {value:#0{2 + 2 * width}x}")


def _poll(session: Session, words: list[str]) -> Done:
    where = words[0]
    offset, width = register(words[1], session.names)
    value, mask = masked(words[2], session.names, width)
    limit = seconds(words[3]) if len(words) > 3 else TIMEOUT
    mask = (1 << 8 * width) - 1 if mask is None else mask
    if value & ~mask:
        raise UsageError(f"value {value:#x} has bits outside of mask {mask:#x}: no register ever has it")
    begun = time.monotonic()
    if where.startswith("@"):
        while (found := session.load(where, offset, width)) & mask != value:
            if time.monotonic() - begun > limit:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"{where}: offset {offset:#x} is {found:#x}, not {value:#x}, after {limit:g} seconds",
                )
            time.sleep(1e-3)
    else:
        found = session.region(where).poll(offset, mask, value, limit, width=8 * width)
    session.names["?"] = found
    document = {
        "region": session.called(where),
        "offset": address(offset),
        "width": 8 * width,
        "value": address(found),
        "seconds": round(time.monotonic() - begun, 6),
    }
    return Done(document, f"{found:#0{2 + 2 * width}x}")


def _dump(session: Session, words: list[str]) -> Done:
    where = words[0]
    offset = evaluate(words[1], session.names, "an offset") if len(words) > 1 else 0
    size = evaluate(words[2], session.names, "a size") if len(words) > 2 else min(session.size_of(where) - offset, 256)
    data = session.bytes_of(where, offset, max(size, 0))
    return Done(
        {"region": session.called(where), "offset": address(offset), "size": len(data), "data": data.hex()},
        hexdump(data, offset),
    )


def _config(session: Session, words: list[str]) -> Done:
    config = session.device.config
    registers = []
    lines = []
    for word in words:
        name, equals, given = word.partition("=")
        place = pci_registers.find(config, name)
        if equals:
            value_text, colon, mask_text = given.partition(":")
            value, mask = _hex(value_text, place.width), _hex(mask_text, place.width) if colon else None
            before = pci_registers.write(config, place, value, mask)
            if mask is not None and before is not None:
                value = before & ~mask | value & mask
        else:
            before, value = None, pci_registers.read(config, place)
            session.names["?"] = value
            lines.append(f"{value:0{2 * place.width}x}" if len(words) == 1 else f"{name} {value:0{2 * place.width}x}")
        registers.append(
            {
                "name": name,
                "offset": address(place.offset),
                "width": 8 * place.width,
                "value": address(value),
                "written": bool(equals),
            }
        )
    return Done({"registers": registers}, "\n".join(lines))


def _hex(text: str, width: int) -> int:
    """Return a number as setpci takes it: hexadecimal, with 0x or without."""
    try:
        value = int(text, 16)
    except ValueError:
        raise UsageError(f"{text!r} is not a hexadecimal number") from None
    if not 0 <= value < 1 << 8 * width:
        raise UsageError(f"{text} does not fit {8 * width} bits")
    return value


def _alloc(session: Session, words: list[str]) -> Done:
    name = words[0].removeprefix("@")
    if not name.isidentifier():
        raise UsageError(f"{words[0]!r} is not a name for memory: letters, digits and _")
    if name in session.memory:
        raise UsageError(f"@{name} exists already")
    size = evaluate(words[1], session.names, "a size")
    iova = evaluate(words[2], session.names, "an IOVA") if len(words) > 2 else None
    mapping = session.device.address_space.alloc(size, iova)
    session.memory[name] = mapping
    session.names[name] = mapping.iova
    return Done(
        {"name": name, "iova": address(mapping.iova), "size": mapping.size},
        f"@{name}: {mapping.size:#x} bytes at IOVA {mapping.iova:#x}",
    )


def _fill(session: Session, words: list[str]) -> Done:
    mapping = session.mapping(words[0])
    byte = evaluate(words[1], session.names, "a byte")
    if byte > 0xFF:
        raise UsageError(f"{words[1]} does not fit 8 bits")
    mapping.buffer.view[:] = bytes([byte]) * mapping.size
    return Done({"name": words[0][1:], "value": address(byte)}, "")


def _irq(session: Session, words: list[str]) -> Done:
    irq = session.irq(words[0])
    count = evaluate(words[1], session.names, "a number of vectors") if len(words) > 1 else 1
    if count < 1:
        raise UsageError(f"a number of vectors is 1 or more, not {count}")
    vectors = irq.enable(range(count))
    return Done({"interrupt": irq.name, "vectors": len(vectors)}, f"{irq.name}: {len(vectors)} enabled")


def _wait(session: Session, words: list[str]) -> Done:
    vector = session.vector(words[0])
    limit = seconds(words[1]) if len(words) > 1 else TIMEOUT
    begun = time.monotonic()
    count = vector.wait(limit)
    name = f"{vector.irq.name}[{vector.index}]"
    waited = round(time.monotonic() - begun, 6)
    return Done({"interrupt": name, "count": count, "seconds": waited}, f"{name}: {count} after {waited:g} s")


def _trigger(session: Session, words: list[str]) -> Done:
    vector = session.vector(words[0])
    vector.trigger()
    return Done({"interrupt": f"{vector.irq.name}[{vector.index}]"}, "")


def _switch(attribute: str) -> Callable[[Session, list[str]], Done]:
    def make(session: Session, words: list[str]) -> Done:
        if words[0] not in ("on", "off"):
            raise UsageError(f"{words[0]!r}: on or off")
        setattr(session.device.config, attribute, words[0] == "on")
        return Done({"on": words[0] == "on"}, "")

    return make


def _reset(session: Session, _: list[str]) -> Done:
    session.device.reset()
    return Done({}, "")


def _sleep(_: Session, words: list[str]) -> Done:
    time.sleep(seconds(words[0]))
    return Done({"seconds": seconds(words[0])}, "")


def _expect(session: Session, words: list[str]) -> Done:
    if "?" not in session.names:
        raise UsageError("expect: nothing has been read yet")
    value, mask = masked(words[0], session.names, 8)
    found = session.names["?"]
    if (found & mask if mask is not None else found) != value:
        shown = f"{value:#x}" if mask is None else f"{value:#x} under mask {mask:#x}"
        raise Unmet(f"expected {shown}, and read {found:#x}")
    return Done({"value": address(found)}, "")


def _print(_: Session, words: list[str]) -> Done:
    text = " ".join(words)
    return Done({"text": text}, text)


class Step(NamedTuple):
    """A step: the function that makes it, its arguments as they are written, their least and greatest number, a line of help."""

    make: Callable[[Session, list[str]], Done]
    usage: str
    least: int
    most: int
    help: str


STEPS = {
    "peek": Step(_peek, "REGION OFFSET[.W] [COUNT]", 2, 3, "read registers"),
    "poke": Step(_poke, "REGION OFFSET[.W] VALUE[:MASK]", 3, 3, "write a register; with a mask, some of its bits"),
    "poll": Step(_poll, "REGION OFFSET[.W] VALUE[:MASK] [SECONDS]", 3, 4, "read until the bits have the value"),
    "dump": Step(_dump, "REGION [OFFSET [SIZE]]", 1, 3, "print bytes"),
    "config": Step(
        _config, "NAME[=VALUE[:MASK]]...", 1, 64, "configuration space by setpci's names; values are hexadecimal"
    ),
    "alloc": Step(_alloc, "NAME SIZE [IOVA]", 2, 3, "memory for DMA: @NAME is its content, $NAME its IOVA"),
    "fill": Step(_fill, "@NAME BYTE", 2, 2, "set every byte of memory"),
    "irq": Step(_irq, "KIND [VECTORS]", 1, 2, "enable vectors of intx, msi, msix, err or req"),
    "wait": Step(_wait, "KIND[[VECTOR]] [SECONDS]", 1, 2, "wait for an interrupt"),
    "trigger": Step(_trigger, "KIND[[VECTOR]]", 1, 1, "fire an interrupt in software"),
    "master": Step(_switch("bus_master"), "on|off", 1, 1, "let the device do DMA, or not"),
    "memory": Step(_switch("memory_enabled"), "on|off", 1, 1, "let the device answer at its BARs, or not"),
    "reset": Step(_reset, "", 0, 0, "reset the function"),
    "sleep": Step(_sleep, "SECONDS", 1, 1, "do nothing for a while"),
    "expect": Step(_expect, "VALUE[:MASK]", 1, 1, "fail unless this was read last"),
    "print": Step(_print, "TEXT...", 0, 64, "print text"),
}


def described() -> str:
    """Return the steps with their arguments, a line each."""
    uses = [(f"{name} {step.usage}".rstrip(), step.help) for name, step in STEPS.items()]
    size = max(len(use) for use, _ in uses)
    return "\n".join(f"  {use:<{size}}  {text}" for use, text in uses)
