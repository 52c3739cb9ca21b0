"""Predict any number of image files, in order; threads decode in advance, and an unreadable file gives an error."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch.nn import functional

from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.labels import Task, join_labels
from regraft.data.preprocessing import Preprocessing
from regraft.data.taxonomy import Taxonomy
from regraft.data.tree_answers import answers as nodes_that_answer
from regraft.data.tree_answers import most_probable_paths
from regraft.errors import ImageError, UsageError
from regraft.models.answering import AnsweringNetwork
from regraft.models.classifier import Classifier
from regraft.models.ood import rowwise
from regraft.models.torch_defaults import torch_defaults
from regraft.notebook_repr import NotebookRepr
from regraft.resources import usable_cpus

Tta = Literal["none", "flip", "crops"]
#: Side of the crops of test-time augmentation, as a share of the image's.
_CROP = 0.875


@dataclass(frozen=True)
class Prediction(NotebookRepr):
    """The prediction for one image.

    Attributes:
        source: The path, or "" for what is not a path.
        classes: Class names; of a number what it is, such as "age".
        probabilities: float64 (classes,), with sum 1; each by itself if an image may have any number of classes; empty
            if it has a number, or could not be read.
        error: Reason why the image could not be read, or None.
        ood_p_value: Share of the validation images that are at least as far from all classes, above 0 and up to 1; near
            0 for an out-of-distribution image, whatever its confidence. None if the model has no detector.
        ood_distance: Distance from the nearest class, 0 or more; None if the model has no detector.
        thresholds: Probability from which on the image is said to have each class, if it may have any number of them;
            empty: it has one.
        value: The number of the image, if that is what the model says of images.
        half_width: Half the width of the interval about the value that has the true number at the model's coverage;
            None: there is no interval.
        taxonomy: The tree above the classes; None if the model has none.
        pictures: Number of images of the group that is answered, whose name is the source; None: it is one image.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    error: str | None = None
    ood_p_value: float | None = None
    ood_distance: float | None = None
    thresholds: tuple[float, ...] = ()
    value: float | None = None
    half_width: float | None = None
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    pictures: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The prediction interval of the number, (low, high); None if there is none."""
        if self.value is None or self.half_width is None:
            return None
        return self.value - self.half_width, self.value + self.half_width

    @property
    def answer(self) -> np.ndarray:
        """What the model said, float64 (classes,): the probabilities, or the number alone."""
        return self.probabilities if self.value is None else np.array([self.value])

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the image, the most probable first; () if it has none, or could not be read."""
        if self.error is not None:
            return ()
        if not self.thresholds:
            return (self.label,)
        limit_of = dict(zip(self.classes, self.thresholds, strict=True))
        return tuple(name for name, p in self.top(len(self.classes)) if p >= limit_of[name])

    @property
    def label(self) -> str:
        """The most probable class, `labels` as `join_labels` writes them, or the number with four digits.

        "" if the image could not be read.
        """
        if self.value is not None:
            return f"{self.value:.4g}"
        if self.thresholds:
            return join_labels(self.labels)
        return self.classes[int(self.probabilities.argmax())] if self.error is None else ""

    @property
    def confidence(self) -> float:
        """Probability of the most probable class, 0..1; 0 if the image could not be read, NaN of a number."""
        if self.value is not None:
            return float("nan")
        return float(self.probabilities.max()) if self.error is None else 0.0

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, best first; ties in class order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def nodes(self) -> dict[str, float]:
        """Probabilities of the nodes above the classes, in the order of the tree; {} without one.

        Each is the sum over the classes below the node.
        """
        if self.taxonomy is None or self.error is not None:
            return {}
        sums = self.taxonomy.probabilities(self.probabilities[None])[0]
        of_node = dict(zip(self.taxonomy.nodes, sums.tolist(), strict=True))
        return {name: of_node[name] for name in self.taxonomy.inner}

    def levels(self) -> list[tuple[str, float]]:
        """The most probable node at each step from the top of the tree to a class, with probabilities.

        Without a tree, the most probable class alone; empty if the image could not be read.
        """
        if self.taxonomy is None or self.error is not None:
            return self.top(1)
        tree, sums = self.taxonomy, self.taxonomy.probabilities(self.probabilities[None])
        path = dict.fromkeys(most_probable_paths(sums, tree.parent_numbers)[0].tolist())
        return [(tree.nodes[node], float(sums[0, node])) for node in path]

    def answer_at(self, min_confidence: float) -> tuple[str, float] | None:
        """The most probable class if its probability is at least `min_confidence`, else a node above the classes.

        That is the deepest node of `levels` with such a probability. None if there is none, or the image could not be
        read.
        """
        if self.error is not None:
            return None
        if self.taxonomy is None:
            return (self.label, self.confidence) if self.confidence >= min_confidence else None
        tree, sums = self.taxonomy, self.taxonomy.probabilities(self.probabilities[None])
        node = int(nodes_that_answer(sums, tree.parent_numbers, len(tree.classes), min_confidence)[0])
        return (tree.nodes[node], float(sums[0, node])) if node >= 0 else None


class Predictor(Protocol):
    """A model in another runtime than PyTorch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Conversion of an image file to the input."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of a model that gives an image any number of classes; empty: it gives one."""

    @property
    def task(self) -> Task:
        """Whether the model gives an image one class, any number of them, or a number."""

    @property
    def half_width(self) -> float | None:
        """Half the width of the prediction interval about each number; None: there is none."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 (N, S, S, C), to probabilities, float64 (N, classes); of numbers these, float64 (N, 1)."""


def tree_of(model: object) -> Taxonomy | None:
    """The tree above the classes of a model or `Predictor`; None if it has none."""
    tree: Taxonomy | None = getattr(model, "taxonomy", None)  # a model of a user's own may not know of trees
    return tree


def has_order(model: object) -> bool:
    """Whether the classes of a model or `Predictor` have an order, in which it has them."""
    return bool(getattr(model, "ordered", False))  # as above


def order_temperature_of(model: object) -> float | None:
    """Temperature of the probabilities of a model or `Predictor` whose classes have an order; None: they have none."""
    if not has_order(model):
        return None
    temperature: float = model.head.temperature if isinstance(model, Classifier) else getattr(model, "temperature", 1.0)
    return temperature


def pooling_of(model: object) -> str:
    """What the groups are that a model or `Predictor` was trained to give one answer each; "" if each image has one."""
    pool_by: str = getattr(model, "pool_by", "")  # as above
    return pool_by


def is_calibrated_for(model: object, pictures: int | None) -> bool:
    """Whether what a model was fitted to on its validation images holds for an answer: calibration, and intervals.

    That is for the answers of single images, or of groups, whichever it was trained to give: a single image has larger
    errors than a mean. `pictures` is the number of images of a group, or None for a single image.
    """
    return pictures is not None if pooling_of(model) else pictures in (None, 1)


def half_width_for(model: Classifier | Predictor, pictures: int | None) -> float | None:
    """Half the width of the prediction interval about the number of an image, or of a group as above; None: none."""
    return model.half_width if is_calibrated_for(model, pictures) else None


def check_tta(name: str) -> Tta:
    """Return the name as a `Tta`; UsageError if it is unknown."""
    if name not in get_args(Tta):
        raise UsageError(f"tta = {name!r}; expected {', '.join(get_args(Tta))}.")
    return cast(Tta, name)


def predict_images(
    model: Classifier | Predictor,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    tta: Tta = "none",
) -> Iterator[Prediction]:
    """Predict any number of images as a stream: one `Prediction` per source, in order.

    Sources are read when needed, by one thread per core by default; an image of more than `max_pixels` is unreadable.
    As test-time augmentation, `flip` averages the probabilities over the image and its mirror image, `crops` also over
    five crops and their mirror images; the cost is twofold and twelvefold.
    """
    check_tta(tta)
    if tta != "none" and not isinstance(model, Classifier):
        raise UsageError(f"tta = {tta!r} needs a run; an export predicts the image itself only.")
    with closing(_read_ahead(model, sources, max_pixels, workers or usable_cpus(), 2 * batch_size)) as images:
        while batch := list(itertools.islice(images, batch_size)):
            yield from _predict_read(model, batch, tta)


def _read_ahead(
    model: Classifier | Predictor, sources: Iterable[ImageSource], max_pixels: int, threads: int, ahead: int
) -> Generator[tuple[str, np.ndarray | str], None, None]:
    """Names and pixels of the sources, or errors in place of pixels; `ahead` + `threads` sources are in progress."""

    def read(source: ImageSource) -> np.ndarray | str:
        try:
            return model.preprocessing(source, max_pixels=max_pixels)
        except ImageError as error:
            return error.reason

    pool = ThreadPoolExecutor(threads)
    reading: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    try:
        for source in sources:
            name = str(source) if isinstance(source, (str, Path)) else ""
            reading.append((name, pool.submit(read, source)))
            if len(reading) >= ahead + threads:
                name, future = reading.popleft()
                yield name, future.result()
        yield from ((name, future.result()) for name, future in reading)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@torch_defaults()
def predict_batch(
    model: Classifier, pixels: torch.Tensor, *, tta: Tta = "none"
) -> tuple[np.ndarray, torch.Tensor | None]:
    """Predict uint8 (N, C, S, S): what `Head.answer` gives, float64 (N, classes), and distances from the nearest class.

    The distances, float64 (N,), are those of the images without augmentation; None if the model has no detector.
    """
    was_training = model.training
    model.eval()
    try:
        network, head = AnsweringNetwork.of(model), model.head
        with torch.inference_mode():
            answers, distances = [], None
            for view in _views(pixels.to(model.mean.device), tta):
                embedded = rowwise(head.embed, network.features(view))
                answers.append(rowwise(lambda rows: head.answer(head.classify(rows)), embedded))
                if distances is None and model.ood is not None:
                    distances = model.ood(embedded)
            return torch.stack(answers).mean(dim=0).cpu().numpy(), distances
    finally:
        model.train(was_training)


def _views(pixels: torch.Tensor, tta: Tta) -> Iterator[torch.Tensor]:
    """The images, then their augmented views, all (N, C, S, S)."""
    yield pixels
    if tta != "none":
        yield pixels.flip(3)
    if tta != "crops":
        return
    shape = pixels.shape[2:]
    height, width = (round(side * _CROP) for side in shape)
    down, right = shape[0] - height, shape[1] - width
    for top, left in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
        crop = pixels[:, :, top : top + height, left : left + width].float()
        crop = functional.interpolate(crop, size=shape, mode="bilinear", antialias=True)
        yield crop
        yield crop.flip(3)


@torch_defaults()
def predict_pixels(
    model: Classifier | Predictor, images: np.ndarray, *, sources: Sequence[str] = (), tta: Tta = "none"
) -> list[Prediction]:
    """Predict preprocessed images, uint8 (N, S, S, C), in one forward pass; the sources are "" by default."""
    p_values = distances = None
    if isinstance(model, Classifier):
        answers, distances = predict_batch(model, torch.from_numpy(images).permute(0, 3, 1, 2), tta=tta)
        if distances is not None and model.ood is not None:
            p_values = model.ood.p_value(distances)
    else:
        answers = model.probabilities(images)
    ood = ([None] * len(images) if values is None else values.tolist() for values in (p_values, distances))
    rows = zip(sources or [""] * len(images), answers, *ood, strict=True)
    if model.task == "regression":
        none, width = np.empty(0), half_width_for(model, None)
        return [
            Prediction(source, model.classes, none, None, p_value, distance, value=float(row[0]), half_width=width)
            for source, row, p_value, distance in rows
        ]
    limits, tree = model.thresholds, tree_of(model)
    return [
        Prediction(source, model.classes, row, None, p_value, distance, limits, taxonomy=tree)
        for source, row, p_value, distance in rows
    ]


def _predict_read(
    model: Classifier | Predictor, batch: list[tuple[str, np.ndarray | str]], tta: Tta
) -> Iterator[Prediction]:
    names = [name for name, pixels in batch if not isinstance(pixels, str)]
    images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
    predictions = iter(predict_pixels(model, np.stack(images), sources=names, tta=tta) if images else ())
    for name, pixels in batch:
        if isinstance(pixels, str):
            yield Prediction(
                name, model.classes, np.empty(0), pixels, thresholds=model.thresholds, taxonomy=tree_of(model)
            )
        else:
            yield next(predictions)
