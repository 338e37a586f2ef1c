# SPDX-License-Identifier: MIT
"""Directories of the host that the guest mounts over 9p."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

NINE_P = "trans=virtio,version=9p2000.L,msize=512000"

# Directories that are the guest's own, and hide the host's.
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev/shm")


class Share(NamedTuple):
    """A directory of the host that the guest mounts, at the same path unless `guest_path` names another."""

    tag: str
    path: Path
    guest_path: Path | None = None
    """Where the guest has it, if not at the same path."""

    @property
    def is_writable(self) -> bool:
        """Whether the guest may write to it."""
        return self.tag in ("here", "pycache")

    @property
    def mount(self) -> str:
        """The share's line in the guest's fstab."""
        path = re.sub(r"[\s\\]", lambda match: f"\\{ord(match[0]):03o}", str(self.guest_path or self.path))
        mode = "rw,cache=mmap" if self.is_writable else "ro,cache=loose"
        return f"{self.tag} {path} 9p {NINE_P},{mode},X-mount.mkdir"

    def options(self, address: str) -> list[str]:
        """Return QEMU's options for the share, as a device at the given address."""
        # QEMU's options use a double comma for a comma in a value.
        path = str(self.path).replace(",", ",,")
        readonly = "off" if self.is_writable else "on"
        return [
            "-fsdev",
            f"local,id={self.tag},path={path},security_model=none,multidevs=remap,readonly={readonly}",
            "-device",
            f"virtio-9p-pci,fsdev={self.tag},mount_tag={self.tag},addr={address}",
        ]


def shares_of(here: Path, frozen: list[Path], cache: Path) -> list[Share]:
    """Return the shares of a machine whose command runs in the directory `here`. The first share is the root.

    :param frozen: directories below `here` that do not change during the run: read-only, and cached without
        revalidation
    :param cache: directory of kernels and modules; it becomes a separate share if it is below a hidden directory
    """
    shares = [Share("root", Path("/")), Share("here", here)]
    # cache=loose does not revalidate, so it is right only for directories that do not change. It halves the time of
    # imports.
    environments = [path.parent for path in sorted(here.glob("*/pyvenv.cfg"))]
    shares += [Share(f"frozen{n}", path) for n, path in enumerate([*environments, *frozen])]
    if any(cache.is_relative_to(hidden) for hidden in HIDDEN) and not cache.is_relative_to(here):
        shares.append(Share("cache", cache))
    return shares
