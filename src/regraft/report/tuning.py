"""Pictures of a search for settings: what each trial gave, and which settings mattered.

Enters: numbers, states and values of the trials, and importances. Leaves: PNG files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from regraft.errors import DataError, counted
from regraft.report import style

_NAMES = {"loss": "validation loss", "accuracy": "validation accuracy", "macro_f1": "validation macro-F1"}
#: Of a picture of importances, at most so many bars.
_BARS = 12


@dataclass(frozen=True)
class Dot:
    """One trial.

    Attributes:
        number: From 0, the base configuration.
        state: `complete`, `pruned` or `failed`.
        value: Of the metric; None unless complete.
    """

    number: int
    state: str
    value: float | None


def plot_trials(
    trials: Sequence[Dot],
    finals: Sequence[Dot],
    path: Path,
    *,
    metric: Literal["loss", "accuracy", "macro_f1"],
    best: int,
) -> None:
    """Draw each trial's value with the best so far, and beside them the trainings in full.

    Args:
        trials: In order.
        finals: Those that trained in full; the base configuration's has number 0.
        path: The PNG to write.
        metric: What the values are; the loss is better the lower, the others the higher.
        best: Number of the winner.

    Raises:
        DataError: No trial is complete.
    """
    known = [(dot.number, dot.value) for dot in trials if dot.value is not None]
    if not known:
        raise DataError("0 complete trials; expected at least one to plot")
    figure = Figure(figsize=(13, 5.8), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15, wspace=0.03))
    shares = [3.4, 1.0] if finals else [1.0]
    panels = figure.subplots(1, len(shares), sharey=True, squeeze=False, width_ratios=shares)[0]
    axes = panels[0]
    numbers, values = (np.array(column) for column in zip(*known, strict=True))
    _prepare(axes, _NAMES[metric])
    axes.set_xlabel("short trial", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_xlim(-0.7, max(dot.number for dot in trials) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    running = np.minimum.accumulate(values) if metric == "loss" else np.maximum.accumulate(values)
    axes.step(numbers, running, where="post", color=style.BLUE, linewidth=2.2, label="best so far", zorder=2)
    axes.plot(numbers, values, "o", color=style.FAINT, markersize=8, label="trial", zorder=3)
    if trials[0].value is not None:
        axes.axhline(trials[0].value, color=style.ORANGE, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
        axes.plot([0], [trials[0].value], "o", color=style.ORANGE, markersize=10, label="base", zorder=4)
    lost = {"pruned": ("|", style.MUTED), "failed": ("x", style.RED)}
    for state, (marker, colour) in lost.items():
        if chosen := [dot.number for dot in trials if dot.state == state]:
            axes.plot(
                chosen,
                [0.025] * len(chosen),
                marker,
                color=colour,
                markersize=9,
                markeredgewidth=2,
                label=state,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, frameon=False, fontsize=style.TEXT_SIZE,
        labelcolor=style.INK, handlelength=1.4, borderaxespad=0.6, columnspacing=1.4,
    )  # fmt: skip
    if finals:
        _draw_finals(panels[1], finals, best, metric)
    _limit(axes, np.concatenate([values, [dot.value for dot in finals if dot.value is not None]]), metric)
    style.save(figure, path)


def _prepare(axes: Axes, title: str) -> None:
    style.clear_axes(axes)
    axes.grid(axis="y", color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    style.write(axes, title, (0, 1), (0, 14), size=style.TITLE_SIZE - 2, colour=style.INK)


def _draw_finals(axes: Axes, finals: Sequence[Dot], best: int, metric: str) -> None:
    _prepare(axes, "trained in full")
    axes.set_facecolor(style.SHADE)
    axes.set_xlim(-0.6, len(finals) - 0.4)
    names = ["base" if not dot.number else f"trial {dot.number}" for dot in finals]
    axes.set_xticks(range(len(finals)), names)
    for place, dot in enumerate(finals):
        if dot.value is None:
            continue
        colour = style.ORANGE if not dot.number else style.BLUE
        edge = style.INK if dot.number == best else colour
        axes.plot([place], [dot.value], "D", color=colour, markersize=11, markeredgecolor=edge, markeredgewidth=1.8)
        text = f"{dot.value:.3f}" if metric != "accuracy" else f"{100 * dot.value:.1f} %"
        axes.annotate(
            f"{text}\nkept" if dot.number == best else text,
            (place, dot.value), xytext=(0, 12), textcoords="offset points", ha="center", va="bottom",
            size=style.TEXT_SIZE, color=style.INK, linespacing=1.3,
        )  # fmt: skip


def _limit(axes: Axes, values: np.ndarray, metric: str) -> None:
    """Show what is near the best: a few hopeless trials would press all others together."""
    sign = 1 if metric == "loss" else -1
    costs = np.sort(sign * values)
    low, middle = costs[0], np.median(costs)
    high = min(costs[-1], max(middle + 2 * (middle - low), low + 1e-3))
    span = high - low or 0.1 * max(abs(low), 0.1)
    near, far = low - 0.15 * span, high + 0.22 * span
    axes.set_ylim(*sorted((sign * near, sign * far)))


def plot_importance(importance: Mapping[str, float], path: Path, *, trials: int) -> None:
    """Draw the share of each setting in what makes a trial one of the best.

    Args:
        importance: Setting -> share, 0..1, the largest first.
        path: The PNG to write.
        trials: Complete ones that it rests on.

    Raises:
        DataError: There are no settings.
    """
    if not importance:
        raise DataError("0 settings; expected at least one to plot")
    shown = list(importance.items())[:_BARS]
    figure = Figure(figsize=(9.5, 1.5 + 0.44 * len(shown)), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15))
    axes = figure.subplots()
    style.clear_axes(axes)
    places = np.arange(len(shown))[::-1]
    shares = [share for _, share in shown]
    axes.barh(places, shares, height=0.62, color=style.BLUE)
    axes.set_yticks(places, [style.drawable(name) for name, _ in shown])
    axes.tick_params(axis="y", labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    axes.set_xticks([])
    axes.set_xlim(0, 1.12 * max(*shares, 1e-9))
    for place, share in zip(places, shares, strict=True):
        axes.annotate(
            f"{100 * share:.0f} %", (share, place), xytext=(6, 0), textcoords="offset points", va="center",
            size=style.TEXT_SIZE, color=style.MUTED,
        )  # fmt: skip
    title = f"What made a trial one of the best quarter ({counted(trials, 'trial')})"
    figure.suptitle(title, x=0.016, ha="left", size=style.TITLE_SIZE - 2, color=style.INK)
    style.save(figure, path)
