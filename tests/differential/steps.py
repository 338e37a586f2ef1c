# SPDX-License-Identifier: MIT
"""The format of traces: calls as data, which can be generated, replayed on any kernel, and compared.

A trace is a list of episodes, an episode is a list of steps, and a step is a dict that can be stored as JSON:

    {"do": "open", "as": SLOT, "what": "container" | "iommufd" | "group:NAME" | "cdev:NAME" | "path:PATH"}
    {"do": "close", "slot": SLOT}
    {"do": "ioctl", "slot": SLOT, "request": NAME, "value": NUMBER}
    {"do": "ioctl", "slot": SLOT, "request": NAME, "at": OFFSET}           the argument is an address in the arena
    {"do": "ioctl", "slot": SLOT, "request": NAME, "arg": HEX, ...}        the argument is the address of these bytes
        "put": [[OFFSET, SIZE, REF], ...]   values to write into the bytes first
        "readonly": true                    the kernel can read the bytes, but not write them
        "as": SLOT                          the result is a new descriptor, named SLOT
        "keep": {VAR: [OFFSET, SIZE]}       store this field of the answer in the variable VAR
        "take": {SLOT: [OFFSET, SIZE]}      this field of the answer is a new descriptor, named SLOT
        "mask": [[OFFSET, SIZE], ...]       fields of the answer that are not compared
        "look": [[OFFSET, SIZE], ...]       parts of the arena that belong to the answer
    {"do": "pread", "slot", "offset", "size", "mask"}, {"do": "pwrite", "slot", "offset", "data": HEX}
    {"do": "until", "slot", "offset", "size", "mask", "value"}     wait until the masked register has this value
    {"do": "fill", "at", "data": HEX, "times": NUMBER}, {"do": "look", "at", "size"}     write or read the arena
    {"do": "mmap", "slot", "offset", "size", "prot"}                map, and unmap at once
    {"do": "pipe", "from": SLOT, "to": SLOT, "limit"}, {"do": "settle", "seconds"}
    {"do": "write_file", "path", "text"}, {"do": "memlock", "bytes": NUMBER | null}     restored at the end
    {"do": "without", "capability": "CAP_SYS_RAWIO" | "CAP_SYS_RESOURCE"}               restored at the end
    {"do": "descriptors", "room": NUMBER}   limit the number of new descriptors; restored at the end
    {"do": "listen"}, {"do": "heard"}       start to receive uevents, and return those received
    {"do": "tell", "path", "data": HEX}     write a file; not restored
    {"do": "file", "path", "how": "read_file" | "readlink" | "listdir" | "exists", "blind": true if the result is not compared}
    {"do": "eventfd", "as": SLOT}, {"do": "memfd", "as": SLOT, "size"}, {"do": "read", "slot", "size"}, {"do": "write", "slot", "data"}

REF is ["arena", OFFSET], ["fd", SLOT] or ["var", VAR, ADDEND]. NAME is a request's name in :mod:`pyvfio.abi`, or a
number.

The arena is memory whose address differs from run to run: WRITABLE bytes, then READ_ONLY bytes, then a HOLE without
memory. An answer is a dict, too: `r` (the result, or -errno), `out` (the argument's bytes after the call), `look` (the
requested parts of the arena).
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

#: Offsets in the arena: of read-only bytes, and of the hole.
RO_AT = WRITABLE
HOLE_AT = WRITABLE + READ_ONLY


def load(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def save(path: Path, value: Any) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    # Write no time and no file name, so that equal traces give equal files.
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
