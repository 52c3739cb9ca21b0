"""Train a model on labeled images, and write everything about it into a run's folder.

It can predict once the head is trained. Read the file from top to bottom: `train_split`, `train_into`, `train`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from regraft import distributed
from regraft.atomic_io import write_json, write_text
from regraft.config import Config, load_config
from regraft.config.presets import DEFAULT_PRESET
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.pooling import per_answer, pooled_by
from regraft.data.sources.urls import absolute
from regraft.data.split_file import write_split
from regraft.data.unlabelled import write_unlabeled
from regraft.errors import RegraftError, UsageError, continued_in, refuse_old_names
from regraft.models.classifier import Classifier
from regraft.models.malloc import return_freed_memory
from regraft.models.options import ModelOptions
from regraft.models.registry import AUTO
from regraft.models.serialization import save_classifier
from regraft.report.tasks import REPORTS
from regraft.runs.backbone_search import choose_backbone, write_search
from regraft.runs.budget import RunPlan, fit_into_budget, with_preset_plan
from regraft.runs.earlier_comparison import describe_earlier_run
from regraft.runs.exemplars import number_of, write_exemplars
from regraft.runs.finalize import HeldOut, calibrate, draw_results, write_results
from regraft.runs.held_out_features import cache_for_features
from regraft.runs.members import TrainedMember, heads_to_average, remove_weights, train_members
from regraft.runs.prepare import build_described, build_for, describe_model
from regraft.runs.processes import describe as describe_processes
from regraft.runs.processes import jointly, logged, tell_run
from regraft.runs.progress import with_progress
from regraft.runs.record import stored_record
from regraft.runs.report import kept_card, write_report
from regraft.runs.run import CHECKPOINT, CONFIG, SOURCE, SPLIT, UNLABELED, Run, open_model
from regraft.runs.run_folder import SCRATCH, lock_run, new_folder
from regraft.runs.scan_and_split import (
    refuse_equal_labels,
    refuse_settings_of_classes,
    refuse_settings_of_images,
    split_with,
)
from regraft.runs.teacher import Lesson, ask_teacher, open_teacher
from regraft.runs.train_from import refuse_early, train_from
from regraft.runs.unlabelled import with_unlabeled
from regraft.tracking.callback import TrackingReporter, tracking
from regraft.tracking.options import TrackingOptions
from regraft.tracking.tracker import Status, check_trackers
from regraft.training.callbacks import Callback, NullReporter, ProgressReporter, Training
from regraft.training.losses import LossFunction
from regraft.training.phase_plan import finetunes_members, with_enough_steps
from regraft.training.trainer import train as train_classifier


def train_split(
    model: Classifier | None,
    split: Split,
    config: Config,
    out: Path | str | None,
    name: str,
    source: Mapping[str, Any],
    reporter: ProgressReporter,
    started: float,
    callbacks: Sequence[Callback],
    loss: LossFunction | None,
) -> Run:
    """Build the model, unless it is given, fit everything into the budget, and train into a folder of this `name`.

    `source` is what the run's `source.json` has: where the images are from (`data`), and `resumable` = False where the
    caller has made the split; {} for images in memory.
    """
    refuse_settings_of_classes(split.dataset.model_task, config)
    refuse_equal_labels(split)
    if config.data.pool_by and not split.dataset.pool_by:  # a split from Python
        split = replace(split, dataset=pooled_by(split.dataset, config.data.pool_by))
    refuse_settings_of_images(split.dataset.pool_by, config)
    # With which data for a run from this one is read.
    order = split.classes if split.dataset.ordered else ()
    of_data = replace(config.data, task=split.dataset.model_task, order=order, pool_by=split.dataset.pool_by)
    config = config.model_copy(update={"data": of_data})
    is_asked = config.training.budget > 0
    config = with_preset_plan(config, split, reporter)
    own_budget = config.training.budget > 0 and not is_asked
    config, search = choose_backbone(split, config, reporter, own_budget=own_budget)
    at_size = None
    if model is not None:
        model.taxonomy = split.dataset.taxonomy
        describe_model(model, split, config, reporter)
    else:
        model = build_described(split, config, reporter)
        at_size = None if config.model.image_size else partial(build_for, config, split.dataset)
    config, split = with_unlabeled(config, split, model, reporter)
    teacher = open_teacher(model, config, split)
    taught = 0 if teacher is None or split.unlabeled is None else len(split.unlabeled)
    training = with_enough_steps(config.training, len(split.train) + taught)
    config = config.model_copy(update={"training": training})
    # The teacher takes its time from a budget; without one, the plan decides which views there are to ask about.
    lesson = ask_teacher(teacher, model, config, split, reporter) if config.training.budget else None
    plan = fit_into_budget(
        model, split, config, started, reporter, at_size=at_size, unlabeled=taught, own_budget=own_budget
    )
    lesson = lesson or ask_teacher(teacher, plan.model, plan.config, split, reporter)
    # The folder is created after the scan, which must not take it for a class if it is inside the data.
    with lock_run(new_folder(out, name, config.model.backbone)) as path, continued_in(path):
        is_resumable = source.get("resumable", bool(source))
        if is_resumable:
            plan = replace(plan, config=_with_data(plan.config, source["data"]))
            again = shlex.join(["regraft", "train", "--resume", str(path)])
            reporter.on_message(f"Run: {path}. If it is interrupted, continue it: {again}")
        if source and not distributed.rank():
            write_json(path / SOURCE, source)
        write_search(path, search)
        tell_run(path)
        return train_into(plan, split, path, reporter, callbacks=callbacks, loss=loss, lesson=lesson)


def _with_data(config: Config, data: str) -> Config:
    """The configuration with the path of its images, unless that has bytes that are no text."""
    is_text = data.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in data)
    run = replace(config.run, data=data if is_text else "", out="")
    taxonomy = config.data.taxonomy and absolute(config.data.taxonomy)
    return config.model_copy(update={"run": run, "data": replace(config.data, taxonomy=taxonomy)})


def train_into(
    plan: RunPlan,
    split: Split,
    path: Path,
    reporter: ProgressReporter,
    *,
    earlier: Training | None = None,
    callbacks: Sequence[Callback] = (),
    loss: LossFunction | None = None,
    with_report: bool = True,
    lesson: Lesson | None = None,
) -> Run:
    """Train, evaluate and report in a locked folder; continues from the checkpoint in it, or from an earlier training.

    The epochs of an earlier training are those of the folder's model, and more follow. Several backbones are fine-tuned
    before, each as a run of its own, `with_report` off. A `lesson` has the targets of a teacher.
    """
    model, config = plan.model, plan.config
    is_first, trackers = not distributed.rank(), () if distributed.rank() else config.tracking.to
    settings = config.model_dump(mode="json")
    with logged(path, reporter) as own, tracking(trackers, settings, path, own) as tracked:
        if is_first:
            write_text(path / CONFIG, config.to_toml())
            write_split(path / SPLIT, split)
            if split.unlabeled is not None:
                write_unlabeled(path / UNLABELED, split.unlabeled)
        members: list[TrainedMember] = []
        if finetunes_members(model, config.training):
            members = train_members(
                model, split, path, config, own, train_into, deadline=plan.members_deadline, callbacks=callbacks,
                loss=loss,
            )  # fmt: skip
        training = train_classifier(
            model, split, augmentation=config.augmentation, scratch=path / SCRATCH, checkpoint=path / CHECKPOINT,
            reporter=tracked, on_better=partial(save_classifier, folder=path) if is_first else None,
            deadline=plan.deadline, planned=plan.seconds, earlier=earlier, callbacks=callbacks, loss_function=loss,
            trained_heads=heads_to_average(members, len(per_answer(split.val))),
            soft_targets=None if lesson is None else lesson.targets, **asdict(config.training),
        )  # fmt: skip
        model.cpu()
        exemplars = number_of(model, config.data.exemplars) if with_report else 0
        cache = (
            None if any(member.is_finetuned for member in members) else cache_for_features(config.training, training)
        )
        held_out = calibrate(
            model, split, config.training, tracked, exemplars=exemplars, refitted=training.refitted,
            cache=cache,
        )  # fmt: skip
        return_freed_memory()
        run = distributed.first_on_rank_0(
            lambda: _write_run(
                model,
                split,
                path,
                training,
                held_out,
                members,
                tracked,
                lesson,
                config,
                exemplars,
                with_report=with_report,
            )
        )
        if members and is_first and not training.interrupted:
            remove_weights(path)
        return run


def _write_run(
    model: Classifier,
    split: Split,
    path: Path,
    training: Training,
    held_out: HeldOut | None,
    members: Sequence[TrainedMember],
    tracked: TrackingReporter,
    lesson: Lesson | None,
    config: Config,
    exemplars: int,
    *,
    with_report: bool,
) -> Run:
    """Write the results of a training and its report; of several processes, rank 0 does."""
    if distributed.rank():
        return Run(path, model)
    save_classifier(model, path)
    features = None if held_out is None else (held_out.kept, held_out.features)
    write_exemplars(path, split, training, features, exemplars)
    if note := describe_processes(training):
        tracked.on_message(note)
    earlier = describe_earlier_run(config, split, None if held_out is None else held_out.results.predictions)
    for note in write_results(path, model, split, training, held_out, members, lesson, earlier):
        tracked.on_message(note)
    run = Run(path, model)
    if with_report and held_out is not None:
        with suppress(RegraftError):  # the report reads the same, and says what is wrong
            tracked.on_message(_headline(run))
    draw_results(path, model, split, training, held_out)
    try:
        if with_report:
            write_report(run, split.dataset)
            if kept := kept_card(path):
                tracked.on_message(kept)
    except RegraftError as error:  # the run is complete without a report
        again = shlex.join(["regraft", "report", str(path)])
        tracked.on_message(f"The report could not be written: {error} To try again: {again}")
    if not training.interrupted:  # at the very end: a run without its report is not finished
        shutil.rmtree((path / CHECKPOINT).parent, ignore_errors=True)
    status: Status = "interrupted" if training.interrupted else "failed" if training.error else "finished"
    tracked.finish(status, run.metrics, sorted((path / "plots").glob("*.png")))
    return run


def _headline(run: Run) -> str:
    """How good the model is, with what limits this, in sentences."""
    record = stored_record(run)
    first = "".join(next(iter(REPORTS[run.task].quality(record)), ()))
    return " ".join(filter(None, [first, *record.missing, record.at_chance, "Plots and report follow."]))


@refuse_old_names(engine="prefix_backend", averaging="ema_epochs")
@with_progress
@jointly
def train(
    model: Classifier | Run | Path | str,
    split: Split | Dataset | Path | str,
    *,
    out: Path | str | None = None,
    augmentation: Augmentation | None = None,
    track: str | Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    loss: str | LossFunction | None = None,
    preset: str = DEFAULT_PRESET,
    unlabelled: Path | str | None = None,
    pool_by: str | None = None,
    reporter: ProgressReporter | None = None,
    **options: Any,
) -> Run:
    """Train a model on a split, evaluate it, and write everything into a run's folder.

    Args:
        model: A model from `build`, trained in place; or a run or its folder, whose settings are then the defaults and
            whose model is the start: backbone, and the head's rows of classes that stay; or `auto`, which chooses among
            the backbones whose weights are on this machine.
        split: A split from `split`. With a run or `auto` as `model` also a data set or what `scan` takes, in which the
            images of that run keep their part; at a path without any of these, they train beside the new ones.
        out: The run's folder, which must not contain a run yet. Default: a new one under `runs/`.
        augmentation: Augmentation of the training images. Default: flips, crops and color jitter.
        track: One or several of `tensorboard`, `wandb` and `mlflow`; default: none, or those of the run as `model`. A
            tracker changes no result, and its failure does not stop the training.
        callbacks: Functions `f(epoch, metrics)`, or objects with this as `on_epoch_end`, that are called after each
            epoch, as Keras does. Epochs count from 1, and `metrics` has the columns of `history.csv`. If one returns
            True, the training ends after this epoch and keeps its best model. Metrics that a task does not have are
            None, such as the accuracy of numbers.
        loss: A name as in `TrainingOptions`, or a function of logits and targets, float32 (N, classes), where a row of
            targets sums to 1; of several labels each is 1, and a number is in standard deviations. It returns the mean
            loss, as `torch.nn.functional.cross_entropy` does. A head that would be fitted is then trained by AdamW.
            `label_smoothing` and `class_weights` have no effect on a function.
        preset: A name as in `run.preset`, such as `fast`: its augmentation and options of the training, where none are
            given. What it says about the model is an option of `build`, such as `head_stages="last"` for `keras`; with
            `best`, the model is `auto`.
        unlabelled: A folder, archive or table of images without labels. The head learns from them, too, if
            cross-validation on the labeled training images says that it helps; none is an image of val or test.
        pool_by: What the groups of the images are, such as "patient", if each has one label and gets one answer, from
            the mean features of its images. For a path it is as in `scan`. Default: as in the data set.
        reporter: Receives progress, epochs and messages. Default: progress bars in a notebook or terminal;
            `regraft.training.callbacks.NullReporter()` shows nothing.
        **options: Fields of `TrainingOptions`, such as `finetune_epochs=5`.

    Raises:
        UsageError: `model` or `split` is something else, or an option is wrong.
        RunError: `out` contains a run already.
        MissingExtraError: The package of a tracker is not installed.
        RegraftError: Reading the data, loading the weights or the training failed.

    Examples:
        >>> run = regraft.train(model, parts, out="runs/photos", finetune_epochs=1)
        >>> len(run.history)
        1

        From this run to another one, until a callback is content:

        >>> def enough(epoch, metrics):
        ...     return metrics["val_accuracy"] > 0.99
        >>> more = regraft.train("runs/photos", "photos", out="runs/more", callbacks=[enough])
        >>> more.classes
        ('daisy', 'rose', 'tulip')
    """
    started, reporter = time.monotonic(), reporter or NullReporter()
    options, loss_function = _with_loss(options, loss)
    earlier, is_auto = isinstance(model, (Run, str, os.PathLike)), model == AUTO
    if not (earlier or isinstance(model, Classifier)) or not (isinstance(split, Split) or earlier):
        received = f"{type(model).__name__} and {type(split).__name__}"
        raise UsageError(
            f"train(model, split) got {received}; expected the results of regraft.build and regraft.split, or a run to "
            "start from and data."
        )
    given = {"run.preset": preset, **{f"training.{name}": value for name, value in options.items()}}
    given |= {"data.unlabelled": None if unlabelled is None else str(unlabelled), "data.pool_by": pool_by}
    if isinstance(model, Classifier):
        config = load_config(overrides=given)
        if config.model.backbone == AUTO:
            raise UsageError(
                f'preset = {preset!r} chooses the backbone, and a model was given. Give "auto" in its place: '
                f'regraft.train("auto", split, preset={preset!r}).'
            )
        config = _resolved_config(model, config)
    elif is_auto:
        config = load_config(overrides={"model.backbone": AUTO, **given})
    else:
        config = load_config(overrides={"run.from_run": str(open_model(model).path), **given})
    if augmentation is not None:
        config = config.model_copy(update={"augmentation": augmentation})
    if track is not None:
        config = config.model_copy(update={"tracking": tracking_options(track)})
    if not isinstance(split, (Split, Dataset)):
        return train_from(
            split, config, out, reporter=reporter, started=started, callbacks=callbacks, loss=loss_function
        )
    given_model = model if isinstance(model, Classifier) else None
    refuse_early(config, out, with_model=given_model is not None)
    split = split if isinstance(split, Split) else split_with(split, config)
    scanned = split.dataset.scanned
    return train_split(
        given_model, split, config, out, "run", {"data": scanned, "resumable": False} if scanned else {},
        reporter, started, callbacks, loss_function,
    )  # fmt: skip


def _with_loss(options: dict[str, Any], loss: str | LossFunction | None) -> tuple[dict[str, Any], LossFunction | None]:
    """Options with the loss by its name, and the function if it is one."""
    if loss is None:
        return options, None
    if not callable(loss):
        return {**options, "loss": loss}, None
    if without_effect := sorted({"label_smoothing", "class_weights"} & set(options)):
        raise UsageError(f"{' and '.join(without_effect)} would have no effect on a loss function. Leave it out.")
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    return {**options, "custom_loss": f"{getattr(loss, '__module__', '')}.{name}"}, loss


def _resolved_config(model: Classifier, config: Config) -> Config:
    """Describe a model that was built from Python in a configuration, so that the run can be reproduced."""
    head, image, weights, default = model.head, model.preprocessing, model.weights, ModelOptions()
    name, size = model.spec.name, image.named_size
    if model.members:  # each has a size of its own
        name, size = ",".join(f"{one.spec.name}@{one.preprocessing.size}" for one in model.members), 0
    model_options = ModelOptions(
        backbone=name, image_size=size, resize=image.resize, pooling=model.pooling,
        head_stages=model.members[0].head_stages if model.members else model.head_stages,
        head="mlp" if head.widths else "linear",
        head_widths=head.widths or default.head_widths, head_activation=head.hidden_activation, dropout=head.dropout,
        weights=weights.name if weights.source in ("file", "run") else weights.source,
    )  # fmt: skip
    return config.model_copy(update={"model": model_options})


def tracking_options(names: str | Sequence[str]) -> TrackingOptions:
    """Options with these trackers, as one text or several; raises as `check_trackers`."""
    names = names.split(",") if isinstance(names, str) else list(names)
    check_trackers(names)
    return TrackingOptions(to=cast(Any, names))
