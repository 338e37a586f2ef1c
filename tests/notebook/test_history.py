# SPDX-License-Identifier: MIT
"""Samples of a log: their contents and times, saving and joining."""

from __future__ import annotations

import asyncio
import io
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pyvfio import Device, DirtyBitmap, IovaRange, IovaSet
from pyvfio.notebook import DirtyHistory, MigrationHistory
from pyvfio.vfio_mock import VfioMock


class Reports:
    """A log that returns given reports."""

    page_size = 4096

    def __init__(self, ranges: list[IovaRange], reports: list[list[int]]) -> None:
        self.ranges = ranges
        self._reports = iter(reports)

    def read(self) -> DirtyBitmap:
        bitmap = DirtyBitmap(self.ranges, self.page_size)
        for page in next(self._reports, []):
            segment = bitmap.holding(page)
            assert segment is not None
            number = (page - segment.range.start) // self.page_size
            segment.words[number // 64] |= 1 << number % 64
        return bitmap


LOW, HIGH = IovaRange.of(0, 0x8000), IovaRange.of(0x1_0000_0000, 0x3000)


def sampled(reports: list[list[int]]) -> DirtyHistory:
    history = DirtyHistory(Reports([LOW, HIGH], reports))
    for _ in reports:
        history.sample()
    return history


def test_an_array_has_a_row_per_sample_and_a_column_per_page() -> None:
    history = sampled([[0x1000, 0x2000], [], [0x7000, 0x1_0000_2000]])
    array = history.array()
    assert (array.dtype, array.shape) == (np.dtype(bool), (3, 11))
    assert [np.flatnonzero(row).tolist() for row in array] == [[1, 2], [], [7, 10]]
    assert history.counts.tolist() == [2, 0, 2]
    assert np.flatnonzero(history.array(HIGH)[2]).tolist() == [2]
    assert np.flatnonzero(history.array(IovaRange.of(0x2000, 0x1000))[0]).tolist() == [0]
    assert history.written == IovaSet(
        [IovaRange(0x1000, 0x2FFF), IovaRange.of(0x7000, 0x1000), IovaRange.of(0x100002000, 0x1000)]
    )
    assert (np.diff(history.times) >= 0).all()
    assert (history.costs >= 0).all()


def test_bins_hold_the_share_of_their_bytes_that_was_written() -> None:
    history = sampled([[0x1000, 0x2000, 0x3000, 0x1_0000_2000]])
    assert history.binned(2, LOW).tolist() == [[0.75, 0.0]]
    assert history.binned(100, LOW).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0]]
    # Three pages in two bins: the last is of one page.
    assert history.binned(2, HIGH).tolist() == [[0.0, 1.0]]
    assert history.binned(2).shape == (1, 4)
    assert [int(edge) for edge in history.bin_edges(HIGH, 2)] == [HIGH.start, HIGH.start + 0x2000, HIGH.last + 1]


@pytest.mark.parametrize("bins", [1, 3, 7, 64])
def test_bins_agree_with_the_array(bins: int) -> None:
    random = np.random.default_rng(bins)
    pages = [LOW.start + 4096 * int(page) for page in np.flatnonzero(random.random(8) < 0.5)]
    history = sampled([pages])
    dirty = history.array(LOW)[0]
    edges = (history.bin_edges(LOW, bins) // 4096).astype(int)
    assert history.binned(bins, LOW)[0].tolist() == [dirty[a:b].mean() for a, b in pairwise(edges)]


def test_an_array_that_no_memory_holds_is_refused() -> None:
    history = DirtyHistory(Reports([IovaRange.of(0, 1 << 44)], [[]]))
    history.sample()
    with pytest.raises(ValueError, match=r"pass range=, or use binned\(\)"):
        history.array()
    assert history.binned(4).tolist() == [[0, 0, 0, 0]]


def test_a_thread_samples_a_device(device: Device) -> None:
    mapping = device.address_space.alloc(1 << 20)
    mock = VfioMock(device)
    with device.dirty_log([mapping.range]) as log, DirtyHistory(log, every=0.01) as history:
        for page in range(16):
            mock.fill(mapping.iova + page * 4096, 4096, pattern=page)
            time.sleep(0.005)
        limit = time.monotonic() + 60
        while len(history) < 2:  # on a busy host the thread may not have run yet
            assert time.monotonic() < limit
    assert history.counts.sum() == 16
    assert len(history) > 2
    assert history.array().any(axis=0).sum() == 16
    frame = history.to_frame()
    assert list(frame.columns) == ["pages", "bytes", "bytes_per_second", "cost", "source"]
    assert frame["bytes"].sum() == 16 * 4096
    assert "samples in" in repr(history)
    assert "<td>" in history._repr_html_()


def test_asyncio_samples(device: Device) -> None:
    mapping = device.address_space.alloc(1 << 20)
    mock = VfioMock(device)

    async def main() -> DirtyHistory:
        with device.dirty_log([mapping.range]) as log:
            async with DirtyHistory(log, every=0.01) as history:
                for page in range(5):
                    mock.fill(mapping.iova + page * 4096, 4096)
                    await asyncio.sleep(0.01)
        return history

    assert asyncio.run(main()).counts.sum() == 5


def test_a_failure_of_the_sampling_is_raised_at_the_end(device: Device) -> None:
    mapping = device.address_space.alloc(1 << 20)
    log = device.dirty_log([mapping.range])
    history = DirtyHistory(log, every=0.01)
    log.stop()
    with pytest.raises(OSError, match="stopped"), history:
        time.sleep(0.1)
    with pytest.raises(KeyError) as caught, history:
        raise KeyError("the work failed")
    assert "ended early" in caught.value.__notes__[0]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    history = sampled([[0x1000], [], [0x1_0000_0000]])
    history.save(tmp_path / "history.npz")
    loaded = DirtyHistory.load(tmp_path / "history.npz")
    assert loaded.samples == history.samples
    assert (loaded.ranges, loaded.page_size, loaded.started) == (history.ranges, 4096, history.started)
    assert (loaded.array() == history.array()).all()
    with pytest.raises(ValueError, match="has no log"):
        loaded.sample()
    with pytest.raises(ValueError, match="has no log"), loaded:
        pass
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="is not a DirtyHistory"):
        DirtyHistory.load(tmp_path / "other.npz")


def test_an_empty_history_is_saved_too(tmp_path: Path) -> None:
    history = sampled([])
    history.save(tmp_path / "empty.npz")
    assert len(DirtyHistory.load(tmp_path / "empty.npz")) == 0


def test_histories_are_joined_by_their_clock() -> None:
    one, two = sampled([[0x1000]]), DirtyHistory(Reports([IovaRange.of(0x100000, 0x1000)], [[0x100000]]))
    two.sample()
    one.sample()
    joined = DirtyHistory.join([one, two])
    assert [sample.source for sample in joined.samples] == [0, 1, 0]
    assert joined.started == one.started
    assert joined.array().shape == (3, 12)
    assert [np.flatnonzero(row).tolist() for row in joined.array()] == [[1], [8], []]
    with pytest.raises(ValueError, match="one history or more"):
        DirtyHistory.join([])


def test_histories_of_different_page_sizes_are_not_joined() -> None:
    other = sampled([])
    other.page_size = 8192
    with pytest.raises(ValueError, match="page sizes differ: 4096, 8192 bytes"):
        DirtyHistory.join([sampled([]), other])


@pytest.mark.parametrize("every", [0, -1, float("nan"), "often"])
def test_a_wrong_interval_is_refused(every: float) -> None:
    with pytest.raises((TypeError, ValueError), match="every"):
        DirtyHistory(Reports([LOW], []), every=every)


def test_a_migration_is_followed_to_its_end(device: Device) -> None:
    history, sink = MigrationHistory(), io.BytesIO()
    seen: list[int] = []
    sent = history.save(device.migration, sink, progress=seen.append)
    assert sent == len(sink.getvalue()) == sum(seen) == history.points[-1].sent
    assert history.converged is True
    assert history.downtime is not None
    assert history.points[-1].left is None
    assert [point.time for point in history.points] == sorted(point.time for point in history.points)
    assert "converged" in repr(history)
    assert "stopped" in history._repr_html_()


def test_a_migration_that_does_not_converge_is_given_up(device: Device) -> None:
    history = MigrationHistory()
    history.save(device.migration, io.BytesIO(), until=lambda _: False, rounds=3)
    assert history.converged is False
    assert len(history.points) == 4
