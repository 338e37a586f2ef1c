# SPDX-License-Identifier: MIT
"""scripts/vfio_user_peers without libvfio-user: its messages about folders, and the model for libvfio-user's client."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from pathlib import Path

import pytest
from vmtest.vfio_user_peers import PAGE, Sample, main

from pyvfio import vfio_user
from pyvfio._abi import lib


def test_a_folder_without_samples_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server").write_text("not executable")
    assert main([str(tmp_path)]) == 3
    assert "none of the samples is there: gpio-pci-idio-16" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "samples", "build/dbg/samples"])
def test_a_sample_that_ends_is_named_with_what_it_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name in ("server", "client"):
        (tmp_path / place / name).write_text("#!/bin/sh\necho broken $0\nexit 1\n")
        (tmp_path / place / name).chmod(0o755)
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "server: FAILED: it ended by itself: broken" in out
    assert "client: FAILED: it returned 1: broken" in out


def test_the_model_interrupts_and_writes_both_ways(tmp_path: Path) -> None:
    memory = bytearray(2 * PAGE)

    def write(iova: int, data: bytes) -> None:
        memory[iova : iova + len(data)] = data

    server = vfio_user.Server(Sample, tmp_path / "sample")

    def serve() -> None:
        with contextlib.suppress(OSError):
            server.serve_one()

    thread = threading.Thread(target=serve)
    thread.start()
    client = vfio_user.Client(tmp_path / "sample", read=lambda at, size: bytes(memory[at : at + size]), write=write)
    fd, eventfd = os.memfd_create("guest"), os.eventfd(0)
    os.truncate(fd, 2 * PAGE)
    for page in range(2):
        client.dma_map(page * PAGE, PAGE, 3, page * PAGE, fd)
    client.set_irqs(lib.VFIO_IRQ_SET_DATA_EVENTFD | lib.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1, fds=[eventfd])
    client.region_write(0, 0, struct.pack("<Q", int(time.time())))
    assert select.select([eventfd], [], [], 60)[0]
    limit = time.monotonic() + 60
    while memory[3072:PAGE] != b"D" * 1024:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert os.pread(fd, 4, PAGE) == b"AAAA"
    client.region_write(1, 0x100, b"kept")
    # PRE_COPY, STOP_COPY, and into RESUMING
    for state in (6, 3):
        assert client.feature(lib.VFIO_DEVICE_FEATURE_SET | 2, struct.pack("=Ii", state, -1)) == struct.pack(
            "=Ii", state, -1
        )
    stream = b""
    while part := client.migration_read(1024):
        stream += part
    assert stream[8 + 0x100 :][:4] == b"kept"
    client.region_write(1, 0x100, b"lost")
    client.feature(lib.VFIO_DEVICE_FEATURE_SET | 2, struct.pack("=Ii", lib.VFIO_DEVICE_STATE_RESUMING, -1))
    client.migration_write(stream)
    client.feature(lib.VFIO_DEVICE_FEATURE_SET | 2, struct.pack("=Ii", lib.VFIO_DEVICE_STATE_STOP, -1))
    assert client.region_read(1, 0x100, 4) == b"kept"
    client.close()
    thread.join(60)
    server.close()
    os.close(fd)
    os.close(eventfd)
