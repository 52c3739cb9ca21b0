"""Learning curves as a plot: the accuracy's curve, and the gain of each class by twice the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from regraft.report.plots import style
from regraft.studies.learning_curve.extrapolation import NO_GAIN, ClassCurve, Curve
from regraft.text import shorten

#: Classes in the plot; of more, those that gain most and least.
_MAX_CLASSES = 40
_VERDICTS = {
    "gain": ("gains", style.BLUE),
    "saturated": ("saturated", style.GREEN),
    "loss": ("loses", style.RED),
    "unknown": ("not clear", style.FAINT),
}


def plot_learning_curve(accuracy: Curve, classes: Sequence[ClassCurve], path: Path, *, unit: str = "images") -> None:
    """Plot accuracy against images, extrapolated to four times as many, and each class's gain of recall by doubling.

    Without classes, nothing is extrapolated: only what was measured is plotted. `unit` is what is counted.
    """
    is_alone = all(row.gain_alone is not None for row in classes)
    height = 6.2 + max(0, min(_MAX_CLASSES, len(classes)) - 14) * 0.27
    figure = Figure(figsize=(14, height), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15, wspace=0.06))
    if classes:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _plot_curve(left, accuracy, unit)
        _plot_gains(right, classes, unit, is_alone=is_alone)
        # Below the axes, where it covers no interval.
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False,
                      fontsize=style.SMALL_SIZE)  # fmt: skip
    else:
        _plot_curve(figure.subplots(), accuracy, unit, is_extrapolated=False)
    style.save(figure, path)


def _plot_curve(axes: Axes, curve: Curve, unit: str, *, is_extrapolated: bool = True) -> None:
    style.clear_axes(axes)
    axes.set_xscale("log")
    axes.grid(axis="y", color=style.LINE, linewidth=1)
    value, low, high = np.array([(r.value, r.low, r.high) for r in curve.measured]).T
    axes.errorbar(curve.sizes, value, (value - low, high - value), fmt="o-", color=style.BLUE, label="measured")
    ticks, title = [*curve.sizes], "Accuracy: not clearly better than the most frequent class, so not extrapolated"
    if is_extrapolated:
        value, low, high = np.array([(r.value, r.low, r.high) for r in curve.extrapolated]).T
        axes.fill_between(curve.extrapolated_sizes, low, high, color=style.BLUE, alpha=0.13, linewidth=0)
        axes.plot(curve.extrapolated_sizes, value, "o--", color=style.BLUE, markerfacecolor="white", label="power law")
        # The largest subset is close to all images; its number would run into the other.
        ticks = [*curve.sizes[:-1], *curve.extrapolated_sizes]
        title = f"Accuracy: {100 * value[0]:.1f} % with all {unit}, {100 * value[1]:.1f} % with twice as many"
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    style.write_percent(axes.yaxis)
    axes.set_xlabel(f"training {unit}", size=style.TEXT_SIZE, color=style.MUTED)
    axes.legend(loc="lower right", frameon=False, fontsize=style.SMALL_SIZE, title="accuracy, 95 % intervals")
    axes.set_title(title, loc="left", size=style.TEXT_SIZE + 1, color=style.INK)


def _plot_gains(axes: Axes, classes: Sequence[ClassCurve], unit: str, *, is_alone: bool) -> None:
    style.clear_axes(axes)
    axes.grid(axis="x", color=style.LINE, linewidth=1)
    axes.axvline(0, color=style.MUTED, linewidth=1.2)
    axes.axvspan(-NO_GAIN, NO_GAIN, color=style.SHADE, zorder=0, linewidth=0)
    rows = [
        (row, row.gain_alone, row.verdict_alone)
        if is_alone and row.gain_alone and row.verdict_alone
        else (row, row.recall.gain, row.recall.verdict)
        for row in classes
    ]
    rows.sort(key=lambda row: row[1].value)
    if len(rows) > _MAX_CLASSES:
        rows = rows[: _MAX_CLASSES // 2] + rows[-_MAX_CLASSES // 2 :]
    for verdict, (label, color) in _VERDICTS.items():
        if places := [place for place, (_, _, v) in enumerate(rows) if v == verdict]:
            values = 100 * np.array([(g.value, g.low, g.high) for _, g, _ in (rows[place] for place in places)])
            errors = (values[:, 0] - values[:, 1], values[:, 2] - values[:, 0])
            axes.errorbar(values[:, 0], places, xerr=errors, fmt="o", color=color, linewidth=2, label=label)
    labels = [f"{shorten(style.drawable(row.name), 24)} ({row.images:,})" for row, _, _ in rows]
    axes.set_yticks(range(len(rows)), labels, size=style.SMALL_SIZE, color=style.INK)
    axes.set_ylim(-0.7, max(len(rows) - 0.3, 2.3))
    axes.set_xlabel("points of recall gained", size=style.TEXT_SIZE, color=style.MUTED)
    title = f"Twice the {unit} of {'this class alone' if is_alone else 'all classes'}"
    if len(classes) > len(rows):
        title += f" ({len(classes) - len(rows)} not shown)"
    axes.set_title(title, loc="left", size=style.TEXT_SIZE + 1, color=style.INK)
