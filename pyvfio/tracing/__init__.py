# SPDX-License-Identifier: MIT
"""Trace requests to a file, and make the requests of a trace again on another kernel.

::

    with pyvfio.tracing.trace("trace.json"):
        with pyvfio.open("0000:41:10.1") as device:
            ...

`PYVFIO_TRACE=trace.json` in the environment traces a program from its import of pyvfio to its end; `%p` in the name becomes the number
of the process. The file is written when the trace ends. It is in Chrome's trace format, which https://ui.perfetto.dev and
chrome://tracing show: a row for each thread, and the curves `pinned bytes`, `mappings count` and `dirty pages`. Each request is an
event with

========== ====================================================================================================
`in`       the struct as the program passed it, by the fields of the ABI
`out`      the fields of it that the kernel changed
`result`   the result, or the name of the errno
`reason`   why the kernel refused the request, as in the exception; `advice` likewise
`on`, `fd` the name of the file, and its descriptor
`raw`      the bytes of the struct, and of an array that it points to
========== ====================================================================================================

Reads and writes of regions are events too, those of mapped registers included. Accesses to a mapping's memory through its `view` are
not traced, and neither is a forked child.

Without a trace no request passes through this code. With a trace a request takes less than 2 us longer: native code copies it
(cdefs/trace.c), and it is decoded when the trace ends.

The command ::

    python -m pyvfio.tracing replay trace.json --kernel mock:amd

makes the same requests on another kernel, most often a mock, and prints each answer that differs. So a bug that occurs on another host can
be examined without that host. Descriptors, object ids and addresses are translated; memory is anonymous. A device that the kernel
lacks is replaced by `--device OLD=NEW`, or by the first device of the same bus. The exit code is 1 if an answer differs.

==================================== ==================================================================
:mod:`~pyvfio.tracing.recording`     a trace from its start to its file
:mod:`~pyvfio.tracing.records`       the records that the native code makes, and their structs decoded
:mod:`~pyvfio.tracing.events`        the events of the file
:mod:`~pyvfio.tracing.replay`        the requests of a file, made again
==================================== ==================================================================
"""

from __future__ import annotations

from pyvfio.tracing.recording import Outcome, Watch, forget, start, stop, trace, trace_program
from pyvfio.tracing.replay import Difference, Replay, load

__all__ = ["Difference", "Outcome", "Replay", "Watch", "forget", "load", "start", "stop", "trace", "trace_program"]
