"""Learning curves as a plot: the curve of the score, and the gain of each class by twice the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from regraft.report.plots import style
from regraft.studies.learning_curve.extrapolation import NO_GAIN, Curve, Interval, Verdict
from regraft.text import shorten

#: Classes in the plot; of more, those that gain most and least.
_MAX_CLASSES = 40
#: Characters of a title that one line above a panel has room for.
_LINE = 60
_VERDICTS = {
    "gain": ("gains", style.BLUE),
    "saturated": ("saturated", style.GREEN),
    "loss": ("loses", style.RED),
    "unknown": ("not clear", style.FAINT),
}


class ScoreCurve(NamedTuple):
    """The curve of a score, its name, and of one that is no share its unit."""

    curve: Curve
    name: str
    quantity: str | None = None


class ClassGain(NamedTuple):
    """What twice the images bring to a class, which has so many of them."""

    name: str
    images: int
    gain: Interval
    verdict: Verdict


class ClassGains(NamedTuple):
    """The gains of all classes, in points of a score, by twice the images of all or of each class alone."""

    rows: Sequence[ClassGain]
    score: str
    is_alone: bool = False


def plot_learning_curve(
    score: ScoreCurve, beside: ClassGains | ScoreCurve | None, path: Path, *, unit: str = "images", at_chance: str = ""
) -> None:
    """Plot a score against images, extrapolated to four times as many, beside gains of classes or another score.

    A score that is not clearly better than `at_chance`, what knows nothing of an image, is not extrapolated: only what
    was measured is plotted. `unit` is what is counted.
    """
    rows = min(_MAX_CLASSES, len(beside.rows)) if isinstance(beside, ClassGains) else 0
    height = 6.2 + max(0, rows - 14) * 0.27
    figure = Figure(figsize=(14, height), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15, wspace=0.06))
    if beside is None or at_chance:
        _plot_curve(figure.subplots(), score, unit, at_chance=at_chance)
    else:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _plot_curve(left, score, unit)
        if isinstance(beside, ScoreCurve):
            _plot_curve(right, beside, unit)
        else:
            _plot_gains(right, beside, unit)
            # Below the axes, where it covers no interval.
            figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False,
                          fontsize=style.SMALL_SIZE)  # fmt: skip
    style.save(figure, path)


def _plot_curve(axes: Axes, score: ScoreCurve, unit: str, *, at_chance: str = "") -> None:
    curve, name, quantity = score
    style.clear_axes(axes)
    axes.set_xscale("log")
    axes.grid(axis="y", color=style.LINE, linewidth=1)
    value, low, high = np.array([(r.value, r.low, r.high) for r in curve.measured]).T
    axes.errorbar(curve.sizes, value, (value - low, high - value), fmt="o-", color=style.BLUE, label="measured")
    ticks, title = [*curve.sizes], f"{name}: not clearly better than {at_chance}, so not extrapolated"
    if not at_chance:
        value, low, high = np.array([(r.value, r.low, r.high) for r in curve.extrapolated]).T
        axes.fill_between(curve.extrapolated_sizes, low, high, color=style.BLUE, alpha=0.13, linewidth=0)
        axes.plot(curve.extrapolated_sizes, value, "o--", color=style.BLUE, markerfacecolor="white", label="power law")
        # The largest subset is close to all images; its number would run into the other.
        ticks = [*curve.sizes[:-1], *curve.extrapolated_sizes]
        now, twice = (f"{of:.4g}" if quantity is not None else f"{100 * of:.1f} %" for of in value[:2].tolist())
        scores = f"{now} with all {unit}, {twice} with twice as many"
        between = " " if len(name) + len(scores) < _LINE else "\n"
        title = f"{name}:{between}{scores}"
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    if quantity is None:
        style.write_percent(axes.yaxis)
    else:
        axes.set_ylabel(shorten(style.drawable(quantity), 40), size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_xlabel(f"training {unit}", size=style.TEXT_SIZE, color=style.MUTED)
    place: Literal["lower right", "upper right"] = "lower right" if quantity is None else "upper right"  # errors fall
    axes.legend(loc=place, frameon=False, fontsize=style.SMALL_SIZE, title=f"{name}, 95 % intervals")
    axes.set_title(title, loc="left", size=style.TEXT_SIZE + 1, color=style.INK)


def _plot_gains(axes: Axes, gains: ClassGains, unit: str) -> None:
    style.clear_axes(axes)
    axes.grid(axis="x", color=style.LINE, linewidth=1)
    axes.axvline(0, color=style.MUTED, linewidth=1.2)
    axes.axvspan(-NO_GAIN, NO_GAIN, color=style.SHADE, zorder=0, linewidth=0)
    rows = sorted(gains.rows, key=lambda row: row.gain.value)
    if len(rows) > _MAX_CLASSES:
        rows = rows[: _MAX_CLASSES // 2] + rows[-_MAX_CLASSES // 2 :]
    for verdict, (label, color) in _VERDICTS.items():
        if places := [place for place, row in enumerate(rows) if row.verdict == verdict]:
            found = (rows[place].gain for place in places)
            values = 100 * np.array([(gain.value, gain.low, gain.high) for gain in found])
            errors = (values[:, 0] - values[:, 1], values[:, 2] - values[:, 0])
            axes.errorbar(values[:, 0], places, xerr=errors, fmt="o", color=color, linewidth=2, label=label)
    labels = [f"{shorten(style.drawable(row.name), 24)} ({row.images:,})" for row in rows]
    axes.set_yticks(range(len(rows)), labels, size=style.SMALL_SIZE, color=style.INK)
    axes.set_ylim(-0.7, max(len(rows) - 0.3, 2.3))
    axes.set_xlabel(f"points of {gains.score} gained", size=style.TEXT_SIZE, color=style.MUTED)
    title = f"Twice the {unit} of {'this class alone' if gains.is_alone else 'all classes'}"
    if len(gains.rows) > len(rows):
        title += f" ({len(gains.rows) - len(rows)} not shown)"
    axes.set_title(title, loc="left", size=style.TEXT_SIZE + 1, color=style.INK)
