# SPDX-License-Identifier: MIT
"""The guest's user space: process 1, which runs the command, its mounts and its environment."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmtest.devices import Device
from vmtest.modules import MODULES
from vmtest.shares import HIDDEN, Share

# Names of environment variables that the command inherits from the host.
PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|CI|TERM|COLUMNS|NO_COLOR|FORCE_COLOR|VIRTUAL_ENV"
    r"|(PYVFIO|PYTHON|PYTEST|PYENV|HYPOTHESIS|COVERAGE|MYPY|GITHUB)_?\w*"
)

MOUNTS = (
    "sysfs /sys sysfs defaults",
    "devpts /dev/pts devpts X-mount.mkdir",
    "debugfs /sys/kernel/debug debugfs defaults",
    "configfs /sys/kernel/config configfs defaults",
    "hugetlbfs /dev/hugepages hugetlbfs X-mount.mkdir",
)

# Process 1 of the guest. It uses four virtio ports. 1 and 2: the command's stdout and stderr. 3: messages. The host
# sends keys for /proc/sysrq-trigger; the guest reports that the command starts, its exit code, or why it did not start.
# 4: a sign of life every few seconds.
INIT = r"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
# The number in the ports' names is the virtio device's.
while port=$(echo /dev/vport*p3) && ! [ -e $port ]; do sleep 0.02; done
port=${port%3}
while :; do echo; sleep 3; done >${port}4 & alive=$!
mount -a -T @FSTAB@
ln -sf /proc/self/fd /dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -sf /proc/self/fd/${stream%%:*} /dev/${stream#*:}; done
{ ip link set lo up || ifconfig lo up; } >/dev/null 2>&1 </dev/null
exec 3<>${port}3
mkfifo /run/out /run/err
{ cat /run/out; printf '\000@MARK@'; } >${port}1 & out=$!
{ cat /run/err; printf '\000@MARK@'; } >${port}2 & err=$!
while read -r key <&3; do echo $key >/proc/sysrq-trigger; done & keys=$!
if ! failure=$(@CHECK@ 2>&1); then
    echo "failure $failure" >&3
    while :; do sleep 1000; done
fi
echo start >&3
(
    exec >/run/out 2>/run/err </dev/null 3>&-
    cd @DIRECTORY@ || exit
    exec setsid env -i @ENVIRONMENT@ @COMMAND@
)
status=$?
# What the command left running would keep its output open.
for directory in /proc/[0-9]*; do
    { read -r line <$directory/stat; } 2>/dev/null || continue
    process=${directory#/proc/}
    # After the command's name in parentheses: state, parent. Process 2 is the parent of the kernel's threads.
    set -- ${line##*) }
    case $process,$2 in 1,*|2,*|*,2|$out,*|$err,*|$keys,*|$alive,*|*,$out|*,$err|*,$alive) continue;; esac
    kill -9 $process 2>/dev/null
done
wait $out $err
# A debug kernel. kmemleak passes over what is younger than 5 s, and over what has changed since the scan before.
leaks=/sys/kernel/debug/kmemleak
if [ -w $leaks ]; then
    sleep 6
    echo scan >$leaks
    echo scan >$leaks
    while IFS= read -r line; do echo "<5>kmemleak: $line" >/dev/kmsg; done <$leaks
fi
sync
echo "<5>pyvfio-vm: end @MARK@" >/dev/kmsg
echo "exit $status" >&3
while :; do sleep 1000; done
"""


def guest_environment(
    host: Mapping[str, str], iommu: str, devices: Sequence[Device], kernel: Mapping[str, Any], qemu: str
) -> dict[str, str]:
    """Return the command's environment in the guest.

    :param host: the environment on the host
    :param iommu: the name of the IOMMU
    :param devices: the machine's devices
    :param kernel: the paths that `scripts/build_kernel --json` prints
    :param qemu: QEMU's version
    """
    environment = {name: value for name, value in host.items() if PASSED_ON.fullmatch(name)}
    named = {device.guest_address: device.name for device in devices if device.name != "pcie-root-port"}
    environment |= {
        "PYVFIO_VM_KERNEL": kernel["release"],
        "PYVFIO_VM_IOMMU": iommu,
        "PYVFIO_VM_QEMU": qemu,
        "PYVFIO_VM_DEVICES": json.dumps(named),
    }
    files = {
        "PYVFIO_KERNEL_HEADERS": kernel["headers"],
        "PYVFIO_MDEV_MODULE": kernel["mdev_module"],
        "PYVFIO_MTTY_MODULE": kernel["mtty_module"],
    } | {module.variable: kernel[module.name] for module in MODULES}
    return environment | {name: path for name, path in files.items() if path}


def write_init(
    directory: Path,
    *,
    mark: str,
    here: Path,
    shares: Sequence[Share],
    environment: Mapping[str, str],
    command: Sequence[str],
    check: Sequence[str],
    seen_at: Path | None = None,
) -> Path:
    """Write process 1 and its fstab into a directory, and return the path of process 1.

    :param seen_at: where the guest has the directory, if not at the same path
    :param mark: a text that marks the end of the command's output and of the kernel's log
    :param here: the command's current directory
    :param check: a program that runs before the command; if it fails, its output is reported and the command does not
        run
    """
    mounts = [*MOUNTS, *(f"tmpfs {hidden} tmpfs mode=1777,X-mount.mkdir" for hidden in HIDDEN)]
    mounts += [share.mount for share in shares[1:]]
    fstab = directory / "fstab"
    fstab.write_text("".join(f"{mount} 0 0\n" for mount in mounts))
    words = {
        "FSTAB": shlex.quote(str((seen_at or directory) / fstab.name)),
        "MARK": mark,
        "DIRECTORY": shlex.quote(str(here)),
        "ENVIRONMENT": shlex.join(f"{name}={value}" for name, value in environment.items()),
        "COMMAND": shlex.join(command),
        "CHECK": shlex.join(check),
    }
    init = directory / "init"
    # Words of the command and the environment may be any bytes, also invalid UTF-8.
    init.write_bytes(os.fsencode(re.sub("@([A-Z]+)@", lambda match: words[match[1]], INIT)))
    init.chmod(0o755)
    return init
