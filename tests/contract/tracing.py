# SPDX-License-Identifier: MIT
"""The requests that went through a test, for scripts/matrix: pyvfio.tracing without a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import tracing


@contextmanager
def watching() -> Iterator[tracing.Watch]:
    """Trace the requests of this process; accesses to regions are of no interest here."""
    tracing.start(regions=False, careful=True)
    try:
        yield tracing.Watch()
    finally:
        tracing.forget()
