"""Precision over recall of the classes that an image may have, each in a chart of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regraft.evaluation.multilabel.curves import precision_recall_curve
from regraft.evaluation.multilabel.metrics import evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.report.plots import style
from regraft.text import pluralize, shorten

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Points of a curve; more of them make no visible difference.
_POINTS = 240
#: Classes in the picture, those with the lowest average precision; columns, and inches of a chart.
MAX_CHARTS, _COLUMNS, _INCHES = 12, 4, 4.2


def plot_precision_recall(predictions: MultilabelPredictions, path: Path, *, title: str = "") -> None:
    """Draw the curves of the classes with the lowest average precision into a PNG; DataError without predictions."""
    evaluation = evaluate_labels(predictions)
    rows = [row for row in evaluation.weakest_first if row.support][:MAX_CHARTS]
    columns = max(1, min(_COLUMNS, len(rows)))
    lines = max(1, math.ceil(len(rows) / columns))
    figure = Figure(figsize=(_INCHES * columns, _INCHES * lines + 0.9))
    grid = figure.subplots(lines, columns, squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.75 / (_INCHES * columns), right=1 - 0.3 / (_INCHES * columns), bottom=0.75 / height,
                           top=1 - 1.45 / height, wspace=0.24, hspace=0.5)  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, rows, strict=False):
        axes.set_axis_on()
        draw_precision_recall(axes, predictions, predictions.classes.index(row.name))
        text = f"{shorten(style.drawable(row.name), 20)}: AP {row.average_precision:.3f}"
        style.write(axes, text, (0, 1), (0, 26), size=style.TEXT_SIZE, color=style.INK)
    left_out = len(predictions.classes) - len(rows)
    heading = f"{title}: precision over recall" + (
        f" of the {pluralize(len(rows), 'class', 'classes')} with the lowest average precision" if left_out else ""
    )
    figure.suptitle(heading if columns > 2 else shorten(heading, 44 * columns), x=0.016, ha="left", y=1 - 0.12 / height,
                    va="top", size=style.TITLE_SIZE if columns > 1 else style.TEXT_SIZE, color=style.INK)  # fmt: skip
    style.save(figure, path)


def draw_precision_recall(axes: Axes, predictions: MultilabelPredictions, column: int) -> None:
    """Draw precision over recall of the class in this column, a ring at its threshold, and what a random order gives.

    Nothing is drawn where no image has the class.
    """
    has, probability = predictions.indicators[:, column], predictions.probabilities[:, column]
    style.frame(axes, "both")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS)
    if has.any():
        recall, precision, thresholds = precision_recall_curve(has, probability)
        axes.axhline(has.mean(), color=style.MUTED, linewidth=1.2, dashes=(4, 3))
        chosen = np.unique(np.linspace(0, len(recall) - 1, _POINTS).round().astype(int))
        across, up = np.append(0, recall[chosen]), np.append(precision[0], precision[chosen])
        axes.plot(across, up, color=style.BLUE, linewidth=2, clip_on=False)
        said = np.flatnonzero(thresholds >= predictions.thresholds[column])
        if len(said):
            axes.plot([recall[said[-1]]], [precision[said[-1]]], "o", markersize=11, markerfacecolor="none",
                      markeredgecolor=style.INK, markeredgewidth=1.5, clip_on=False)  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        style.write_percent(axis)
    axes.yaxis.get_major_ticks()[0].label1.set_visible(False)  # the origin is labeled once, below
    axes.tick_params(pad=6)
    axes.set_xlabel("recall", size=style.TEXT_SIZE, color=style.MUTED)
    style.write(axes, "precision", (0, 1), (0, 9), size=style.TEXT_SIZE, color=style.MUTED)


def describe_precision_recall(predictions: MultilabelPredictions, column: int) -> str:
    """Describe what `draw_precision_recall` draws, for people who do not see it."""
    has, said = predictions.indicators[:, column], predictions.predicted[:, column]
    hits = int((has & said).sum())
    precision, recall = hits / max(1, int(said.sum())), hits / max(1, int(has.sum()))
    return (
        f"Precision over recall; at the threshold the precision is {100 * precision:.1f} % and the recall "
        f"{100 * recall:.1f} %. A random order has a precision of {100 * has.mean():.1f} %."
    )
