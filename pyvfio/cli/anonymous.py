# SPDX-License-Identifier: MIT
"""Replace the names in a report that identify a host, its user or its hardware."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_MAC = re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b")
_IPV4 = re.compile(r"\b(?!0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}\b")
_HOME = re.compile(r"/(?:home|root|Users)(?:/[\w.-]+)*")
_PROCESS = re.compile(r"process (\d+) \([^)]*\)")
_MOUNTED = re.compile(r"mounted at [^)]*")


class Anonymous:
    """Replaces names that identify a host or a user, each name always by the same word.

    :param names: further names to replace
    """

    def __init__(self, *names: str) -> None:
        self._words: dict[str, str] = {}
        known = [socket.gethostname(), os.environ.get("USER", ""), os.environ.get("LOGNAME", ""), *names]
        self._names = sorted(
            {name for name in known if len(name) > 2 and name != "root"}, key=lambda name: (-len(name), name)
        )

    def _word(self, kind: str, name: str) -> str:
        if name not in self._words:
            self._words[name] = f"{kind}-{sum(word.startswith(f'{kind}-') for word in self._words.values()) + 1}"
        return self._words[name]

    def text(self, text: str) -> str:
        """Return a text without UUIDs, MAC and IP addresses, home directories, names of processes, mount points, host and user."""
        text = _UUID.sub(lambda found: self._word("uuid", found[0].lower()), text)
        text = _MAC.sub(lambda found: self._word("mac", found[0].lower()), text)
        text = _IPV4.sub(lambda found: self._word("ip", found[0]), text)
        text = _HOME.sub("/home", text)
        text = _PROCESS.sub("a process", text)
        text = _MOUNTED.sub("mounted", text)
        for name in self._names:
            text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", lambda found: self._word("name", found[0]), text)
        return text

    def __call__(self, value: Any) -> Any:
        """Return a JSON value with all its texts and keys replaced."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self(one) for one in value]
        return value


def without_serial(config: str, capabilities: list[dict[str, Any]]) -> str:
    """Return a configuration space, as hexadecimal text, with zeros in the place of the device's serial number.

    :param capabilities: as in the document of `show --open`
    """
    data = bytearray.fromhex(config)
    for one in capabilities:
        if one["extended"] and one["id"] == 0x03:
            at = int(one["offset"], 16) + 4
            data[at : at + 8] = bytes(8)
        elif not one["extended"] and one["id"] == 0x03:
            at = int(one["offset"], 16) + 4  # VPD's data register
            data[at : at + 4] = bytes(4)
    return data.hex()
