# SPDX-License-Identifier: MIT
"""Kernels by name, as `PYVFIO_KERNEL` and `kernel=` take them.

====================  ==========================================================================
`linux`               the real kernel
`mock`                :class:`pyvfio.mock.Kernel` with its default profile
`mock:PROFILE`        the same with a profile, such as `mock:amd`
`vfio-user:PATH`      a mock with one device, whose insides are those of a vfio-user server (:mod:`pyvfio.vfio_user`)
`mock:MODULE:NAME`    a mock of the user's own: `NAME` in `MODULE` is called and returns a Kernel
====================  ==========================================================================

Further kinds come from packages that have an entry point in the group `pyvfio.kernels`. Its name is the word before the
first colon; it is called with the text behind the colon, and returns a :class:`pyvfio.Kernel`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from pyvfio import mock
from pyvfio._core import arguments
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.vfio_user.remote import RemoteKernel

__all__ = ["GROUP", "named"]

#: the entry points by which a package offers kernels of its own
GROUP = "pyvfio.kernels"


def named(name: str) -> Kernel:
    """Return the kernel of that name. For any but the real kernel a line on stderr says so.

    :param name: `linux`, `mock:PROFILE`, `mock:MODULE:NAME` or `vfio-user:PATH`
    :raises ValueError: there is no kernel of that name
    """
    kind, _, rest = arguments.string(name, "name").partition(":")
    if (factory := _KINDS.get(kind)) is None:
        found = entry_points(group=GROUP, name=kind)
        if not found:
            known = ", ".join((*_USAGE, *(f"{entry.name}:..." for entry in entry_points(group=GROUP))))
            raise ValueError(f"no kernel is named {name!r}; known: {known}")
        factory = next(iter(found)).load()
    kernel = factory(rest)
    if not hasattr(kernel, "door"):
        raise ValueError(f"the kernel {name!r} is a {type(kernel).__name__}, not a pyvfio.Kernel")
    if not isinstance(kernel, LinuxKernel):
        shown = repr(kernel).strip("<>") if isinstance(kernel, mock.Kernel) else kernel.name
        given = "" if shown.startswith(name) else f"{name}: "
        print(f"pyvfio: {given}this is {shown}, a kernel in this process; no device is touched", file=sys.stderr)
    return kernel


def _linux(rest: str) -> Kernel:
    if rest:
        raise ValueError(f"no kernel is named 'linux:{rest}'; the real one is 'linux'")
    return LinuxKernel()


def _mock(rest: str) -> Kernel:
    module, colon, function = rest.partition(":")
    if colon:
        found: Kernel = getattr(import_module(module), function)()
        return found
    return mock.Kernel(rest) if rest else mock.Kernel()


def _vfio_user(rest: str) -> Kernel:
    if not rest:
        raise ValueError("vfio-user:PATH needs the path of a server's socket")
    return RemoteKernel(rest)


_KINDS: dict[str, Callable[[str], Kernel]] = {"linux": _linux, "mock": _mock, "vfio-user": _vfio_user}
_USAGE = ("linux", "mock", "mock:PROFILE", "mock:MODULE:FUNCTION", "vfio-user:PATH")
