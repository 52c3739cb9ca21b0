"""A comparison of models as a Markdown table, and as a chart of the score over the training time above the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from regraft.evaluation.comparison import SIGNIFICANT
from regraft.report.html import render
from regraft.report.model_score import score_of
from regraft.report.plots import style
from regraft.report.run_table import folded
from regraft.text import one_line, shorten

#: Width of the picture, height of its chart, and of a line of its table, in inches.
_WIDTH, _HEIGHT, _LINE = 12.0, 7.0, 0.27
_TABLE_SIZE = 10.5
#: Widest table in characters; one is at most 0.6 of the font size wide on average.
_CHARACTERS = int((_WIDTH - 1.0) * 72 / (0.6 * _TABLE_SIZE))


def markdown_of(
    models: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    conclusion: Sequence[str],
    caption: str = "",
) -> str:
    """Return the conclusion, the table with its caption, and the pairwise differences as Markdown."""
    ((head, *rows),) = folded(models, 10**9) if models else ([["model"]],)
    return render("comparison.md.jinja", head=head, rows=rows, pairs=pairs, conclusion=conclusion, caption=caption,
                  significant=SIGNIFICANT) + "\n"  # fmt: skip


def plot_comparison(models: Sequence[Mapping[str, Any]], path: Path, *, caption: str = "") -> None:
    """Draw `comparison_figure` into a PNG."""
    style.save(comparison_figure(models, caption=caption), path)


def comparison_figure(models: Sequence[Mapping[str, Any]], *, caption: str = "") -> Figure:
    """Draw the test score over training time, and the table; the area of a disc is the number of parameters."""
    blocks = list(folded(models, _CHARACTERS))
    lines = sum(len(block) + 1 for block in blocks) + bool(caption)
    height = _HEIGHT + lines * _LINE
    figure = Figure(figsize=(_WIDTH, height))
    bottom = (lines * _LINE + 0.95) / height
    axes = figure.add_axes((0.9 / _WIDTH, bottom, 1 - 1.2 / _WIDTH, 1 - bottom - 0.95 / height))
    _draw_chart(axes, models)
    name = score_of(models[0]).name
    title = f"{name.capitalize() if name.islower() else name} and training time"
    figure.text(0.25 / _WIDTH, 1 - 0.45 / height, title, size=style.TITLE_SIZE, color=style.INK)
    table = figure.add_axes((0.25 / _WIDTH, 0, 1 - 0.5 / _WIDTH, lines * _LINE / height))
    table.set(xlim=(0, _WIDTH - 0.5), ylim=(lines, 0))
    table.set_axis_off()
    line = 0
    for block in blocks:
        _draw_table(table, block, line)
        line += len(block) + 1
    if caption:
        text = shorten(style.drawable(caption), _CHARACTERS)
        table.text(0, line, text, size=_TABLE_SIZE, color=style.MUTED, va="center")
    return figure


def _draw_chart(axes: Axes, models: Sequence[Mapping[str, Any]]) -> None:
    style.frame(axes, "both")
    seconds = np.array([max(row["train_seconds"], 0.1) for row in models])
    score = score_of(models[0])
    key = f"test_{score.key}"
    scores = np.array([row[key] for row in models])
    most = max(row["parameters"] for row in models)
    low, high = np.array([row[f"{key}_interval"] for row in models]).T
    axes.set_xscale("log")
    axes.set_xlim(seconds.min() / 2, seconds.max() * 3.2)
    margin = 0.06 * max(high.max() - low.min(), 0.02 * (high.max() if score.is_error else 1))
    top = high.max() + 2 * margin
    axes.set_ylim(low.min() - margin, top if score.is_error else min(1.02, top))
    labels, obstacles = [], []
    for row, x, y, down, up in zip(models, seconds, scores, low, high, strict=True):
        color = style.FAINT if row["weights"] == "none" else style.BLUE
        axes.plot([x, x], [down, up], color=style.INK, linewidth=1.5, zorder=4)
        area = 60 + 1600 * row["parameters"] / most
        axes.scatter([x], [y], s=area, color=color, alpha=0.75, edgecolors="white", linewidths=1.5, zorder=3)
        text = style.drawable(f"{shorten(one_line(row['name']), 28)}  {score.text(y)}")
        label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", size=style.TEXT_SIZE,
                              color=style.INK, va="center", annotation_clip=False)  # fmt: skip
        labels.append((label, area**0.5 / 2 + 6))
        ends = axes.transData.transform([(x, down), (x, up)])
        obstacles.append(Bbox(ends).padded(3))
        radius = area**0.5 / 2 * axes.figure.dpi / 72
        center = axes.transData.transform((x, y))
        obstacles.append(Bbox([center - radius, center + radius]))
    _place(axes, labels, obstacles)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.tick_params(axis="x", which="minor", length=0, colors=style.MUTED, labelsize=style.SMALL_SIZE)
    if score.unit:
        style.write_percent(axes.yaxis)
    axes.set_xlabel("training time in seconds", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_ylabel(f"test {score.axis}, 95 % confidence interval", size=style.TEXT_SIZE, color=style.MUTED)
    note = "The area of a disc is the number of parameters"
    note += "; gray: random initial weights." if any(row["weights"] == "none" for row in models) else "."
    style.write(axes, note, (0, 1), (0, 10), size=style.SMALL_SIZE, color=style.MUTED)


def _place(axes: Axes, labels: Iterable[tuple[Annotation, float]], obstacles: list[Bbox]) -> None:
    """Move each label to the nearest place beside its disc where it covers no disc, no interval and no other label."""
    style.prepare(axes.get_figure(root=True))  # type: ignore[arg-type]  # a Figure
    inside = axes.bbox
    for label, distance in labels:
        best: tuple[float, Bbox, tuple[float, float], str] | None = None
        for shift in (0, 18, -18, 36, -36, 54, -54, 72, -72, 90, -90, 108, -108):
            for side, align in ((1, "left"), (-1, "right")):
                label.set(position=(side * distance, shift), ha=align)
                box = label.get_window_extent().padded(2)
                hidden = sum(_common_area(box, other) for other in obstacles)
                hidden += max(0.0, box.width * box.height - _common_area(box, inside))
                if best is None or hidden < best[0]:
                    best = hidden, box, (side * distance, shift), align
        assert best is not None
        _, box, position, align = best
        label.set(position=position, ha=align)
        obstacles.append(box)


def _common_area(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)


def _draw_table(axes: Axes, rows: Sequence[Sequence[str]], line: int) -> None:
    """Write the rows, titles first, from this line on: names to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) + 2 for column in zip(*rows, strict=True)]
    ends = np.cumsum(widths) * 0.6 * _TABLE_SIZE / 72
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            is_words = column == 0 or rows[0][column] == "trained"
            start = ends[column - 1] if column else 0.0
            x = start + 0.1 if is_words and column else start if is_words else ends[column]
            axes.text(x, line + number, style.drawable(cell), ha="left" if is_words else "right", va="center",
                      size=_TABLE_SIZE, color=style.INK if number else style.MUTED)  # fmt: skip
    axes.plot([0, ends[-1]], [line + 0.5] * 2, color=style.LINE, linewidth=1)
