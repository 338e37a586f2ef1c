# SPDX-License-Identifier: MIT
"""Histories for research: the pages that a device wrote over time, and the progress of a migration over time.

It needs the extra `notebook` (numpy; pandas for :meth:`DirtyHistory.to_frame`). :mod:`pyvfio.plot` draws the histories. ::

    with device.dirty_log(ranges) as log, DirtyHistory(log, every=0.05) as history:
        work()
    history.array()                     # samples x pages, bool
    pyvfio.plot.heat_map(history)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pyvfio._core import arguments, html
from pyvfio._core.sizes import about
from pyvfio.bitmap import DirtyBitmap
from pyvfio.iova import IovaRange, IovaSet, RangeLike, as_range

if TYPE_CHECKING:
    import pandas

    from pyvfio.migration import Migration, PrecopyInfo, Sink

__all__ = ["DirtyHistory", "Left", "Log", "MigrationHistory", "Sample"]

_MOST_CELLS = 1 << 31
_VERSION = 1


class Log(Protocol):
    """A log to sample: a :class:`pyvfio.DirtyLog`, a :class:`pyvfio.DirtyTracker`, or another object with these members."""

    @property
    def ranges(self) -> Sequence[IovaRange]:
        """The logged ranges, sorted."""

    @property
    def page_size(self) -> int:
        """Bytes for each bit of a report."""

    def read(self) -> DirtyBitmap:
        """Return the pages written since the last read, and clear them."""


class Sample(NamedTuple):
    """One report.

    :ivar time: the time at which the report was complete, in seconds of the monotonic clock, which all processes of a host share
    :ivar cost: seconds that the report took
    :ivar runs: the dirty addresses
    :ivar source: the index of the history that it comes from, after :meth:`DirtyHistory.join`
    """

    time: float
    cost: float
    runs: IovaSet
    source: int = 0

    @property
    def bytes(self) -> int:
        """Dirty bytes."""
        return self.runs.total


class DirtyHistory:
    """The reports of a log over time, sampled in a thread (`with`), in asyncio (`async with`), or by calls of :meth:`sample`.

    A sample has the pages that were written since the sample before. Its memory depends on the number of dirty runs, not on the size of the
    ranges. The first interval begins when the history is made. An exception in the sampling thread is raised at the end of the `with`.

    :param log: the log to sample; reading clears it, so no other code may read it meanwhile
    :param every: seconds between samples
    :raises ValueError: `every` is not positive

    :ivar samples: a list of :class:`Sample`, in the order of time
    :ivar started: seconds of the monotonic clock
    """

    def __init__(self, log: Log, *, every: float = 0.1) -> None:
        if not all(hasattr(log, name) for name in ("read", "ranges", "page_size")):
            raise arguments.wrong_type(log, "log", "a DirtyLog, a DirtyTracker, or another object of that form")
        self._read: Callable[[], DirtyBitmap] | None = log.read
        self.ranges = tuple(log.ranges)
        self.page_size = log.page_size
        self.every = arguments.seconds(every, "every")
        if not self.every:
            raise ValueError("every must be more than 0 seconds")
        self.started = time.monotonic()
        self.samples: list[Sample] = []
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    @classmethod
    def _made(cls, ranges: Iterable[IovaRange], page_size: int, started: float, samples: list[Sample]) -> Self:
        made = cls.__new__(cls)
        made._read = None
        made.ranges, made.page_size, made.every, made.started = tuple(ranges), page_size, 0.0, started
        made.samples = samples
        made._thread = made._task = made._failure = None
        made._stop = threading.Event()
        return made

    def sample(self) -> Sample:
        """Read the log now, and add the report.

        :raises ValueError: the history was loaded or joined, and has no log
        """
        read = self._check_log()
        begun = time.monotonic()
        runs = read().runs()
        ended = time.monotonic()
        self.samples.append(Sample(ended, ended - begun, runs))
        return self.samples[-1]

    def _check_log(self) -> Callable[[], DirtyBitmap]:
        if self._read is None:
            raise ValueError("this history has no log: it was loaded or joined")
        return self._read

    def _check_ready(self) -> None:
        self._check_log()
        if self._thread is not None or self._task is not None:
            raise ValueError("it is sampling already")

    # In a thread.

    def __enter__(self) -> Self:
        self._check_ready()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="pyvfio-dirty-history", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join()
        self._end(value)

    def _run(self) -> None:
        try:
            due = time.monotonic() + self.every
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self.sample()
                due = max(due + self.every, time.monotonic())
        except BaseException as error:
            self._failure = error

    def _end(self, value: BaseException | None) -> None:
        """Take the last sample. Raise the failure of the sampling, unless the block itself has raised an exception."""
        failure, self._failure = self._failure, None
        if failure is None:
            try:
                self.sample()
            except Exception as error:
                failure = error
        if failure is not None and value is None:
            raise failure
        if failure is not None and value is not None:
            value.add_note(f"the history of dirty pages ended early: {failure}")

    # In asyncio.

    async def __aenter__(self) -> Self:
        self._check_ready()
        self._task = asyncio.create_task(self._run_task())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._end(value)

    async def _run_task(self) -> None:
        try:
            due = time.monotonic() + self.every
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.sample()
                due = max(due + self.every, time.monotonic())
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failure = error

    # The results.

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds from the start to each sample."""
        return np.array([sample.time - self.started for sample in self.samples], "f8")

    @property
    def costs(self) -> NDArray[np.float64]:
        """Seconds that each report took."""
        return np.array([sample.cost for sample in self.samples], "f8")

    @property
    def counts(self) -> NDArray[np.int64]:
        """Dirty pages of each sample."""
        return np.array([sample.bytes // self.page_size for sample in self.samples], "i8")

    @property
    def written(self) -> IovaSet:
        """The addresses that were ever dirty."""
        found = IovaSet()
        for sample in self.samples:
            found = found | sample.runs
        return found

    def array(self, range: RangeLike | None = None) -> NDArray[np.bool_]:
        """Return samples x pages: whether a page was written in that interval.

        :param range: only the pages of this range; None for all ranges, one after the other
        :raises ValueError: the array would have more than 2^31 entries; use a part of the ranges, or :meth:`binned`
        """
        ranges = self.ranges if range is None else (as_range(range, "range"),)
        pages = sum(each.size // self.page_size for each in ranges)
        if pages * len(self) > _MOST_CELLS:
            raise ValueError(
                f"{len(self)} samples of {pages} pages are too many for an array; pass range=, or use binned()"
            )
        return self._filled(ranges, self.page_size, np.zeros((len(self), pages), bool)).astype(bool, copy=False)

    def binned(self, bins: int = 256, range: RangeLike | None = None) -> NDArray[np.float64]:
        """Return samples x bins: the share of each bin's bytes that was written in that interval, from 0 to 1.

        :param bins: the most bins in each range
        :param range: only the pages of this range; None for all ranges, one after the other
        """
        bins = arguments.integer(bins, "bins", 1)
        ranges = self.ranges if range is None else (as_range(range, "range"),)
        return np.concatenate([self._shares(each, self.bin_edges(each, bins)) for each in ranges], axis=1)

    def bin_edges(self, range: IovaRange, bins: int) -> NDArray[np.uint64]:
        """Return the addresses at which the bins of a range begin, and the range's end. Bins are whole pages, and of one size except the last.

        :param range: one of the logged ranges
        :param bins: the most bins
        """
        range, bins = as_range(range, "range"), arguments.integer(bins, "bins", 1)
        pages = range.size // self.page_size
        width = -(-pages // bins) * self.page_size
        starts = [range.start + at for at in _steps(range.size, width)]
        return np.array([*starts, range.start + range.size], object)

    def _shares(self, range: IovaRange, edges: NDArray[Any]) -> NDArray[np.float64]:
        width = int(edges[1] - edges[0])
        found = np.zeros((len(self), len(edges) - 1), "f8")
        whole = IovaSet([range])
        for row, sample in zip(found, self.samples, strict=True):
            for start, last in sample.runs & whole:
                first, end = (start - range.start) // width, (last - range.start) // width
                row[first : end + 1] += width
                row[first] -= (start - range.start) % width
                row[end] -= width - 1 - (last - range.start) % width
        found /= np.diff(edges).astype("f8")
        return found

    def _filled(self, ranges: Sequence[IovaRange], page_size: int, into: NDArray[np.bool_]) -> NDArray[np.bool_]:
        at = 0
        for each in ranges:
            whole = IovaSet([each])
            for row, sample in zip(into, self.samples, strict=True):
                for start, last in sample.runs & whole:
                    row[at + (start - each.start) // page_size : at + (last - each.start) // page_size + 1] = True
            at += each.size // page_size
        return into

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas.DataFrame, a row for each sample: time, pages, bytes, bytes_per_second, cost, source; indexed by time in seconds."""
        import pandas

        times = self.times
        lengths = np.diff(times, prepend=0.0)
        written = self.counts * self.page_size
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.where(lengths > 0, written / lengths, 0.0)
        columns = {
            "pages": self.counts,
            "bytes": written,
            "bytes_per_second": rates,
            "cost": self.costs,
            "source": [sample.source for sample in self.samples],
        }
        return pandas.DataFrame(columns, index=pandas.Index(times, name="time"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history to a file in numpy's format .npz.

        :param path: the path of the file, with the suffix .npz
        """
        runs = [np.asarray(sample.runs, "u8").reshape(-1, 2) for sample in self.samples]
        np.savez_compressed(
            path,
            version=_VERSION,
            page_size=self.page_size,
            started=self.started,
            ranges=np.array([tuple(each) for each in self.ranges], "u8").reshape(-1, 2),
            times=np.array([sample.time for sample in self.samples], "f8"),
            costs=self.costs,
            sources=np.array([sample.source for sample in self.samples], "i8"),
            ends=np.cumsum([len(each) for each in runs], dtype="i8"),
            runs=np.concatenate(runs) if runs else np.empty((0, 2), "u8"),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that :meth:`save` has written.

        :param path: the path of the file
        :raises ValueError: the file is of another kind or version
        """
        with np.load(arguments.path(path)) as file:
            if "version" not in file or int(file["version"]) != _VERSION:
                raise ValueError(f"{os.fspath(path)} is not a DirtyHistory of version {_VERSION}")
            ends = file["ends"].tolist()
            runs, begin = file["runs"], 0
            samples = []
            for moment, cost, source, end in zip(
                file["times"].tolist(), file["costs"].tolist(), file["sources"].tolist(), ends, strict=True
            ):
                samples.append(Sample(moment, cost, IovaSet.from_array(runs[begin:end].tobytes()), source))
                begin = end
            ranges = [IovaRange(*pair) for pair in file["ranges"].tolist()]
            return cls._made(ranges, int(file["page_size"]), float(file["started"]), samples)

    @classmethod
    def join(cls, histories: Iterable[DirtyHistory]) -> Self:
        """Join the histories of several devices or processes of one host, by the monotonic clock that they share.

        :param histories: histories of the same ranges and page size
        :raises ValueError: there are no histories, or their page sizes differ
        """
        each = arguments.instances(histories, "histories", DirtyHistory)
        if not each:
            raise ValueError("histories must have one history or more")
        if len({history.page_size for history in each}) > 1:
            raise ValueError(f"page sizes differ: {', '.join(str(history.page_size) for history in each)} bytes")
        samples = [sample._replace(source=number) for number, history in enumerate(each) for sample in history.samples]
        samples.sort(key=lambda sample: sample.time)
        ranges = IovaSet([range_ for history in each for range_ in history.ranges])
        return cls._made(ranges, each[0].page_size, min(history.started for history in each), samples)

    def __repr__(self) -> str:
        seconds = self.samples[-1].time - self.started if self.samples else 0
        size = sum(range_.size for range_ in self.ranges)
        return (
            f"<DirtyHistory: {len(self)} samples in {seconds:.3g} s of {about(size)}, {self.counts.sum()} pages dirty>"
        )

    def _repr_html_(self) -> str:
        rows = [
            (f"{moment:.3f}", pages, about(int(pages) * self.page_size), f"{cost * 1e6:.0f}")
            for moment, pages, cost in zip(self.times, self.counts, self.costs, strict=True)
        ]
        return html.table(repr(self).strip("<>"), ("time (s)", "pages", "written", "cost (us)"), rows)


def _steps(size: int, width: int) -> Iterable[int]:
    at = 0
    while at < size:
        yield at
        at += width


class Left(NamedTuple):
    """The rest of a migration at a moment.

    :ivar time: seconds since its start
    :ivar left: bytes of the device's state that the kernel expected to follow; None once the device is stopped
    :ivar sent: bytes that had been sent
    """

    time: float
    left: int | None
    sent: int


class MigrationHistory:
    """The progress of the saving side of a migration: bytes left and sent over time. ::

        history = MigrationHistory()
        with open("state", "wb") as file:
            history.save(device.migration, file, until=lambda info: info.pending < 1 << 20)
        pyvfio.plot.convergence(history)

    :ivar points: a list of :class:`Left`
    :ivar converged: whether `until` was met; None before the end
    """

    def __init__(self) -> None:
        self.points: list[Left] = []
        self.converged: bool | None = None
        self.downtime: float | None = None

    def save(
        self,
        migration: Migration,
        into: Sink,
        *,
        until: Callable[[PrecopyInfo], bool] | None = None,
        rounds: int = 1000,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Save a device's state, with pre-copy if the device supports it, and record the bytes left after each round.

        :param migration: `device.migration`
        :param into: the destination of the state: a file, a socket's file
        :param until: returns whether enough was sent to stop the device; by default, when no bytes of the first pass are left
        :param rounds: the most rounds of pre-copy, after which the device is stopped
        :param progress: called with the bytes of each write; `tqdm(unit="B").update` for one
        :returns: bytes sent
        """
        rounds = arguments.integer(rounds, "rounds", 1)
        enough = until or _first_pass_done
        counted = _Counted(into, progress)
        begun = time.monotonic()
        if migration.has_pre_copy:
            self.converged = False
            for number, info in enumerate(migration.pre_copy(counted), 1):
                self.points.append(Left(time.monotonic() - begun, info.pending, counted.sent))
                if enough(info):
                    self.converged = True
                    break
                if number >= rounds:
                    break
        stopped = time.monotonic()
        migration.save(counted)
        ended = time.monotonic()
        self.downtime = ended - stopped
        self.points.append(Left(ended - begun, None, counted.sent))
        return counted.sent

    def __repr__(self) -> str:
        sent = self.points[-1].sent if self.points else 0
        outcome = {None: "", True: ", converged", False: ", did not converge"}[self.converged]
        return f"<MigrationHistory: {len(self.points)} points, {about(sent)} sent{outcome}>"

    def _repr_html_(self) -> str:
        rows = [
            (f"{point.time:.3f}", "stopped" if point.left is None else about(point.left), about(point.sent))
            for point in self.points
        ]
        return html.table(repr(self).strip("<>"), ("time (s)", "left", "sent"), rows)


def _first_pass_done(info: PrecopyInfo) -> bool:
    return not info.initial_bytes


class _Counted:
    """A sink that counts the bytes written to it."""

    def __init__(self, into: Sink, progress: Callable[[int], object] | None) -> None:
        self._into, self._progress = into, progress
        self.sent = 0

    def write(self, data: Any, /) -> int | None:
        written = self._into.write(data)
        count = len(data) if written is None else written
        self.sent += count
        if self._progress is not None:
            self._progress(count)
        return written
