# SPDX-License-Identifier: MIT
"""Each picture as text: shapes, positions, colours.

The files in pictures/ have the texts of pictures that a person has seen.

`PYVFIO_WRITE_PICTURES=1 pytest tests/notebook/test_pictures.py` writes the current texts. Look at the pictures before
you commit them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from pyvfio import IovaRange, IovaSet, notebook, plot
from pyvfio.guest.sections import MemorySection
from pyvfio.notebook import Left, MigrationHistory
from tests.notebook.test_clock import Clock, history

FOLDER = Path(__file__).with_name("pictures")
GUEST = [MemorySection(0, 0x80000000), MemorySection(0x100000000, 6 << 30), MemorySection(0x383800000000, 0x100000)]


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notebook, "time", Clock())
    yield
    plt.close("all")


def numbers(values: Any) -> str:
    """Return numbers as text with four digits, which is the same with each release of numpy."""
    return " ".join(f"{round(float(value), 6) + 0:.4g}" for value in np.asarray(values, "f8").ravel())


def described(axes: Axes) -> str:
    """Return a description of the drawing on axes."""
    figure: Any = axes.figure
    lines = [f"size {numbers(figure.get_size_inches())}"]
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        ticks = [
            f"{label.get_text()} at {numbers(at)}"
            for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        ]
        limits = axes.get_xlim() if name == "x" else axes.get_ylim()
        lines.append(
            f"{name} {axis.get_scale()} {numbers(limits)} '{axis.label.get_text()}'; minor {len(axis.get_minorticklocs())}"
        )
        lines += [f"  {tick}" for tick in ticks]
    patch: Any
    for patch in axes.patches:
        colour, hatch = to_hex(patch.get_facecolor(), keep_alpha=True), patch.get_hatch() or ""
        lines.append(
            f"{type(patch).__name__} {numbers(patch.get_path().transformed(patch.get_patch_transform()).get_extents().bounds)} {colour} {hatch}".rstrip()
        )
    for line in axes.lines:
        lines.append(
            f"line {numbers(line.get_xdata())}; {numbers(line.get_ydata())} {line.get_color()} {line.get_marker()} {line.get_drawstyle()}"
        )
    collection: Any
    for collection in axes.collections:
        array = collection.get_array()
        paths = [numbers(path.get_extents().bounds) for path in collection.get_paths()]
        colours = (
            [to_hex(one, keep_alpha=True) for one in collection.get_facecolor()]
            if array is None
            else [numbers(array), numbers(collection.get_clim())]
        )
        lines.append(
            f"{type(collection).__name__} {'; '.join(paths)} {' '.join(colours)} {collection.get_hatch() or ''} {collection.get_label()}".rstrip()
        )
    text: Any
    for text in axes.texts:
        place = getattr(text, "xyann", ()) if hasattr(text, "xyann") else ()
        at = getattr(text, "xy", text.get_position())
        lines.append(
            f"text '{text.get_text()}' at {numbers(at)} moved {numbers(place)} size {text.get_fontsize():g} {text.get_ha()} {text.get_va()}"
        )
    legend = axes.get_legend()
    if legend is not None:
        lines.append("legend " + ", ".join(text.get_text() for text in legend.get_texts()))
    lines += [f"colour bar '{other.get_ylabel()}'" for other in figure.axes if other is not axes]
    return "\n".join(lines) + "\n"


def migrated(points: list[Left], downtime: float | None) -> MigrationHistory:
    found = MigrationHistory()
    found.points, found.downtime = points, downtime
    return found


PICTURES: dict[str, Callable[[], Axes]] = {
    "heat_map": lambda: plot.heat_map(history([0x1000, 0x2000], [], [0x7000, 0x1_0000_2000])),
    "heat_map_in_bins": lambda: plot.heat_map(history([0x1000, 0x2000], [0x3000]), bins=2, cmap="viridis", colorbar=False),
    "written_over_time": lambda: plot.written_over_time(history([0x1000, 0x2000], [], [0x7000])),
    "iova_map": lambda: plot.iova_map(
        [IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, 0xFCFFFFFFFF), IovaRange(1 << 40, (1 << 48) - 1)],
        mapped=[IovaRange.of(0, 1 << 30), IovaRange.of(1 << 32, 4096)],
        reserved={"HyperTransport": IovaRange(0xFD00000000, 0xFFFFFFFFFF), "MSI": IovaRange(0xFEE00000, 0xFEEFFFFF)},
        width=48,
    ),
    "iova_map_of_64_bits": lambda: plot.iova_map(IovaSet([(0, (1 << 64) - 1)]), reserved=[IovaRange(0x8000000, 0x80FFFFF)]),
    "iova_map_unknown": lambda: plot.iova_map(None),
    "over_tracked": lambda: plot.over_tracked(GUEST, ["min_max", "split_32_64_pci", "coalesced:2"], limits="mlx5"),
    "over_tracked_by_all": lambda: plot.over_tracked(GUEST),
    "convergence": lambda: plot.convergence(migrated([Left(0.5, 1 << 20, 4096), Left(1.0, 1 << 18, 8192), Left(2.0, None, 1 << 21)], 0.75), label="one"),
    "convergence_without_pre_copy": lambda: plot.convergence(migrated([Left(2.0, None, 1 << 21)], 0.75)),
    "convergence_of_nothing": lambda: plot.convergence(MigrationHistory()),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_was_looked_at(name: str) -> None:
    file = FOLDER / f"{name}.txt"
    now = described(PICTURES[name]())
    if os.environ.get("PYVFIO_WRITE_PICTURES"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(now)
    assert now == file.read_text()
