# SPDX-License-Identifier: MIT
"""The connection: how it ends."""

from __future__ import annotations

import os
import socket

import pytest

from pyvfio.vfio_user.connection import Connection


def test_closing_drops_what_was_not_read_and_its_descriptors() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    for _ in range(3):
        socket.send_fds(theirs, [b"never read"], [writer])
    os.close(writer)
    Connection(ours).close()
    assert theirs.recv(1) == b""  # with unread data it would be ECONNRESET
    assert os.read(reader, 1) == b""  # all descriptors of the other end are closed
    theirs.close()
    os.close(reader)


def test_a_wait_on_a_closed_connection_ends_in_its_error() -> None:
    """Another thread closes the connection: the serving thread must see the connection's end, not an error of its own."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours)
        assert not connection.wait(0)
        connection.close()
        assert connection.wait(0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            connection.receive()
