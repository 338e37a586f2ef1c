# SPDX-License-Identifier: MIT
"""Pictures: dirty pages over time, the usable and mapped ranges of an address space, over-tracking of strategies, progress of migrations.

It needs the extra `notebook` (matplotlib, numpy). Each function draws on `ax`, or on a new figure, and returns the axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullLocator

from pyvfio._core import arguments
from pyvfio._core.sizes import about
from pyvfio.guest.limits import Limits
from pyvfio.guest.planning import STRATEGIES, Strategy, plan
from pyvfio.guest.sections import Sections
from pyvfio.iova import IovaRange, IovaSet, RangeLike, as_ranges
from pyvfio.notebook import DirtyHistory, MigrationHistory

__all__ = ["convergence", "heat_map", "iova_map", "over_tracked", "written_over_time"]

#: the gap that separates two bands of a heat map, as a share of the bytes drawn: ranges nearer to each other are one band with a line between
_GAP_SHARE = 0.02
_KINDS = {
    "usable": ("tab:green", ""),
    "mapped": ("tab:blue", ""),
    "reserved": ("tab:red", "////"),
    "unusable": ("0.85", ""),
}


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        return plt.subplots(figsize=size, layout="constrained")[1]
    return arguments.instance(ax, "ax", Axes, "matplotlib's Axes")


def _seconds(ax: Axes) -> None:
    """Label the horizontal axis in seconds, from 0 to the end of all that is drawn."""
    ax.set_xlabel("time (s)")
    ax.set_xlim(0, max(ax.dataLim.x1, 0) * 1.02 or 1)


def _bytes_upwards(ax: Axes, per: str = "") -> None:
    """Label the vertical axis in bytes, from 0 to the most that is drawn, at multiples of a power of two."""
    most = max(ax.dataLim.y1, 8.0)
    ax.yaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2(most / 8))))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: about(int(value)) + per))
    ax.set_ylim(0, most * 1.05)


def heat_map(
    history: DirtyHistory, *, ax: Axes | None = None, bins: int = 256, cmap: str = "magma_r", colorbar: bool = True
) -> Axes:
    """Draw the share of each bin of pages that was written, over time. Ranges that lie apart are bands with a gap between them.

    :param history: the history to draw
    :param ax: the axes to draw on; None for a new figure
    :param bins: the most rows for a range
    :param cmap: a colour map of matplotlib's; 0 is its lowest colour
    :param colorbar: whether to draw the scale of colours beside it
    """
    history = arguments.instance(history, "history", DirtyHistory)
    cmap = arguments.string(cmap, "cmap")
    if not len(history):
        raise ValueError("history has no samples yet")
    ax = _axes(ax, (8, 4))
    times = np.concatenate([[0.0], history.times])
    total = sum(range_.size for range_ in history.ranges)
    gap = total * _GAP_SHARE
    bottom, drawn = 0.0, None
    starts: dict[float, str] = {}
    ends: dict[float, str] = {}
    for range_ in history.ranges:
        edges = history.bin_edges(range_, bins)
        rows = bottom + (edges - range_.start).astype("f8")
        shares = history.binned(bins, range_)
        drawn = ax.pcolormesh(times, rows, shares.T, cmap=cmap, vmin=0, vmax=1, rasterized=True)
        starts[bottom], ends[bottom + range_.size] = f"{range_.start:#x}", f"{range_.last:#x}"
        bottom += range_.size + gap
        ax.axhspan(bottom - gap, bottom, color="white", linewidth=0)
    ax.set_ylim(0, bottom - gap)
    ticks = starts | ends
    ax.set_yticks(*_apart(list(ticks), list(ticks.values()), bottom / 25))
    ax.set_ylabel("IOVA")
    ax.set_xlabel("time (s)")
    if colorbar and drawn is not None:
        ax.figure.colorbar(drawn, ax=ax, label="share of pages written")
    return ax


def _apart(ticks: Sequence[float], labels: Sequence[str], least: float) -> tuple[list[float], list[str]]:
    """Return the ticks whose labels can be read: each is far enough from those before it in the list."""
    kept: dict[float, str] = {}
    for tick, label in zip(ticks, labels, strict=True):
        if all(abs(tick - other) >= least for other in kept):
            kept[tick] = label
    return list(kept), list(kept.values())


def written_over_time(history: DirtyHistory, *, ax: Axes | None = None) -> Axes:
    """Draw the bytes written per second, by the interval between two samples.

    :param history: the history to draw
    :param ax: the axes to draw on; None for a new figure
    """
    history = arguments.instance(history, "history", DirtyHistory)
    ax = _axes(ax, (8, 3))
    times = history.times
    lengths = np.diff(times, prepend=0.0)
    rates = np.divide(history.counts * history.page_size, lengths, out=np.zeros(len(history)), where=lengths > 0)
    ax.step([0.0, *times], [*rates[:1], *rates], where="pre", color="tab:blue")
    _bytes_upwards(ax, "/s")
    ax.set_ylabel("written")
    _seconds(ax)
    return ax


def iova_map(
    usable: Iterable[RangeLike] | IovaSet | None,
    *,
    mapped: Iterable[RangeLike] = (),
    reserved: Mapping[str, RangeLike] | Iterable[RangeLike] = (),
    ax: Axes | None = None,
    width: int = 64,
) -> Axes:
    """Draw the usable, mapped and reserved ranges of an address space, on an axis whose long uniform stretches are shortened.

    :param usable: usable IOVAs, such as `space.iova_ranges`; None if the kernel does not report them
    :param mapped: ranges, such as `space.mapped_ranges`
    :param reserved: ranges, or label -> range; ranges shorter than a thousandth of the axis are drawn wider
    :param ax: the axes to draw on; None for a new figure
    :param width: bits of an IOVA
    """
    ax = _axes(ax, (9, 2.6))
    named = (
        reserved if isinstance(reserved, Mapping) else {_hex(each): each for each in as_ranges(reserved, "reserved")}
    )
    holes = {label: as_ranges([each], f"reserved[{label!r}]")[0] for label, each in named.items()}
    lanes = {
        "usable": list(as_ranges(usable if usable is not None else (), "usable")),
        "mapped": list(as_ranges(mapped, "mapped")),
        "reserved": list(holes.values()),
    }
    scale = _Scale(_all(lanes.values()), arguments.integer(width, "width", 1, 64))
    ax.barh([0.5], [scale.length], left=0, height=1, color=_KINDS["unusable"][0], linewidth=0)
    for kind, ranges in lanes.items():
        colour, hatch = _KINDS[kind]
        for each in ranges:
            left, right = scale(each.start), scale(each.last + 1)
            low, height = (0.25, 0.5) if kind == "mapped" else (0, 1)
            ax.broken_barh(
                [(left, max(right - left, scale.length / 1000))], (low, height), facecolors=colour, hatch=hatch,
                edgecolor="white" if hatch else "none", linewidth=0, label=kind,
            )  # fmt: skip
    for label, each in holes.items():
        ax.annotate(
            label,
            (scale((each.start + each.last + 1) // 2), 1),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    ticks, labels = _apart(*scale.ticks(), scale.length / 28)
    ax.set_xticks(ticks, labels, rotation=45, ha="right", fontsize=7)
    for at in scale.breaks:
        ax.text(at, 0, "//", ha="center", va="center", fontsize=11, color="black", clip_on=False)
    ax.set_xlim(0, scale.length)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.set_xlabel("IOVA (long stretches shortened)")
    handles, texts = ax.get_legend_handles_labels()
    shown = dict(zip(texts, handles, strict=True))
    if shown:
        ax.legend(shown.values(), shown.keys(), loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return ax


def _all(lanes: Iterable[Iterable[IovaRange]]) -> list[IovaRange]:
    """Return all ranges of all lanes."""
    return [each for lane in lanes for each in lane]


class _Scale:
    """A monotonic map from addresses to the axis: between two edges the logarithm of the distance counts."""

    def __init__(self, ranges: Sequence[IovaRange], width: int) -> None:
        edges = {0, 1 << width}
        for each in ranges:
            edges |= {each.start, each.last + 1}
        self.edges = sorted(edge for edge in edges if 0 <= edge <= 1 << 64)
        lengths = [math.log2(end - start) for start, end in pairwise(self.edges)]
        self.places = np.concatenate([[0.0], np.cumsum(lengths)])
        self.length = float(self.places[-1])
        self.breaks = [
            float(self.places[number] + self.places[number + 1]) / 2
            for number, (start, end) in enumerate(pairwise(self.edges))
            if end - start > (1 << width) // 64
        ]

    def __call__(self, address: int) -> float:
        number = int(np.searchsorted(np.array(self.edges, object), address, side="right")) - 1
        if number >= len(self.edges) - 1:
            return self.length
        start, end = self.edges[number], self.edges[number + 1]
        share = (address - start) / (end - start)
        return float(self.places[number] + share * (self.places[number + 1] - self.places[number]))

    def ticks(self) -> tuple[list[float], list[str]]:
        return [float(place) for place in self.places], [f"{edge:#x}" for edge in self.edges]


def _hex(range_: IovaRange) -> str:
    return f"{range_.start:#x}..{range_.last:#x}"


def over_tracked(
    sections: Sections,
    strategies: Iterable[Strategy | str] | None = None,
    *,
    limits: Limits | str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw for each strategy the bytes tracked that nothing is mapped at, on a logarithmic axis, with the number of ranges.

    :param sections: a guest's memory, as for :func:`pyvfio.guest.planning.plan`
    :param strategies: functions or names; by default those without an argument
    :param limits: the limits of a device: bytes that the device adds by combining ranges count too, and refused strategies are hatched
    :param ax: the axes to draw on; None for a new figure
    """
    chosen: list[Any] = (
        list(STRATEGIES) if strategies is None else arguments.instances(strategies, "strategies", object)
    )
    for each in chosen:
        if not isinstance(each, str) and not callable(each):
            raise arguments.wrong_type(each, "strategies", "names or functions")
    ax = _axes(ax, (7, 0.5 * len(chosen) + 1.2))
    names = [each if isinstance(each, str) else each.__name__ for each in chosen]
    for at, strategy in enumerate(chosen):
        made = plan(sections, strategy)
        extra, note, hatch = made.over_tracked, f"{len(made.ranges)} range{'s' * (len(made.ranges) != 1)}", ""
        if limits is not None:
            fit = made.fit(limits)
            extra += fit.over_tracked
            if not fit.accepted:
                note, hatch = f"{note}, refused", "////"
        ax.barh(at, extra + 1, color="tab:blue", hatch=hatch, edgecolor="white")
        ax.annotate(
            f"{about(extra)}, {note}", (extra + 1, at), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xscale("log", base=2)
    most = ax.get_xlim()[1]
    ax.set_xticks([2**power for power in range(0, 61, 10) if 2**power <= most])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: about(int(value))))
    ax.set_xlim(1, most * 2**22)
    ax.set_xlabel("tracked, and nothing is mapped there")
    return ax


def convergence(history: MigrationHistory, *, ax: Axes | None = None, **line: Any) -> Axes:
    """Draw the bytes left of a migration against time. A dot marks where the device was stopped; from there on it was down.

    :param history: the history to draw
    :param ax: the axes to draw on; None for a new figure
    :param line: options of matplotlib's for the line, such as `label=`
    """
    history = arguments.instance(history, "history", MigrationHistory)
    ax = _axes(ax, (7, 3.5))
    running = [point for point in history.points if point.left is not None]
    drawn = ax.step([point.time for point in running], [point.left or 0 for point in running], where="post", **line)
    colour = drawn[0].get_color()
    if history.downtime is not None and history.points:
        end = history.points[-1].time
        last = running[-1].left or 0 if running else 0
        ax.plot([end - history.downtime], [last], "o", color=colour)
        ax.axvspan(end - history.downtime, end, color=colour, alpha=0.2, linewidth=0)
    _bytes_upwards(ax)
    ax.set_ylabel("left to send")
    _seconds(ax)
    return ax
