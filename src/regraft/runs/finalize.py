"""Calibrate and evaluate a trained model, and write metrics, history, predictions and plots into the run's folder."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.atomic_io import write_csv, write_json
from regraft.cache import Cache
from regraft.data.dataset import Dataset, Split
from regraft.data.pooling import per_answer, split_per_answer
from regraft.data.quality.description import describe_files
from regraft.data.samples import PARTS, Part
from regraft.data.subgroups import values_of_answers
from regraft.evaluation.compare_subgroups import compare_subgroups
from regraft.evaluation.subgroups import json_of_subgroups
from regraft.models.answering import AnsweringNetwork
from regraft.models.classifier import Classifier
from regraft.models.head import Head
from regraft.models.inference import order_temperature_of
from regraft.report import plots
from regraft.report.earlier_run import describe_earlier
from regraft.report.tasks import REPORTS
from regraft.runs.backbone_search import read_search
from regraft.runs.exemplars import captured, held_out_rows
from regraft.runs.groups import describe_groups, write_groups
from regraft.runs.held_out_features import keeps_features, predict_with_cache
from regraft.runs.members import TrainedMember
from regraft.runs.processes import communication_share
from regraft.runs.run import HEAD_PATH, HISTORY, METRICS
from regraft.runs.sample_predictions import SamplePredictions, merge_predictions, predict_features, predict_jointly
from regraft.runs.tasks import TASKS, TaskResults
from regraft.runs.teacher import Lesson
from regraft.training.callbacks import Epoch, HeadFit, ProgressReporter, Training
from regraft.training.options import TrainingOptions
from regraft.training.refit import LinearWeights


@dataclass(frozen=True)
class HeldOut:
    """Predictions of val and test images, calibrated as the task needs it; milliseconds per image from the file.

    `features` are what the head reads of the images with the numbers `kept`, which rise, float32 (K, F).
    """

    results: TaskResults
    milliseconds: float
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    features: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


@contextmanager
def _with_logits(head: Head, wanted: bool) -> Iterator[None]:
    """A context in which predictions are logits: a probability near 1 has few digits of its own left."""
    head.answers_logits = wanted
    try:
        yield
    finally:
        head.answers_logits = False


def calibrate(
    model: Classifier,
    split: Split,
    options: TrainingOptions,
    reporter: ProgressReporter,
    *,
    exemplars: int = 0,
    refitted: LinearWeights | None = None,
    cache: Cache | None = None,
) -> HeldOut | None:
    """Predict the val and test images, and fit calibration and out-of-distribution statistics on the val images.

    The features of some of them are kept, for `exemplars` training images of a class. A head that was `refitted` on
    training and val images is the model's from here on, and predicts the test images; those of val it has seen.
    The `cache` has what the head reads of images, for a model whose layers below the head are as they were loaded.
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
    predicted, found, milliseconds = _predict(model, with_files, kept[kept < count], refitted, reporter, cache)
    if stored:
        found += [torch.from_numpy(stored[0][row - count]) for row in kept[kept >= count].tolist()]
        without = np.arange(count, len(held_out))
        of_stored = held_out.with_samples(held_out.table.take(without))
        pieces = [predicted, predict_features(model, torch.from_numpy(stored[0]), of_stored)]
        predicted = merge_predictions(held_out, pieces, [np.arange(count), without])
    distances = predicted.ood_distances
    is_val = held_out.table.parts == PARTS.index("val")
    if model.ood is not None and distances is not None and is_val.any():
        model.ood.calibrate(torch.from_numpy(distances[is_val]))
    else:
        model.ood = None
    features = torch.stack(found) if found else torch.empty(0, 0)
    # Of several labels these are logits, of which a group has the mean, as it has of numbers.
    pooled_as = "regression" if model.task == "multilabel" else model.task
    answers = predicted.pooled(pooled_as, order_temperature_of(model))
    return HeldOut(TASKS[model.task](model, answers, options), milliseconds, kept, features)


def _predict(
    model: Classifier,
    images: Dataset,
    kept: np.ndarray,
    refitted: LinearWeights | None,
    reporter: ProgressReporter,
    cache: Cache | None,
) -> tuple[SamplePredictions, list[torch.Tensor], float]:
    """What the model says of images, the features of those `kept`, and milliseconds for an image from its file.

    Of several labels these are logits. After the val images comes the `refitted` head.
    """
    is_val = images.table.parts == PARTS.index("val")
    shares = [np.arange(len(images))]
    if refitted is not None:
        shares = [np.flatnonzero(is_val), np.flatnonzero(~is_val)]
    pieces, features, before, milliseconds = list[SamplePredictions](), dict[int, torch.Tensor](), 0, 0.0
    if distributed.is_distributed() or not keeps_features(model):
        cache = None
    AnsweringNetwork.of(model.eval())  # what an image takes is without the folding
    for number, share in enumerate(shares):
        if number and refitted is not None:
            model.head.set_linear(refitted.weight, refitted.bias)
        own, wants_logits = np.intersect1d(kept, share), model.task == "multilabel"
        part = images.with_samples(images.table.take(share))

        def progress(done: int, _: int, before: int = before) -> None:
            reporter.on_progress("evaluate", before + done, len(images), "images")

        with captured(model, np.searchsorted(share, own)) as found, _with_logits(model.head, wants_logits):
            started = time.perf_counter()
            if cache is None:
                piece = predict_jointly(model, part, progress=progress)
                of_each = 1000 * (time.perf_counter() - started) / max(1, len(share))
            else:
                piece, of_each = predict_with_cache(model, part, cache, progress=progress)
        pieces.append(piece)
        features |= dict(zip(own.tolist(), found, strict=True))
        before += len(share)
        milliseconds += of_each * len(share) / max(1, len(images))
    in_order = [features[row] for row in kept.tolist()]
    merged = pieces[0] if refitted is None else merge_predictions(images, pieces, shares)
    return merged, in_order, distributed.world_size() * milliseconds  # each process predicts its share


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
    """Write history, predictions and metrics into the run's folder; returns notes for the user."""
    notes: list[str] = []
    history, head_path = ([row.to_row() for row in rows] for rows in (training.history, training.head_path))
    _write_rows(path / HISTORY, Epoch, history)
    if head_path:
        _write_rows(path / HEAD_PATH, HeadFit, head_path)
    count = len(per_answer(split.train))
    metrics: dict[str, Any] = {"train": {"accuracy": training.train_accuracy, "count": count}}
    parts = _held_out_parts(split)
    if held_out is not None:
        notes += filter(None, [held_out.results.write(path)])
        metrics |= held_out.results.measure(split, parts)
        for part in parts if split.dataset.subgroups else ():
            subgroups = compare_subgroups(held_out.results.predictions.part(part), values_of_answers(split[part]))
            metrics[part] |= json_of_subgroups(subgroups)
    earlier = {"members": sum(member.seconds for member in members)} if members else {}
    metrics["time"] = {
        "train_seconds": training.seconds["total"] + sum(earlier.values()),
        "predict_ms_per_image": held_out.milliseconds if held_out else None,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
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
        "files": describe_files(split.dataset),
    }
    if split.dataset.pool_by:
        write_groups(path, split)
        metrics["groups"] = describe_groups(split)
    if training.unlabeled:
        metrics["unlabelled"] = training.unlabeled
    metrics["training"] = {
        "device": training.device,
        "precision": training.precision,
        "prefix_backend": training.prefix_backend,
        **({"int8": training.int8} if training.int8 else {}),
        "refitted": training.refitted is not None,
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


def draw_results(path: Path, model: Classifier, split: Split, training: Training, held_out: HeldOut | None) -> None:
    """Draw the plots of a run whose results are written."""
    folder, accuracy = path / "plots", REPORTS[model.task].train_accuracy
    history, head_path = ([row.to_row() for row in rows] for rows in (training.history, training.head_path))
    file = folder / "training_history.png"
    plots.training_curve.plot_history(history, file, head_path=head_path, accuracy=accuracy)
    if held_out is not None:
        metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        part = _held_out_parts(split)[-1]
        held_out.results.plot(folder, split_per_answer(split), part, metrics, model.preprocessing)


def _held_out_parts(split: Split) -> list[Part]:
    return [part for part in ("val", "test") if len(split[part])]


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
