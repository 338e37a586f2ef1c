# SPDX-License-Identifier: MIT
"""A trace: calls as data, made in one place, replayed on any kernel, compared in another.

A trace is a list of episodes, an episode a list of steps, a step a dict that is plain JSON:

    {"do": "open", "as": SLOT, "what": "container" | "iommufd" | "group:NAME" | "cdev:NAME" | "path:PATH"}
    {"do": "close", "slot": SLOT}
    {"do": "ioctl", "slot": SLOT, "request": NAME, "value": NUMBER}
    {"do": "ioctl", "slot": SLOT, "request": NAME, "at": OFFSET}           the argument is this place in the arena
    {"do": "ioctl", "slot": SLOT, "request": NAME, "arg": HEX, ...}        the argument is the address of these bytes
        "put": [[OFFSET, SIZE, REF], ...]   what is put into them first
        "readonly": true                    they can be read, but not written
        "as": SLOT                          the result is a new descriptor of that name
        "keep": {VAR: [OFFSET, SIZE]}       what the answer says there is called VAR from now on
        "take": {SLOT: [OFFSET, SIZE]}      what the answer says there is a new descriptor
        "mask": [[OFFSET, SIZE], ...]       what of the answer is not compared
        "look": [[OFFSET, SIZE], ...]       parts of the arena that belong to the answer
    {"do": "pread", "slot", "offset", "size", "mask"}, {"do": "pwrite", "slot", "offset", "data": HEX}
    {"do": "until", "slot", "offset", "size", "mask", "value"}     wait until a register says so
    {"do": "fill", "at", "data": HEX, "times": NUMBER}, {"do": "look", "at", "size"}     the arena
    {"do": "mmap", "slot", "offset", "size", "prot"}                and unmap it at once
    {"do": "pipe", "from": SLOT, "to": SLOT, "limit"}, {"do": "settle", "seconds"}
    {"do": "write_file", "path", "text"}, {"do": "memlock", "bytes": NUMBER | null}     put back at the end
    {"do": "without", "capability": "CAP_SYS_RAWIO" | "CAP_SYS_RESOURCE"}               put back at the end
    {"do": "descriptors", "room": NUMBER}   so many new ones can be had at a time; put back at the end
    {"do": "listen"}, {"do": "heard"}       uevents
    {"do": "tell", "path", "data": HEX}     write a file, for good
    {"do": "file", "path", "how": "read_file" | "readlink" | "listdir" | "exists", "blind": true if what it says is not compared}
    {"do": "eventfd", "as": SLOT}, {"do": "memfd", "as": SLOT, "size"}, {"do": "read", "slot", "size"}, {"do": "write", "slot", "data"}

REF is ["arena", OFFSET], ["fd", SLOT] or ["var", VAR, ADDEND]. NAME as in :mod:`pyvfio.abi`, or a number.

The arena is memory at an address that differs from run to run: WRITABLE bytes, then READ_ONLY, then a HOLE. An answer is a dict too:
`r` (the result, or -errno), `out` (the argument's bytes afterwards), `look`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Step = dict[str, Any]
Answer = dict[str, Any]
Episode = list[Step]

PAGE = 4096
WRITABLE = 256 * PAGE
READ_ONLY = 8 * PAGE
HOLE = 8 * PAGE

#: an offset in the arena of each kind
RO_AT = WRITABLE
HOLE_AT = WRITABLE + READ_ONLY


def load(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def save(path: Path, value: Any) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    # No time and no name in it, so that the same trace is the same file.
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
