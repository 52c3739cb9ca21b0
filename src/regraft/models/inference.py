"""From image files to probabilities.

Enters: a `Classifier` and any number of image sources. Leaves: one answer for each, in the order given; decoding runs
ahead of the network, and a bad file is an answer too.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch.nn import functional

from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.layout import find_images
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.familiarity import one_by_one
from regraft.shown import Shown

Tta = Literal["none", "flip", "crops"]
#: Side of the crops, as a share of the image's.
_CROP = 0.875


@dataclass(frozen=True)
class Prediction(Shown, by="regraft.pipeline.notebook.prediction"):
    """The answer for one image.

    Attributes:
        source: As it was given: a path, or "" for bytes and arrays.
        classes: Class names.
        probabilities: float64 (classes,), adding up to 1; empty where the image could not be read.
        error: Why it could not be read, or None.
        familiarity: Share of the validation images that are at least as strange to the model, above 0 and up to 1: a
            picture of something else comes near 0, whatever its confidence. None where that is not known.
        distance: From the nearest class, by which familiarity is judged, 0 or more; None where that is not known.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    error: str | None = None
    familiarity: float | None = None
    distance: float | None = None

    @property
    def label(self) -> str:
        """The likeliest class; "" where the image could not be read."""
        return self.classes[int(self.probabilities.argmax())] if self.error is None else ""

    @property
    def confidence(self) -> float:
        """Probability of the likeliest class, 0..1; 0 where the image could not be read."""
        return float(self.probabilities.max()) if self.error is None else 0.0

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, best first; ties in class order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


class Predictor(Protocol):
    """What predicts in another runtime than PyTorch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image file becomes the input."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 (N, S, S, 3), to probabilities, float64 (N, classes)."""


def check_tta(name: str) -> Tta:
    """The name as one of `Tta`.

    Raises:
        UsageError: It is none.
    """
    for known in get_args(Tta):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args forgets what it read
    raise UsageError(f"tta = {name!r}; expected {', '.join(get_args(Tta))}.")


def one_or_many(sources: ImageSource | Iterable[ImageSource]) -> Iterator[ImageSource]:
    """The images of what was given: one, or several; of each folder those below it that were not given before.

    An array with four axes is a batch, any other is an image.

    Raises:
        UsageError: A folder has no image.
    """
    one = isinstance(sources, (str, Path, bytes)) or (isinstance(sources, np.ndarray) and sources.ndim < 4)
    given: Iterable[ImageSource] = [sources] if one else sources  # type: ignore[list-item,assignment]
    seen: set[Path] = set()
    for source in given:
        if not isinstance(source, (str, Path)):
            yield source
        elif not Path(source).is_dir():
            seen.add(Path(source))
            yield source
        else:
            images, _ = find_images(Path(source))
            if not images:
                raise UsageError(f"{source} has no image.")
            yield from (image for image in images if image not in seen)
            seen.update(images)


def predict_images(
    model: Classifier | Predictor,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    tta: Tta = "none",
) -> Iterator[Prediction]:
    """Predict any number of images as a stream.

    Args:
        model: In any mode; it is used for inference and left as it was. Or what predicts in another runtime.
        sources: Paths, encoded bytes or arrays; read as they are needed.
        batch_size: Images for one pass of the network.
        max_pixels: Larger images count as unreadable.
        workers: Threads that decode ahead; default: one a core.
        tta: Test-time augmentation: `flip` averages the probabilities over the image and its mirror image, `crops`
            over these and five crops and theirs; twice and twelve times the work.

    Yields:
        One `Prediction` a source, in order.
    """
    check_tta(tta)
    if tta != "none" and not isinstance(model, Classifier):
        raise UsageError(f"tta = {tta!r} is for runs; an export answers for the plain image.")
    count = workers or os.cpu_count() or 1
    waiting: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    batch: list[tuple[str, np.ndarray | str]] = []
    pool = ThreadPoolExecutor(count)
    try:
        for source in sources:
            name = "" if isinstance(source, (bytes, np.ndarray)) else str(source)
            waiting.append((name, pool.submit(_read, model, source, max_pixels)))
            if len(waiting) >= 2 * batch_size + count:
                batch.append(_next(waiting))
                if len(batch) == batch_size:
                    yield from _answer(model, batch, tta)
                    batch = []
        while waiting:
            batch.append(_next(waiting))
            if len(batch) == batch_size or not waiting:
                yield from _answer(model, batch, tta)
                batch = []
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def infer(model: Classifier, pixels: torch.Tensor, *, tta: Tta = "none") -> tuple[np.ndarray, torch.Tensor | None]:
    """Probabilities of a batch, and its distances from the nearest class.

    Args:
        model: Its mode is set to inference for the pass and restored.
        pixels: uint8 (N, 3, S, S).
        tta: Other views of which the probabilities are averaged.

    Returns:
        float64 (N, classes), and float64 (N,) by the plain view, or None where the model does not know.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            end = len(model.stages)
            found, distances = [], None
            for view in _views(pixels.to(model.mean.device), tta):
                features = model.features_from(model.activations(view, end), end)
                found.append(one_by_one(lambda rows: model.head.probabilities(model.head(rows)), features))
                if distances is None and model.familiarity is not None:
                    distances = model.familiarity(features)
            return torch.stack(found).mean(dim=0).cpu().numpy(), distances
    finally:
        model.train(was_training)


def _views(pixels: torch.Tensor, tta: Tta) -> Iterator[torch.Tensor]:
    """The images as they are, then the others, all (N, 3, S, S)."""
    yield pixels
    if tta == "none":
        return
    yield pixels.flip(3)
    if tta == "flip":
        return
    side = pixels.shape[-1]
    inner = round(side * _CROP)
    most = side - inner
    for top, left in ((0, 0), (0, most), (most, 0), (most, most), (most // 2, most // 2)):
        crop = pixels[:, :, top : top + inner, left : left + inner].float()
        crop = functional.interpolate(crop, size=(side, side), mode="bilinear", antialias=True)
        yield crop
        yield crop.flip(3)


def _read(model: Classifier | Predictor, source: ImageSource, max_pixels: int) -> np.ndarray | str:
    try:
        return model.preprocessing(source, max_pixels=max_pixels)
    except ImageError as error:
        return error.reason


def _next(waiting: deque[tuple[str, Future[np.ndarray | str]]]) -> tuple[str, np.ndarray | str]:
    name, future = waiting.popleft()
    return name, future.result()


def predict_pixels(
    model: Classifier | Predictor, images: np.ndarray, *, sources: Sequence[str] = (), tta: Tta = "none"
) -> list[Prediction]:
    """Predict images that are prepared already, in one pass.

    Args:
        model: As of `predict_images`.
        images: uint8 (N, S, S, 3).
        sources: Of the answers; "" where there are none.
        tta: As of `predict_images`.
    """
    shares = distances = None
    if isinstance(model, Classifier):
        probabilities, distances = infer(model, torch.from_numpy(images).permute(0, 3, 1, 2), tta=tta)
        if distances is not None and model.familiarity is not None:
            shares = model.familiarity.share(distances)
    else:
        probabilities = model.probabilities(images)
    unknown = [None] * len(images)
    return [
        Prediction(name, model.classes, row, familiarity=familiarity, distance=distance)
        for name, row, familiarity, distance in zip(
            sources or [""] * len(images),
            probabilities,
            unknown if shares is None else shares.tolist(),
            unknown if distances is None else distances.tolist(),
            strict=True,
        )
    ]


def _answer(model: Classifier | Predictor, batch: list[tuple[str, np.ndarray | str]], tta: Tta) -> Iterator[Prediction]:
    names = [name for name, pixels in batch if not isinstance(pixels, str)]
    good = [pixels for _, pixels in batch if not isinstance(pixels, str)]
    answers = iter(predict_pixels(model, np.stack(good), sources=names, tta=tta) if good else ())
    for name, pixels in batch:
        yield Prediction(name, model.classes, np.empty(0), pixels) if isinstance(pixels, str) else next(answers)
