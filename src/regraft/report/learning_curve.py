"""Learning curves as a picture.

Enters: the accuracy's `Curve` and one of each class. Leaves: a PNG: on the left the curve and where it leads, on the
right what twice the images would bring to each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator

from regraft.evaluation.learning_curve import NOTHING, ClassCurve, Curve, Range
from regraft.evaluation.names import shorten
from regraft.report import style

#: Classes in the picture; of more, those that gain most and least.
_MOST = 40
_COLOURS = {"gain": style.BLUE, "saturated": style.GREEN, "loss": style.RED, "unknown": style.FAINT}
_WORDS = {"gain": "gains", "saturated": "saturated", "loss": "loses", "unknown": "cannot be said"}


def plot_learning_curve(accuracy: Curve, classes: Sequence[ClassCurve], path: Path) -> None:
    """Draw accuracy against images, carried on to four times as many, and each class's gain in recall by doubling.

    Args:
        accuracy: Of all classes together.
        classes: Of each; doubled alone where that was measured, else with all others.
        path: The PNG to write.
    """
    is_alone = all(row.alone is not None for row in classes)
    gains = [(row, *_gain(row, is_alone)) for row in classes]
    gains.sort(key=lambda item: item[1].value)
    left_out = max(0, len(gains) - _MOST)
    if left_out:
        gains = gains[: _MOST // 2] + gains[-_MOST // 2 :]
    height = 6.2 + max(0, len(gains) - 14) * 0.27
    figure = Figure(figsize=(14, height), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15, wspace=0.06))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_curve(left, accuracy)
    _draw_gains(right, gains, is_alone=is_alone, left_out=left_out)
    style.save(figure, path)


def _gain(row: ClassCurve, is_alone: bool) -> tuple[Range, str]:
    if is_alone and row.alone is not None and row.alone_verdict is not None:
        return row.alone, row.alone_verdict
    return row.joint.gain, row.joint.verdict


def _draw_curve(axes: Axes, curve: Curve) -> None:
    style.clear_axes(axes)
    axes.set_xscale("log")
    axes.grid(axis="y", color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    sizes, values = np.array(curve.sizes), np.array([r.value for r in curve.measured])
    ahead, told = np.array(curve.ahead_sizes), np.array([r.value for r in curve.ahead])
    low, high = np.array([r.low for r in curve.ahead]), np.array([r.high for r in curve.ahead])
    axes.fill_between(ahead, low, high, color=style.BLUE, alpha=0.13, linewidth=0)
    axes.plot(ahead, told, color=style.BLUE, linewidth=2, dashes=(4, 2))
    axes.plot(ahead, told, "o", color="white", markeredgecolor=style.BLUE, markersize=7, markeredgewidth=1.8)
    for size, each in zip(sizes, curve.measured, strict=True):
        axes.plot([size, size], [each.low, each.high], color=style.BLUE, linewidth=1.5, alpha=0.5)
    axes.plot(sizes, values, "o-", color=style.BLUE, linewidth=2, markersize=7)
    bottom = min(min(r.low for r in curve.measured), float(low.min()))
    top = max(max(r.high for r in curve.measured), float(high.max()))
    room = max(0.05, top - bottom)
    axes.set_ylim(max(0.0, bottom - 0.04 * room), top + 0.1 * room)
    axes.set_xlim(sizes[0] * 0.8, ahead[-1] * 1.25)
    axes.xaxis.set_minor_locator(NullLocator())
    # The largest part stands close to all images; its number would run into the other.
    shown = [*sizes[:-1], *ahead]
    axes.set_xticks(shown, [f"{n:,.0f}" for n in shown])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %" if value <= 1 else ""))
    axes.set_xlabel("images learnt from", size=style.TEXT_SIZE, color=style.MUTED)
    words = f"Accuracy: {100 * told[0]:.1f} % with all images, {100 * told[1]:.1f} % with twice as many"
    style.write(axes, words, (0, 1), (0, 32), size=style.TEXT_SIZE + 1, colour=style.INK)
    style.write(
        axes, "filled: measured on held-out images; dashed: power law; 95 % intervals", (0, 1), (0, 12),
        size=style.SMALL_SIZE, colour=style.MUTED,
    )  # fmt: skip


def _draw_gains(axes: Axes, gains: Sequence[tuple[ClassCurve, Range, str]], *, is_alone: bool, left_out: int) -> None:
    style.clear_axes(axes)
    axes.grid(axis="x", color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.axvline(0, color=style.MUTED, linewidth=1.2)
    axes.axvspan(-NOTHING, NOTHING, color=style.SHADE, zorder=0, linewidth=0)
    for place, (_, gain, verdict) in enumerate(gains):
        colour = _COLOURS[verdict]
        axes.plot([100 * gain.low, 100 * gain.high], [place, place], color=colour, linewidth=2.5, alpha=0.55)
        axes.plot([100 * gain.value], [place], "o", color=colour, markersize=8)
    labels = [f"{shorten(style.drawable(row.name), 24)} ({row.images:,})" for row, _, _ in gains]
    axes.set_yticks(range(len(gains)), labels, size=style.SMALL_SIZE, color=style.INK)
    axes.set_ylim(-0.7, max(len(gains) - 0.3, 2.3))
    axes.set_xlabel("points of recall gained", size=style.TEXT_SIZE, color=style.MUTED)
    whose = "this class alone" if is_alone else "all classes"
    style.write(axes, f"Twice the images of {whose}", (0, 1), (0, 32), size=style.TEXT_SIZE + 1, colour=style.INK)
    start = 0.0
    for verdict in [v for v in _COLOURS if any(v == other for _, _, other in gains)]:
        colour = style.MUTED if verdict == "unknown" else _COLOURS[verdict]
        style.write(axes, f"● {_WORDS[verdict]}", (0, 1), (start, 12), size=style.SMALL_SIZE, colour=colour)
        start += 7.2 * len(_WORDS[verdict]) + 26
    if left_out:
        style.write(
            axes, f"{left_out} classes between", (1, 0.5), (0, 0), size=style.SMALL_SIZE, colour=style.MUTED,
            align="right",
        )  # fmt: skip
