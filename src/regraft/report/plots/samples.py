"""Sample predictions: a grid of framed images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regraft.errors import DataError
from regraft.evaluation.multilabel.metrics import image_losses
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.report.plots import style
from regraft.text import display_width, shorten

_TILE_INCHES, _GAP_INCHES, _CAPTION_INCHES = 2.7, 0.3, 0.85
_CAPTION_WIDTH = 23


@dataclass(frozen=True, eq=False)
class SampleTile:
    """An image, uint8 (H, W, 3), its true class, None if unknown, the predicted class and its probability, 0..1."""

    image: np.ndarray
    label: str | None
    predicted: str
    confidence: float

    @property
    def is_right(self) -> bool | None:
        """Whether the prediction is correct; None without a label."""
        return None if self.label is None else self.label == self.predicted

    @property
    def texts(self) -> tuple[str, str]:
        """Two lines below the picture: the classes, and the verdict."""
        outcome = "" if self.is_right is None else "✓ correct, " if self.is_right else "✗ wrong, "
        return _caption(self), f"{outcome}{100 * self.confidence:.0f} %"


@dataclass(frozen=True, eq=False)
class LabelTile:
    """An image, uint8 (H, W, 3), the classes that it has, and those that it is said to have."""

    image: np.ndarray
    labels: tuple[str, ...]
    predicted: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether the answers for all classes are right."""
        return set(self.labels) == set(self.predicted)

    @property
    def texts(self) -> tuple[str, str]:
        """Two lines below the picture: its classes, and those that are wrong and missing."""
        differences = {
            "wrong": [style.drawable(name) for name in self.predicted if name not in self.labels],
            "missing": [style.drawable(name) for name in self.labels if name not in self.predicted],
        }
        names = ", ".join(map(style.drawable, self.labels)) or "no class"
        said = "; ".join(f"{what} {', '.join(classes)}" for what, classes in differences.items() if classes)
        verdict = "✓ all right" if self.is_right else f"✗ {said}"
        return shorten(names, _CAPTION_WIDTH), shorten(verdict, _CAPTION_WIDTH + 9)


@dataclass(frozen=True, eq=False)
class NumberTile:
    """An image, uint8 (H, W, 3), its true number, None if unknown, its predicted one, and half its interval, if any."""

    image: np.ndarray
    target: float | None
    value: float
    half_width: float | None

    @property
    def is_right(self) -> bool | None:
        """Whether the true number is in the prediction interval; None if one of them is unknown."""
        if self.half_width is None or self.target is None:
            return None
        return abs(self.value - self.target) <= self.half_width

    @property
    def texts(self) -> tuple[str, str]:
        """Two lines below the picture: the numbers, and the error or what is known of it."""
        if self.target is None:
            return f"{self.value:.4g}", "" if self.half_width is None else f"±{self.half_width:.4g}"
        return f"{self.target:.4g} → {self.value:.4g}", f"error {self.value - self.target:+.4g}"


@dataclass(frozen=True, eq=False)
class StrangeTile:
    """An image, uint8 (H, W, 3), the answer for it, its out-of-distribution p-value and how confident the answer is."""

    image: np.ndarray
    answer: str
    p_value: float | None
    confidence: float | None
    is_right: None = None

    @property
    def texts(self) -> tuple[str, str]:
        """Two lines below the picture: the answer, and how strange and how confident it is."""
        strange = "" if self.p_value is None else f"p = {self.p_value:.2g}"
        sure = "" if self.confidence is None else f"confidence {self.confidence:.2f}"
        return shorten(style.drawable(self.answer), _CAPTION_WIDTH), ", ".join(filter(None, (strange, sure)))


Tile = SampleTile | LabelTile | NumberTile | StrangeTile


def choose_samples(predictions: Predictions, limit: int = 16) -> list[int]:
    """Choose the indices of up to `limit` images to show, always the same ones, wrong predictions first.

    Up to half of them are misclassified, the most confident first. The rest are classified correctly and spread over
    the classes; within a class the order of the predictions decides, so that confidence plays no part.
    """
    right = predictions.predicted == predictions.labels
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][: limit // 2]
    by_class = [np.flatnonzero(right & (predictions.labels == c)) for c in range(len(predictions.classes))]
    remaining = limit - len(wrong)
    chosen: list[int] = []
    for turn in range(max(len(members) for members in by_class)):
        candidates = [int(members[turn]) for members in by_class if turn < len(members)]
        take = min(remaining - len(chosen), len(candidates))
        chosen += [candidates[i * len(candidates) // take] for i in range(take)]
    return [*wrong.tolist(), *chosen]


def choose_label_samples(predictions: MultilabelPredictions, limit: int = 16) -> list[int]:
    """Choose the indices of up to `limit` images to show, always the same ones, those with wrong answers first.

    Up to half of them have a wrong answer for a class, those with the most and then the highest loss first. The rest
    are right, those with more classes first.
    """
    wrong_answers = (predictions.predicted != predictions.indicators).sum(axis=1)
    losses = image_losses(predictions)
    wrong = np.flatnonzero(wrong_answers)
    wrong = wrong[np.lexsort((-losses[wrong], -wrong_answers[wrong]))][: limit // 2]
    right = np.flatnonzero(wrong_answers == 0)
    right = right[np.argsort(-predictions.indicators[right].sum(axis=1), kind="stable")][: limit - len(wrong)]
    return [*wrong.tolist(), *right.tolist()]


def choose_number_samples(predictions: RegressionPredictions, limit: int = 16) -> list[int]:
    """Choose the indices of up to `limit` images to show, always the same ones: the largest and the smallest errors."""
    order = np.argsort(-np.abs(predictions.residuals), kind="stable")
    if len(order) <= limit:
        return [int(i) for i in order]
    return [int(i) for i in (*order[: limit - limit // 2], *order[::-1][: limit // 2])]


def plot_samples(tiles: Sequence[Tile], path: Path, *, title: str = "") -> None:
    """Draw a grid of images with frames: green for correct predictions, red for wrong ones, gray without a label."""
    if not tiles:
        raise DataError("0 images; expected at least one to show")
    columns = min(len(tiles), max(4, math.ceil(math.sqrt(len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width = columns * _TILE_INCHES + (columns - 1) * _GAP_INCHES
    height = rows * _TILE_INCHES + (rows - 1) * _CAPTION_INCHES
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=_GAP_INCHES / _TILE_INCHES, hspace=_CAPTION_INCHES / _TILE_INCHES)
    for axes in grid.flat[len(tiles) :]:
        axes.set_axis_off()
    for axes, tile in zip(grid.flat, tiles, strict=False):
        _draw_tile(axes, tile)
    if title:
        text = shorten(style.drawable(title), max(40, 18 * columns))
        style.write(grid[0, 0], text, (0, 1), (0, 16), size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path, tight=True)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    is_right = tile.is_right
    color = style.FAINT if is_right is None else style.GREEN if is_right else style.RED
    height, width = tile.image.shape[:2]
    axes.imshow(tile.image, aspect="equal")
    half = max(height, width) / 2  # a square frame around the whole image
    axes.set_xlim(width / 2 - 0.5 - half, width / 2 - 0.5 + half)
    axes.set_ylim(height / 2 - 0.5 + half, height / 2 - 0.5 - half)
    axes.set_facecolor(style.SHADE)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=color, linewidth=4)
    caption, verdict = tile.texts
    for text, drop, size, ink in (
        (caption, -8, style.TEXT_SIZE, style.INK),
        (verdict, -29, style.SMALL_SIZE, style.MUTED if is_right is None else color),
    ):
        style.write(axes, text, (0.5, 0), (0, drop), size=size, color=ink, align="center", below=True)


def _caption(tile: SampleTile) -> str:
    predicted = style.drawable(tile.predicted)
    if tile.label is None or tile.label == tile.predicted:
        return shorten(predicted, _CAPTION_WIDTH)
    label = style.drawable(tile.label)
    width = _CAPTION_WIDTH - 3
    label = shorten(label, max(width // 2, width - display_width(predicted)))
    return f"{label} → {shorten(predicted, width - display_width(label))}"
