# SPDX-License-Identifier: MIT
"""The contents of pictures: axes, labels and values, not pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from pyvfio import Device, IovaRange, plot
from pyvfio.guest import limits
from pyvfio.guest.sections import MemorySection
from pyvfio.notebook import Left, MigrationHistory
from tests.notebook.test_history import sampled

GUEST = [MemorySection(0, 0x80000000), MemorySection(0x100000000, 6 << 30), MemorySection(0x383800000000, 0x100000)]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """After each test, draw every picture, and close it."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).savefig(io.BytesIO())
    plt.close("all")


def labels(axes: Axes) -> list[str]:
    return [each.get_text() for each in axes.get_yticklabels()]


def test_ranges_far_apart_are_bands_of_one_heat_map() -> None:
    axes = plot.heat_map(sampled([[0x1000], [0x1_0000_2000]]))
    meshes = [each for each in axes.collections if isinstance(each, QuadMesh)]
    values = [np.asarray(mesh.get_array()) for mesh in meshes]
    assert [value.shape for value in values] == [(8, 2), (3, 2)]
    assert values[0][:, 0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert values[1][:, 1].tolist() == [0, 0, 1]
    assert "0x100000000" in labels(axes)
    with pytest.raises(ValueError, match="no samples"):
        plot.heat_map(sampled([]))


def test_a_picture_is_drawn_on_the_axes_given() -> None:
    _, axes = plt.subplots()
    assert plot.heat_map(sampled([[0x1000]]), ax=axes, colorbar=False) is axes
    _, axes = plt.subplots()
    assert plot.written_over_time(sampled([[0x1000]]), ax=axes) is axes


def test_an_iova_map_labels_the_reserved_regions() -> None:
    hole = IovaRange(0xFD00000000, 0xFFFFFFFFFF)
    usable = [IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, 0xFCFFFFFFFF), IovaRange(1 << 40, (1 << 48) - 1)]
    axes = plot.iova_map(
        usable,
        mapped=[IovaRange.of(0, 1 << 30)],
        reserved={"HyperTransport": hole, "MSI": IovaRange(0xFEE00000, 0xFEEFFFFF)},
        width=48,
    )
    shown = [each.get_text() for each in axes.texts]
    assert "HyperTransport" in shown
    assert "MSI" in shown
    legend = axes.get_legend()
    assert legend is not None
    assert {each.get_text() for each in legend.get_texts()} == {"usable", "mapped", "reserved"}
    assert "0xfd00000000" in [each.get_text() for each in axes.get_xticklabels()]


def test_an_iova_map_of_an_unknown_space_is_empty() -> None:
    assert plot.iova_map(None).get_legend() is None


def test_strategies_are_compared_by_what_they_track_too_much() -> None:
    axes = plot.over_tracked(GUEST, ["min_max", "split_32_64_pci", "coalesced:2"], limits=limits.MLX5)
    assert labels(axes) == ["min_max", "split_32_64_pci", "coalesced:2"]
    assert any("refused" in each.get_text() for each in axes.texts)
    widths = [each.get_width() for each in axes.patches if isinstance(each, Rectangle)]
    assert widths[0] > widths[1]


def test_a_migration_is_drawn_to_the_end_of_its_downtime(device: Device) -> None:
    history = MigrationHistory()
    history.save(device.migration, io.BytesIO())
    axes = plot.convergence(history, label="vfio-mock")
    assert axes.get_legend_handles_labels()[1] == ["vfio-mock"]
    assert axes.get_ylabel() == "left to send"
    assert plot.convergence(MigrationHistory()).get_xlabel() == "time (s)"


def test_a_second_longer_migration_is_drawn_to_its_end() -> None:
    short, long = MigrationHistory(), MigrationHistory()
    short.points = [Left(0.0, 100, 0), Left(1.0, 10, 90)]
    long.points = [Left(0.0, 500, 0), Left(9.0, 400, 900)]
    axes = plot.convergence(long, ax=plot.convergence(short))
    assert axes.get_xlim()[1] >= 9
    assert axes.get_ylim()[1] >= 500


def test_the_rate_of_the_first_interval_begins_at_0() -> None:
    (line,) = plot.written_over_time(sampled([[0x1000], [0x2000]])).get_lines()
    assert np.asarray(line.get_xdata())[0] == 0
    assert len(np.asarray(line.get_ydata())) == 3
