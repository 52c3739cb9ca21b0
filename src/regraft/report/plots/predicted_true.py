"""Predicted over true numbers, with the line of perfect predictions and the prediction intervals about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regraft.errors import DataError
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.report.plots import style
from regraft.text import shorten

#: Points in a chart; more of them make no visible difference.
_POINTS = 2000


def plot_predicted_true(
    predictions: RegressionPredictions, path: Path, *, title: str = "", quantity: str = "value"
) -> None:
    """Draw the chart into a PNG; DataError without predictions."""
    if not len(predictions):
        raise DataError("0 predictions; expected at least one to draw")
    figure = Figure(figsize=(7, 7.4))
    axes = figure.add_axes((0.13, 0.1, 0.82, 0.76))
    draw_predicted_true(axes, predictions, quantity=quantity)
    text = shorten(style.drawable(f"{title}: predicted over true {quantity}" if title else quantity), 46)
    style.write(axes, text, (0, 1), (0, 46), size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path)


def draw_predicted_true(axes: Axes, predictions: RegressionPredictions, *, quantity: str = "value") -> None:
    """Draw a dot for each image; where its true number is outside of the prediction interval, a red one."""
    chosen = np.unique(np.linspace(0, len(predictions) - 1, _POINTS).round().astype(int))
    true, said, width = predictions.targets[chosen], predictions.values[chosen], predictions.half_width
    low, high = float(min(true.min(), said.min())), float(max(true.max(), said.max()))
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin
    style.frame(axes, "both")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    line = np.array([low, high])
    if width is not None:
        axes.fill_between(line, line - width, line + width, color=style.SHADE, linewidth=0)
    axes.plot(line, line, color=style.MUTED, linewidth=1.2, dashes=(4, 3))
    outside = np.zeros(len(true), bool) if width is None else np.abs(said - true) > width
    alpha = 0.75 if len(true) < 200 else 0.4
    for rows, color in ((~outside, style.BLUE), (outside, style.RED)):
        axes.plot(true[rows], said[rows], "o", markersize=5, color=color, alpha=alpha, markeredgewidth=0)
    axes.tick_params(pad=6)
    name = shorten(style.drawable(quantity), 30)
    axes.set_xlabel(f"true {name}", size=style.TEXT_SIZE, color=style.MUTED)
    style.write(axes, f"predicted {name}", (0, 1), (0, 12), size=style.TEXT_SIZE, color=style.MUTED)


def describe_predicted_true(predictions: RegressionPredictions) -> str:
    """Describe what `draw_predicted_true` draws, for people who do not see it."""
    residuals, text = predictions.residuals, "Predicted over true numbers of each image, beside the line of equality"
    if predictions.half_width is None:
        return f"{text}; half of the images are within {np.median(np.abs(residuals)):.4g} of it."
    outside = int((np.abs(residuals) > predictions.half_width).sum())
    return (
        f"{text}, and the prediction intervals of ±{predictions.half_width:.4g} about it; {outside:,} of "
        f"{len(predictions):,} images are outside."
    )
