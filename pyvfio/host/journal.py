"""What bindings were changed, by which program, and what was there before: one small file per device.

The file is a lock too (flock): a program holds it for as long as it has the device bound. A killed
program's lock is gone while what it wrote is still there. The directory is on a file system that a reboot
empties, as a reboot undoes the bindings.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import NamedTuple, Self

from pyvfio.host.discovery import HostDevice
from pyvfio.host.nodes import canonical
from pyvfio.host.sysfs import checked_name, entries
from pyvfio.kernel import Kernel, resolve

DIRECTORY = "/run/pyvfio"


class Binding(NamedTuple):
    """One binding that a program changed, or keeps others from changing.

    :ivar driver: what it was bound to
    :ivar previous_driver: what it was bound to before; None for none
    :ivar previous_override: its `driver_override` before
    :ivar pid: the program's
    """

    bus: str
    address: str
    driver: str
    previous_driver: str | None
    previous_override: str | None
    pid: int


class Journal:
    """A device's file in the journal, held locked.

    :ivar left: what a program that did not live to put the device back has left; None if there is nothing
    :raises OSError: EBUSY, a program holds it; EACCES, one needs to be root
    """

    def __init__(self, kernel: Kernel, found: HostDevice) -> None:
        import fcntl

        self._kernel = kernel
        self._unlock = fcntl.LOCK_UN
        self._pid = os.getpid()
        self._fd = kernel.create(f"{DIRECTORY}/{found.bus}:{found.address}")
        try:
            try:
                kernel.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._read()
                by = "another program" if holder is None else f"process {holder.pid}"
                if holder is not None and holder.pid == self._pid:
                    by = "this process"
                raise OSError(errno.EBUSY, f"{found.address} is being kept bound by {by}") from None
            self.left = self._read()
        except BaseException:
            kernel.close(self._fd)
            raise

    def _read(self) -> Binding | None:
        return _parse(self._kernel.pread(self._fd, 4096, 0))

    def record(self, binding: Binding) -> None:
        """Write down what is about to be changed."""
        import json

        line = json.dumps(binding._asdict()).encode() + b"\n"
        # One write and then the cut: at any moment the file starts with one whole line, the old or the new.
        self._kernel.pwrite(self._fd, line, 0)
        self._kernel.truncate(self._fd, len(line))

    def clear(self) -> None:
        """Everything is as it was before."""
        self._kernel.truncate(self._fd, 0)

    def close(self) -> None:
        """Let other programs have it. The file stays: to remove a file that is a lock is a race."""
        # The lock is shared with forked children: the parent gives it up, even while they have the file open.
        if os.getpid() == self._pid:
            self._kernel.flock(self._fd, self._unlock)
        self._kernel.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def bindings(kernel: Kernel | str | None = None) -> list[Binding]:
    """What the journal holds: bindings kept by running programs, and those that killed ones have left.

    :raises OSError: EACCES, the journal is root's
    """
    kernel = resolve(kernel)
    found = []
    for name in entries(kernel, DIRECTORY):
        try:
            binding = _parse(kernel.read_file(f"{DIRECTORY}/{name}"))
        except FileNotFoundError:
            continue
        if binding is not None:
            found.append(binding)
    return found


def _parse(content: bytes) -> Binding | None:
    import json

    line, newline, _ = content.partition(b"\n")
    if not newline:
        return None  # empty, or its writer was killed before anything was changed
    binding = Binding(**json.loads(line))
    # These go into sysfs again.
    for name, what in (
        (binding.bus, "bus"),
        (binding.driver, "driver"),
        (binding.previous_driver, "driver"),
        (binding.previous_override, "driver"),
    ):
        if name is not None:
            checked_name(name, what)
    canonical(binding.address)
    return binding
