"""Confidence against truth as a picture.

Enters: a `Calibration` before and after it was mended. Leaves: a PNG: how often answers of each confidence are right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from regraft.errors import counted
from regraft.evaluation.calibration import BINS, Calibration
from regraft.evaluation.intervals import wilson_interval
from regraft.report import style

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def plot_reliability(before: Calibration, after: Calibration, temperature: float, path: Path, *, part: str) -> None:
    """Draw accuracy against confidence, and below it how many images have that confidence.

    Args:
        before: At temperature 1.
        after: At the fitted temperature, of the same images.
        temperature: That one.
        path: The PNG to write.
        part: What the images are, such as `test`.
    """
    figure = Figure(figsize=(13, 7.6), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.12, wspace=0.06, hspace=0.04))
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(3.2, 1))
    titles = ("as trained", f"at temperature {temperature:.2f}")
    for (upper, lower), found, title in zip(panels.T, (before, after), titles, strict=True):
        _draw_curve(upper, found, title)
        _draw_counts(lower, found)
    figure.suptitle(
        f"Is a confidence what it says? {counted(sum(after.count), f'{part} image')}",
        x=0.016, ha="left", size=style.TITLE_SIZE, color=style.INK,
    )  # fmt: skip
    style.save(figure, path)


def _draw_curve(axes: Axes, found: Calibration, title: str) -> None:
    style.clear_axes(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS)
    axes.grid(color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1.5, dashes=(4, 3))
    style.write(
        axes, "dashed: right as often as it says", (0.02, 0.95), (0, 0), size=style.SMALL_SIZE, colour=style.MUTED,
        below=True,
    )  # fmt: skip
    count = np.array(found.count)
    for i in np.flatnonzero(count):
        low, high = wilson_interval(round(found.accuracy[i] * count[i]), int(count[i]))
        axes.plot([found.confidence[i]] * 2, [low, high], color=style.BLUE, linewidth=1.5, alpha=0.5, clip_on=False)
    chosen = count > 0
    axes.scatter(
        np.array(found.confidence)[chosen], np.array(found.accuracy)[chosen], s=46, color=style.BLUE, clip_on=False,
        zorder=3,
    )  # fmt: skip
    axes.set_ylabel("share that is right", size=style.TEXT_SIZE, color=style.MUTED)
    words = f"{title}: off by {100 * found.ece:.1f} points on average"
    style.write(axes, words, (0, 1), (0, 12), size=style.TEXT_SIZE, colour=style.INK)


def _draw_counts(axes: Axes, found: Calibration) -> None:
    style.clear_axes(axes)
    axes.bar((np.arange(BINS) + 0.5) / BINS, found.count, width=0.92 / BINS, color=style.FAINT)
    axes.set(yticks=[0, max(found.count)], xlabel="")
    axes.set_ylabel("images", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_xlabel("confidence of the answer; bars: 95 % intervals", size=style.TEXT_SIZE, color=style.MUTED)
