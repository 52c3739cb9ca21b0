"""Attribution maps over their images, alone or beside the original with a color bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from regraft.report.plots import style
from regraft.text import shorten

#: Perceptually uniform, and readable with any color vision.
_COLORS = matplotlib.colormaps["inferno"]
#: Opacity of the strongest attribution, and the attribution below which a map is transparent.
_MAX_OPACITY, _THRESHOLD = 0.72, 0.1
#: Longer side of a panel in inches, and of a drawn image in pixels.
_INCHES, _PIXELS = 4.2, 1200


@dataclass(frozen=True, eq=False)
class Panel:
    """An attribution map, float32 (H, W) in [0, 1], and its title, such as the class that it explains."""

    heat: np.ndarray
    title: str


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a map, (H, W) in [0, 1], over its image, uint8 (H, W, 3): strong attribution is bright and opaque."""
    share = np.clip((heat - _THRESHOLD) / (1 - _THRESHOLD), 0, 1)[..., None]
    color = _COLORS(np.clip(heat, 0, 1))[..., :3] * 255
    return np.asarray((image + _MAX_OPACITY * np.sqrt(share) * (color - image)).round(), np.uint8)


def plot_attribution(image: np.ndarray, panels: Sequence[Panel], path: Path, *, title: str, caption: str = "") -> None:
    """Draw `attribution_figure` into a PNG."""
    style.save(attribution_figure(image, panels, title=title, caption=caption), path, tight=True)


def attribution_figure(image: np.ndarray, panels: Sequence[Panel], *, title: str, caption: str = "") -> Figure:
    """Draw an image, uint8 (H, W, 3), the image under each of its maps, at least one, and a color bar.

    The caption stands below the image; below a map that is zero everywhere it says so.
    """
    height, width = image.shape[:2]
    step = max(1, -(-max(height, width) // _PIXELS))
    scale = _INCHES / max(height, width)
    size = max(width * scale, 1.6), max(height * scale, 1.6)
    count = 1 + len(panels)
    figure = Figure(figsize=(count * size[0] + (count - 1) * 0.3 + 0.9, size[1]))
    grid = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(0, 0, 1 - 0.9 / figure.get_figwidth(), 1, wspace=0.3 / size[0])
    title_width = round(size[0] * 9)
    small = image[::step, ::step]
    _draw_image(grid[0], small, shorten(style.drawable(title), title_width))
    for axes, panel in zip(grid[1:], panels, strict=True):
        _draw_image(axes, overlay(small, panel.heat[::step, ::step]), shorten(style.drawable(panel.title), title_width))
        if not panel.heat.any():
            _write_below(axes, "zero everywhere: no evidence")
    _write_below(grid[0], caption)
    scale_axes = figure.add_axes((1 - 0.72 / figure.get_figwidth(), 0, 0.16 / figure.get_figwidth(), 1))
    bar = figure.colorbar(ScalarMappable(cmap=_COLORS), cax=scale_axes, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.set_yticklabels(["0", "0.5", "1\n(strongest)"])
    bar.ax.tick_params(length=0, colors=style.MUTED, labelsize=style.SMALL_SIZE)
    return figure


def plot_mean_heat(tiles: Sequence[tuple[np.ndarray, str, int]], path: Path) -> None:
    """Draw the mean image, uint8 (S, S, 3), of each predicted class under its mean map, with the number of images."""
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(columns * 2.9, rows * 3.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.08, hspace=0.22)
    for axes in grid.flat[len(tiles) :]:
        axes.set_axis_off()
    for axes, (image, name, count) in zip(grid.flat, tiles, strict=False):
        _draw_image(axes, image, shorten(style.drawable(f"{name} ({count:,})"), 30))
    title = "Mean image and mean attribution by predicted class"
    style.write(grid[0, 0], title, (0, 1), (0, 32), size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path, tight=True)


def _write_below(axes: Axes, text: str) -> None:
    style.write(axes, style.drawable(text), (0, 0), (0, -8), size=style.SMALL_SIZE, color=style.MUTED, below=True)


def _draw_image(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, aspect="equal")
    axes.set_axis_off()
    style.write(axes, title, (0, 1), (0, 9), size=style.TEXT_SIZE, color=style.INK)
