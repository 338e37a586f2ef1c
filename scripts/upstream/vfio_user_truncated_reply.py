# SPDX-License-Identifier: MIT
"""QEMU crashes when a vfio-user server sends a reply's header and half of its body, and then nothing more.

The wait for the reply ends after the device's x-msg-timeout, and the message is freed; the reader still points to it.
The same server with a whole body, and one that sends no reply at all, end in an error message and exit code 1.

It needs no virtual machine, no root and no guest, only QEMU 10.1 or later, whose command is the argument.

    python scripts/upstream/vfio_user_truncated_reply.py QEMU [ARGUMENT...]
"""

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

#: The header: message id, command, size with the header, flags, errno
HEADER = struct.Struct("=HHIII")
REPLY = 1
#: The body of a VERSION reply: version 0.0, and capabilities as JSON
BODY = struct.pack("=HH", 0, 0) + json.dumps({"capabilities": {"max_msg_fds": 8}}).encode() + b"\0"


def receive(connected: socket.socket, size: int) -> bytes:
    """Receive `size` bytes, or fewer if the connection ends."""
    data = b""
    while len(data) < size and (part := connected.recv(size - len(data))):
        data += part
    return data


def answer(listening: socket.socket, sent: int) -> None:
    """Answer VERSION with the header and the first bytes of the body (with nothing at all for less than 0), and wait for the client to end."""
    connected, _ = listening.accept()
    with connected, contextlib.suppress(OSError):
        number, command, size, *_ = HEADER.unpack(receive(connected, HEADER.size))
        receive(connected, size - HEADER.size)
        if sent >= 0:
            header = HEADER.pack(number, command, HEADER.size + len(BODY), REPLY, 0)
            connected.sendall(header + BODY[:sent])
        while connected.recv(1 << 16):
            pass


def start(command: list[str], sent: int) -> str:
    """Start QEMU with the device, and return a description of how it ended."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(place, "device"))
        listening.bind(path)
        listening.listen()
        threading.Thread(target=answer, args=(listening, sent), daemon=True).start()
        device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": path}, "x-msg-timeout": 1000}
        done = subprocess.run(
            [*command, "-machine", "pc,memory-backend=ram", "-m", "64M", "-nodefaults", "-display", "none", "-S",
             "-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-device", json.dumps(device)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    return f"exit {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"


for what, count in (
    ("no reply", -1),
    ("a whole reply, and none to the next request", len(BODY)),
    ("half of a reply", len(BODY) // 2),
):
    print(f"{what}: {start(sys.argv[1:], count)}", flush=True)
