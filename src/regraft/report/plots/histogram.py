"""Histogram of one number per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from regraft.report.plots import style
from regraft.text import pluralize

_BINS = 24


@dataclass(frozen=True, eq=False)
class Measure:
    """One number per image, float64 (N,), N >= 1, with its unit or meaning and a function that writes it."""

    name: str
    axis: str
    write: Callable[[float], str]
    values: np.ndarray

    @property
    def is_constant(self) -> bool:
        """Whether all values are written alike."""
        return self.write(float(self.values.min())) == self.write(float(self.values.max()))

    def describe(self) -> str:
        """Describe the distribution, for people who do not see the histogram."""
        if self.is_constant:
            return f"{self.name}: all {self.write(float(self.values[0]))} ({self.axis})."
        low, quarter, median, three_quarters, high = map(self.write, np.quantile(self.values, (0, 0.25, 0.5, 0.75, 1)))
        return (
            f"{self.name} of {pluralize(self.values.size, 'image')}: {low} to {high}, median {median}, half of them "
            f"between {quarter} and {three_quarters} ({self.axis})."
        )


def bin_counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (24,) and edges (25,) of bins, which are logarithmic if the values span more than a factor of 20."""
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, _BINS + 1) if low > 0 and high / low > 20 else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # as rounding may move them
    return np.histogram(values, edges)


def draw_histogram(axes: Axes, measure: Measure) -> None:
    """Draw the distribution of a measure that is not constant, with its median."""
    style.clear_axes(axes)
    counts, edges = bin_counts(measure.values)
    low, median, high = float(edges[0]), float(np.median(measure.values)), float(edges[-1])
    is_log = not np.isclose(edges[1] - edges[0], edges[-1] - edges[-2], rtol=1e-3)
    if is_log:
        axes.set_xscale("log")
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=style.BLUE, edgecolor="white", linewidth=1)
    axes.axvline(median, color=style.INK, linewidth=1.5)
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks([low, high], [measure.write(low), measure.write(high)])
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    top = int(counts.max())
    axes.set_yticks([0, top], ["0", f"{top:,}\nimages"])
    axes.set_xlabel(measure.axis + (", log scale" if is_log else ""), size=style.SMALL_SIZE, color=style.MUTED)
    place = axes.transAxes.inverted().transform(axes.transData.transform((median, 0)))[0]
    align: style.Align = "left" if place < 0.4 else "right" if place > 0.75 else "center"
    style.write(axes, f"median {measure.write(median)}", (place, 1), (0, 6), size=style.SMALL_SIZE, color=style.INK,
                align=align)  # fmt: skip
