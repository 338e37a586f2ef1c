# SPDX-License-Identifier: MIT
"""VF tokens: the words after the device's name in VFIO_GROUP_GET_DEVICE_FD (vfio_pci_core_match)."""

from __future__ import annotations

import errno
import re
from uuid import UUID

from pyvfio.mock.machine.errno import Errno

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WORD = b"vf_token="


def words(name: bytes, own: str) -> list[bytes] | None:
    """Return the words after a device's name; None if the name is another device's.

    :param own: the name of this device
    """
    rest = name.removeprefix(own.encode())
    if len(rest) + len(own) != len(name) or rest[:1] not in (b"", b" "):
        return None
    return rest.split()


def token(words: list[bytes]) -> bytes | None:
    """Return the token of the word `vf_token=UUID`; None if there are no words.

    :raises Errno: EINVAL, another word, or more than one
    """
    if not words:
        return None
    text = words[0].removeprefix(_WORD).decode("ascii", "replace")
    if len(words) > 1 or not words[0].startswith(_WORD) or not _UUID.fullmatch(text):
        raise Errno(errno.EINVAL)
    return UUID(text).bytes
