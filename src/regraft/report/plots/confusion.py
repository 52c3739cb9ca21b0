"""Confusion matrix, readable from 2 to hundreds of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from regraft.errors import DataError
from regraft.report.plots import style
from regraft.text import display_width, shorten

#: Maximum number of classes with numbers in the cells, and with lines between the cells.
_NUMBERS_UP_TO, _GRID_UP_TO = 30, 100
#: Columns of text to which class names are shortened.
_NAME_WIDTH = 24

_MAX_INCHES = 18.0
_TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
#: From transparent to blue, so that the matrix is readable on light and dark backgrounds.
_COLORS = LinearSegmentedColormap.from_list("share", [(0, style.BLUE + "00"), (1, style.BLUE)])


def plot_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, *, title: str = "") -> None:
    """Draw a confusion matrix into a PNG; see `confusion_figure`."""
    style.save(confusion_figure(confusion, classes, title=title), path, tight=True)


def confusion_figure(
    confusion: np.ndarray, classes: Sequence[str], *, title: str = "", with_numbers: bool = True
) -> Figure:
    """Draw a confusion matrix (C, C): the color of a cell is its share of the true class (row), its number the images.

    The color scale grows with the square root of the share, so that rare confusions are visible. Up to 30 classes can
    have numbers. Raises DataError if the matrix and the names do not fit.
    """
    count = len(classes)
    if not count or confusion.shape != (count, count):
        raise DataError(f"a confusion matrix of shape {confusion.shape} for {count} classes; expected one row each")
    support = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, support, out=np.zeros(confusion.shape), where=support > 0)

    cell = _cell_inches(count)
    side = cell * count
    scale = max(1.0, side / 10)  # large pictures are viewed from further away
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(shares, cmap=_COLORS, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest",
                        aspect="auto")  # fmt: skip
    style.clear_axes(axes)
    axes.spines[:].set(visible=True, color=style.LINE)
    if count <= _GRID_UP_TO:
        borders = np.arange(count - 1) + 0.5
        width = min(1.0, 2 * cell)
        axes.hlines(borders, -0.5, count - 0.5, color=style.LINE, linewidth=width)
        axes.vlines(borders, -0.5, count - 0.5, color=style.LINE, linewidth=width)
    if count <= _NUMBERS_UP_TO and with_numbers:
        _write_numbers(axes, confusion, shares, cell)
    _name_classes(axes, classes, cell)
    axes.set_xlabel("predicted class", size=scale * (style.TEXT_SIZE + 1), color=style.MUTED, labelpad=10)
    axes.set_ylabel("true class", size=scale * (style.TEXT_SIZE + 1), color=style.MUTED, labelpad=10)
    _write_title(axes, confusion, title, side, scale)

    bar = figure.add_axes((1 + 0.25 * scale / side, 0, 0.16 * scale / side, 1))
    colorbar = figure.colorbar(image, cax=bar, ticks=_TICKS, format=PercentFormatter(1, 0, " %"))
    assert colorbar.solids is not None
    colorbar.solids.set(rasterized=True, antialiased=False)  # one picture instead of 256 paths in SVG, without seams
    style.clear_axes(bar)
    bar.tick_params(labelsize=scale * style.SMALL_SIZE)
    bar.set_ylabel("share of the true class", size=scale * style.TEXT_SIZE, color=style.MUTED, labelpad=8)
    return figure


def _cell_inches(count: int) -> float:
    if count <= _NUMBERS_UP_TO:
        return float(np.clip(9 / count, 0.42, 1.8))
    return min(max(9 / count, 0.17), _MAX_INCHES / count)


def _name_classes(axes: Axes, classes: Sequence[str], cell: float) -> None:
    size = float(np.clip(cell * 72 * 0.6, 7.5, 15))
    step = int(np.ceil(size * 1.15 / 72 / cell))  # where the names do not fit, every second or third is written
    names = [shorten(style.drawable(name), _NAME_WIDTH) for name in classes[::step]]
    positions = np.arange(len(classes))[::step]
    axes.set_yticks(positions, names, size=size, color=style.INK)
    axes.set_xticks(positions, names, size=size, color=style.INK)
    if max(display_width(name) for name in names) * size * 0.62 < cell * 72:
        return
    if len(classes) > _NUMBERS_UP_TO:
        axes.tick_params(axis="x", labelrotation=90)
        return
    for label in axes.get_xticklabels():
        label.set(rotation=45, rotation_mode="anchor", ha="right", va="center")


def _write_numbers(axes: Axes, confusion: np.ndarray, shares: np.ndarray, cell: float) -> None:
    size = min(18.0, cell * 72 * 0.62, cell * 72 * 0.9 / (0.62 * len(str(confusion.max()))))
    zeros = len(confusion) <= 12
    for (row, column), number in np.ndenumerate(confusion):
        if number or zeros:
            color = style.FAINT if not number else "white" if shares[row, column] > 0.36 else style.INK
            axes.text(column, row, str(number), ha="center", va="center", size=size, color=color)


def _write_title(axes: Axes, confusion: np.ndarray, title: str, side: float, scale: float) -> None:
    correct, count = int(np.trace(confusion)), int(confusion.sum())
    share = f" ({correct / count:.1%})".replace("%", " %") if count else ""
    caption = f"{correct:,} of {count:,} images correct{share}"
    style.write(axes, caption, (0, 1), (0, 12), size=scale * style.TEXT_SIZE, color=style.MUTED)
    size = scale * style.TITLE_SIZE
    text = shorten(style.drawable(title), int((side + 1.3) * 72 / (size * 0.6)))
    style.write(axes, text, (0, 1), (0, 16 + scale * 18), size=size, color=style.INK)
