"""Explain predictions by heat maps, at the image's own size, of where the evidence for a class is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from regraft.atomic_io import atomic_write
from regraft.attribution.cam import default_stage, explain_pixels, find_stage, finer_stage, grid_of
from regraft.attribution.evidence import Evidence, EvidencePredictor, gradcam_from_evidence
from regraft.attribution.members import explain_members
from regraft.attribution.methods import DIRECTIONS, Method, check_method
from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.labels import Task
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError, UnknownNameError, UsageError, as_path, suggest_names
from regraft.models.classifier import Classifier
from regraft.models.image_sources import iter_sources
from regraft.models.inference import Prediction, half_width_for, predict_batch
from regraft.notebook_repr import NotebookRepr, ResultList
from regraft.report import plots
from regraft.resources import usable_cpus
from regraft.runs.run import Run, classifier_of


@dataclass(frozen=True, eq=False)
class Explanation(NotebookRepr):
    """Heat maps of the evidence for one or several classes in one image.

    Attributes:
        source: Path of the image; "" for what is not a path.
        classes: Class names.
        probabilities: Probabilities as from `predict`, float64 (classes,); empty if the image could not be read.
        targets: Names of the explained classes; of a number `higher` and `lower`.
        heat: Heat maps, float32 (targets, H, W) in [0, 1], at the image's own size; 1 where the evidence is strongest.
            The two of a number are on one scale, except by Score-CAM.
        image: Pixels, uint8 (H, W, 3); of an image with other bands than colors the first three, in false colors.
        stage: Name of the explained stage; "" for integrated gradients, which explain the pixels.
        grid: Rows and columns of the stage's output, which are the cells of the map; None without a stage.
        error: Reason why the image could not be read, or None.
        members: The heat map of each backbone by its name, if there are several: like `heat`, which is their sum, and
            on one scale.
        thresholds: Thresholds as from `predict`, if the image may have any number of labels; else empty.
        value: The number of the image as from `predict`, if that is what the model says; then there are no
            probabilities.
        half_width: Half the width of the interval about the value; None: there is none.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    targets: tuple[str, ...] = ()
    heat: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.float32), repr=False)
    image: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8), repr=False)
    error: str | None = None
    stage: str = ""
    grid: tuple[int, int] | None = None
    members: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    thresholds: tuple[float, ...] = ()
    value: float | None = None
    half_width: float | None = None

    @property
    def empty(self) -> tuple[str, ...]:
        """Explained classes whose map is zero everywhere, because nothing at this stage supports them."""
        return tuple(name for name, heat in zip(self.targets, self.heat, strict=True) if not heat.any())

    @property
    def label(self) -> str:
        """Predicted class, `labels` as `join_labels` writes them, or the number; "" if it could not be read."""
        return self._prediction.label

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the image, the most probable first; () if it has none, or could not be read."""
        return self._prediction.labels

    @property
    def _prediction(self) -> Prediction:
        return Prediction(
            self.source, self.classes, self.probabilities, self.error, thresholds=self.thresholds, value=self.value,
            half_width=self.half_width,
        )  # fmt: skip

    @property
    def interval(self) -> tuple[float, float] | None:
        """The prediction interval of the number, (low, high); None if there is none."""
        return self._prediction.interval

    def describe(self, target: str) -> str:
        """A target with its probability, or what is higher or lower."""
        if self.value is not None:
            return f"{target} {self.classes[0]}"
        return f"{target}, {100 * self.probability(target):.1f} %"

    @property
    def ranked(self) -> tuple[str, ...]:
        """The classes, the most probable first; () of a number."""
        return tuple(self.classes[i] for i in np.argsort(-self.probabilities, kind="stable").tolist())

    def probability(self, name: str) -> float:
        """Return the probability of a class."""
        return float(self.probabilities[self.classes.index(name)])

    def save(self, path: Path | str) -> None:
        """Save the image under the heat map of its first class, at its own size, as a file such as `gradcam.jpg`.

        Raises:
            UsageError: The image could not be read, or the suffix of `path` names no image format.
        """
        path = as_path(path, "The picture")
        if self.error is not None:
            raise UsageError(f"{self.source or 'The image'} has no heat map: {self.error}")
        file_format = Image.registered_extensions().get(path.suffix.lower())
        if file_format not in Image.SAVE:
            raise UsageError(f"{path} has the suffix {path.suffix!r}; expected one of an image, such as .jpg or .png.")
        with atomic_write(path) as temporary:
            Image.fromarray(plots.attribution_plots.overlay(self.image, self.heat[0])).save(temporary, file_format)


@suggest_names
def explain(
    model: Run | Path | str | Classifier | EvidencePredictor,
    sources: Any,
    *,
    method: Method = "gradcam",
    label: str | None = None,
    likeliest: int | None = None,
    stage: str | None = None,
    batch_size: int = 16,
) -> list[Explanation]:
    """Explain one image or many.

    Args:
        model: A run or its folder, a model, or an export (`regraft.ExportedModel`) that was made `with_maps`.
        sources: One or several images as for `predict`. An unreadable file gives an `Explanation` with an `error`.
        method: Attribution method; see docs/explain.md.
        label: Class to explain. Default: the predicted class of each image; where it may have any number of labels, all
            that it has, or the most probable class if it has none. Where it has a number, `higher` or `lower`; default:
            both.
        likeliest: Number of most probable classes to explain instead, if there is no `label`; not of numbers.
        stage: Name of the backbone's stage, as `regraft summary` lists them. Default: the last with spatial positions.
        batch_size: Number of images per batch.

    Returns:
        One `Explanation` per image, in order.

    Raises:
        UnknownNameError: A class, stage or method is unknown.
        UsageError: The stage has no spatial positions, a folder contains no image, a source is not an image, the
            export has no such maps, or the method says nothing about numbers.

    Examples:
        >>> explanation = regraft.explain("runs/photos", "photos/rose/00.png")[0]
        >>> explanation.heat.shape
        (1, 40, 40)
    """
    opened = classifier_of(model)
    images = iter_sources(sources, bands=opened.preprocessing.bands)
    return ResultList(
        stream(opened, images, method=method, label=label, likeliest=likeliest, stage=stage, batch_size=batch_size)
    )


def stream(
    model: Run | Path | str | Classifier | EvidencePredictor,
    sources: Iterable[ImageSource],
    *,
    method: Method = "gradcam",
    label: str | None = None,
    likeliest: int | None = None,
    stage: str | None = None,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
    labels: Iterable[str | None] | None = None,
) -> Iterator[Explanation]:
    """Yield explanations as `explain` does; images with a longer side above `side` are downscaled to it.

    `labels` are the class to explain of each image, or None, instead of one `label` for all.
    """
    opened = classifier_of(model)
    classes, preprocessing, is_number = opened.classes, opened.preprocessing, opened.task == "regression"
    known = DIRECTIONS if is_number else classes
    check_method(method, opened.task)
    if label is not None and label not in known:
        raise UnknownNameError("direction" if is_number else "class", label, list(known))
    if likeliest is not None and is_number:
        raise UsageError(f"likeliest = {likeliest} is for classes, and the model gives images numbers. Leave it out.")
    if likeliest is not None and not 1 <= likeliest <= len(classes):
        raise UsageError(f"likeliest = {likeliest}; expected 1 to {len(classes)} classes.")
    explainer = (_WithGradients if isinstance(opened, Classifier) else _FromEvidence)(opened, method, stage)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        remaining, asked = iter(sources), iter(labels) if labels is not None else repeat(label)
        while batch := list(islice(remaining, batch_size)):
            decoded = list(pool.map(lambda source: _decode(preprocessing, source, max_pixels, side), batch))
            readable = [not isinstance(pair, str) for pair in decoded]
            wanted = [
                name for name, is_readable in zip(islice(asked, len(batch)), readable, strict=True) if is_readable
            ]
            inputs = [pair[1] for pair in decoded if not isinstance(pair, str)]
            results: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Mapping[str, np.ndarray]]] = iter(())
            if inputs:
                answers, maps_of = explainer.predict(np.stack(inputs))
                both = np.arange(len(known)) if is_number else None
                targets = [
                    np.array([known.index(name)]) if name is not None
                    else _targets(row, opened.thresholds, likeliest) if both is None else both
                    for name, row in zip(wanted, answers, strict=True)
                ]  # fmt: skip
                numbers = np.repeat(np.arange(len(inputs)), [len(one) for one in targets])
                maps, of_members = maps_of(numbers, np.concatenate(targets))
                of_image = [numbers == i for i in range(len(inputs))]
                each = [{name: own[rows] for name, own in of_members.items()} for rows in of_image]
                results = zip(answers, targets, [maps[rows] for rows in of_image], each, strict=True)
            for source, pair in zip(batch, decoded, strict=True):
                name = str(source) if isinstance(source, (str, Path)) else ""
                if isinstance(pair, str):
                    yield Explanation(name, classes, np.empty(0), error=pair)
                    continue
                row, chosen, squares, parts = next(results)
                of_task: dict[str, Any] = {"thresholds": opened.thresholds}
                if is_number:
                    of_task = {"value": float(row[0]), "half_width": half_width_for(opened, None)}
                    row = np.empty(0)
                yield Explanation(
                    name, classes, row, tuple(known[i] for i in chosen),
                    _at_own_size(preprocessing, squares, pair[0]), pair[0], stage=explainer.stage, grid=explainer.grid,
                    members={key: _at_own_size(preprocessing, own, pair[0]) for key, own in parts.items()},
                    **of_task,
                )  # fmt: skip


def _targets(probabilities: np.ndarray, thresholds: Sequence[float], likeliest: int | None) -> np.ndarray:
    """The classes to explain of an image, the most probable first: so many, its labels, or the most probable one."""
    order = np.argsort(-probabilities, kind="stable")
    if likeliest is None and thresholds:
        labels = order[probabilities[order] >= np.array(thresholds)[order]]
        return labels if len(labels) else order[:1]
    return order[: likeliest or 1]


#: From numbers of the images that were predicted and class indices, int64 (M,), to maps, float32 (M, S, S), and those
#: of each of several backbones.
MapsOf = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]


def _explain_targets(
    model: Classifier, pixels: torch.Tensor, numbers: np.ndarray, targets: np.ndarray, *, method: Method, stage: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Maps (M, S, S) of a class of each of these images, and those of each of several backbones."""
    chosen, classes = pixels[torch.from_numpy(numbers)], torch.from_numpy(targets)
    if not model.members or method == "integrated-gradients":
        images = torch.from_numpy(numbers) if model.task == "regression" else None
        return explain_pixels(model, chosen, classes, method=method, stage=stage, images=images).numpy(), {}
    explained = explain_members(model, chosen, classes, method=method)
    return explained.total.numpy(), {name: own.numpy() for name, own in explained.members.items()}


class _WithGradients:
    """Maps of a model in PyTorch, by any method at any stage."""

    def __init__(self, model: Classifier, method: Method, stage: str | None) -> None:
        self.model, self.method = model, method
        self.index = default_stage(model, method) if stage is None else find_stage(model, stage)
        of_stage = method != "integrated-gradients"
        self.stage = model.stages[self.index].name if of_stage else ""
        self.grid = grid_of(model, self.index) if of_stage else None

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, MapsOf]:
        """Map images, uint8 (N, S, S, C), to `Head.answer`, float64 (N, classes), and the function for their maps."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        maps_of = partial(_explain_targets, self.model, pixels, method=self.method, stage=self.index)
        return predict_batch(self.model, pixels)[0], maps_of


class _FromEvidence:
    """Grad-CAM of an export with maps, at the stage whose evidence it returns."""

    def __init__(self, model: EvidencePredictor, method: Method, stage: str | None) -> None:
        self.model, self.maps = model, model.check_maps()
        self.stage: str = self.maps["stage"]
        self.grid: tuple[int, int] = self.maps["grid"]
        if method != "gradcam":
            raise UsageError(f"An export has maps of gradcam alone, not of {method}, which the run has.")
        if stage not in (None, self.stage):
            raise UsageError(f"An export has maps of one stage, here {self.stage}; the run has those of {stage}.")

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, MapsOf]:
        """Map images, uint8 (N, S, S, C), to probabilities, float64 (N, classes), and the function for their maps."""
        evidence, activation = self.model.evidence(images), self.maps["activation"]
        shape = self.model.preprocessing.shape
        task: Task = "multilabel" if self.model.thresholds else "classification"

        def maps_of(numbers: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
            chosen = Evidence(evidence.probabilities[numbers], evidence.logits[numbers], evidence.maps[numbers])
            maps = gradcam_from_evidence(chosen, targets, activation=activation, shape=shape, task=task)
            return maps.numpy(), {}

        return evidence.probabilities, maps_of


def finer_maps(model: Run | Classifier | EvidencePredictor, stage: str) -> str:
    """What gives maps with more cells than those of a stage, as options of `regraft explain`."""
    classifier = classifier_of(model)
    image_size = f"a model that is trained with an --image-size above {classifier.preprocessing.named_size}"
    finer = finer_stage(classifier, find_stage(classifier, stage)) if isinstance(classifier, Classifier) else None
    if finer is None:
        return image_size
    rows, columns = grid_of(classifier, finer) or (0, 0)
    return f"--layer {classifier.stages[finer].name} ({rows} x {columns} cells), or {image_size}"


def _decode(
    preprocessing: Preprocessing, source: ImageSource, max_pixels: int, side: int | None
) -> tuple[np.ndarray, np.ndarray] | str:
    """Return the image at its own size or downscaled, and the network's input; or why it cannot be read."""
    try:
        image = preprocessing.picture(source, max_pixels=max_pixels, at_least=side)
        if side is not None and max(image.shape[:2]) > side:
            small = Image.fromarray(image)
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            image = np.asarray(small)
        return image, preprocessing(source, max_pixels=max_pixels)
    except ImageError as error:
        return error.reason


def _at_own_size(preprocessing: Preprocessing, squares: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.stack([np.clip(preprocessing.map_to_image(heat, width, height), 0, 1) for heat in squares])
