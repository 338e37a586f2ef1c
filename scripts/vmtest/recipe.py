# SPDX-License-Identifier: MIT
"""The recipe of a test kernel: source, configuration and tools.

The kernel's directory is named by its hash, so a change here causes a new build.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

FRAGMENT = Path(__file__).resolve().parents[1] / "kernel.config"
DEBUG_FRAGMENT = FRAGMENT.with_name("kernel.debug.config")

# The name of the debug kernel, for options that take a version.
DEBUG = "debug"

# Kernels that are not built: the distribution's binary packages, by the pattern of their name. To download and unpack
# 6.1 takes 20 seconds, a build 9 minutes of processor time; the option that a build would add (iommufd) only came with
# 6.2. 6.12 is built, because the distribution's binary has no iommufd.
READY = {"6.1": r"^linux-image-6\.1\.0-[0-9]+-amd64$"}
SOURCE = r"^linux-source-[0-9.]+$"
# The modules of a ready kernel that a machine needs, in the order of loading. Their dependencies are added
# automatically.
READY_MODULES = (
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "vfio_iommu_type1",
    "vfio_pci",
    "nvme",
    "e1000e",
    "igb",
)
# Process 1 of its initramfs: it loads the modules, so that the guest's own process 1 finds everything as in a kernel
# with built-in drivers. modprobe takes the parameters of modules from the kernel's command line.
READY_INIT = r"""#!/busybox sh
/busybox mount -t proc proc /proc
for module in @MODULES@; do /busybox modprobe $module; done
for word in $(/busybox cat /proc/cmdline); do case $word in init=*|rootflags=*) export "$word";; esac; done
/busybox mount -t 9p -o ro,$rootflags root /root
/busybox mount -t devtmpfs devtmpfs /root/dev
/busybox umount /proc
exec /busybox switch_root /root $init
"""

MAKE_CONFIG = (
    ("tinyconfig",),
    ("merge",),
    ("olddefconfig",),
)
MAKE_BUILD = ("bzImage", "modules", "headers")
MAKE_VARIABLES = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "pyvfio",
    "KBUILD_BUILD_HOST": "pyvfio",
}
# The same for the kernel of scripts/arm64.
ARM64_FRAGMENT = FRAGMENT.with_name("kernel.arm64.config")
ARM64_COMPILER = "aarch64-linux-gnu-gcc"
ARM64_BUILD = ("Image", "modules")
ARM64_VARIABLES = MAKE_VARIABLES | {"ARCH": "arm64", "CROSS_COMPILE": ARM64_COMPILER.removesuffix("gcc")}
ARM64_KEPT_IN_TREE = (
    "Makefile",
    ".config",
    "Module.symvers",
    "include",
    "scripts",
    "arch/arm64/Makefile*",
    "arch/arm64/include",
)
KEPT_IN_TREE = (
    "Makefile",
    ".config",
    "Module.symvers",
    "include",
    "scripts",
    "arch/x86/Makefile*",
    "arch/x86/include",
    "tools/objtool/objtool",
    "drivers/iommu/iommufd/*.h",
)
LEFT_OUT_OF_TREE = ("*.o", "*.a", "*.cmd", "*.dtsi", "*.dts")
MODULES = ("drivers/vfio/mdev/mdev.ko", "samples/vfio-mdev/mtty.ko")


class Option(NamedTuple):
    """A line in a fragment of the kernel's configuration."""

    name: str
    value: str | None
    """The value; None for "is not set"."""
    is_in_every_release: bool


def digest(value: Any) -> str:
    """Return a short hash of a value that JSON can represent."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fragments(*, debug: bool) -> tuple[Path, ...]:
    """Return the fragments of the configuration, in the order of merging."""
    return (FRAGMENT, DEBUG_FRAGMENT) if debug else (FRAGMENT,)


def parse_fragment(text: str) -> list[Option]:
    """Return the options that a fragment sets."""
    options, needed = [], True
    for line in text.splitlines():
        if line.startswith("# Not in every release"):
            needed = False
        elif match := re.fullmatch(r"(CONFIG_\w+)=(.+)", line):
            options.append(Option(match[1], match[2], needed))
        elif match := re.fullmatch(r"# (CONFIG_\w+) is not set", line):
            options.append(Option(match[1], None, needed))
    return options


def without_effect(options: list[Option], config: str) -> list[Option]:
    """Return the options that a finished configuration lacks or has with another value."""
    values = dict(re.findall(r"^(CONFIG_\w+)=(.+)$", config, re.M))
    return [option for option in options if values.get(option.name) != option.value]


def local_recipe(version: str | None, *, debug: bool = False) -> dict[str, Any]:
    """Return all inputs of the build except the source package."""
    tools = {"compiler": _first_line("gcc", "--version"), "linker": _first_line("ld", "--version")}
    if version in READY:
        return tools | {"recipe": [READY_MODULES, READY_INIT]}
    recipe = tools | {
        "fragment": _hash_of(FRAGMENT),
        "recipe": [MAKE_CONFIG, MAKE_BUILD, MAKE_VARIABLES, KEPT_IN_TREE, LEFT_OUT_OF_TREE, MODULES],
    }
    return recipe | {"debug_fragment": _hash_of(DEBUG_FRAGMENT)} if debug else recipe


def arm64_recipe() -> dict[str, Any]:
    """Return all inputs of the build of the arm64 kernel except the source package."""
    return {
        "compiler": _first_line(ARM64_COMPILER, "--version"),
        "linker": _first_line(f"{ARM64_VARIABLES['CROSS_COMPILE']}ld", "--version"),
        "fragment": _hash_of(ARM64_FRAGMENT),
        "recipe": [MAKE_CONFIG, ARM64_BUILD, ARM64_VARIABLES, ARM64_KEPT_IN_TREE, LEFT_OUT_OF_TREE],
    }


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"
