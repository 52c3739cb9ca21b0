"""Where in an image the evidence for a class lies.

Enters: a run or a model, and images. Leaves: an `Explanation` of each: a heat map at the image's own size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from PIL import Image

from regraft.attribution.maps import default_stage, explain_pixels, find_stage
from regraft.attribution.methods import Method
from regraft.data.decode import MAX_PIXELS, ImageSource, decode_image
from regraft.errors import ImageError, UnknownNameError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.inference import infer, one_or_many
from regraft.pipeline.run import Run
from regraft.shown import Several, Shown


@dataclass(frozen=True, eq=False)
class Explanation(Shown, by="regraft.pipeline.notebook.explanation"):
    """Why one image is taken for what it is taken for.

    Attributes:
        source: As it was given: a path, or "" for bytes and arrays.
        classes: Class names.
        probabilities: float64 (classes,), as `predict` gives them; empty where the image could not be read.
        targets: Names of the classes that the maps are of.
        heat: float32 (targets, H, W) in [0, 1], over the image at its own size; 1 where the most evidence lies.
        image: uint8 (H, W, 3).
        error: Why the image could not be read, or None.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    targets: tuple[str, ...] = ()
    heat: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.float32), repr=False)
    image: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8), repr=False)
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class; "" where the image could not be read."""
        return self.classes[int(self.probabilities.argmax())] if self.error is None else ""

    def probability(self, name: str) -> float:
        """Of a class."""
        return float(self.probabilities[self.classes.index(name)])


def explain(
    model: Run | Classifier,
    sources: ImageSource | Iterable[ImageSource],
    *,
    method: Method = "gradcam",
    label: str | None = None,
    likeliest: int = 1,
    stage: str | None = None,
    batch_size: int = 16,
) -> list[Explanation]:
    """Explain one image or many.

    Args:
        model: A run or a model.
        sources: Paths, encoded bytes or arrays, or one of these; a folder stands for the images below it, and a file
            that cannot be read gets an answer that says so.
        method: How the evidence is found; see docs/explain.md.
        label: The class whose evidence is looked for; default: the likeliest of each image.
        likeliest: So many of the likeliest classes, where no `label` is given.
        stage: Name of the backbone's stage to look at, as `regraft summary` lists them; default: the last with places.
        batch_size: Images for one pass of the network.

    Returns:
        One `Explanation` an image, in order.

    Raises:
        UnknownNameError: No such class, stage or method.
        UsageError: The stage has no places, or a folder no image.
    """
    return Several(
        stream(model, one_or_many(sources), method=method, label=label, likeliest=likeliest, stage=stage,
               batch_size=batch_size)
    )  # fmt: skip


def stream(
    model: Run | Classifier,
    sources: Iterable[ImageSource],
    *,
    method: Method = "gradcam",
    label: str | None = None,
    likeliest: int = 1,
    stage: str | None = None,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
) -> Iterator[Explanation]:
    """`explain`, one batch after the other; images whose longer side is above `side` are made as small."""
    classifier = model.classifier if isinstance(model, Run) else model
    if label is not None and label not in classifier.classes:
        raise UnknownNameError("class", label, list(classifier.classes))
    if not 1 <= likeliest <= len(classifier.classes):
        raise UsageError(f"likeliest = {likeliest}; expected 1 to {len(classifier.classes)} classes.")
    index = default_stage(classifier, method) if stage is None else find_stage(classifier, stage)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = iter(sources)
        while some := list(islice(waiting, batch_size)):
            read = list(pool.map(lambda source: _read(classifier, source, max_pixels, side), some))
            good = [pair for pair in read if not isinstance(pair, str)]
            found: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]] = iter(())
            if good:
                pixels = torch.from_numpy(np.stack([square for _, square in good])).permute(0, 3, 1, 2)
                probabilities, _ = infer(classifier, pixels)
                order = np.argsort(-probabilities, axis=1, kind="stable")[:, :likeliest]
                if label is not None:
                    order = np.full((len(good), 1), classifier.classes.index(label))
                maps = np.stack([
                    explain_pixels(
                        classifier, pixels, torch.from_numpy(wanted.copy()), method=method, stage=index
                    ).numpy()
                    for wanted in order.T
                ], axis=1)  # fmt: skip
                found = zip(probabilities, order, maps, strict=True)
            for source, pair in zip(some, read, strict=True):
                name = "" if isinstance(source, (bytes, np.ndarray)) else str(source)
                if isinstance(pair, str):
                    yield Explanation(name, classifier.classes, np.empty(0), error=pair)
                    continue
                row, wanted, squares = next(found)
                yield Explanation(
                    name, classifier.classes, row, tuple(classifier.classes[i] for i in wanted),
                    _at_own_size(classifier, squares, pair[0]), pair[0],
                )  # fmt: skip


def _read(
    model: Classifier, source: ImageSource, max_pixels: int, side: int | None
) -> tuple[np.ndarray, np.ndarray] | str:
    """The image at its own size or smaller, and as the network reads it; or why it cannot be read."""
    try:
        image = decode_image(source, max_pixels=max_pixels, at_least=side)
        if side is not None and max(image.shape[:2]) > side:
            small = Image.fromarray(image)
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            image = np.asarray(small)
        return image, model.preprocessing(source, max_pixels=max_pixels)
    except ImageError as error:
        return error.reason


def _at_own_size(model: Classifier, squares: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.stack([np.clip(model.preprocessing.laid_back(heat, width, height), 0, 1) for heat in squares])
