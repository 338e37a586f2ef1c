# SPDX-License-Identifier: MIT
"""Times of samples and of a migration, with a clock that the test controls."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

from pyvfio import Device, IovaRange, notebook
from pyvfio.notebook import DirtyHistory, Left, MigrationHistory, Sample
from tests.notebook.test_history import HIGH, LOW, Reports


class Clock:
    """A clock that advances by a step each time it is read."""

    def __init__(self, step: float = 0.5) -> None:
        self.now = 100.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(notebook, "time", found)
    return found


def history(*reports: list[int], ranges: tuple[IovaRange, ...] = (LOW, HIGH)) -> DirtyHistory:
    found = DirtyHistory(Reports(list(ranges), list(reports)))
    for _ in reports:
        found.sample()
    return found


def test_a_sample_has_the_time_of_its_end_and_what_it_cost(clock: Clock) -> None:
    found = history([0x1000, 0x2000], [], [0x7000])
    assert found.started == 100.5
    assert [(one.time, one.cost, one.bytes, one.source) for one in found.samples] == [
        (101.5, 0.5, 0x2000, 0), (102.5, 0.5, 0, 0), (103.5, 0.5, 0x1000, 0),
    ]  # fmt: skip
    assert found.times.tolist() == [1.0, 2.0, 3.0]
    assert found.costs.tolist() == [0.5, 0.5, 0.5]
    assert [tuple(one) for one in found.samples[0].runs] == [(0x1000, 0x2FFF)]
    assert found.sample() is found.samples[3]


def test_a_frame_has_the_bytes_of_each_second(clock: Clock) -> None:
    clock.step = 0.25
    frame = history([0x1000, 0x2000], [], [0x7000]).to_frame()
    assert frame.index.tolist() == [0.5, 1.0, 1.5]
    assert frame.index.name == "time"
    assert frame["pages"].tolist() == [2, 0, 1]
    assert frame["bytes"].tolist() == [0x2000, 0, 0x1000]
    assert frame["bytes_per_second"].tolist() == [0x4000, 0, 0x2000]
    assert frame["cost"].tolist() == [0.25, 0.25, 0.25]
    assert frame["source"].tolist() == [0, 0, 0]


def test_no_time_between_two_samples_is_no_rate(clock: Clock) -> None:
    clock.step = 0
    assert history([0x1000], []).to_frame()["bytes_per_second"].tolist() == [0, 0]


def test_a_history_shows_its_samples(clock: Clock) -> None:
    found = history([0x1000, 0x2000], [0x3000])
    assert repr(found) == "<DirtyHistory: 2 samples in 2 s of 44 KiB, 3 pages dirty>"
    assert repr(history()) == "<DirtyHistory: 0 samples in 0 s of 44 KiB, 0 pages dirty>"
    shown = found._repr_html_()
    for cell in ("1.000", "2.000", "2", "1", "8 KiB", "4 KiB", "500000", "time (s)", "cost (us)"):
        assert f">{cell}<" in shown


def test_joined_histories_keep_time_and_source(clock: Clock) -> None:
    one = history([0x1000], ranges=(LOW,))
    two = history([0x1_0000_0000], ranges=(HIGH,))
    joined = DirtyHistory.join([two, one])
    assert (joined.started, joined.ranges, joined.page_size) == (one.started, (LOW, HIGH), 4096)
    assert [(sample.source, sample.time) for sample in joined.samples] == [(1, 101.5), (0, 103.0)]
    assert joined.times.tolist() == [1.0, 2.5]
    assert joined.every == 0


def test_saved_histories_have_all_of_each_sample(clock: Clock, tmp_path: object) -> None:
    one, two = history([0x1000, 0x3000], []), history([0x1_0000_0000])
    joined = DirtyHistory.join([one, two])
    joined.save(f"{tmp_path}/joined.npz")
    loaded = DirtyHistory.load(f"{tmp_path}/joined.npz")
    assert loaded.samples == joined.samples
    assert [sample.source for sample in loaded.samples] == [0, 0, 1]
    assert loaded.started == one.started


def test_an_array_ends_at_the_most_cells_that_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    found = history([0x1000], [])
    monkeypatch.setattr(notebook, "_MOST_CELLS", 22)
    assert found.array().shape == (2, 11)
    monkeypatch.setattr(notebook, "_MOST_CELLS", 21)
    with pytest.raises(ValueError, match="2 samples of 11 pages are too many for an array"):
        found.array()


def test_bins_share_runs_that_cross_them() -> None:
    found = history([0x1000, 0x2000, 0x3000, 0x4000, 0x6000])
    assert found.binned(4, LOW).tolist() == [[0.5, 1.0, 0.5, 0.5]]
    assert found.binned(1, LOW).tolist() == [[0.625]]
    assert found.binned(3, LOW).tolist() == [[2 / 3, 2 / 3, 0.5]]
    assert found.binned(4, (0x2000, 0x5FFF)).tolist() == [[1, 1, 1, 0]]
    assert found.binned().tolist() == [[0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0]]
    assert found.array(IovaRange(0x2000, 0x6FFF)).tolist() == [[True, True, True, False, True]]
    assert found.array().dtype == np.bool_


def test_a_history_samples_once_at_a_time(clock: Clock) -> None:
    found = DirtyHistory(Reports([LOW], []), every=60)
    with found:
        with pytest.raises(ValueError, match="sampling already"):
            found.__enter__()
        assert found._thread is not None
    assert found._thread is None
    assert len(found) == 1
    with found:
        pass
    assert len(found) == 2


def test_a_history_in_a_thread_keeps_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test records the requested waits, without waiting."""
    waits: list[float] = []
    found = DirtyHistory(Reports([LOW], []), every=2.0)
    clock = Clock(0)
    monkeypatch.setattr(notebook, "time", clock)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        # The second report is late by more than an interval.
        clock.now += seconds + (5.0 if len(waits) == 2 else 0.0)
        return len(waits) > 3

    monkeypatch.setattr(found, "_stop", SimpleNamespace(wait=wait))
    found._run()
    assert waits == [2.0, 2.0, 0.0, 2.0]
    assert [sample.time for sample in found.samples] == [102.0, 109.0, 109.0]


def test_a_migration_has_a_point_for_each_round(device: Device, clock: Clock) -> None:
    found, sink = MigrationHistory(), io.BytesIO()
    seen: list[int] = []
    rounds = iter([False, False, True])
    found.save(device.migration, sink, until=lambda _: next(rounds), progress=seen.append)
    assert found.converged is True
    assert len(found.points) == 4
    assert all(isinstance(point, Left) for point in found.points)
    assert [point.time for point in found.points[:-1]] == [
        0.5 * (1 + number) for number in range(len(found.points) - 1)
    ]
    assert found.downtime == 0.5
    assert found.points[-1].time == found.points[-2].time + 1.0
    assert [point.sent for point in found.points] == sorted(point.sent for point in found.points)
    assert sum(seen) == len(sink.getvalue()) > 0
    assert found.points[-1] == (found.points[-1].time, None, len(sink.getvalue()))


def test_a_migration_shows_its_points() -> None:
    found = MigrationHistory()
    assert repr(found) == "<MigrationHistory: 0 points, 0 bytes sent>"
    found.points = [Left(0.25, 4096, 8192), Left(1.5, None, 12288)]
    found.converged = False
    assert repr(found) == "<MigrationHistory: 2 points, 12 KiB sent, did not converge>"
    found.converged = True
    assert repr(found) == "<MigrationHistory: 2 points, 12 KiB sent, converged>"
    for cell in ("0.250", "4 KiB", "8 KiB", "1.500", "stopped", "12 KiB", "left", "sent"):
        assert f">{cell}<" in found._repr_html_()


def test_a_sample_is_of_the_first_source() -> None:
    assert Sample(1, 2, history([0x1000]).samples[0].runs) == (1, 2, history([0x1000]).samples[0].runs, 0)


def test_a_sink_that_writes_a_part_counts_that_part(device: Device) -> None:
    class Half:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            part = data[: -(-len(data) // 2)]
            self.data += bytes(part)
            return len(part)

    sink, seen = Half(), list[int]()
    sent = MigrationHistory().save(device.migration, sink, progress=seen.append)
    assert sent == len(sink.data) == sum(seen)
