"""Training curves from the rows of `history.csv`, and the head's path from those of `head_path.csv`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from regraft.errors import DataError
from regraft.report.plots import style
from regraft.text import pluralize, shorten

Row = Mapping[str, Any]

_PHASES = {"head": "head", "finetune": "fine-tuning"}
_SERIES = (("train", "training", style.BLUE), ("val", "validation", style.ORANGE))


def plot_history(
    history: Sequence[Row],
    path: Path,
    *,
    head_path: Sequence[Row] = (),
    title: str = "",
    accuracy: str = "accuracy",
) -> None:
    """Draw the training curves side by side; DataError without rows.

    The history has one row per epoch, with `phase` (`head` or `finetune`), `epoch`, `train_loss`, `val_loss`,
    `train_accuracy`, `val_accuracy` (accuracies in 0..1; None or NaN where not measured) and `kept` (whether the run
    kept this epoch's weights; the last such row is marked). `accuracy` is what the accuracy is called, "" if there is
    none. The head's path has one row per L2 strength, with `l2` and `val_loss`.
    """
    if not history and not head_path:
        raise DataError("0 epochs; expected at least one row to plot")
    measured = any(row.get("val_loss") is not None for row in head_path)
    names = (["path"] if measured or not history else []) + (
        ["loss", *(["accuracy"] if accuracy else [])] if history else []
    )
    figure = Figure(figsize=(6.5 * len(names), 5.4))
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    figure.subplots_adjust(left=0.85 / figure.get_figwidth(), right=1 - 0.25 / figure.get_figwidth(), bottom=0.15,
                           top=0.74, wspace=0.22)  # fmt: skip
    for axes, name in zip(panels, names, strict=True):
        if name == "path":
            draw_head_path(axes, head_path)
        else:
            draw_curves(axes, history, name)
        heading = {"path": "head: validation loss by L2 strength", "accuracy": accuracy}.get(name, name)
        style.write(axes, heading, (0, 1), (0, 44), size=style.TITLE_SIZE - 2, color=style.INK)
    if title:
        text = shorten(style.drawable(title), 45 * len(names))
        figure.suptitle(text, x=0.016, ha="left", size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path)


def draw_curves(axes: Axes, epochs: Sequence[Row], measure: str) -> None:
    """Draw the training and validation curves of `loss` or `accuracy` over the epochs of all phases."""
    style.frame(axes)
    count = len(epochs)
    axes.set_xlim(0.5, count + 0.5)
    axes.set_xlabel("epoch", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_xticks(*_epoch_ticks([str(row["phase"]) for row in epochs]))
    _draw_phases(axes, [str(row["phase"]) for row in epochs])
    marker_size = float(np.clip(150 / count, 2.5, 7))
    for key, label, color in _SERIES:
        values = _finite(row.get(f"{key}_{measure}") for row in epochs)
        if np.isfinite(values).any():
            axes.plot(np.arange(1, count + 1), values, "o-", color=color, label=label, linewidth=2,
                      markersize=marker_size)  # fmt: skip
    if not axes.lines or not axes.get_legend_handles_labels()[1]:
        _say_nothing(axes, measure)
        return
    kept = kept_epoch(epochs)
    if kept is not None and (value := _last_value(epochs[kept], measure)) is not None:
        number = epochs[kept].get("epoch", kept + 1)
        _draw_ring(axes, kept + 1, value, f"kept: epoch {number}, {write_value(measure, value)}")
    axes.margins(y=0.1)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if measure == "accuracy":
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 1 + 0.05 * (1 - low)))
        style.write_percent(axes.yaxis)
    _add_legend(axes)


def draw_head_path(axes: Axes, path: Sequence[Row]) -> None:
    """Draw the validation loss of the head over its L2 strength; a ring marks the chosen strength."""
    style.frame(axes)
    axes.set_xlabel("L2 strength", size=style.TEXT_SIZE, color=style.MUTED)
    rows = sorted(path, key=lambda row: float(row["l2"]))
    strengths = np.array([float(row["l2"]) for row in rows])
    losses = _finite(row.get("val_loss") for row in rows)
    if not np.isfinite(losses).any():
        _say_nothing(axes, "validation loss")
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.plot(strengths, losses, "o-", color=style.ORANGE, label="validation loss", linewidth=2, markersize=6)
    chosen = [i for i, row in enumerate(rows) if row.get("chosen")]
    best = chosen[0] if chosen and np.isfinite(losses[chosen[0]]) else int(np.nanargmin(losses))
    _draw_ring(axes, strengths[best], float(losses[best]), f"chosen: {strengths[best]:.2g}")
    axes.margins(x=0.08, y=0.1)
    _add_legend(axes)


def kept_epoch(epochs: Sequence[Row]) -> int | None:
    """Index of the epoch whose weights the run kept; None where it kept the head's or none is marked."""
    kept = [i for i, row in enumerate(epochs) if row.get("kept")]
    return kept[-1] if kept else None


def describe_curves(epochs: Sequence[Row], measure: str) -> str:
    """Describe what `draw_curves` draws, for people who do not see it."""
    text = f"{measure.capitalize()} over {pluralize(len(epochs), 'epoch')}"
    kept = kept_epoch(epochs)
    for place, row in (("at the end", epochs[-1]), *([("kept", epochs[kept])] if kept is not None else [])):
        values = {label: _finite([row.get(f"{key}_{measure}")])[0] for key, label, _ in _SERIES}
        known = ", ".join(f"{label} {write_value(measure, v)}" for label, v in values.items() if math.isfinite(v))
        text += f"; {place}: {known}" if known else ""
    return text + "."


def write_value(measure: str, value: float) -> str:
    """Write a loss with three digits and an accuracy in percent."""
    return f"{100 * value:.1f} %" if measure == "accuracy" else f"{value:.3g}"


def _epoch_ticks(phases: Sequence[str]) -> tuple[list[int], list[str]]:
    """Places of ticks, and the numbers of their epochs, which begin with 1 in each phase as in `history.csv`."""
    step = next(n for k in range(9) for n in (10**k, 2 * 10**k, 5 * 10**k) if len(phases) / n <= 10)
    ticks: list[tuple[int, str]] = []
    start = 0
    for _, group in groupby(phases):
        length = len(list(group))
        numbers = range(step, length + 1, step) or [length]
        ticks += [(start + n, str(n)) for n in numbers if not ticks or start + n - ticks[-1][0] >= step]
        start += length
    return [place for place, _ in ticks], [number for _, number in ticks]


def _last_value(row: Row, measure: str) -> float | None:
    """The value on the curve that is drawn last: validation where there is one, else training."""
    for key, _, _ in reversed(_SERIES):
        value = _finite([row.get(f"{key}_{measure}")])[0]
        if math.isfinite(value):
            return float(value)
    return None


def _draw_ring(axes: Axes, x: float, y: float, label: str) -> None:
    axes.plot([x], [y], "o", label=label, markersize=13, markerfacecolor="none", markeredgecolor=style.INK,
              markeredgewidth=1.5, linestyle="none", clip_on=False)  # fmt: skip


def _draw_phases(axes: Axes, phases: Sequence[str]) -> None:
    """Name the phases above the axes where there are several, and separate them by a line."""
    groups = [(phase, len(list(group))) for phase, group in groupby(phases)]
    if len(groups) == 1 and phases[0] in _PHASES:
        return
    starts = np.cumsum([0, *(length for _, length in groups)])[:-1]
    for start in starts[1:]:
        axes.axvline(start + 0.5, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    names = [style.drawable(shorten(_PHASES.get(phase, phase), 14)) for phase, _ in groups]
    character = 0.62 * style.SMALL_SIZE * axes.figure.dpi / 72 / axes.bbox.width  # as a share of the width
    widths = [(len(name) + 2) * character for name in names]
    places = (starts / len(phases)).tolist()
    for i in range(1, len(places)):  # to the right of the name before
        places[i] = max(places[i], places[i - 1] + widths[i - 1])
    for i in reversed(range(len(places))):  # and to the left of the end, or of the name after
        places[i] = min(places[i], (places[i + 1] if i + 1 < len(places) else 1) - widths[i])
    for name, place in zip(names, places, strict=True):
        if place > -character:  # there is room for it
            style.write(axes, name, (max(0.0, place), 1), (3, 4), size=style.SMALL_SIZE, color=style.MUTED)


def _add_legend(axes: Axes) -> None:
    lifted = axes.transAxes + ScaledTranslation(0, 14 / 72, axes.figure.dpi_scale_trans)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), bbox_transform=lifted, borderaxespad=0, borderpad=0,
                ncols=3, frameon=False, fontsize=style.SMALL_SIZE, labelcolor=style.INK, handlelength=1.2,
                handletextpad=0.4, columnspacing=1.2)  # fmt: skip


def _say_nothing(axes: Axes, what: str) -> None:
    axes.set(xticks=[], yticks=[], xlabel="")
    axes.text(0.5, 0.5, f"no {what} was measured", transform=axes.transAxes, ha="center", color=style.MUTED,
              size=style.TEXT_SIZE)  # fmt: skip


def _finite(values: Any) -> np.ndarray:
    """NaN, which leaves a gap in a line, for every value that is not a finite number."""
    numbers = (float(v) if isinstance(v, (int, float)) and math.isfinite(v) else math.nan for v in values)
    return np.array(list(numbers))
