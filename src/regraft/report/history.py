"""The training history as a picture.

Enters: one row per epoch. Leaves: a PNG with loss and accuracy side by side, both phases on one axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from regraft.errors import DataError
from regraft.evaluation.names import shorten
from regraft.report import style

_PHASES = {"head": "head", "finetune": "fine-tuning"}
_SERIES = (("train", "training", style.BLUE), ("val", "validation", style.ORANGE))


def plot_history(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Draw loss and accuracy against the running epoch.

    Args:
        rows: One per epoch in order, with `phase` (`head` or `finetune`), `train_loss`, `val_loss`,
            `train_accuracy`, `val_accuracy` (accuracies in 0..1; None or NaN where not measured) and `kept`
            (whether this epoch's weights are the result; the last such row is marked).
        path: The PNG to write.
        title: Above both panels.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("0 epochs; expected at least one row to plot")
    figure = Figure(figsize=(13, 5.4), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15, wspace=0.05))
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_panel(axes, rows, measure)
    if title:
        text = shorten(style.drawable(title), 90)
        figure.suptitle(text, x=0.016, ha="left", size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path)


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], measure: str) -> None:
    style.clear_axes(axes)
    axes.grid(axis="y", color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.set_xlabel("epoch", size=style.TEXT_SIZE, color=style.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    style.write(axes, measure, (0, 1), (0, 30), size=style.TITLE_SIZE - 2, colour=style.INK)
    _draw_phases(axes, [str(row["phase"]) for row in rows])

    epochs = np.arange(1, len(rows) + 1)
    drawn: list[tuple[np.ndarray, str]] = []
    for key, label, colour in _SERIES:
        values = _finite([row[f"{key}_{measure}"] for row in rows])
        if np.isfinite(values).any():
            size = float(np.clip(150 / len(rows), 2.5, 7))
            axes.plot(epochs, values, "o-", color=colour, label=label, linewidth=2.2, markersize=size)
            drawn.append((values, colour))
    if not drawn:
        axes.set_yticks([])
        return
    _scale(axes, np.concatenate([values for values, _ in drawn]), measure)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.065, 1),  # the pad, which lifts it to the panel's name, also moves it left
        borderaxespad=27 / style.TEXT_SIZE,
        borderpad=0,
        ncols=len(drawn),
        frameon=False,
        fontsize=style.TEXT_SIZE,
        labelcolor=style.INK,
        handlelength=1.4,
    )
    values, colour = drawn[-1]
    kept = [i for i, row in enumerate(rows) if row["kept"]]
    if kept and np.isfinite(values[kept[-1]]):
        _mark_kept(
            axes, kept[-1] + 1, _epoch_name(rows[kept[-1]], rows), float(values[kept[-1]]), len(rows), measure, colour
        )


def _scale(axes: Axes, values: np.ndarray, measure: str) -> None:
    """Leave a free strip for the kept epoch's note: above losses, below accuracies, where curves start."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = max(high - low, 0.1 * (abs(high) if measure == "loss" else 1), 1e-6)
    high = (low + high + span) / 2
    if measure == "accuracy":
        high = min(high, 1.0)
    low = high - span
    wide, narrow = 0.24 * span, 0.07 * span
    axes.set_ylim((low - narrow, high + wide) if measure == "loss" else (low - wide, high + narrow))
    least, most = 0.0, 1.0 if measure == "accuracy" else np.inf
    bottom, top = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if max(least, bottom) <= tick <= min(most, top)]
    scale, unit = (100, " %") if measure == "accuracy" else (1, "")
    exact = [np.format_float_positional(tick * scale, precision=6, trim="-") for tick in ticks]
    decimals = max((len(text.partition(".")[2]) for text in exact), default=0)
    axes.set_yticks(ticks, [f"{tick * scale:.{decimals}f}{unit}" for tick in ticks])


def _draw_phases(axes: Axes, phases: Sequence[str]) -> None:
    """Name each phase above the axes, beside the line where it starts or ends, and shade every second one."""
    groups = [(phase, len(list(group))) for phase, group in groupby(phases)]
    start = 0.5
    for number, (phase, length) in enumerate(groups):
        if number % 2:
            axes.axvspan(start, start + length, color=style.SHADE, zorder=0, linewidth=0)
        if number:
            axes.axvline(start, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ends_at_line = number == 0 and len(groups) > 1
        border = start + length if ends_at_line else start
        style.write(
            axes,
            style.drawable(_PHASES.get(phase, phase)),
            ((border - 0.5) / len(phases), 1),
            (-6 if ends_at_line else 6 if number else 0, 6),
            size=style.SMALL_SIZE,
            colour=style.MUTED,
            align="right" if ends_at_line else "left",
        )
        start += length


def _epoch_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """As the history numbers it: within its phase."""
    phase = row["phase"]
    return f"epoch {row['epoch']}" + (f" of {_PHASES.get(phase, phase)}" if phase != rows[0]["phase"] else "")


def _mark_kept(axes: Axes, epoch: int, name: str, value: float, epochs: int, measure: str, colour: str) -> None:
    """A dot on the curve, joined by a thin line to a note in the free strip."""
    shown = f"{value:.1%}".replace("%", " %") if measure == "accuracy" else f"{value:.3g}"
    edge, drop = (1, -16) if measure == "loss" else (0, 16)
    to_left = epoch > (epochs + 1) / 2
    axes.annotate(
        "",
        (epoch, value),
        xytext=(epoch, edge),
        textcoords=axes.get_xaxis_transform(),
        arrowprops={"arrowstyle": "-", "color": style.INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
    )
    axes.plot(
        [epoch],
        [value],
        "o",
        color=colour,
        markersize=12,
        markeredgecolor=style.INK,
        markeredgewidth=1.5,
        zorder=5,
    )
    axes.annotate(
        style.drawable(f"kept: {name}, {shown}"),
        (epoch, edge),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-12 if to_left else 12, drop),
        textcoords="offset points",
        ha="right" if to_left else "left",
        va="center",
        size=style.TEXT_SIZE,
        color=style.INK,
        bbox={"facecolor": "white", "edgecolor": style.LINE, "boxstyle": "round,pad=0.3"},
    )


def _finite(values: Sequence[float | None]) -> np.ndarray:
    """NaN, which leaves a gap in the line, for whatever is no finite number."""
    return np.array([value if value is not None and math.isfinite(value) else math.nan for value in values])
