"""Heat maps as pictures.

Enters: images with maps in [0, 1]. Leaves: the map laid over the image, alone or beside the original with a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from regraft.evaluation.names import shorten
from regraft.report import style

#: Even in lightness, and readable with any colour vision.
_COLOURS = matplotlib.colormaps["inferno"]
#: How much of the image the strongest evidence hides, and from which share of it on colour begins.
_OPAQUE, _LEAST = 0.72, 0.1
#: Longer side of a panel in inches, and of a drawn image in pixels.
_INCHES, _PIXELS = 4.2, 1200


@dataclass(frozen=True, eq=False)
class Panel:
    """One map over the image.

    Attributes:
        heat: float32 (H, W) in [0, 1].
        title: What it is the evidence for.
    """

    heat: np.ndarray
    title: str


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The map over the image: the more evidence, the brighter and the less transparent.

    Args:
        image: uint8 (H, W, 3).
        heat: float (H, W) in [0, 1].

    Returns:
        uint8 (H, W, 3).
    """
    share = np.clip((heat - _LEAST) / (1 - _LEAST), 0, 1)[..., None]
    colour = _COLOURS(np.clip(heat, 0, 1))[..., :3] * 255
    return np.asarray((image + _OPAQUE * np.sqrt(share) * (colour - image)).round(), np.uint8)


def plot_heat(image: np.ndarray, panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Draw an image and beside it the same under each of its maps, with a scale.

    Args:
        image: uint8 (H, W, 3).
        panels: At least one.
        path: The PNG to write.
        title: Above the image.
    """
    height, width = image.shape[:2]
    step = max(1, -(-max(height, width) // _PIXELS))
    scale = _INCHES / max(height, width)
    size = max(width * scale, 1.6), max(height * scale, 1.6)
    count = 1 + len(panels)
    figure = Figure(figsize=(count * size[0] + (count - 1) * 0.3 + 0.9, size[1]))
    grid = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(0, 0, 1 - 0.9 / figure.get_figwidth(), 1, wspace=0.3 / size[0])
    room = round(size[0] * 9)
    small = image[::step, ::step]
    _show(grid[0], small, shorten(style.drawable(title), room))
    for axes, panel in zip(grid[1:], panels, strict=True):
        _show(axes, overlay(small, panel.heat[::step, ::step]), shorten(style.drawable(panel.title), room))
    scale_axes = figure.add_axes((1 - 0.72 / figure.get_figwidth(), 0, 0.16 / figure.get_figwidth(), 1))
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), cax=scale_axes, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.set_yticklabels(["none", "half", "most\nevidence"])
    bar.ax.tick_params(length=0, colors=style.MUTED, labelsize=style.SMALL_SIZE)
    style.save(figure, path, tight=True)


def plot_mean_heat(tiles: Sequence[tuple[np.ndarray, str, int]], path: Path) -> None:
    """Draw the mean image of each class under its mean map.

    Args:
        tiles: uint8 (S, S, 3), name of the class, number of images; at least one.
        path: The PNG to write.
    """
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(columns * 2.9, rows * 3.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.08, hspace=0.22)
    for axes in grid.flat[len(tiles) :]:
        axes.set_axis_off()
    for axes, (image, name, count) in zip(grid.flat, tiles, strict=False):
        _show(axes, image, shorten(style.drawable(f"{name} ({count:,})"), 30))
    title = "Mean image and mean evidence of what is taken for each class"
    style.write(grid[0, 0], title, (0, 1), (0, 32), size=style.TITLE_SIZE, colour=style.INK)
    style.save(figure, path, tight=True)


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, aspect="equal")
    axes.set_axis_off()
    style.write(axes, title, (0, 1), (0, 9), size=style.TEXT_SIZE, colour=style.INK)
