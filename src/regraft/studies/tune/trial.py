"""Train one configuration of a search and score it on validation, without the test part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from regraft.cache import Cache
from regraft.config import Config
from regraft.data.dataset import Split
from regraft.data.pooling import per_answer
from regraft.errors import TrainingError
from regraft.evaluation.multilabel.metrics import mean_average_precision
from regraft.models.classifier import Classifier
from regraft.runs.prepare import build_for
from regraft.studies.tune.result import Metric, TrialRecord, TrialResult
from regraft.training.callbacks import Epoch, NullReporter, ProgressReporter, known
from regraft.training.device import choose_device, choose_precision
from regraft.training.losses import EpochMetrics, Objective, compute_metrics, units_of
from regraft.training.phase_plan import plan_phases
from regraft.training.prefix_backend import BackendName, choose_backend
from regraft.training.task_options import loss_of, output_activation
from regraft.training.trainer import train as train_classifier

#: Weight of the loss beside macro-F1, mAP and kappa: it decides between equal scores alone.
_TIE_WEIGHT = 1e-5


class OutOfTime(Exception):
    """The search's deadline has passed."""


@dataclass(frozen=True)
class TrialReporter(NullReporter):
    """Report one training on the search's progress bar, and end it when the time is up."""

    reporter: ProgressReporter
    bar: str
    done: int  # trainings, as `total`
    total: int
    title: str
    deadline: float | None = None  # a moment of `time.monotonic`
    on_epoch: Callable[[Epoch], None] | None = None  # gets each epoch of fine-tuning

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Report the step on the search's bar, or raise `OutOfTime`."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        percent = 100 * done // max(1, total)
        self.reporter.on_progress(self.bar, self.done, self.total, f"{self.title}: {name} {percent} %")

    def on_epoch_end(self, row: Epoch) -> None:
        """Pass on an epoch of fine-tuning."""
        if self.on_epoch and row.phase == "finetune":
            self.on_epoch(row)


def run_trial(
    number: int,
    params: dict[str, Any],
    config: Config,
    split: Split,
    metric: Metric,
    *,
    cache: Cache,
    scratch: Path,
    reporter: TrialReporter,
    checkpoint: Path | None = None,
    views: int = 0,
    limit: float | None = None,
) -> TrialResult:
    """Train a configuration and score it on validation; a later call continues from the checkpoint.

    `views` chooses the prefix backend; 0: the configuration's. A short trial passes that of its full training, so that
    the cache holds what the full training looks for. After `limit` seconds the training ends with the epochs that it
    has. Raises `OutOfTime`, `KeyboardInterrupt`, or `RegraftError` on failure.
    """
    started = time.monotonic()
    model = build_for(config, split.dataset)
    config, backend = _choose_backend(config, model, split, cache, views)
    training = train_classifier(
        model, split, augmentation=config.augmentation, cache=cache, scratch=scratch, checkpoint=checkpoint,
        reporter=reporter, deadline=None if limit is None else started + limit, **asdict(config.training),
    )  # fmt: skip
    if training.interrupted:
        raise KeyboardInterrupt
    if training.error or training.val_logits is None:
        raise TrainingError(training.error or "There are no validation images.")
    weights, task = torch.ones(len(split.classes)), split.dataset.task
    objective = Objective(
        loss_of(config.training, task), 0.0, weights, output_activation(config.training, task), task=task,
        ordered=split.dataset.ordered,
    )  # fmt: skip
    val = per_answer(split.val)
    targets, scale = torch.from_numpy(val.targets), 1.0
    if task == "regression":  # whose logits are in the unit of the training
        center, scale = units_of(torch.from_numpy(split.train.targets))
        targets = ((targets.double() - center) / scale).float()
    scores = compute_metrics(objective, training.val_logits, targets, calibrate=True)
    if not math.isfinite(scores.loss):
        raise TrainingError(f"The validation loss is {scores.loss}; expected a finite number.")
    logits = training.val_logits.double().cpu()
    precision = mean_average_precision(val.indicators, logits.numpy()) if task == "multilabel" else None
    mae = float((logits - targets).abs().mean()) * scale if task == "regression" else None
    loss = sum(scores.calibrated_losses) / len(scores.calibrated_losses)
    record = TrialRecord(
        number, params, "complete", value=value_to_minimize(metric, loss, scores, precision, mae), loss=loss,
        accuracy=known(scores.accuracy), macro_f1=known(scores.macro_f1), seconds=time.monotonic() - started,
        steps={step: seconds for step, seconds in training.seconds.items() if step != "total"},
        finetuned=training.finetuned, prefix_backend=backend, cache_too_small=training.cache_too_small,
        mean_average_precision=precision, mae=mae, quadratic_kappa=known(scores.quadratic_kappa),
    )  # fmt: skip
    return TrialResult(record, config, scores.calibrated_losses)


def value_to_minimize(
    metric: Metric, loss: float, scores: EpochMetrics, precision: float | None = None, mae: float | None = None
) -> float:
    """The loss, the mean absolute error, or 1 - score, where a smaller loss decides between equal scores."""
    if metric == "loss":
        return loss
    if metric == "mae":
        assert mae is not None
        return mae
    tie = loss / (1 + loss)
    if metric == "quadratic_kappa":
        return 1 - scores.quadratic_kappa + _TIE_WEIGHT * tie
    if metric == "accuracy":  # which moves in steps of one image
        return 1 - scores.accuracy + tie / (scores.count + 1)
    if metric == "mean_average_precision":
        assert precision is not None
        return 1 - precision + _TIE_WEIGHT * tie
    return 1 - scores.macro_f1 + _TIE_WEIGHT * tie


def _choose_backend(
    config: Config, model: Classifier, split: Split, cache: Cache, views: int
) -> tuple[Config, BackendName]:
    """Name the prefix backend that `regraft train` would choose, so that later trainings use the same one."""
    options = config.training
    phases = plan_phases(
        model, replace(options, views=views or options.views), changes_views=config.augmentation.changes_views
    )
    device = choose_device(options.device)
    model.to(device)
    precision, rows = choose_precision(options.precision, device), len(split.train) * phases.views
    cached = cache if options.cache_gb else None
    backend, _ = choose_backend(options.prefix_backend, model, phases.cut, precision, rows=rows, cache=cached)
    return config.model_copy(update={"training": replace(options, prefix_backend=backend)}), backend
