"""Where a model looks, over a whole data set.

Enters: a run or a model, and labelled images. Leaves: an `EvidenceAudit`: how much of the evidence lies at the border
and in the centre, by class; the accuracy while the strongest evidence is hidden; images where it lies at the border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.attribution.evidence import BORDER_AREA, CENTRE_AREA, OCCLUDED, occluded, shares, strongest
from regraft.attribution.maps import default_stage, explain_pixels, find_stage
from regraft.attribution.methods import Method
from regraft.data.dataset import Dataset, Part, Split
from regraft.errors import DataError, ImageError, UsageError
from regraft.evaluation.intervals import wilson_interval
from regraft.files import write_csv, write_json
from regraft.models.classifier import Classifier
from regraft.models.inference import infer
from regraft.pipeline.evaluate import labelled
from regraft.pipeline.images import held_out
from regraft.pipeline.listening import told
from regraft.pipeline.run import Run
from regraft.report.heat import overlay, plot_mean_heat
from regraft.report.samples import SampleTile, plot_samples
from regraft.training.progress import Listener, Silence

_BATCH = 32
#: Classes, and images with the evidence at the border, that are drawn.
_CLASSES, _EXAMPLES = 24, 24


@dataclass(frozen=True)
class ImageEvidence:
    """One image.

    Attributes:
        path: Of the image.
        label: Its class.
        predicted: The likeliest class, whose evidence is looked at.
        confidence: Its probability.
        border: Share of the evidence in the outer tenth on each side, 0..1; an even map gives 0.36. NaN: no evidence.
        centre: Share in the middle half of width and height; an even map gives 0.25.
        without: The likeliest class when the fifth of the pixels with the most evidence is blurred.
        elsewhere: The same when as many pixels, of the same shape but half an image away, are.
    """

    path: str
    label: str
    predicted: str
    confidence: float
    border: float
    centre: float
    without: str
    elsewhere: str


@dataclass(frozen=True, eq=False)
class EvidenceAudit:
    """Where a model looks.

    Attributes:
        classes: Class names.
        images: One row an image, in the data's order.
        maps: Mean map of the images that are taken for each class, float32 (classes, S, S); 0 where there are none.
        pictures: Mean of these images, uint8 (classes, S, S, 3).
        examples: Of the images with the most evidence at the border, under their paths: pixels under the map, uint8
            (S, S, 3).
        method: By which the evidence was found.
        stage: Name of the stage that was looked at.
    """

    classes: tuple[str, ...]
    images: tuple[ImageEvidence, ...]
    maps: np.ndarray = field(repr=False)
    pictures: np.ndarray = field(repr=False)
    examples: Mapping[str, np.ndarray] = field(repr=False)
    method: str
    stage: str

    @cached_property
    def at_border(self) -> tuple[ImageEvidence, ...]:
        """Images with twice as much evidence at the border as an even map would have there, the most first."""
        return tuple(sorted((i for i in self.images if i.border >= 2 * BORDER_AREA), key=lambda i: -i.border))

    def to_json(self) -> dict[str, Any]:
        """All numbers but those of single images, in plain values."""
        count = len(self.images)
        right = {
            "plain": sum(i.predicted == i.label for i in self.images),
            "evidence_hidden": sum(i.without == i.label for i in self.images),
            "as_much_elsewhere_hidden": sum(i.elsewhere == i.label for i in self.images),
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
            "even_map": {"border": BORDER_AREA, "centre": CENTRE_AREA},
            "all": _places(self.images),
            "classes": {name: _places([i for i in self.images if i.predicted == name]) for name in self.classes},
            "at_border": [i.path for i in self.at_border],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write the numbers, a row an image, and pictures: of each class, and of the images at whose border it looks.

        Returns:
            The files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / name for name in ("evidence.json", "evidence.csv", "evidence_by_class.png")]
        write_json(files[0], self.to_json())
        rows = [asdict(image) for image in self.images]
        write_csv(files[1], list(rows[0]), [list(row.values()) for row in rows])
        counts = Counter(image.predicted for image in self.images)
        plot_mean_heat(
            [
                (overlay(self.pictures[i], self.maps[i] / max(float(self.maps[i].max()), 1e-12)), name, counts[name])
                for i, name in enumerate(self.classes)
                if counts[name]
            ][:_CLASSES],
            files[2],
        )
        tiles = [
            SampleTile(self.examples[i.path], i.label, i.predicted, i.confidence) for i in self.at_border[:_EXAMPLES]
        ]
        if tiles:
            files.append(folder / "evidence_at_border.png")
            plot_samples(tiles, files[3], title="Most of the evidence lies at the border")
        return files


@told
def audit_evidence(
    model: Run | Classifier,
    data: Dataset | Split | Path | str | None = None,
    *,
    part: Part | None = None,
    method: Method = "gradcam",
    stage: str | None = None,
    listener: Listener | None = None,
) -> EvidenceAudit:
    """See where the evidence for the answers lies, and what they are without it.

    Args:
        model: A run or a model.
        data: Labelled images, or a path that `scan` takes. Without it, the images that a run was tested on.
        part: Of data that comes in parts; default: test where there is one, else everything.
        method: As for `explain`.
        stage: As for `explain`.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

    Raises:
        DataError: There is no image, or a label that the model does not know; or an image is no longer readable.
        UsageError: There is no `data`, and the run's images are not known to be anywhere.
        UnknownNameError: No such stage or method.
    """
    listener = listener or Silence()
    classifier = model.classifier if isinstance(model, Run) else model
    if data is None:
        if not isinstance(model, Run):
            raise UsageError("audit_evidence(model) needs labelled data: audit_evidence(model, dataset).")
        if part is not None:
            raise UsageError(f"part = {part!r} is for data that is given; a run's own are the images of its test.")
        data = held_out(model)
    dataset = labelled(data, classifier, part, progress=lambda done, total: listener.work("scan", done, total))
    index = default_stage(classifier, method) if stage is None else find_stage(classifier, stage)
    names, side = classifier.classes, classifier.preprocessing.size
    rows: list[ImageEvidence] = []
    examples: dict[str, tuple[float, np.ndarray]] = {}
    maps, pictures = np.zeros((len(names), side, side)), np.zeros((len(names), side, side, 3))
    taken = np.zeros(len(names))
    for start in range(0, len(dataset), _BATCH):
        samples = dataset.samples[start : start + _BATCH]
        pixels = _pixels(classifier, dataset, start)
        probabilities, _ = infer(classifier, pixels)
        answers = probabilities.argmax(axis=1)
        heat = explain_pixels(classifier, pixels, torch.from_numpy(answers), method=method, stage=index)
        border, centre = shares(heat)
        where = strongest(heat, OCCLUDED)
        hidden = [
            infer(classifier, occluded(pixels, hides))[0].argmax(axis=1)
            for hides in (where, where.roll((side // 2, side // 2), dims=(1, 2)))
        ]
        for i, sample in enumerate(samples):
            rows.append(ImageEvidence(
                sample.path, sample.label, names[answers[i]], float(probabilities[i].max()), float(border[i]),
                float(centre[i]), names[hidden[0][i]], names[hidden[1][i]],
            ))  # fmt: skip
        np.add.at(maps, answers, heat.numpy())
        np.add.at(pictures, answers, pixels.permute(0, 2, 3, 1).numpy())
        np.add.at(taken, answers, 1)
        for i in np.flatnonzero(border >= 2 * BORDER_AREA).tolist():
            shown = overlay(pixels[i].permute(1, 2, 0).numpy(), heat[i].numpy())
            examples[samples[i].path] = border[i], shown
        for path in sorted(examples, key=lambda path: -examples[path][0])[_EXAMPLES:]:
            del examples[path]
        listener.work("evidence", len(rows), len(dataset), "images")
    count = np.maximum(taken, 1)[:, None, None]
    return EvidenceAudit(
        names, tuple(rows), (maps / count).astype(np.float32), (pictures / count[..., None]).round().astype(np.uint8),
        {path: shown for path, (_, shown) in examples.items()}, method, classifier.stages[index].name,
    )  # fmt: skip


def _pixels(model: Classifier, dataset: Dataset, start: int) -> torch.Tensor:
    read = []
    for sample in dataset.samples[start : start + _BATCH]:
        try:
            read.append(model.preprocessing(dataset.source(sample), max_pixels=dataset.max_pixels))
        except ImageError as error:
            raise DataError(f"{sample.path} can no longer be read: {error.reason}") from error
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)


def _places(images: Sequence[ImageEvidence]) -> dict[str, Any]:
    """Number of images, and the mean shares of their evidence at the border and in the centre."""
    known = [i for i in images if not np.isnan(i.border)]
    border, centre = ([getattr(i, name) for i in known] for name in ("border", "centre"))
    return {
        "images": len(images),
        "border": float(np.mean(border)) if known else None,
        "centre": float(np.mean(centre)) if known else None,
    }
