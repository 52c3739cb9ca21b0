"""Fine-tune the backbones of a run of several, each alone, before the head over all is fitted.

Input: a classifier of several backbones, and the split and folder of its run. Output: each backbone with its best
weights, and its head. A backbone trains as an ordinary run in `members/NAME/`, with the same training and validation
images; the test images are for the whole model. One that has finished is not trained again when the run is resumed. Of
its files, a finished run keeps what describes the training.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regraft import distributed
from regraft.atomic_io import write_json
from regraft.config import Config, load_run_config
from regraft.data.dataset import Split
from regraft.data.pooling import per_answer
from regraft.data.samples import PARTS
from regraft.errors import BudgetError
from regraft.models.classifier import Classifier
from regraft.models.serialization import load_classifier
from regraft.runs.budget import RunPlan, fit_into_budget
from regraft.runs.run import CHECKPOINT, CONFIG, HEAD_PATH, HISTORY, METRICS, Run
from regraft.runs.tasks.multilabel import without_calibration
from regraft.text import pluralize
from regraft.training.callbacks import Callback, Epoch, HeadFit, ProgressReporter
from regraft.training.losses import SMALL_VALIDATION, LossFunction
from regraft.training.refit import LinearWeights

#: Subfolder of a run for the runs of its backbones, and the files of these that stay once the run has finished.
MEMBERS = "members"
_KEPT = (CONFIG, METRICS, HISTORY, HEAD_PATH)
#: File with the seconds for the backbones that are not trained yet; it goes with the checkpoints of a finished run.
_BUDGET = f"{Path(CHECKPOINT).parent}/members_budget.json"


#: Trains a classifier into a folder, or continues from the checkpoint in it, as `runs.train.train_into` does.
TrainOne = Callable[..., Run]


@dataclass(frozen=True)
class TrainedMember:
    """One backbone after its training: its name, its head at its temperature, and the metrics of its run."""

    name: str
    head: LinearWeights
    metrics: dict[str, Any]

    @property
    def is_finetuned(self) -> bool:
        """Whether its features have seen the training images: fine-tuning was kept."""
        return self.metrics["model"]["finetuned_from"] is not None

    @property
    def seconds(self) -> float:
        """Seconds of its training."""
        return float(self.metrics["time"]["train_seconds"])

    def __str__(self) -> str:
        """One sentence on how good it is alone."""
        trained, val = self.metrics["model"], self.metrics.get("val")
        how = f"fine-tuned from {trained['finetuned_from']}" if trained["finetuned_from"] else "its head alone"
        score = _describe_score(val) if val else "no images to judge it by"
        stopped = self.metrics["training"]["stopped"]
        early = f" Its training ended early, and its best weights until then are kept: {stopped}" if stopped else ""
        return f"{self.name} alone: {score} ({how}, {self.seconds:.0f} s).{early}"


def heads_to_average(members: Sequence[TrainedMember], validation: int) -> list[LinearWeights]:
    """The heads of the backbones, scaled for their mean; none where no backbone was fine-tuned.

    With enough `validation` images or groups, these say how much each counts. With fewer, those of fine-tuned backbones
    have half of the weight together, and those of the others the other half: each kind makes errors of its own
    (docs/decisions/few-images.md).
    """
    tuned, count = sum(member.is_finetuned for member in members), len(members)
    if not tuned:
        return []
    if tuned == count or validation >= SMALL_VALIDATION:
        return [member.head for member in members]
    return [member.head.scaled(count / 2 / (tuned if member.is_finetuned else count - tuned)) for member in members]


def _describe_score(metrics: Mapping[str, Any]) -> str:
    """The validation accuracy, or the mean average precision where an image has any number of classes."""
    if "mean_average_precision" in metrics:
        return f"val mAP {metrics['mean_average_precision']:.3f}"
    return f"val accuracy {100 * metrics['accuracy']:.1f} %"


def train_members(
    model: Classifier,
    split: Split,
    path: Path,
    config: Config,
    reporter: ProgressReporter,
    train_one: TrainOne,
    *,
    deadline: float | None = None,
    callbacks: Sequence[Callback] = (),
    loss: LossFunction | None = None,
) -> list[TrainedMember]:
    """Fine-tune each backbone in the run's folder `path`, and leave its best weights in the model.

    With fewer validation images than `run.finetune_all_min_val` only the first is fine-tuned, and the others get a head
    alone. The time until `deadline`, a value of `time.monotonic()`, is divided equally among the backbones that are
    left, or among fewer where a share has no time for all views. Where all of it is too little, a backbone gets a head
    alone, unless it is the first: one backbone that is fine-tuned well is better than several in haste. A run that is
    resumed has no deadline, and divides what its finished backbones have left. A training that ends early by an error
    leaves its best weights so far, and a note. Raises `KeyboardInterrupt` where a training was interrupted.
    """
    count, split = len(model.members), _without_test(split)
    tuned = count if len(per_answer(split.val)) >= config.run.finetune_all_min_val else 1
    which = f"Each of {pluralize(count, 'backbone')}" if tuned == count else model.members[0].spec.name
    others = "" if tuned == count else " The others stay as they are (run.finetune_all_min_val)."
    reporter.on_message(f"{which} is fine-tuned alone, in {path / MEMBERS}; then the head over all is fitted.{others}")
    if deadline is not None and not distributed.rank():
        _write_budget(path, deadline - time.monotonic())
    trained: list[TrainedMember] = []
    for index, network in enumerate(model.members):
        name = network.spec.name
        folder, one = path / MEMBERS / name, model.member(index)
        own = _MemberReporter(reporter, f"{name} ({index + 1} of {count})")
        if not distributed.on_rank_0(lambda folder=folder: _is_finished(folder)):  # type: ignore[misc]  # bound now
            seconds, started = _read_budget(path), time.monotonic()
            shares = () if seconds is None else [max(seconds, 1e-3) / left for left in range(tuned - index, 0, -1)]
            own.on_message("its training begins.")
            in_haste = not any(one.is_finetuned for one in trained)
            of_one = config if index < tuned else _head_alone(config)
            _train(one, split, folder, of_one, shares, own, train_one, callbacks, loss, in_haste=in_haste)
            if seconds is not None and not distributed.rank():
                # A training that was resumed took longer than this process knows.
                _write_budget(path, seconds - max(time.monotonic() - started, _seconds_of(folder)))
        distributed.barrier()
        trained.append(_take(one, folder, name))
        reporter.on_message(str(trained[-1]))
    model.freeze(len(model.stages))
    model.eval()
    return trained


def _write_budget(path: Path, seconds: float) -> None:
    write_json(path / _BUDGET, {"seconds": seconds})


def _read_budget(path: Path) -> float | None:
    """Seconds for the backbones that are not trained yet; None without a budget."""

    def read() -> float | None:
        file = path / _BUDGET
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.is_file() else None

    return distributed.on_rank_0(read)


def _train(
    one: Classifier,
    split: Split,
    folder: Path,
    config: Config,
    shares: Sequence[float],
    reporter: ProgressReporter,
    train_one: TrainOne,
    callbacks: Sequence[Callback],
    loss: LossFunction | None,
    *,
    in_haste: bool,
) -> None:
    """Train one backbone; `shares` and `in_haste` as in `_plan`."""
    if distributed.on_rank_0(lambda: (folder / CHECKPOINT).is_file() and (folder / CONFIG).is_file()):
        plan = RunPlan(one, load_run_config(folder / CONFIG))  # as it was planned
    else:
        distributed.on_rank_0(lambda: shutil.rmtree(folder, ignore_errors=True))
        plan = _plan(one, split, config, shares, reporter, in_haste=in_haste)
    run = train_one(plan, split, folder, reporter, callbacks=callbacks, loss=loss, with_report=False)
    if distributed.on_rank_0(lambda: run.metrics["training"]["stopped"]) == "interrupted":
        raise KeyboardInterrupt


def _plan(
    one: Classifier,
    split: Split,
    config: Config,
    shares: Sequence[float],
    reporter: ProgressReporter,
    *,
    in_haste: bool,
) -> RunPlan:
    """Plan the training of one backbone in the first of these `shares` of the time, in seconds, that is enough.

    Without shares there is no limit. What does not fit well is fine-tuned `in_haste`, or its head is fitted alone, as
    where nothing is to be fine-tuned.
    """
    if not config.training.finetune_epochs:
        return RunPlan(one, _config_of(config, one, budget=0.0))
    own, started = _config_of(config, one, budget=0.0), time.monotonic()
    # `BudgetError` is the same in all processes, which plan together.
    with suppress(BudgetError):
        return fit_into_budget(one, split, own, started, reporter, full_in=shares)
    with suppress(BudgetError):
        if in_haste:
            own = _config_of(config, one, budget=shares[-1])
            return fit_into_budget(one, split, own, started, reporter)
    reporter.on_message("no time is left to fine-tune it, so only its head is fitted.")
    return RunPlan(one, _config_of(_head_alone(config), one, budget=0.0))


def _head_alone(config: Config) -> Config:
    return config.model_copy(update={"training": replace(config.training, finetune_epochs=0)})


def _without_test(split: Split) -> Split:
    table = split.dataset.table
    rows = table.parts != PARTS.index("test")
    stored = None if split.stored is None else split.stored.take(rows[-len(split.stored) :])
    return Split(split.dataset.with_samples(table.take(rows)), split.unlabeled, stored)


def _config_of(config: Config, one: Classifier, **training: Any) -> Config:
    """The configuration of one backbone's run: trackers and reports are those of the whole run."""
    training["refit"] = False  # the validation images judge the heads of all
    image = one.preprocessing
    model = replace(config.model, backbone=one.spec.name, image_size=image.named_size)
    return config.model_copy(
        update={
            "run": replace(config.run, out="", from_run="", keep_images="auto", class_changes=()),
            "model": model,
            "training": replace(config.training, **training),
            "tracking": replace(config.tracking, to=()),
        }
    )


def _seconds_of(folder: Path) -> float:
    """Seconds of a finished training, those before it was resumed included."""
    return float(json.loads((folder / METRICS).read_text(encoding="utf-8"))["time"]["train_seconds"])


def _is_finished(folder: Path) -> bool:
    return (folder / METRICS).is_file() and not (folder / CHECKPOINT).is_file()


def _take(one: Classifier, folder: Path, name: str) -> TrainedMember:
    """Load the weights of a finished run into the classifier, whose backbone is the model's."""
    best = load_classifier(folder)
    one.backbone.load_state_dict(best.backbone.state_dict())
    metrics = Run(folder, best).metrics
    without_calibration(best.head, metrics)
    head, temperature = best.head.classifier, best.head.temperature
    weights = LinearWeights(head.weight.detach() / temperature, head.bias.detach() / temperature)
    return TrainedMember(name, weights, metrics)


def remove_weights(path: Path) -> None:
    """Leave only what describes the trainings of the backbones, whose weights the run's model has."""
    for folder in (path / MEMBERS).glob("*"):
        for file in folder.glob("*"):
            if file.name in _KEPT:
                continue
            shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)


class _MemberReporter:
    """Reports the training of one backbone with its name."""

    def __init__(self, reporter: ProgressReporter, name: str) -> None:
        self._reporter, self._name = reporter, name

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        self._reporter.on_progress(name, done, total, f"{self._name} {detail}".rstrip())

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        self._reporter.on_head_path(path)

    def on_epoch_end(self, row: Epoch) -> None:
        self._reporter.on_epoch_end(row)

    def on_message(self, text: str) -> None:
        self._reporter.on_message(f"{self._name}: {text}")
