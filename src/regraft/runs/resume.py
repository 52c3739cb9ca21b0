"""Continue a run: one that was killed or interrupted to its end, and a finished one by more epochs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regraft import distributed
from regraft.atomic_io import sha256_of
from regraft.config import Config, load_run_config
from regraft.data.dataset import Split
from regraft.data.sources.urls import is_url
from regraft.data.split_file import split_sha256
from regraft.data.unlabelled import unlabeled_sha256
from regraft.errors import RunError, UsageError, as_path, continued_in
from regraft.runs.budget import RunPlan
from regraft.runs.earlier_run import training_of
from regraft.runs.prepare import prepare
from regraft.runs.processes import jointly, tell_run
from regraft.runs.progress import with_progress
from regraft.runs.run import CHECKPOINT, CONFIG, METRICS, SOURCE, SPLIT, UNLABELED, Run
from regraft.runs.run_folder import lock_run
from regraft.runs.scan_and_split import scan_and_split
from regraft.runs.tasks.multilabel import without_calibration
from regraft.runs.teacher import ask_teacher, open_teacher
from regraft.runs.train import tracking_options, train_into
from regraft.runs.unlabelled import with_unlabeled
from regraft.text import in_shell, pluralize
from regraft.training.callbacks import Callback, NullReporter, ProgressReporter
from regraft.training.losses import LossFunction
from regraft.training.phase_plan import plan_phases


@with_progress
@jointly
def resume(
    path: Path | str,
    *,
    finetune_epochs: int | None = None,
    track: str | Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    loss: LossFunction | None = None,
    reporter: ProgressReporter | None = None,
) -> Run:
    """Continue a run that was killed or interrupted, to the same result, or fine-tune a finished one for longer.

    Args:
        path: The run's folder.
        finetune_epochs: Epochs of fine-tuning in all. More of them than a finished run has follow from its model, which
            stays where they do not improve it. Default: those of the run's settings.
        track: As in `train`. Default: the trackers of the run.
        callbacks: As in `train`.
        loss: The function that the run was trained with, if it was.
        reporter: As in `train`.

    Raises:
        UsageError: There is no such folder, or no epoch would be left to train.
        RunError: The folder has no run of `regraft train`, its data has changed, or another process trains in it.
        RegraftError: As `train`.

    Examples:
        >>> run = regraft.resume("runs/more", finetune_epochs=2)
        >>> [row["epoch"] for row in run.history]
        [1, 2]
    """
    path, reporter = as_path(path, "The folder of a run"), reporter or NullReporter()
    if not (path / SOURCE).is_file() or not (path / CONFIG).is_file():
        if not path.exists():
            raise UsageError(f"{path} does not exist. Expected the folder of a run of `regraft train`.")
        raise RunError(
            f"{path} has no training to resume: expected the folder of a `regraft train` that has started. "
            f"Start one: regraft train DATA --out {in_shell(path)}"
        )
    with lock_run(path, resumed=True), continued_in(path):
        tell_run(path)
        is_finished = distributed.broadcast((path / METRICS).is_file() and not (path / CHECKPOINT).is_file())
        if is_finished and finetune_epochs is None:
            reporter.on_message(f"{path} is finished; there is nothing left to do. Its result:")
            return Run(path)
        config = load_run_config(path / CONFIG)
        if track is not None:
            config = config.model_copy(update={"tracking": tracking_options(track)})
        source = json.loads((path / SOURCE).read_text(encoding="utf-8"))
        if not source.get("resumable", True):  # its model and split were made by the caller
            raise RunError(f"{path} was started from Python and cannot be resumed. Call regraft.train again.")
        if is_finished:
            assert finetune_epochs is not None
            return _train_further(path, source["data"], config, finetune_epochs, reporter, callbacks, loss)
        if finetune_epochs not in (None, config.training.finetune_epochs):
            raise UsageError(
                f"{path} is not finished: it trains for {config.training.finetune_epochs} epochs of fine-tuning. "
                f"Finish it first: regraft train --resume {in_shell(path)}"
            )
        model, split = prepare(source["data"], config, reporter)
        _check_unchanged(path, split, source["data"])
        # A checkpoint follows the fit of the head, which alone learns from images without labels.
        if config.distillation.teacher or not (path / CHECKPOINT).is_file():
            _check_unlabeled_exist(path, config)
            config, split = with_unlabeled(config, split, model, reporter)
            _check_same_unlabeled(path, split)
        lesson = ask_teacher(open_teacher(model, config, split), model, config, split, reporter)
        plan = RunPlan(model, config)  # as it was fitted into the budget when it began
        return train_into(plan, split, path, reporter, callbacks=callbacks, loss=loss, lesson=lesson)


def _train_further(
    path: Path,
    data: str,
    config: Config,
    epochs: int,
    reporter: ProgressReporter,
    callbacks: Sequence[Callback],
    loss: LossFunction | None,
) -> Run:
    run = Run(path)
    earlier = training_of(run)
    done = sum(row.phase == "finetune" for row in earlier.history)
    if epochs <= done:
        raise UsageError(f"{path} has {pluralize(done, 'epoch')} of fine-tuning; {epochs} in all leaves none to train.")
    if run.metrics["training"].get("refitted"):
        raise UsageError(
            f"The head of {path} has learned from its validation images, too (training.refit), so these cannot judge "
            f"more epochs. Train anew with --epochs {epochs}."
        )
    config = config.model_copy(update={"training": replace(config.training, finetune_epochs=epochs)})
    if run.classifier.members:
        raise UsageError(
            f"{path} has several backbones, each of which was fine-tuned alone. Start a run from it instead: "
            f"regraft train DATA --from {in_shell(path)}"
        )
    if not plan_phases(run.classifier, config.training).finetunes:
        raise UsageError(f"{path} trains no stage of its backbone (training.finetune_from = 'none').")
    split = scan_and_split(data, config, reporter)
    _check_unchanged(path, split, data)
    if config.distillation.teacher:
        config, split = with_unlabeled(config, split, run.classifier, reporter)
    teacher = open_teacher(run.classifier, config, split)
    without_calibration(run.classifier.head, run.metrics)
    return train_into(
        RunPlan(run.classifier, config), split, path, reporter, earlier=earlier, callbacks=callbacks, loss=loss,
        lesson=ask_teacher(teacher, run.classifier, config, split, reporter),
    )  # fmt: skip


def _check_unlabeled_exist(path: Path, config: Config) -> None:
    place = config.data.unlabelled
    if place and not is_url(place) and not Path(place).exists():
        raise RunError(
            f"{place}, which had the images without labels of {path}, does not exist any more. Put it back, or write "
            f"where the same images are into {path / CONFIG} (data.unlabelled)."
        )


def _check_same_unlabeled(path: Path, split: Split) -> None:
    file = path / UNLABELED
    if file.is_file() and split.unlabeled and unlabeled_sha256(split.unlabeled) != sha256_of(file):
        raise RunError(
            f"{split.unlabeled.path} has changed since {path} was started. Start a new run with another --out."
        )


def _check_unchanged(path: Path, split: Split, data: str) -> None:
    if (path / SPLIT).is_file() and split_sha256(split) != sha256_of(path / SPLIT):
        raise RunError(f"{data} has changed since {path} was started. Start a new run with another --out.")
