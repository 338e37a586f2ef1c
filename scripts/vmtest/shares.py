# SPDX-License-Identifier: MIT
"""Directories of the host's that the guest mounts over 9p."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

NINE_P = "trans=virtio,version=9p2000.L,msize=512000"

# Directories of the guest's own, over the host's.
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev/shm")


class Share(NamedTuple):
    """A directory of the host's, at the same path in the guest."""

    tag: str
    path: Path

    @property
    def is_writable(self) -> bool:
        """Whether the guest may write to it."""
        return self.tag == "here"

    @property
    def mount(self) -> str:
        """Its line in the guest's fstab."""
        path = re.sub(r"[\s\\]", lambda match: f"\\{ord(match[0]):03o}", str(self.path))
        mode = "rw,cache=mmap" if self.is_writable else "ro,cache=loose"
        return f"{self.tag} {path} 9p {NINE_P},{mode},X-mount.mkdir"

    def options(self, address: str) -> list[str]:
        """Return QEMU's options for it as the device at that address."""
        # A comma in a value is written twice.
        path = str(self.path).replace(",", ",,")
        readonly = "off" if self.is_writable else "on"
        return [
            "-fsdev",
            f"local,id={self.tag},path={path},security_model=none,multidevs=remap,readonly={readonly}",
            "-device",
            f"virtio-9p-pci,fsdev={self.tag},mount_tag={self.tag},addr={address}",
        ]


def shares_of(here: Path, frozen: list[Path], cache: Path) -> list[Share]:
    """Return the shares of a machine that runs in the directory `here`. The first is the root.

    :param frozen: directories below `here` that nobody changes meanwhile: read-only, and cached without looking
    :param cache: where kernels and modules are; it is shared by itself if the guest would not see it otherwise
    """
    shares = [Share("root", Path("/")), Share("here", here)]
    # Only what no one changes meanwhile may be cached without looking; for imports this halves the time.
    environments = [path.parent for path in sorted(here.glob("*/pyvenv.cfg"))]
    shares += [Share(f"frozen{n}", path) for n, path in enumerate([*environments, *frozen])]
    if any(cache.is_relative_to(hidden) for hidden in HIDDEN) and not cache.is_relative_to(here):
        shares.append(Share("cache", cache))
    return shares
