"""What a trained model is worth: predictions of the images that it did not learn from, numbers and pictures.

Enters: a `Classifier` and a `Split`, and how training went. Leaves: a temperature and what is familiar, in the model;
`history.csv`, `predictions.csv`, `metrics.json` and the plots, in the run's folder.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from regraft.data.dataset import Split
from regraft.data.decode import decode_image
from regraft.evaluation.calibration import fit_temperature, measure_calibration, tempered
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.files import write_csv, write_json
from regraft.models.classifier import Classifier
from regraft.pipeline.evaluate import answers_for, as_predictions
from regraft.pipeline.run import HISTORY, METRICS, PREDICTIONS
from regraft.report.confusion import plot_confusion
from regraft.report.history import plot_history
from regraft.report.reliability import plot_reliability
from regraft.report.samples import SampleTile, choose_samples, plot_samples
from regraft.training.progress import Epoch, Listener
from regraft.training.train import Training

_PART_TITLES = {"val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class HeldOut:
    """What a model says of the val and test images, at temperature 1 and at its own, and how long an image took."""

    before: Predictions
    after: Predictions
    milliseconds: float


def calibrated(model: Classifier, split: Split, listener: Listener) -> HeldOut | None:
    """Predict val and test images; what val says of confidence and of what is familiar goes into the model."""
    held_out = split.dataset.with_samples([s for s in split.dataset.samples if s.part in ("val", "test")])
    if not len(held_out):
        model.familiarity = None
        return None
    started = time.perf_counter()
    answers = answers_for(
        model, held_out, progress=lambda done, total: listener.work("evaluate", done, total, "images")
    )
    milliseconds = 1000 * (time.perf_counter() - started) / len(held_out)
    before = as_predictions(answers, held_out)
    distances = [a.distance for a, part in zip(answers, before.parts, strict=True) if part == "val"]
    if model.familiarity is not None and distances:
        model.familiarity.judge_by(torch.tensor(distances, dtype=torch.float64))
    else:
        model.familiarity = None
    model.head.temperature = fit_temperature(before.part("val"))
    after = replace(before, probabilities=tempered(before.probabilities, model.head.temperature))
    return HeldOut(before, after, milliseconds)


def keep_outcome(path: Path, model: Classifier, split: Split, training: Training, held_out: HeldOut | None) -> None:
    """Write history, predictions, numbers and pictures into the run's folder."""
    _write_history(path / HISTORY, training)
    plot_history([row.to_row() for row in training.history], path / "plots" / "training_history.png")
    metrics: dict[str, Any] = {"train": {"accuracy": training.train_accuracy, "count": len(split.train)}}
    if held_out:
        predictions = held_out.after
        predictions.write_csv(path / PREDICTIONS)
        parts = [part for part in ("val", "test") if len(split[part])]
        metrics |= {part: evaluate_predictions(predictions.part(part)).to_json() for part in parts}
        _draw(path / "plots", predictions.part(parts[-1]), split, parts[-1])
        temperature = model.head.temperature
        metrics["calibration"] = {"temperature": temperature, "fitted_on": "val" if len(split.val) else None}
        for part in parts:
            found = measure_calibration(held_out.before.part(part)), measure_calibration(predictions.part(part))
            metrics["calibration"][part] = {"before": found[0].to_json(), "after": found[1].to_json()}
        plot_reliability(*found, temperature, path / "plots" / "reliability.png", part=parts[-1])
    metrics["time"] = {
        "train_seconds": training.seconds["total"],
        "predict_ms_per_image": held_out.milliseconds if held_out else None,
        "steps": {name: seconds for name, seconds in training.seconds.items() if name != "total"},
    }
    metrics["model"] = {
        "backbone": model.spec.name,
        "weights": asdict(model.weights),
        "parameters": model.parameter_count(),
        "trainable_parameters": sum(p.numel() for _, p in model.trainable()),
        "megabytes": model.megabytes(),
        "image_size": model.preprocessing.size,
        "finetuned_from": training.boundary if training.finetuned else None,
    }
    metrics["memory"] = {"peak_megabytes": _peak_megabytes()}
    metrics["data"] = {
        "classes": list(split.classes),
        "counts": {part: split[part].counts() for part in split},
        "bad": [asdict(bad) for bad in split.dataset.bad],
        "ignored": list(split.dataset.ignored),
        "notes": list(split.dataset.notes),
    }
    metrics["training"] = {
        "device": training.device,
        "precision": training.precision,
        "engine": training.engine,
        "stopped": training.stopped,
        "notes": training.notes,
    }
    write_json(path / METRICS, metrics)


def _draw(folder: Path, predictions: Predictions, split: Split, part: str) -> None:
    evaluation = evaluate_predictions(predictions)
    plot_confusion(
        evaluation.confusion,
        predictions.classes,
        folder / "confusion_matrix.png",
        title=f"{_PART_TITLES[part]} images",
    )
    sample_of = {sample.path: sample for sample in split.dataset.samples}
    tiles = [
        SampleTile(
            image=decode_image(
                split.dataset.source(sample_of[predictions.ids[i]]), max_pixels=split.dataset.max_pixels
            ),
            label=predictions.classes[predictions.labels[i]],
            predicted=predictions.classes[predictions.predicted[i]],
            confidence=float(predictions.confidence[i]),
        )
        for i in choose_samples(predictions)
    ]
    plot_samples(
        tiles,
        folder / "sample_predictions.png",
        title=f"{_PART_TITLES[part]} images: true \N{RIGHTWARDS ARROW} predicted",
    )


def _write_history(file: Path, training: Training) -> None:
    rows = [row.to_row() for row in training.history]
    columns = tuple(Epoch.__dataclass_fields__)
    write_csv(file, columns, [["" if row[name] is None else row[name] for name in columns] for row in rows])


def _peak_megabytes() -> float:
    """The most memory that this process has held, in 10^6 bytes; on a GPU, its memory besides."""
    status = Path("/proc/self/status")  # `ru_maxrss` begins with that of the process that started this one
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        peak = int(found[1]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
    return peak / 1e6
