"""Calibrate and evaluate a trained model, and write metrics, history, predictions and plots into the run's folder."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.atomic_io import write_csv, write_json
from regraft.data.dataset import Split
from regraft.data.decode import decode_image
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import PARTS, Part
from regraft.evaluation.calibration import apply_temperature, fit_temperature, measure_calibration
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import CSV, write_predictions
from regraft.models.classifier import Classifier
from regraft.report.earlier_run import describe_earlier
from regraft.report.plots.confusion import plot_confusion
from regraft.report.plots.reliability import plot_reliability
from regraft.report.plots.samples import SampleTile, choose_samples, plot_samples
from regraft.report.plots.training_curve import plot_history
from regraft.runs.backbone_search import read_search
from regraft.runs.evaluate import predict_features, predict_jointly
from regraft.runs.exemplars import captured, held_out_rows
from regraft.runs.members import TrainedMember
from regraft.runs.multilabel_results import LabelCalibration, calibrate_labels, measure_labels
from regraft.runs.processes import communication_share
from regraft.runs.run import HEAD_PATH, HISTORY, METRICS
from regraft.runs.teacher import Lesson
from regraft.runs.training_overlap import overlap_within
from regraft.training.callbacks import Epoch, HeadFit, ProgressReporter, Training

_PART_TITLES = {"val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class HeldOut:
    """Predictions of val and test images at temperature 1 and the fitted one; milliseconds per image from the file.

    Of images with any number of classes they are in `labels` instead. `features` are what the head reads of the images
    with the numbers `kept`, which rise, float32 (K, F).
    """

    before: Predictions | None
    after: Predictions | None
    milliseconds: float
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    features: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    labels: LabelCalibration | None = None


def calibrate(model: Classifier, split: Split, reporter: ProgressReporter, *, exemplars: int = 0) -> HeldOut | None:
    """Predict the val and test images, and fit temperature and out-of-distribution statistics on the val images.

    The features of some of them are kept, for `exemplars` training images of a class.
    """
    table = split.dataset.table
    held_out = split.dataset.with_samples(table.take(table.parts != PARTS.index("train")))
    if not len(held_out):
        model.ood = None
        return None
    stored = [] if split.stored is None else [split.stored.features[table.parts[-len(split.stored) :] > 0]]
    count = len(held_out) - sum(map(len, stored))
    with_files = held_out.with_samples(held_out.table.take(np.arange(count)))
    kept = held_out_rows(held_out, exemplars) if exemplars else np.empty(0, np.int64)
    started = time.perf_counter()
    with captured(model, kept[kept < count]) as found:
        predicted = predict_jointly(
            model, with_files, progress=lambda done, total: reporter.on_progress("evaluate", done, total, "images")
        )
    seconds = distributed.world_size() * (time.perf_counter() - started)  # each predicts its share
    milliseconds = 1000 * seconds / max(1, count)
    if stored:
        found += [torch.from_numpy(stored[0][row - count]) for row in kept[kept >= count].tolist()]
        predicted = predict_features(model, torch.from_numpy(stored[0]), held_out, after=predicted)
    distances = predicted.ood_distances
    is_val = held_out.table.parts == PARTS.index("val")
    if model.ood is not None and distances is not None and is_val.any():
        model.ood.calibrate(torch.from_numpy(distances[is_val]))
    else:
        model.ood = None
    features = torch.stack(found) if found else torch.empty(0, 0)
    if model.task == "multilabel":
        labels = calibrate_labels(model.head, predicted.label_predictions)
        return HeldOut(None, None, milliseconds, kept, features, labels)
    before = predicted.predictions
    model.head.temperature = fit_temperature(before.part("val"))
    after = replace(before, probabilities=apply_temperature(before.probabilities, model.head.temperature))
    return HeldOut(before, after, milliseconds, kept, features)


def write_results(
    path: Path,
    model: Classifier,
    split: Split,
    training: Training,
    held_out: HeldOut | None,
    members: Sequence[TrainedMember] = (),
    lesson: Lesson | None = None,
    earlier_run: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write history, predictions, metrics and plots into the run's folder; returns notes for the user."""
    notes: list[str] = []
    history, head_path = ([row.to_row() for row in rows] for rows in (training.history, training.head_path))
    _write_rows(path / HISTORY, Epoch, history)
    if head_path:
        _write_rows(path / HEAD_PATH, HeadFit, head_path)
    plot_history(history, path / "plots" / "training_history.png", head_path=head_path)
    metrics: dict[str, Any] = {"train": {"accuracy": training.train_accuracy, "count": len(split.train)}}
    parts: list[Part] = [part for part in ("val", "test") if len(split[part])] if held_out else []
    if held_out and held_out.labels:
        held_out.labels.after.write_csv(path / CSV)
        metrics |= measure_labels(held_out.labels, parts)
    if held_out and held_out.before is not None and held_out.after is not None:
        notes += filter(None, [write_predictions(held_out.after, path)])
        for part in parts:
            predictions = held_out.after.part(part)
            overlap = overlap_within(split, predictions)
            metrics[part] = replace(evaluate_predictions(predictions), overlap=overlap).to_json()
        metrics["calibration"] = _calibration(
            held_out.before, held_out.after, model.head.temperature, parts, path / "plots"
        )
        _plot_predictions(path / "plots", held_out.after.part(parts[-1]), split, parts[-1], model.preprocessing)
    earlier = {"members": sum(member.seconds for member in members)} if members else {}
    metrics["time"] = {
        "train_seconds": training.seconds["total"] + sum(earlier.values()),
        "predict_ms_per_image": held_out.milliseconds if held_out else None,
        "steps": earlier | {name: seconds for name, seconds in training.seconds.items() if name != "total"},
    }
    metrics["model"] = {
        "backbone": model.spec.name,
        "weights": asdict(model.weights),
        "parameters": model.parameter_count(),
        "trainable_parameters": sum(p.numel() for _, p in model.trainable_parameters()),
        "megabytes": model.megabytes(),
        "image_size": model.preprocessing.named_size,
        "finetuned_from": training.boundary if training.finetuned else None,
        "trained": "head" if not training.finetuned else "all" if model.boundary == 0 else "upper stages",
    }
    if members:
        metrics["model"] |= _model_of_members(model, members)
        metrics["members"] = {member.name: member.metrics for member in members}
    if training.head_choice is not None:
        metrics["head"] = asdict(training.head_choice)
    if distributed.is_distributed():
        share = communication_share(training)
        metrics["processes"] = {"count": distributed.world_size(), "communication_share": share}
    metrics["memory"] = {"peak_megabytes": _peak_megabytes()}
    metrics["data"] = {
        "classes": list(split.classes),
        "counts": {part: split[part].counts() for part in split},
        "bad": [asdict(bad) for bad in split.dataset.bad],
        "ignored": list(split.dataset.ignored),
        "notes": list(split.dataset.notes),
    }
    if training.unlabeled:
        metrics["unlabelled"] = training.unlabeled
    metrics["training"] = {
        "device": training.device,
        "precision": training.precision,
        "prefix_backend": training.prefix_backend,
        "stopped": "interrupted" if training.interrupted else training.error,
        "notes": [*map(str, members), *training.notes],
    }
    if search := read_search(path):
        metrics["backbone_search"] = search
    if lesson is not None:
        metrics["distillation"] = dict(lesson.description)
    if earlier_run is not None:
        metrics["earlier_run"] = dict(earlier_run)
        notes += describe_earlier(earlier_run)
    write_json(path / METRICS, metrics)
    return notes


def _model_of_members(model: Classifier, members: Sequence[TrainedMember]) -> dict[str, Any]:
    """What of each backbone was trained."""
    tuned = {member.name: member.metrics["model"] for member in members if member.metrics["model"]["finetuned_from"]}
    trained = sum(p.numel() for p in model.head.parameters())
    for network in model.members:  # whose own heads are no part of the model
        if one := tuned.get(network.spec.name):
            trained += one["trainable_parameters"] - len(model.classes) * (network.features + 1)
    return {
        "trainable_parameters": trained,
        "finetuned_from": ", ".join(f"{one['finetuned_from']} of {name}" for name, one in tuned.items()) or None,
        "trained": "upper stages" if tuned else "head",
    }


def _calibration(
    uncalibrated: Predictions, calibrated: Predictions, temperature: float, parts: list[Part], plots: Path
) -> dict[str, Any]:
    """Measure the calibration of each part before and after temperature scaling, and plot that of the last part."""
    section: dict[str, Any] = {"temperature": temperature, "fitted_on": "val" if "val" in parts else None}
    for part in parts:
        before, after = (measure_calibration(p.part(part)) for p in (uncalibrated, calibrated))
        section[part] = {"before": before.to_json(), "after": after.to_json()}
    plot_reliability(before, after, temperature, plots / "reliability.png", part=parts[-1])
    return section


def _plot_predictions(
    folder: Path, predictions: Predictions, split: Split, part: Part, preprocessing: Preprocessing
) -> None:
    evaluation = evaluate_predictions(predictions)
    plot_confusion(
        evaluation.confusion,
        predictions.classes,
        folder / "confusion_matrix.png",
        title=f"{_PART_TITLES[part]} images",
    )
    dataset, value_range = split[part], preprocessing.value_range
    predictions = predictions.take(np.arange(len(split.with_files(part))))
    if not len(predictions):
        return
    tiles = [
        SampleTile(
            # The predictions of a part are in its order.
            image=decode_image(
                dataset.source(dataset.samples[i]), max_pixels=dataset.max_pixels, value_range=value_range
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


def _write_rows(file: Path, row_type: type[Epoch | HeadFit], rows: list[dict[str, Any]]) -> None:
    columns = tuple(row_type.__dataclass_fields__)
    write_csv(file, columns, [["" if row[name] is None else row[name] for name in columns] for row in rows])


def _peak_megabytes() -> float:
    """Peak memory of this process in 10^6 bytes, plus that of the GPU."""
    status = Path("/proc/self/status")  # preferred: `ru_maxrss` starts at the value of the parent process
    if status.is_file() and (match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        peak = int(match[1]) * 1024
    elif sys.platform == "win32":
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
    return peak / 1e6
