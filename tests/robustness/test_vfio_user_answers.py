# SPDX-License-Identifier: MIT
"""The answers of a vfio-user server and client to odd messages are those recorded in answers/, which a person has read.

Each field of each message gets values at its edges in turn. Each message is also too short, too long, with descriptors,
and without an answer. A line of answers/vfio_user.NAME.txt has the server's answer and its mappings afterwards, or a
client's message and its result for each answer. `PYVFIO_WRITE_ANSWERS=1 pytest tests/robustness -k answers` records
them again. Check the changes before you commit them.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyvfio import mock
from pyvfio.vfio_user import protocol
from pyvfio.vfio_user.client import Client
from pyvfio.vfio_user.connection import Connection
from pyvfio.vfio_user.protocol import Command, Flags, Message
from pyvfio.vfio_user.server import Session
from tests.robustness.written import compare
from tests.vfio_user.conftest import Adder
from tests.vfio_user.mutate import ASKED

PAGE = 4096
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
VERSION = struct.pack("=HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":4096}}\0'


class Ask(NamedTuple):
    """A message to a server.

    :ivar fields: the layout of its first bytes
    :ivar values: the values of these fields
    :ivar rest: the bytes behind them
    :ivar fds: the number of descriptors that come with it, each of a file of 4 pages
    """

    command: int
    fields: struct.Struct
    values: tuple[Any, ...]
    rest: bytes = b""
    fds: int = 0

    @property
    def body(self) -> bytes:
        return self.fields.pack(*self.values) + self.rest


MAP = Ask(Command.DMA_MAP, protocol.DMA_MAP, (32, 3, 0, 16 * PAGE, 2 * PAGE), fds=1)
STATE = Ask(Command.DEVICE_FEATURE, protocol.FEATURE, (16, 2 | SET), protocol.MIG_STATE.pack(3, -1))
LOG = Ask(
    Command.DEVICE_FEATURE, protocol.FEATURE, (40, 6 | SET), protocol.LOGGING_CONTROL.pack(PAGE, 1, 0) + protocol.LOGGING_RANGE.pack(0, 64 * PAGE)
)  # fmt: skip
#: The messages, each with the messages that are sent before it.
ASKS: dict[str, tuple[Ask, tuple[Ask, ...]]] = {
    "map": (MAP, (MAP._replace(values=(32, 3, 0, 0, PAGE)),)),
    "map without a descriptor": (MAP._replace(values=(32, 1, 0, PAGE, PAGE), fds=0), ()),
    "unmap": (Ask(Command.DMA_UNMAP, protocol.DMA_UNMAP, (24, 0, 16 * PAGE, 2 * PAGE)), (MAP,)),
    "unmap all": (Ask(Command.DMA_UNMAP, protocol.DMA_UNMAP, (24, 2, 0, 0)), (MAP,)),
    "info": (Ask(Command.DEVICE_GET_INFO, protocol.DEVICE_INFO, (16, 0, 0, 0)), ()),
    "region": (Ask(Command.DEVICE_GET_REGION_INFO, protocol.REGION_INFO, (32, 0, 0, 0, 0, 0)), ()),
    "memory": (Ask(Command.DEVICE_GET_REGION_INFO, protocol.REGION_INFO, (200, 0, 2, 0, 0, 0)), ()),
    "descriptors": (Ask(Command.DEVICE_GET_REGION_IO_FDS, protocol.REGION_IO_FDS, (16, 0, 0, 0)), ()),
    "interrupt": (Ask(Command.DEVICE_GET_IRQ_INFO, protocol.IRQ_INFO, (16, 0, 1, 0)), ()),
    "eventfd": (Ask(Command.DEVICE_SET_IRQS, protocol.IRQ_SET, (20, 0x24, 1, 0, 1), fds=1), ()),
    "mask": (Ask(Command.DEVICE_SET_IRQS, protocol.IRQ_SET, (20, 0x09, 0, 0, 1)), ()),
    "trigger by bools": (Ask(Command.DEVICE_SET_IRQS, protocol.IRQ_SET, (21, 0x22, 1, 0, 1), b"\1"), ()),
    "read": (Ask(Command.REGION_READ, protocol.REGION_ACCESS, (0, 7, 4)), ()),
    "read memory": (Ask(Command.REGION_READ, protocol.REGION_ACCESS, (0xFFF8, 2, 8)), ()),
    "write": (Ask(Command.REGION_WRITE, protocol.REGION_ACCESS, (0x20, 0, 4), b"abcd"), ()),
    "write of memory": (Ask(Command.REGION_WRITE, protocol.REGION_ACCESS, (0xFFFC, 2, 4), b"abcd"), ()),
    "write of the configuration": (Ask(Command.REGION_WRITE, protocol.REGION_ACCESS, (4, 7, 2), b"\6\0"), ()),
    "writes": (
        Ask(Command.REGION_WRITE_MULTI, protocol.WRITE_COUNT, (2,), protocol.WRITE.pack(0x20, 0, 4, b"abcdefgh") + protocol.WRITE.pack(0x28, 0, 8, b"ABCDEFGH")),
        (),
    ),
    "a write": (Ask(Command.REGION_WRITE_MULTI, struct.Struct("=QQII8s"), (1, 0x20, 0, 4, b"abcdefgh")), ()),
    "reset": (Ask(Command.DEVICE_RESET, struct.Struct("="), ()), ()),
    "migration": (Ask(Command.DEVICE_FEATURE, protocol.FEATURE, (16, 1 | GET)), ()),
    "probe": (Ask(Command.DEVICE_FEATURE, protocol.FEATURE, (8, 2 | GET | PROBE)), ()),
    "state": (Ask(Command.DEVICE_FEATURE, protocol.FEATURE, (16, 2 | GET)), ()),
    "state set": (Ask(Command.DEVICE_FEATURE, struct.Struct("=IIIi"), (16, 2 | SET, 3, -1)), ()),
    "logging": (Ask(Command.DEVICE_FEATURE, struct.Struct("=IIQIIQQ"), (40, 6 | SET, PAGE, 1, 0, 0, 16 * PAGE)), ()),
    "logging of what is mapped": (Ask(Command.DEVICE_FEATURE, struct.Struct("=IIQII"), (24, 6 | SET, PAGE, 0, 0)), (MAP,)),
    "report": (Ask(Command.DEVICE_FEATURE, struct.Struct("=IIQQQ"), (64, 8 | GET, 0, 64 * PAGE, PAGE)), (LOG,)),
    "report of nothing": (Ask(Command.DEVICE_FEATURE, struct.Struct("=IIQQQ"), (64, 8 | GET, 0, 64 * PAGE, PAGE)), ()),
    "no logging": (Ask(Command.DEVICE_FEATURE, protocol.FEATURE, (8, 7 | SET)), (LOG,)),
    "stream": (Ask(Command.MIG_DATA_READ, protocol.MIG_DATA, (72, 64)), (STATE,)),
    "no stream": (Ask(Command.MIG_DATA_READ, protocol.MIG_DATA, (72, 64)), ()),
    "stream back": (
        Ask(Command.MIG_DATA_WRITE, protocol.MIG_DATA, (12, 4), b"abcd"), (STATE._replace(rest=protocol.MIG_STATE.pack(4, -1)),),
    ),
    "no stream back": (Ask(Command.MIG_DATA_WRITE, protocol.MIG_DATA, (12, 4), b"abcd"), ()),
    "version": (Ask(Command.VERSION, protocol.VERSION, (0, 1), VERSION[4:]), ()),
    "nothing": (Ask(14, struct.Struct("="), ()), ()),
    "DMA": (Ask(Command.DMA_READ, protocol.DMA_ACCESS, (0, 4)), ()),
}  # fmt: skip
#: Messages that need a model with DMA logging and migration.
MIGRATES = {"migration", "probe", "state", "state set", "logging", "logging of what is mapped", "report", "report of nothing", "no logging", "stream",
    "no stream", "stream back", "no stream back"}  # fmt: skip


class Wire:
    """A substitute for a connection: it gives messages to a session, and collects its answers."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.waiting = list(messages)
        self.said: list[str] = []

    def receive(self) -> Message | None:
        return self.waiting.pop(0) if self.waiting else None

    def answer(self, to: Message, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.said.append(
            f"{body.hex()}{f' and {len(fds)} descriptors' if fds else ''}" if to.wants_reply else "no answer"
        )

    def refuse(self, to: Message, error: int) -> None:
        self.said.append(errno.errorcode.get(error, str(error)) if to.wants_reply else "no answer")

    def send(self, number: int, command: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.said.append(f"asks {Command(command).name} {body.hex()}")
        memory = b"m" * protocol.DMA_ACCESS.unpack_from(body)[1] if command == Command.DMA_READ else b""
        self.waiting.insert(0, Message(number, command, Flags.REPLY, 0, body[: protocol.DMA_ACCESS.size] + memory, []))

    def wait(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.said.append("closed")


def _file() -> int:
    fd = os.memfd_create("guest")
    os.truncate(fd, 4 * PAGE)
    return fd


def _session(asks: Sequence[tuple[int, bytes, int, int]], *, migrates: bool = False, version: bytes = VERSION) -> str:
    """Serve messages (command, body, descriptors, flags), and return the answers and the mappings afterwards."""
    kernel = mock.Kernel("intel-57")
    model: Any = kernel.devices["vfio-mock.0"] if migrates else Adder(kernel, "0000:00:0a.0")
    messages = [Message(0, Command.VERSION, 0, 0, version, [])]
    messages += [
        Message(1, command, flags, 0, body, [_file() for _ in range(fds)]) for command, body, fds, flags in asks
    ]
    wire = Wire(messages)
    session = Session(model, wire)  # type: ignore[arg-type]  # a substitute for a connection
    with kernel.lock:
        model.open()
    session.run()
    words = [re.sub(r"([0-9a-f]{80})[0-9a-f]{40,}", r"\1...", one) for one in wire.said[1:]]
    maps = ", ".join(f"[{start:#x}, {last:#x}]" for start, last in session.memory.writable())
    if not migrates:
        words.append(f"registers {model.bars[0].data[0x20:0x30].hex()}" if hasattr(model, "bars") else "")
    session.end()
    return f"{'; '.join(filter(None, words))}; {session.refused} refused; writable {maps or 'nothing'}"


def _edges(value: Any, size: int) -> list[Any]:
    """Return numbers next to a field's value, and at the limits of the field's size."""
    if isinstance(value, bytes):
        return [value]
    top = (1 << 8 * size) - 1
    found = (
        0,
        1,
        2,
        3,
        4,
        5,
        8,
        9,
        value - 1,
        value,
        value + 1,
        value * 2,
        value | 1 << 16,
        value | 1 << 17,
        value | 1 << 18,
        value | 1 << 20,
        top - PAGE,
        top,
    )
    return list(dict.fromkeys(one for one in found if 0 <= one <= top))


def _oddities(ask: Ask) -> Iterator[tuple[str, tuple[int, bytes, int, int]]]:
    """Yield odd variants of a message, each with a name."""
    yield "as is", (ask.command, ask.body, ask.fds, 0)
    letters = ask.fields.format.lstrip("=").replace("8s", "s")
    for at, (letter, value) in enumerate(zip(letters, ask.values, strict=True)):
        size = struct.calcsize(f"={letter}")
        for edge in _edges(value, size):
            if letter == "i" and edge > 2**31 - 1:
                continue
            values = (*ask.values[:at], edge, *ask.values[at + 1 :])
            yield (
                f"field {at} = {edge:#x}" if isinstance(edge, int) else f"field {at}",
                (ask.command, ask._replace(values=values).body, ask.fds, 0),
            )
    for count in (1, 4, 8):
        yield f"{count} shorter", (ask.command, ask.body[:-count], ask.fds, 0)
    yield "longer", (ask.command, ask.body + b"\0\0\0\0", ask.fds, 0)
    yield "empty", (ask.command, b"", ask.fds, 0)
    for fds in (0, 1, 2):
        yield f"{fds} descriptors", (ask.command, ask.body, fds, 0)
    yield "no answer wanted", (ask.command, ask.body, ask.fds, Flags.NO_REPLY)


def _grouped(answers: Iterator[tuple[str, str]]) -> list[str]:
    found: dict[str, list[str]] = {}
    for name, text in answers:
        found.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


@pytest.mark.parametrize("command", dict.fromkeys(ask.command for ask, _ in ASKS.values()), ids=str)
def test_a_server_answers_odd_messages_as_was_written_down(command: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    lines = []
    for name, (ask, before) in ASKS.items():
        if ask.command == command:
            first = [(one.command, one.body, one.fds, 0) for one in before]
            answers = ((odd, _session([*first, message], migrates=name in MIGRATES)) for odd, message in _oddities(ask))
            lines += [f"{name}: {line}" for line in _grouped(answers)]
    compare(f"vfio_user.server-{command}", lines)


#: Bodies of a client's first message, VERSION.
VERSIONS = [
    b"", b"\0", struct.pack("=HH", 0, 0), struct.pack("=HH", 0, 2), struct.pack("=HH", 1, 0), struct.pack("=HHB", 0, 1, 0), struct.pack("=HHB", 0, 1, 7),
    *(
        struct.pack("=HH", 0, 1) + text + b"\0"
        for text in (
            b"{}", b"[]", b"{", b'{"capabilities":{}}', b'{"capabilities":7}', b'{"capabilities":{"max_msg_fds":0}}', b'{"capabilities":{"max_msg_fds":-1}}',
            b'{"capabilities":{"max_data_xfer_size":0}}', b'{"capabilities":{"max_data_xfer_size":true}}', b'{"capabilities":{"max_data_xfer_size":16}}',
            b'{"capabilities":{"max_dma_maps":"7"}}', b'{"capabilities":{"write_multiple":true,"pyvfio_answers_dma":1,"more":2}}',
        )
    ),
]  # fmt: skip


def test_versions_are_answered_as_was_written_down() -> None:
    lines = []
    for body in VERSIONS:
        try:
            text = str(protocol.unpack_version(body))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        lines.append(f"{body!r}: {text}")
        # Then let the model read memory by messages, in pieces of the client's maximum size.
        access = protocol.REGION_ACCESS
        start = (
            access.pack(4, 7, 2) + b"\6\0",  # bus mastering
            access.pack(0, 0, 8) + struct.pack("=Q", PAGE),
            access.pack(8, 0, 8) + struct.pack("=Q", 5),
        )
        mapped = MAP._replace(values=(32, 3, 0, PAGE, PAGE)).body
        asks = [(Command.DMA_MAP, mapped, 0, 0), *((Command.REGION_WRITE, one, 0, 0) for one in start)]
        lines.append(f"{body!r}: {_session(asks, version=body)}")
    compare("vfio_user.versions", lines)


def test_memory_of_a_client_answers_as_was_written_down() -> None:
    lines = []
    for share in (True, False):
        wire = Wire([])
        session = Session(Adder(mock.Kernel("intel-57"), "0000:00:0a.0"), wire, share=share)  # type: ignore[arg-type]  # as above
        session._peer = protocol.Capabilities(max_data_xfer_size=3000)
        session._thread = threading.get_ident()
        memory, fd = session.memory, _file()
        os.pwrite(fd, bytes(range(256)) * 64, 0)
        for iova, size, flags, offset, file in (
            (PAGE, PAGE, 1, 0, fd), (2 * PAGE, PAGE, 3, 2 * PAGE, fd), (3 * PAGE, PAGE, 2, PAGE, fd), (5 * PAGE, PAGE, 3, 0, None), (2**64 - PAGE, PAGE, 3, 0, fd),
        ):  # fmt: skip
            memory.map(iova, size, flags, offset, file)
        places = [
            (iova + delta, size) for iova in (PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE, 2**64 - PAGE) for delta in (-2, -1, 0, 1, PAGE - 1)
            for size in (0, 1, 2, 5000) if iova + delta >= 0 and iova + delta + size <= 2**64
        ]  # fmt: skip

        def tell(call: Callable[[], Any], wire: Wire = wire) -> str:
            wire.said.clear()
            try:
                result = call()
            except Exception as error:
                result = f"{type(error).__name__} {getattr(error, 'number', error)}"
            text = result.hex() if isinstance(result, bytes) else str(result)
            said = [one if len(one) < 80 else f"{one[:80]}..." for one in wire.said]
            return "; ".join([text if len(text) < 60 else f"{text[:40]}...{text[-8:]} of {len(text) // 2}", *said])

        for iova, size in places:
            where = f"share={share} [{iova:#x}, +{size}]"
            lines.append(f"{where} at once: {tell(partial(memory.at_once, iova, size))}")
            lines.append(f"{where} read: {tell(partial(memory.read, iova, size))}")
            lines.append(f"{where} write: {tell(partial(memory.write, iova, b'w' * size))}")
        lines.append(f"share={share} file: {os.pread(fd, 4 * PAGE, 0).count(b'w')} written")
        for iova, size in places:
            lines.append(
                f"share={share} unmap [{iova:#x}, +{size}]: {tell(partial(memory.unmap, iova, size))}; {[*memory.writable()]}"
            )
        os.close(fd)
    compare("vfio_user.memory", lines)


# A client.


def _answers(command: int, right: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Yield odd answers to a client's message, as lists of messages with names."""

    def message(
        body: bytes = right, *, number: int = 1, flags: int = 1, error: int = 0, more: int = 0, of: int = command
    ) -> bytes:
        return struct.pack("=HHIII", number, of, 16 + len(body) + more, flags, error) + body

    yield "right", [message()]
    yield "empty", [message(b"")]
    yield "shorter", [message(right[:-1])]
    yield "longer", [message(right + b"\0")]
    for error in (0, 1, errno.EINVAL, errno.ENOTTY, 4095, 4096, 2**32 - 1):
        yield f"error {error}", [message(b"", flags=0x21, error=error)]
    yield "error without the flag", [message(error=errno.EINVAL)]
    yield "another's first", [message(b"x", number=7), message()]
    yield "no reply", [message(flags=2)]
    yield "unknown type", [message(flags=3)]
    yield "size 15", [message(b"", more=-1)]
    yield "too large", [message(b"", more=protocol.MAX_MESSAGE)]
    yield "largest", [message(bytes(protocol.MAX_MESSAGE - 16))]
    yield "nothing", []
    yield "half", [message()[:10]]
    for kind in (Command.DMA_READ, Command.DMA_WRITE, Command.REGION_READ):
        for count in (0, 1, 4, 5, protocol.MAX_DATA, protocol.MAX_DATA + 1, 2**64 - 1):
            yield (
                f"{kind.name} of {count}",
                [message(protocol.DMA_ACCESS.pack(PAGE, count) + b"abcd", number=9, flags=0, of=kind), message()],
            )
        yield f"{kind.name} without a body", [message(b"1234567", number=9, flags=0, of=kind), message()]
        yield (
            f"{kind.name}, no answer wanted",
            [message(protocol.DMA_ACCESS.pack(PAGE, 4) + b"abcd", number=9, flags=0x10, of=kind), message()],
        )
        yield (
            f"{kind.name} refused",
            [message(protocol.DMA_ACCESS.pack(0, 4) + b"abcd", number=9, flags=0, of=kind), message()],
        )


def _whole(connected: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connected.recv(size - len(data))):
        data += part
    return data


def _received(connected: socket.socket) -> bytes:
    head = _whole(connected, 16)
    return head if len(head) < 16 else head + _whole(connected, struct.unpack_from("=I", head, 4)[0] - 16)


def _called(path: Path, call: Callable[[Client], object], answers: list[bytes], asked: list[str]) -> str:
    """Make a call to a server that answers so; add to `asked` what it sent, and return what the call made of the answer."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        connected, _ = listening.accept()
        with connected:
            first = _received(connected)
            body = protocol.pack_version()
            connected.sendall(struct.pack("=HHIII", *struct.unpack_from("=HH", first), 16 + len(body), 1, 0) + body)
            request = _received(connected)
            asked.append(request[2:].hex())
            number = request[:2]
            for one in answers:
                mine = one[:2] in (b"\1\0", b"")
                try:
                    connected.sendall((number if mine else one[:2]) + one[2:])
                    if one[8:9] in (b"\0", b"\x10") and not one[8] & 0x10:
                        reply = _received(connected)
                        asked.append(f"{reply[:60].hex()} of {len(reply)}")
                except (BrokenPipeError, ConnectionResetError):
                    return

    def read(iova: int, size: int) -> bytes:
        if not iova:
            raise OSError(errno.EACCES, "not readable")
        return b"r" * size

    def write(iova: int, data: bytes) -> None:
        if not iova:
            raise OSError("no number")

    thread = threading.Thread(target=serve)
    thread.start()
    client = Client(path, read=read, write=write, timeout=60)
    try:
        text = repr(call(client))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    if len(text) > 200:
        text = f"{text[:120]}... {len(text)}"
    assert client.gone or "has gone" not in text
    client.close()
    thread.join(60)
    assert not thread.is_alive()
    listening.close()
    path.unlink()
    return text


@pytest.mark.parametrize("at", range(len(ASKED)))
def test_a_client_takes_odd_answers_as_was_written_down(tmp_path: Path, at: int) -> None:
    call, right = ASKED[at]
    lines = []
    found: dict[str, list[str]] = {}
    sent: dict[str, list[str]] = {}
    command = {0: 4, 1: 5, 2: 7, 3: 8, 4: 9, 5: 10, 6: 2, 7: 3, 8: 13, 9: 16, 10: 17, 11: 18}[at]
    for name, answers in _answers(command, right):
        asked: list[str] = []
        found.setdefault(_called(tmp_path / "socket", call, answers, asked), []).append(name)
        sent.setdefault("; ".join(asked), []).append(name)
    lines += [f"sends {text} for {', '.join(names)}" for text, names in sent.items()]
    lines += [f"{', '.join(names)}: {text}" for text, names in found.items()]
    compare(f"vfio_user.client-{at}", lines)


def _chopped(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_messages_in_pieces_are_received_whole(piece: int) -> None:
    """Messages that directly follow each other, and messages longer than one recv(), are received whole too."""
    bodies = [b"", b"a", b"b" * 100, b"c" * 70000, b"", b"d" * 65520, b"e" * 65521, b"f"]
    if piece < 8:
        bodies = [body[:100] for body in bodies]
    ours, theirs = socket.socketpair()
    connection = Connection(ours, timeout=60)
    data = b"".join(struct.pack("=HHIII", at, 9, 16 + len(body), 1, 3) + body for at, body in enumerate(bodies))

    def send() -> None:
        for part in _chopped(data, piece):
            theirs.sendall(part)
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    received = [connection.receive() for _ in bodies]
    assert [one and (one.id, one.command, one.flags, one.error, one.fds) for one in received] == [
        (at, 9, 1, 3, []) for at in range(len(bodies))
    ]
    assert [one and one.body for one in received] == bodies
    assert not connection.has_message
    thread.join(60)
    assert connection.wait(0)
    assert connection.receive() is None
    connection.close()
    theirs.close()
