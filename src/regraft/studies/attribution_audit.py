"""Measure where a model looks over a whole data set, and how accurate it is without the strongest evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.atomic_io import write_csv, write_json
from regraft.attribution.cam import default_stage, explain_pixels, find_stage
from regraft.attribution.faithfulness import BORDER_AREA, CENTER_AREA, OCCLUDED, border_and_center, occlude, top_pixels
from regraft.attribution.methods import Method
from regraft.data.bands import false_color
from regraft.data.dataset import Dataset, Part, Split
from regraft.errors import DataError, ImageError, UsageError
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.majority import compare_with_majority
from regraft.evaluation.metrics import confusion_matrix
from regraft.models.classifier import Classifier
from regraft.models.inference import predict_batch
from regraft.report.plots.attribution_plots import overlay, plot_mean_heat
from regraft.report.plots.samples import SampleTile, plot_samples
from regraft.runs.evaluate import select_labeled
from regraft.runs.progress import with_progress
from regraft.runs.run import Run, classifier_of, open_model
from regraft.runs.run_images import held_out
from regraft.training.callbacks import NullReporter, ProgressReporter

_BATCH = 32
#: Plotted classes, and plotted images with the evidence at the border.
_CLASSES, _EXAMPLES = 24, 24


@dataclass(frozen=True)
class ImageAttribution:
    """The attribution of one image, measured for the predicted class."""

    path: str
    label: str
    predicted: str
    confidence: float
    border: float  # share of the evidence in the outer tenth on each side; 0.36 for a uniform map, NaN without evidence
    center: float  # share in the middle half of width and height; 0.25 for a uniform map
    occluded: str  # predicted while the fifth of the pixels with the most evidence is blurred
    control: str  # predicted while the same shape is blurred half an image away


@dataclass(frozen=True, eq=False)
class AttributionAudit:
    """Where a model looks.

    Attributes:
        classes: Class names.
        images: One row for each image, in the data's order.
        maps: Mean map of the images that are predicted as each class, float32 (classes, S, S); 0 without images.
        pictures: Mean of these images, in false colors if they are not in colors, uint8 (classes, S, S, 3).
        examples: Path -> overlay of the map, uint8 (S, S, 3), of the images with the most evidence at the border.
        method: Attribution method.
        stage: Name of the stage that is explained.
    """

    classes: tuple[str, ...]
    images: tuple[ImageAttribution, ...]
    maps: np.ndarray = field(repr=False)
    pictures: np.ndarray = field(repr=False)
    examples: Mapping[str, np.ndarray] = field(repr=False)
    method: str
    stage: str

    @cached_property
    def at_chance(self) -> str:
        """Why where the model looks means nothing: it is not better than the majority class; "" if it is."""
        index = {name: i for i, name in enumerate(self.classes)}
        labels, predicted = (np.array([index[getattr(i, key)] for i in self.images]) for key in ("label", "predicted"))
        confusion = confusion_matrix(labels, predicted, len(self.classes))
        return "".join(compare_with_majority(confusion).objection(self.classes))

    @cached_property
    def at_border(self) -> tuple[ImageAttribution, ...]:
        """Images with at least twice the evidence of a uniform map at the border, the most first; none at chance."""
        if self.at_chance:
            return ()
        return tuple(sorted((i for i in self.images if i.border >= 2 * BORDER_AREA), key=lambda i: -i.border))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without those of single images."""
        count = len(self.images)
        right = {
            "plain": sum(i.predicted == i.label for i in self.images),
            "evidence_hidden": sum(i.occluded == i.label for i in self.images),
            "as_much_elsewhere_hidden": sum(i.control == i.label for i in self.images),
        }
        return {
            "images": count,
            "method": self.method,
            "stage": self.stage,
            "hidden_share": OCCLUDED,
            "accuracy": {
                name: {"value": number / count, "interval": list(wilson_interval(number, count))}
                for name, number in right.items()
            },
            "even_map": {"border": BORDER_AREA, "center": CENTER_AREA},
            "all": _mean_shares(self.images),
            "classes": {name: _mean_shares([i for i in self.images if i.predicted == name]) for name in self.classes},
            "withheld": self.at_chance or None,
            "at_border": [i.path for i in self.at_border],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write JSON, a CSV row for each image, and plots: each class, and images with the evidence at the border."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / name for name in ("evidence.json", "evidence.csv", "evidence_by_class.png")]
        write_json(files[0], self.to_json())
        rows = [asdict(image) for image in self.images]
        write_csv(files[1], list(rows[0]), [list(row.values()) for row in rows])
        counts = Counter(image.predicted for image in self.images)
        heat = [
            (overlay(self.pictures[i], self.maps[i] / max(float(self.maps[i].max()), 1e-12)), name, counts[name])
            for i, name in enumerate(self.classes)
            if counts[name]
        ]
        plot_mean_heat(heat[:_CLASSES], files[2])
        images = self.at_border[:_EXAMPLES]
        if tiles := [SampleTile(self.examples[i.path], i.label, i.predicted, i.confidence) for i in images]:
            files.append(folder / "evidence_at_border.png")
            plot_samples(tiles, files[3], title="Most of the evidence lies at the border")
        return files


@with_progress
def audit_attribution(
    model: Run | Path | str | Classifier,
    data: Dataset | Split | Path | str | None = None,
    *,
    part: Part | None = None,
    method: Method = "gradcam",
    stage: str | None = None,
    reporter: ProgressReporter | None = None,
) -> AttributionAudit:
    """Measure where the evidence for the predictions is, and the predictions without it.

    Args:
        model: A run or its folder, or a model.
        data: Labeled images, or a path that `scan` takes. Default: the images that the run was tested on.
        part: Part of the data; default: test where there is one, else everything.
        method: Method as for `explain`.
        stage: Stage as for `explain`.
        reporter: Reporter that gets the progress; default: that of the notebook or terminal.

    Raises:
        DataError: There is no image, a label is unknown to the model, or an image can no longer be read.
        UsageError: `data` is missing, and the run's images cannot be found; or an image has any number of labels.
        UnknownNameError: The stage or method does not exist.

    Examples:
        >>> audit = regraft.audit_attribution("runs/photos")
        >>> len(audit.images)
        9
    """
    reporter = reporter or NullReporter()
    model = open_model(model)
    classifier = classifier_of(model)
    if classifier.task == "regression":
        raise UsageError("An audit is for models that give an image one class, and this one gives numbers.")
    if classifier.thresholds:
        raise UsageError(
            "An audit measures the evidence for the one class that an image is predicted as, and this model gives an "
            "image any number of labels. `regraft explain RUN IMAGE` draws the evidence for each label of an image."
        )
    if data is None:
        if not isinstance(model, Run):
            raise UsageError("audit_attribution(model) needs labeled data: audit_attribution(model, dataset).")
        if part is not None:
            raise UsageError(f"part = {part!r} needs `data`; without it, the run's test images are used.")
        data = held_out(model)
    progress = partial(reporter.on_progress, "scan")
    dataset = select_labeled(data, classifier, part, pool_by="", progress=progress)  # a map is of one image
    index = default_stage(classifier, method) if stage is None else find_stage(classifier, stage)
    names, shape = classifier.classes, classifier.preprocessing.shape
    rows: list[ImageAttribution] = []
    examples: dict[str, tuple[float, np.ndarray]] = {}
    maps, pictures = np.zeros((len(names), *shape)), np.zeros((len(names), *shape, 3))
    counts = np.zeros(len(names))
    for start in range(0, len(dataset), _BATCH):
        samples = dataset.samples[start : start + _BATCH]
        pixels = _pixels(classifier, dataset, start)
        probabilities, _ = predict_batch(classifier, pixels)
        predicted = probabilities.argmax(axis=1)
        heat = explain_pixels(classifier, pixels, torch.from_numpy(predicted), method=method, stage=index)
        border, center = border_and_center(heat)
        strongest = top_pixels(heat, OCCLUDED)
        occluded, control = (
            predict_batch(classifier, occlude(pixels, mask))[0].argmax(axis=1)
            for mask in (strongest, strongest.roll((shape[0] // 2, shape[1] // 2), dims=(1, 2)))
        )
        for i, sample in enumerate(samples):
            rows.append(ImageAttribution(
                sample.path, sample.label, names[predicted[i]], float(probabilities[i].max()), float(border[i]),
                float(center[i]), names[occluded[i]], names[control[i]],
            ))  # fmt: skip
        np.add.at(maps, predicted, heat.numpy())
        seen = [false_color(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
        np.add.at(pictures, predicted, np.stack(seen))
        np.add.at(counts, predicted, 1)
        for i in np.flatnonzero(border >= 2 * BORDER_AREA).tolist():
            examples[samples[i].path] = border[i], overlay(seen[i], heat[i].numpy())
        for path in sorted(examples, key=lambda path: -examples[path][0])[_EXAMPLES:]:
            del examples[path]
        reporter.on_progress("evidence", len(rows), len(dataset), "images")
    count = np.maximum(counts, 1)[:, None, None]
    return AttributionAudit(
        names, tuple(rows), (maps / count).astype(np.float32), (pictures / count[..., None]).round().astype(np.uint8),
        {path: image for path, (_, image) in examples.items()}, method, classifier.stages[index].name,
    )  # fmt: skip


def _pixels(model: Classifier, dataset: Dataset, start: int) -> torch.Tensor:
    images = []
    for sample in dataset.samples[start : start + _BATCH]:
        try:
            images.append(model.preprocessing(dataset.source(sample), max_pixels=dataset.max_pixels))
        except ImageError as error:
            raise DataError(f"{sample.path} can no longer be read: {error.reason}") from error
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _mean_shares(images: Sequence[ImageAttribution]) -> dict[str, Any]:
    known = [image for image in images if not np.isnan(image.border)]
    return {
        "images": len(images),
        "border": float(np.mean([image.border for image in known])) if known else None,
        "center": float(np.mean([image.center for image in known])) if known else None,
    }
