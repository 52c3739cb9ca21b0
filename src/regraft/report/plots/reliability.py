"""Reliability diagram and risk-coverage curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regraft.evaluation.calibration import BINS, Calibration
from regraft.evaluation.intervals import wilson_interval
from regraft.report.plots import style
from regraft.text import pluralize

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Points of a curve; more of them make no visible difference.
_POINTS = 240


def plot_reliability(before: Calibration, after: Calibration, temperature: float, path: Path, *, part: str) -> None:
    """Draw the reliability diagrams of one part before and after calibration with a temperature side by side."""
    figure = Figure(figsize=(13, 6.4))
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.055, right=0.97, bottom=0.12, top=0.76, wspace=0.2)
    titles = ("before calibration", f"at temperature {temperature:.2f}")
    for axes, calibration, title in zip(panels, (before, after), titles, strict=True):
        draw_reliability(axes, calibration)
        text = f"expected calibration error {100 * calibration.ece:.1f} points"
        if calibration.chance_interval is not None:
            low, high = calibration.chance_interval
            text += f" ({100 * low:.1f} to {100 * high:.1f} by chance)"
        style.write(axes, title, (0, 1), (0, 50), size=style.TEXT_SIZE, color=style.INK)
        style.write(axes, text, (0, 1), (0, 30), size=style.TEXT_SIZE, color=style.INK)
    title = f"Reliability diagram, {pluralize(sum(after.count), f'{part} image')}"
    figure.suptitle(title, x=0.016, ha="left", size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path)


def draw_reliability(axes: Axes, calibration: Calibration, across: str = "confidence", up: str = "accuracy") -> None:
    """Draw accuracy over confidence with 95 % Wilson intervals, and the number of images in each bin as bars.

    `across` and `up` are the names of the axes, where these are a probability and a share of the images.
    """
    style.frame(axes, "both")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS)
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.2, dashes=(4, 3))
    count = np.array(calibration.count)
    confidence, accuracy = np.array(calibration.confidence), np.array(calibration.accuracy)
    axes.bar((np.arange(BINS) + 0.5) / BINS, 0.2 * count / max(1, count.max()), width=0.9 / BINS, color=style.FAINT,
             alpha=0.55, zorder=0.5)  # fmt: skip
    filled = np.flatnonzero(count)
    for i in filled:
        low, high = wilson_interval(round(accuracy[i] * count[i]), int(count[i]))
        axes.plot([confidence[i]] * 2, [low, high], color=style.BLUE, linewidth=1.5, alpha=0.5, clip_on=False)
    axes.plot(confidence[filled], accuracy[filled], "o", markersize=6.5, color=style.BLUE, clip_on=False, zorder=3)
    _label_shares(axes, across, up)


def draw_risk_coverage(axes: Axes, coverage: np.ndarray, risk: np.ndarray) -> None:
    """Draw the error rate over the coverage, both as `risk_coverage` returns them."""
    style.frame(axes)
    chosen = np.unique(np.linspace(0, len(coverage) - 1, _POINTS).round().astype(int))
    axes.plot(coverage[chosen], risk[chosen], color=style.BLUE, linewidth=2)
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk.max()), 0.02)), xticks=_TICKS)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    _label_shares(axes, "coverage (most confident images first)", "error rate")


def _label_shares(axes: Axes, across: str, up: str) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        style.write_percent(axis)
    axes.yaxis.get_major_ticks()[0].label1.set_visible(False)  # the origin is labeled once, below
    axes.tick_params(pad=6)
    axes.set_xlabel(across, size=style.TEXT_SIZE, color=style.MUTED)
    style.write(axes, up, (0, 1), (0, 9), size=style.TEXT_SIZE, color=style.MUTED)
