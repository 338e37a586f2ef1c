# SPDX-License-Identifier: MIT
"""Record the requests of a test for scripts/matrix, by pyvfio.tracing without a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyvfio import tracing


@contextmanager
def watching() -> Iterator[tracing.Watch]:
    """Trace the requests of this process, without accesses to regions."""
    tracing.start(regions=False, careful=True)
    try:
        yield tracing.Watch()
    finally:
        tracing.forget()
