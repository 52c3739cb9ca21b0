"""The confusion matrix as a picture.

Enters: counts of true and predicted classes. Leaves: a PNG that can be read from 2 to hundreds of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from regraft.errors import DataError
from regraft.evaluation.names import display_width, shorten
from regraft.report import style

#: Beyond this many classes the cells hold no numbers.
NUMBERS_UP_TO = 30
#: Beyond this many, no lines between them.
GRID_UP_TO = 100
#: Names wider than this many columns are shortened.
NAME_WIDTH = 24

_MAX_INCHES = 18.0
_TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
_COLOURS = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#CFE5F2", "#6AAED6", style.BLUE, "#08385C"])


def plot_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path, *, title: str = "") -> None:
    """Draw a heat map: colour is the share of each true class, numbers are images.

    The colour scale grows with the square root of the share, so that rare confusions show.

    Args:
        confusion: Counts (C, C); row: true class, column: predicted class.
        classes: C names; any text.
        path: The PNG to write.
        title: Above the matrix.

    Raises:
        DataError: The matrix and the names do not fit.
    """
    count = len(classes)
    if not count or confusion.shape != (count, count):
        raise DataError(f"a confusion matrix of shape {confusion.shape} for {count} classes; expected one row each")
    support = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, support, out=np.zeros(confusion.shape), where=support > 0)

    cell = _cell_inches(count)
    side = cell * count
    scale = max(1.0, side / 10)  # of all that is not in a cell: big pictures are looked at from further away
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=_COLOURS, norm=norm, interpolation="nearest", aspect="auto")
    style.clear_axes(axes)
    axes.spines[:].set(visible=True, color=style.LINE)
    if count <= GRID_UP_TO:
        borders = np.arange(count - 1) + 0.5
        width = min(1.0, 2 * cell)
        axes.hlines(borders, -0.5, count - 0.5, color=style.LINE, linewidth=width)
        axes.vlines(borders, -0.5, count - 0.5, color=style.LINE, linewidth=width)
    if count <= NUMBERS_UP_TO:
        _write_numbers(axes, confusion, shares, cell)
    _name_classes(axes, classes, cell)
    axes.set_xlabel("predicted class", size=scale * (style.TEXT_SIZE + 1), color=style.MUTED, labelpad=10)
    axes.set_ylabel("true class", size=scale * (style.TEXT_SIZE + 1), color=style.MUTED, labelpad=10)
    _write_title(axes, confusion, title, side, scale)

    bar = figure.add_axes((1 + 0.25 * scale / side, 0, 0.16 * scale / side, 1))
    figure.colorbar(image, cax=bar, ticks=_TICKS, format=PercentFormatter(1, 0, " %"))
    style.clear_axes(bar)
    bar.tick_params(labelsize=scale * style.SMALL_SIZE)
    bar.set_ylabel("share of the true class", size=scale * style.TEXT_SIZE, color=style.MUTED, labelpad=8)
    style.save(figure, path, tight=True)


def _cell_inches(count: int) -> float:
    """Big cells for few classes; for many, as big as the widest picture allows."""
    if count <= NUMBERS_UP_TO:
        return float(np.clip(9 / count, 0.42, 1.8))
    return min(max(9 / count, 0.17), _MAX_INCHES / count)


def _name_classes(axes: Axes, classes: Sequence[str], cell: float) -> None:
    size = float(np.clip(cell * 72 * 0.6, 7.5, 15))
    step = int(np.ceil(size * 1.15 / 72 / cell))  # where not every name has room, every second or third is written
    names = [shorten(style.drawable(name), NAME_WIDTH) for name in classes[::step]]
    positions = np.arange(len(classes))[::step]
    axes.set_yticks(positions, names, size=size, color=style.INK)
    axes.set_xticks(positions, names, size=size, color=style.INK)
    if max(display_width(name) for name in names) * size * 0.62 < cell * 72:
        return
    if len(classes) > NUMBERS_UP_TO:
        axes.tick_params(axis="x", labelrotation=90)
        return
    for label in axes.get_xticklabels():
        label.set(rotation=45, rotation_mode="anchor", ha="right", va="center")


def _write_numbers(axes: Axes, confusion: np.ndarray, shares: np.ndarray, cell: float) -> None:
    size = min(18.0, cell * 72 * 0.62, cell * 72 * 0.9 / (0.62 * len(str(confusion.max()))))
    zeros = len(confusion) <= 12
    for (row, column), number in np.ndenumerate(confusion):
        if number or zeros:
            colour = style.FAINT if not number else "white" if shares[row, column] > 0.25 else style.INK
            axes.text(column, row, str(number), ha="center", va="center", size=size, color=colour)


def _write_title(axes: Axes, confusion: np.ndarray, title: str, side: float, scale: float) -> None:
    right, count = int(np.trace(confusion)), int(confusion.sum())
    share = f" ({right / count:.1%})".replace("%", " %") if count else ""
    caption = f"{right:,} of {count:,} images right{share}"
    style.write(axes, caption, (0, 1), (0, 12), size=scale * style.TEXT_SIZE, colour=style.MUTED)
    size = scale * style.TITLE_SIZE
    text = shorten(style.drawable(title), int((side + 1.3) * 72 / (size * 0.6)))
    style.write(axes, text, (0, 1), (0, 16 + scale * 18), size=size, colour=style.INK)
