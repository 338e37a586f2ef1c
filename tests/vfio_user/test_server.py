# SPDX-License-Identifier: MIT
"""The server, message by message."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from pyvfio import mock, vfio_user
from pyvfio.mock.devices.edu import Edu
from pyvfio.mock.vfio.region import Area, Region
from pyvfio.vfio_user import server as server_module
from pyvfio.vfio_user.protocol import ProtocolError
from tests.vfio_user.conftest import HEADER, VERSION, Adder, Answer, Peer, Serve
from tests.vfio_user.mutate import descriptors, settle

PAGE = 4096


def shared(size: int) -> tuple[int, mmap.mmap]:
    """Create a memfd, and return its descriptor and a mapping of it."""
    fd = os.memfd_create("guest")
    os.truncate(fd, size)
    return fd, mmap.mmap(fd, size)


def map_body(iova: int, size: int, flags: int = 3, offset: int = 0) -> bytes:
    return struct.pack("=IIQQQ", 32, flags, offset, iova, size)


def unmap_body(iova: int, size: int, flags: int = 0) -> bytes:
    return struct.pack("=IIQQ", 24, flags, iova, size)


def enable_bus_master(peer: Peer) -> None:
    peer.write(7, 4, struct.pack("<H", 0x6))


# Negotiation


def test_the_first_message_negotiates_the_version(serve: Serve) -> None:
    peer = Peer(serve().path, version=False)
    answer = peer.ask(1, struct.pack("=HH", 0, 0))
    assert struct.unpack_from("=HH", answer.body) == (0, 0)
    assert answer.body.endswith(b"\0")
    assert json.loads(answer.body[4:-1])["capabilities"]["max_data_xfer_size"] == 1 << 20
    assert peer.ask(1, VERSION).error == errno.EINVAL
    peer.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        struct.pack("=HH", 0, 1) + b"{}",
        struct.pack("=HH", 0, 1) + b"no json\0",
        struct.pack("=HH", 0, 1) + b"[]\0",
        struct.pack("=HH", 0, 1) + b'{"capabilities": 5}\0',
        struct.pack("=HH", 0, 1) + b'{"capabilities": {"max_msg_fds": "many"}}\0',
        struct.pack("=HH", 0, 1) + b"[" * 100000 + b"\0",
    ],
)
def test_a_malformed_version_ends_the_connection(serve: Serve, body: bytes) -> None:
    peer = Peer(serve().path, version=False)
    peer.send(1, body)
    assert peer.receive() is None
    peer.close()


def test_another_major_version_is_refused(serve: Serve) -> None:
    peer = Peer(serve().path, version=False)
    assert peer.ask(1, struct.pack("=HH", 1, 0)).error == errno.EINVAL
    assert peer.receive() is None
    peer.close()


def test_a_request_before_the_version_ends_the_connection(serve: Serve) -> None:
    peer = Peer(serve().path, version=False)
    peer.send(4, struct.pack("=IIII", 16, 0, 0, 0))
    assert peer.receive() is None
    peer.close()


# Information


def test_the_device_describes_itself(peer: Peer) -> None:
    assert struct.unpack("=IIII", peer.ask(4, struct.pack("=IIII", 16, 0, 0, 0)).body) == (16, 3, 9, 5)
    irq = peer.ask(7, struct.pack("=IIII", 16, 0, 1, 0))
    assert struct.unpack("=IIII", irq.body)[2:] == (1, 1)
    assert peer.ask(7, struct.pack("=IIII", 16, 0, 9, 0)).error == errno.EINVAL
    assert peer.ask(5, struct.pack("=IIIIQQ", 32, 0, 40, 0, 0, 0)).error == errno.EINVAL


def test_a_memory_bar_comes_with_a_descriptor(peer: Peer) -> None:
    answer = peer.ask(5, struct.pack("=IIIIQQ", 32, 0, 2, 0, 0, 0))
    argsz, flags, index, capabilities, size, offset = struct.unpack("=IIIIQQ", answer.body)
    assert (argsz, flags, index, capabilities, size) == (32, 7, 2, 0, 1 << 16)
    (fd,) = answer.fds
    with mmap.mmap(fd, size, offset=offset) as memory:
        memory[8:12] = b"abcd"
        assert peer.read(2, 8, 4) == b"abcd"
        peer.write(2, 12, b"efgh")
        # A write is answered before the model receives it, but a later read is served after it.
        assert peer.read(2, 8, 8) == b"abcdefgh"
        assert memory[8:16] == b"abcdefgh"
    os.close(fd)
    registers = peer.ask(5, struct.pack("=IIIIQQ", 32, 0, 0, 0, 0, 0))
    assert (registers.fds, struct.unpack_from("=II", registers.body)[1]) == ([], 3)


class Sparse(Adder):
    """A model of whose BAR 2 the first and the third page can be mapped."""

    def region(self, index: int) -> Region:
        region = super().region(index)
        return region._replace(areas=(Area(0, PAGE), Area(2 * PAGE, PAGE))) if index == 2 else region


def test_capabilities_and_descriptor_come_when_there_is_room(serve: Serve) -> None:
    peer = Peer(serve(Sparse).path)
    short = peer.ask(5, struct.pack("=IIIIQQ", 32, 0, 2, 0, 0, 0))
    argsz, flags, _, capabilities, _, _ = struct.unpack("=IIIIQQ", short.body)
    assert (argsz, flags, capabilities, short.fds) == (80, 15, 0, [])
    # libvfio-user's client sends a message that is as large as its buffer for the answer.
    whole = peer.ask(5, struct.pack("=IIIIQQ", 80, 0, 2, 0, 0, 0).ljust(80, b"\0"))
    assert struct.unpack_from("=IIIIQQ", whole.body)[3] == 32
    assert struct.unpack_from("=HHIII", whole.body, 32) == (1, 1, 0, 2, 0)
    assert struct.unpack_from("=4Q", whole.body, 48) == (0, PAGE, 2 * PAGE, PAGE)
    (fd,) = whole.fds
    os.close(fd)
    peer.close()


@pytest.mark.parametrize("index", range(9))
def test_no_region_has_descriptors_for_its_registers(peer: Peer, index: int) -> None:
    answer = peer.ask(6, struct.pack("=IIII", 16, 0, index, 0))
    assert (answer.error, answer.body, answer.fds) == (0, struct.pack("=IIII", 16, 0, index, 0), [])


@pytest.mark.parametrize(
    "body",
    [struct.pack("=IIII", 15, 0, 0, 0), struct.pack("=IIII", 16, 1, 0, 0), struct.pack("=IIII", 16, 0, 9, 0), b"short"],
    ids=["too little room", "flags", "no such region", "short"],
)
def test_a_wrong_question_for_descriptors_is_refused(peer: Peer, body: bytes) -> None:
    assert peer.ask(6, body).error == errno.EINVAL


def test_each_region_that_is_counted_is_described(peer: Peer) -> None:
    answers = [peer.ask(5, struct.pack("=IIIIQQ", 32, 0, index, 0, 0, 0)) for index in range(9)]
    assert not any(answer.error for answer in answers)
    for fd in (fd for answer in answers for fd in answer.fds):
        os.close(fd)
    assert struct.unpack("=IIIIQQ", answers[8].body) == (32, 0, 8, 0, 0, 0)
    assert peer.ask(5, struct.pack("=IIIIQQ", 32, 0, 9, 0, 0, 0)).error == errno.EINVAL


# Registers


def test_registers_are_read_and_written(peer: Peer) -> None:
    peer.write(0, 0x20, b"\1\2\3\4")
    assert peer.read(0, 0x20, 4) == b"\1\2\3\4"
    assert peer.read(7, 0, 4) == struct.pack("<HH", 0x1234, 0xADD0)


def test_a_posted_write_is_not_answered(peer: Peer) -> None:
    peer.write(0, 0x20, b"\5\0\0\0", flags=0x10)
    peer.send(9, struct.pack("=QII", 9999999, 0, 4), flags=0x10)  # nor is a failure
    assert peer.read(0, 0x20, 4) == b"\5\0\0\0"


def test_writes_can_come_together(peer: Peer) -> None:
    writes = [struct.pack("=QII8s", at, 0, 4, struct.pack("<I", at)) for at in (0x20, 0x24, 0x28)]
    answer = peer.ask(15, struct.pack("=Q", 3) + b"".join(writes))
    assert struct.unpack("=Q", answer.body) == (3,)
    assert peer.read(0, 0x20, 12) == struct.pack("<III", 0x20, 0x24, 0x28)
    assert peer.ask(15, struct.pack("=Q", 4) + b"".join(writes)).error == errno.EINVAL
    assert peer.ask(15, struct.pack("=Q", 1) + struct.pack("=QII8s", 0, 0, 9, b"")).error == errno.EINVAL


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (9, struct.pack("=QII", 4094, 0, 4)),
        (9, struct.pack("=QII", 0, 0, 1 << 21)),
        (9, struct.pack("=QII", 2**64 - 2, 0, 4)),
        (9, struct.pack("=QII", 0, 77, 4)),
        (9, b"short"),
        (10, struct.pack("=QII", 0, 0, 8) + b"1234"),
        (10, struct.pack("=QII", 4096, 0, 4) + b"1234"),
        (2, map_body(0x1000, 0)),
        (2, map_body(2**64 - PAGE, 2 * PAGE)),
        (2, map_body(0, PAGE, flags=0xFF)),
        (3, unmap_body(0x1000, 0)),
        (3, unmap_body(0, PAGE, flags=2)),
        (3, unmap_body(0, PAGE, flags=8)),
        (4, struct.pack("=IIII", 8, 0, 0, 0)),
        (8, struct.pack("=IIIII", 20, 0x24, 1, 0, 5)),
        (8, struct.pack("=IIIII", 99, 0x24, 1, 0, 1)),
        (8, struct.pack("=IIIII", 20, 0x24, 99, 0, 1)),
        (11, struct.pack("=QQ", 0, 4)),
        (14, b""),
        (99, b""),
        (16, struct.pack("=II", 8, 0x10001)),
        (17, struct.pack("=II", 108, 100)),
        (18, struct.pack("=II", 12, 4) + b"data"),
    ],
)
def test_a_wrong_request_is_answered_with_an_error(peer: Peer, command: int, body: bytes) -> None:
    assert peer.ask(command, body).error
    assert peer.read(7, 0, 2) == b"\x34\x12"


@pytest.mark.parametrize("size", [0, 8, 15, 1 << 24, 2**32 - 1])
def test_a_message_of_a_wrong_size_ends_the_connection(serve: Serve, size: int) -> None:
    served = serve()
    peer = Peer(served.path)
    peer.send(9, size=size)
    assert peer.receive() is None
    peer.close()
    again = Peer(served.path)
    assert again.read(7, 0, 2) == b"\x34\x12"
    again.close()


def test_an_unknown_type_of_message_ends_the_connection(peer: Peer) -> None:
    peer.send(9, struct.pack("=QII", 0, 0, 4), flags=5)
    assert peer.receive() is None


def test_an_answer_that_nobody_waits_for_is_ignored(peer: Peer) -> None:
    peer.send(11, b"x" * 32, flags=1)
    assert peer.read(7, 0, 2) == b"\x34\x12"


def test_a_message_may_come_byte_by_byte(peer: Peer) -> None:
    body = struct.pack("=QII", 0, 7, 4)
    for byte in HEADER.pack(7, 9, 32, 0, 0) + body:
        peer.socket.sendall(bytes([byte]))
    answer = peer.receive()
    assert answer is not None
    assert answer.body[16:] == struct.pack("<HH", 0x1234, 0xADD0)


# Memory


def add(peer: Peer, iova: int, values: list[int], memory: mmap.mmap, at: int = 0) -> int:
    memory[at : at + 8 * len(values)] = struct.pack(f"<{len(values)}Q", *values)
    peer.write(0, 0x00, struct.pack("<Q", iova))
    peer.write(0, 0x18, struct.pack("<Q", iova + 0x800))
    peer.write(0, 0x08, struct.pack("<I", len(values)))
    return int(struct.unpack("<Q", peer.read(0, 0x10, 8))[0])


def test_shared_memory_is_read_and_written_by_the_device(peer: Peer) -> None:
    fd, memory = shared(4 * PAGE)
    enable_bus_master(peer)
    assert not peer.ask(2, map_body(0x10000, 2 * PAGE, offset=PAGE), [fd]).error
    assert add(peer, 0x10000, [1, 2, 3], memory, PAGE) == 6
    assert struct.unpack_from("<Q", memory, PAGE + 0x800) == (6,)
    assert not peer.ask(3, unmap_body(0x10000, 2 * PAGE)).error
    assert add(peer, 0x10000, [1, 2, 3], memory, PAGE) == 0
    os.close(fd)


def test_without_bus_master_the_device_does_no_dma(serve: Serve) -> None:
    served = serve()
    peer = Peer(served.path)
    fd, memory = shared(PAGE)
    peer.ask(2, map_body(0, PAGE), [fd])
    assert add(peer, 0, [1], memory) == 0
    assert served.kernel.dma_without_bus_master
    peer.close()
    os.close(fd)


def test_maps_do_not_overlap_and_unmapping_nothing_succeeds(peer: Peer) -> None:
    fd, _ = shared(8 * PAGE)
    assert not peer.ask(2, map_body(0x2000, 2 * PAGE), [fd]).error
    for iova, size in ((0x2000, PAGE), (0x1000, 2 * PAGE), (0x3000, 4 * PAGE), (0, 8 * PAGE)):
        assert peer.ask(2, map_body(iova, size), [fd]).error == errno.EEXIST
    assert not peer.ask(2, map_body(0x1000, PAGE), [fd]).error
    answer = peer.ask(3, unmap_body(0x100000, 1 << 40))
    assert struct.unpack("=IIQQ", answer.body) == (24, 0, 0x100000, 1 << 40)
    assert peer.ask(3, unmap_body(0x2000, PAGE)).error == errno.EINVAL
    assert not peer.ask(3, unmap_body(0, 1 << 20)).error
    assert not peer.ask(2, map_body(0, 8 * PAGE), [fd]).error
    assert not peer.ask(3, struct.pack("=IIQQ", 24, 2, 0, 0)).error
    assert not peer.ask(2, map_body(0, 8 * PAGE), [fd]).error
    os.close(fd)


def test_a_mapping_beyond_its_file_is_refused(peer: Peer) -> None:
    fd, _ = shared(PAGE)
    assert peer.ask(2, map_body(0, 2 * PAGE), [fd]).error == errno.EINVAL
    assert peer.ask(2, map_body(0, PAGE, offset=PAGE), [fd]).error == errno.EINVAL
    assert not peer.ask(2, map_body(0, PAGE), [fd]).error
    os.close(fd)


def test_thousands_of_mappings_of_a_file_are_one_of_the_process(serve: Serve) -> None:
    peer = Peer(serve().path)
    fd = os.memfd_create("thousands")
    os.truncate(fd, 2000 * PAGE)
    for page in range(2000):
        assert not peer.ask(2, map_body(page * 2 * PAGE, PAGE, offset=page * PAGE), [fd]).error
    # Count only mappings of this file: the interpreter creates others.
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:thousands" in line]
    assert len(maps) == 1
    peer.close()
    os.close(fd)


def answer_dma(peer: Peer, memory: bytearray, until: int) -> Any:
    """Answer the device's DMA messages until a message of the client is answered."""
    while True:
        message = peer.receive()
        assert message is not None
        if message.flags & 1:
            assert message.id == until
            return message
        iova, count = struct.unpack_from("=QQ", message.body)
        if iova + count > len(memory):
            peer.answer(message, error=errno.EFAULT)
        elif message.command == 11:
            peer.answer(message, message.body[:16] + memory[iova : iova + count])
        else:
            memory[iova : iova + count] = message.body[16:]
            peer.answer(message, message.body[:16])


@pytest.mark.parametrize("share", [True, False])
def test_memory_without_a_descriptor_is_asked_for(serve: Serve, share: bool) -> None:
    served = serve(share_memory=share)
    peer = Peer(served.path)
    memory = bytearray(3 * PAGE)
    memory[PAGE : PAGE + 24] = struct.pack("<3Q", 4, 5, 6)
    enable_bus_master(peer)
    assert not peer.ask(2, map_body(0, 3 * PAGE)).error
    peer.write(0, 0x00, struct.pack("<Q", PAGE))
    peer.write(0, 0x18, struct.pack("<Q", 0x100))
    peer.send(10, struct.pack("=QII", 8, 0, 4) + struct.pack("<I", 3), flags=0x10)
    number = peer.send(9, struct.pack("=QII", 0x10, 0, 8))
    # The read is answered while the device waits for memory, so it may not return the sum yet.
    answer_dma(peer, memory, number)
    number = peer.send(9, struct.pack("=QII", 0x10, 0, 8))
    if struct.unpack_from("<Q", memory, 0x100) != (15,):
        answer_dma(peer, memory, number)
        number = peer.send(13)
        answer_dma(peer, memory, number)
    assert struct.unpack_from("<Q", memory, 0x100) == (15,)
    peer.close()


def test_a_write_is_answered_before_the_device_asks_for_memory(serve: Serve) -> None:
    """A hypervisor that waits for the answer to a write may hold the lock under which it serves DMA."""
    served = serve(share_memory=False)
    peer = Peer(served.path)
    enable_bus_master(peer)
    number = peer.send(10, struct.pack("=QII", 8, 0, 4) + struct.pack("<I", 3))
    first = peer.receive()
    assert first is not None
    assert (first.id, first.flags) == (number, 1)
    second = peer.receive()
    assert second is not None
    assert second.command == 11
    # The server reads further messages while it waits.
    assert peer.read(7, 0, 2) == b"\x34\x12"
    peer.answer(second, error=errno.EFAULT)
    third = peer.receive()
    assert third is not None
    assert third.command == 12
    peer.answer(third, error=errno.EFAULT)
    assert struct.unpack("<Q", peer.read(0, 0x10, 8)) == (0,)
    assert len(served.kernel.faults) == 2
    peer.close()


def test_a_client_that_goes_while_the_device_waits_ends_the_wait(serve: Serve) -> None:
    served = serve(share_memory=False)
    peer = Peer(served.path)
    enable_bus_master(peer)
    peer.write(0, 8, struct.pack("<I", 3))
    peer.close()
    again = Peer(served.path)
    assert again.read(7, 0, 2) == b"\x34\x12"
    again.close()


def test_a_thread_of_the_model_does_dma_by_messages(serve: Serve) -> None:
    served = serve(share_memory=False)
    peer = Peer(served.path)
    enable_bus_master(peer)
    result: list[bytes] = []

    def work() -> None:
        with served.kernel.lock:
            result.append(served.device.dma_read(0, 16))

    thread = threading.Thread(target=work)
    thread.start()
    message = peer.receive()
    assert message is not None
    # The model's lock is not held while its thread waits.
    assert peer.read(0, 0, 4) == bytes(4)
    peer.answer(message, message.body[:16] + b"0123456789abcdef")
    thread.join(60)
    assert result == [b"0123456789abcdef"]
    peer.close()


def test_large_transfers_are_split_by_the_clients_limit(serve: Serve) -> None:
    served = serve(share_memory=False)
    peer = Peer(served.path)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(served.device.space.read(0, 10000)))
    thread.start()
    sizes: list[int] = []
    while sum(sizes) < 10000:
        message = peer.receive()
        assert message is not None
        sizes.append(struct.unpack_from("=QQ", message.body)[1])
        peer.answer(message, message.body[:16] + bytes(sizes[-1]))
    thread.join(60)
    assert sizes == [4096, 4096, 1808]
    assert done == [bytes(10000)]
    peer.close()


# Interrupts


def test_interrupts_signal_the_clients_eventfds(peer: Peer) -> None:
    eventfd = os.eventfd(0)
    assert not peer.ask(8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1), [eventfd]).error
    assert not peer.ask(8, struct.pack("=IIIII", 20, 0x21, 1, 0, 1)).error
    assert select.select([eventfd], [], [], 60)[0]
    os.eventfd_read(eventfd)
    assert not peer.ask(8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1)).error  # no descriptor: removes the eventfd
    assert not peer.ask(8, struct.pack("=IIIII", 20, 0x21, 1, 0, 0)).error
    assert peer.ask(8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1), [peer.socket.fileno()]).error == errno.EINVAL
    os.close(eventfd)


def test_reset_is_for_devices_that_have_one(peer: Peer, serve: Serve) -> None:
    peer.write(0, 0x20, b"\1\2\3\4")
    assert not peer.ask(13).error
    assert peer.read(0, 0x20, 4) == bytes(4)

    class Plain(mock.Device):
        function = mock.Function((0x1234, 1), bars={0: mock.Bar(4096)})

    other = Peer(serve(Plain).path)
    assert struct.unpack("=IIII", other.ask(4, struct.pack("=IIII", 16, 0, 0, 0)).body)[1] == 2
    assert other.ask(13).error == errno.EINVAL
    other.close()


# Features


@pytest.fixture
def logging(tmp_path: Path) -> Any:
    kernel = mock.Kernel("intel-57")
    server = vfio_user.Server(kernel.devices["vfio-mock.0"], tmp_path / "mock")
    thread = threading.Thread(target=server.serve_one)
    thread.start()
    peer = Peer(server.path)
    yield peer, kernel.devices["vfio-mock.0"]
    peer.close()
    thread.join(60)
    server.close()


def feature(flags: int, data: bytes = b"", room: int = 0) -> bytes:
    return struct.pack("=II", 8 + max(room, len(data)), flags) + data


def test_dma_logging_has_its_ranges_and_bitmap_in_the_message(logging: Any) -> None:
    peer, device = logging
    assert not peer.ask(16, feature(6 | 0x20000 | 0x40000)).error  # probe
    ranges = struct.pack("=QIIQQ", 4096, 1, 0, 0x100000, 16 * 4096)
    answer = peer.ask(16, feature(6 | 0x20000, ranges))
    assert answer.body[8:] == ranges
    device.log.mark(0x103000, 2 * 4096)
    asked = struct.pack("=QQQ", 0x100000, 16 * 4096, 4096)
    answer = peer.ask(16, feature(8 | 0x10000, asked, room=32))
    assert answer.body[8:32] == asked
    assert struct.unpack("=Q", answer.body[32:]) == (0b11000,)
    assert struct.unpack("=Q", peer.ask(16, feature(8 | 0x10000, asked, room=32)).body[32:]) == (0,)
    assert peer.ask(16, feature(6 | 0x20000, ranges)).error  # logging is already on
    assert peer.ask(16, feature(6 | 0x20000, struct.pack("=QII", 4096, 9, 0))).error == errno.EINVAL
    assert not peer.ask(16, feature(7 | 0x20000)).error
    # Without a range, everything that is mapped is logged.
    assert not peer.ask(2, map_body(0x200000, 4 * 4096)).error
    assert not peer.ask(16, feature(6 | 0x20000, struct.pack("=QII", 4096, 0, 0))).error
    device.log.mark(0x201000, 1)
    assert struct.unpack_from(
        "=Q", peer.ask(16, feature(8 | 0x10000, struct.pack("=QQQ", 0x200000, 4 * 4096, 4096), room=32)).body, 32
    ) == (2,)
    assert not peer.ask(16, feature(7 | 0x20000)).error
    assert peer.ask(16, feature(7 | 0x10000)).error == errno.EINVAL


def test_migration_goes_by_messages(logging: Any) -> None:
    peer, _ = logging
    assert struct.unpack("=Q", peer.ask(16, feature(1 | 0x10000, room=8)).body[8:])[0] & 1
    assert not peer.ask(16, feature(2 | 0x20000, struct.pack("=Ii", 3, -1))).error  # STOP_COPY
    stream = b""
    while True:
        body = peer.ask(17, struct.pack("=II", 4104, 4096)).body
        assert len(body) == 4104  # padded to the requested size
        (size,) = struct.unpack_from("=I", body, 4)
        if not size:
            break
        stream += body[8 : 8 + size]
    assert stream
    assert not peer.ask(16, feature(2 | 0x20000, struct.pack("=Ii", 1, -1))).error  # STOP
    assert peer.ask(17, struct.pack("=II", 4104, 4096)).error == errno.EINVAL
    assert not peer.ask(16, feature(2 | 0x20000, struct.pack("=Ii", 4, -1))).error  # RESUMING
    for at in range(0, len(stream), 1000):
        part = stream[at : at + 1000]
        assert not peer.ask(18, struct.pack("=II", 8 + len(part), len(part)) + part).error
    assert not peer.ask(16, feature(2 | 0x20000, struct.pack("=Ii", 1, -1))).error
    assert struct.unpack("=Ii", peer.ask(16, feature(2 | 0x10000, room=8)).body[8:]) == (1, -1)


# Clients that come and go


def test_the_next_client_finds_the_registers_and_nothing_else(serve: Serve) -> None:
    served = serve()
    fd, _ = shared(PAGE)
    eventfd = os.eventfd(0)
    peer = Peer(served.path)
    peer.write(0, 0x20, b"kept")
    peer.ask(2, map_body(0, PAGE), [fd])
    peer.ask(8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1), [eventfd])
    peer.close()
    peer = Peer(served.path)
    assert peer.read(0, 0x20, 4) == b"kept"
    assert not peer.ask(2, map_body(0, PAGE), [fd]).error
    assert peer.ask(8, struct.pack("=IIIII", 20, 0x21, 1, 0, 1)).error == errno.EINVAL
    peer.close()
    os.close(fd)
    os.close(eventfd)


def test_a_client_that_comes_while_the_server_closes_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() runs between accept() and the creation of the session, which it does not know yet."""
    server = vfio_user.Server(Adder, tmp_path / "adder")
    make = server_module.Session

    def close_first(*arguments: Any, **more: Any) -> server_module.Session:
        server.close()
        return make(*arguments, **more)

    monkeypatch.setattr(server_module, "Session", close_first)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "adder"))
        serving = threading.Thread(target=server.serve_one, daemon=True)
        serving.start()
        serving.join(60)
        assert not serving.is_alive()
        assert client.recv(1) == b""


def test_a_second_client_waits_for_the_first(serve: Serve) -> None:
    served = serve()
    first = Peer(served.path)
    second = Peer(served.path, version=False)
    second.send(1, VERSION)
    assert first.read(7, 0, 2) == b"\x34\x12"
    assert not select.select([second.socket], [], [], 0.1)[0]
    first.close()
    assert second.receive() is not None
    second.close()


def test_a_path_that_is_served_is_refused_and_a_stale_one_replaced(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(OSError, match="in use"):
        vfio_user.Server(Adder, served.path)
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    vfio_user.Server(Adder, stale).close()
    assert not stale.exists()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        vfio_user.Server(Adder, file)
    assert file.read_text() == "mine"


def test_mutated_messages_end_in_errors_and_leave_no_descriptor(serve: Serve) -> None:
    served = serve()
    random_ = random.Random(1)
    os.close(served.device.region_file.open())  # create the memory of the BAR, which happens at the first use
    before = descriptors()
    eventfd = os.eventfd(0)
    good = [
        (1, VERSION), (2, map_body(0, PAGE)), (3, unmap_body(0, PAGE)), (4, struct.pack("=IIII", 16, 0, 0, 0)),
        (5, struct.pack("=IIIIQQ", 32, 0, 2, 0, 0, 0)), (7, struct.pack("=IIII", 16, 0, 1, 0)),
        (8, struct.pack("=IIIII", 20, 0x24, 1, 0, 1)), (9, struct.pack("=QII", 0, 0, 4)),
        (10, struct.pack("=QII", 8, 0, 4) + b"\0\0\0\0"), (13, b""), (15, struct.pack("=QQII8s", 1, 0, 0, 4, b"")),
        (16, feature(6 | 0x20000, struct.pack("=QIIQQ", 4096, 1, 0, 0, 4096))), (17, struct.pack("=II", 16, 8)),
    ]  # fmt: skip
    peer: Peer | None = None
    for _ in range(3000):
        peer = peer or Peer(served.path)
        command, body = random_.choice(good)
        message = bytearray(HEADER.pack(random_.getrandbits(16), command, 16 + len(body), 0, 0) + body)
        for _ in range(random_.choice((1, 1, 2, 4))):
            at = random_.randrange(len(message))
            message[at] = random_.choice((0, 1, 0xFF, message[at] ^ 1 << random_.randrange(8)))
        try:
            socket.send_fds(peer.socket, [bytes(message)], [eventfd] * random_.choice((0, 0, 1, 2)))
            while select.select([peer.socket], [], [], 0)[0]:
                answer = peer.receive()
                if answer is None:
                    raise ConnectionError
                for fd in answer.fds:
                    os.close(fd)
        except (ConnectionError, BrokenPipeError):
            peer.close()
            peer = None
        if random_.random() < 0.05 and peer is not None:
            peer.close()
            peer = None
    if peer is not None:
        peer.close()
    last = Peer(served.path)
    assert last.read(7, 0, 2) == b"\x34\x12"
    last.close()
    os.close(eventfd)
    assert settle(before) <= before


def test_a_bug_of_the_model_is_an_error_and_the_server_goes_on(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(mock.Device):
        function = mock.Function((0x1234, 1), bars={0: mock.Bar(4096)})

        def read(self, bar: int, offset: int, width: int) -> int:
            raise ZeroDivisionError

        write = read  # type: ignore[assignment]

    peer = Peer(serve(Broken).path)
    assert peer.ask(9, struct.pack("=QII", 0, 0, 4)).error == errno.EIO
    peer.write(0, 0, b"1234")
    assert peer.read(7, 0, 2) == b"\x34\x12"
    assert "REGION_READ" in caplog.text
    assert "a write of region 0" in caplog.text
    peer.close()


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (OSError(errno.ENOSPC, "the disk of the model is full"), errno.ENOSPC),
        (ConnectionResetError(errno.ECONNRESET, "a connection of the model's own"), errno.ECONNRESET),
        (ProtocolError("a vfio-user connection of the model's own"), errno.EPROTO),
        (OSError("without a number"), errno.EIO),
        (OSError(-5, "with a number that is no errno"), errno.EIO),
    ],
    ids=["ENOSPC", "a connection", "a protocol", "no number", "a wrong number"],
)
def test_an_oserror_of_the_model_is_answered(serve: Serve, raised: OSError, number: int) -> None:
    class Failing(mock.Device):
        function = mock.Function((0x1234, 1), bars={0: mock.Bar(4096)}, resets=True)

        def read(self, bar: int, offset: int, width: int) -> int:
            raise raised

        write = read  # type: ignore[assignment]

        def reset(self) -> None:
            raise raised

    peer = Peer(serve(Failing).path)
    assert peer.ask(9, struct.pack("=QII", 0, 0, 4)).error == number
    assert peer.ask(13).error == number
    peer.write(0, 0, b"1234")  # answered before the model receives it
    assert peer.ask(15, struct.pack("=QQII8s", 1, 0, 0, 4, b"1234")).error == 0
    assert peer.read(7, 0, 2) == b"\x34\x12"
    peer.close()


# The order of messages while a model waits for DMA


class Ordered(Adder):
    """An Adder that records the maximum number of simultaneous writes."""

    depth = deepest = 0

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        super().write(bar, offset, width, value)
        self.depth -= 1


def start_dma(peer: Peer) -> Answer:
    """Make the model read memory by a message, and return that message."""
    enable_bus_master(peer)
    peer.write(0, 0x00, struct.pack("<Q", 0x1000))
    peer.write(0, 0x20, b"old!")
    peer.write(0, 0x08, struct.pack("<I", 1))
    asked = peer.receive()
    assert asked is not None
    assert asked.command == 11
    return asked


def finish_dma(peer: Peer, asked: Answer) -> None:
    """Answer that message, and the model's DMA_WRITE, which follows."""
    peer.answer(asked, asked.body + bytes(8))
    written = peer.receive()
    assert written is not None
    assert written.command == 12
    peer.answer(written, written.body[:16])


def test_edu_is_busy_until_its_last_page_has_been_written(serve: Serve) -> None:
    """A driver that waits for its command register, and then looks at the memory, finds that written."""
    peer = Peer(serve(Edu, share_memory=False).path)
    enable_bus_master(peer)
    for register, value in ((0x80, 0x40000), (0x88, 0x1FF0), (0x90, 0x20), (0x98, 1 | 2)):
        peer.write(0, register, struct.pack("<I", value))
    for page in (0x1FF0, 0x2000):
        written = peer.receive()
        assert written is not None
        assert (written.command, *struct.unpack_from("=QQ", written.body)) == (12, page, 0x10)
        assert peer.read(0, 0x98, 4) == struct.pack("<I", 1 | 2)
        peer.answer(written, written.body[:16])
    assert peer.read(0, 0x98, 4) == struct.pack("<I", 2)
    peer.close()


def test_a_write_waits_for_dma_and_what_follows_it_waits_too(serve: Serve) -> None:
    served = serve(Ordered, share_memory=False)
    peer = Peer(served.path, version=False)
    peer.ask(1, struct.pack("=HH", 0, 1) + b'{"capabilities":{"pyvfio_answers_dma":true}}\0')
    asked = start_dma(peer)
    assert peer.read(0, 0x20, 4) == b"old!"  # a read is served at once
    peer.write(0, 0x20, b"new!")  # answered, but not executed yet
    assert served.device.read(0, 0x20, 4) == int.from_bytes(b"old!", "little")
    number = peer.send(9, struct.pack("=QII", 0x20, 0, 4))
    assert not select.select([peer.socket], [], [], 0.2)[0]  # it does not overtake the write
    finish_dma(peer, asked)
    answer = peer.receive()
    assert answer is not None
    assert (answer.id, answer.body[16:]) == (number, b"new!")
    assert served.device.deepest == 1
    peer.close()


def test_a_client_that_answers_no_dma_has_its_read_answered(serve: Serve) -> None:
    served = serve(Ordered, share_memory=False)
    peer = Peer(served.path)
    asked = start_dma(peer)
    peer.write(0, 0x20, b"new!")
    assert peer.read(0, 0x20, 4) == b"old!"  # the processor waits for it, and answers DMA later
    finish_dma(peer, asked)
    assert peer.read(0, 0x20, 4) == b"new!"
    assert served.device.deepest == 1
    peer.close()


def test_a_wrong_write_while_a_model_waits_for_dma_is_refused(serve: Serve) -> None:
    served = serve(Ordered, share_memory=False)
    peer = Peer(served.path)
    asked = start_dma(peer)
    assert peer.ask(10, struct.pack("=QII", 4094, 0, 4) + b"1234").error == errno.EINVAL
    assert peer.ask(10, b"short").error == errno.EINVAL
    finish_dma(peer, asked)
    peer.close()


def test_a_reset_waits_for_dma(serve: Serve) -> None:
    served = serve(Ordered, share_memory=False)
    peer = Peer(served.path, version=False)
    peer.ask(1, struct.pack("=HH", 0, 1) + b'{"capabilities":{"pyvfio_answers_dma":true}}\0')
    asked = start_dma(peer)
    number = peer.send(13)
    finish_dma(peer, asked)
    answer = peer.receive()
    assert answer is not None
    assert (answer.id, answer.error) == (number, 0)
    assert peer.read(0, 0x20, 4) == bytes(4)
    peer.close()
