"""From labelled images to a finished run.

Enters: a `Config` and a path, or a `Classifier` and a `Split`. Leaves: a `Run`, whose folder was usable from the
moment that the head was trained.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from regraft.config import Config, load_config
from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.scan import scan
from regraft.data.split import split as split_dataset
from regraft.data.split import split_text, write_split
from regraft.data.urls import whole
from regraft.errors import RegraftError, RunError, UsageError
from regraft.files import write_json, write_text
from regraft.models.checkpoint import save_classifier
from regraft.models.classifier import Classifier, ModelOptions, build
from regraft.models.registry import find_backbone
from regraft.pipeline.folder import SCRATCH, claimed, new_folder, refuse_a_run
from regraft.pipeline.listening import told
from regraft.pipeline.outcome import calibrated, keep_outcome
from regraft.pipeline.planning import fit_into_budget
from regraft.pipeline.report import write_report
from regraft.pipeline.run import CONFIG, METRICS, SOURCE, SPLIT, STANDING, Run
from regraft.store import Store
from regraft.tracking.listener import tracking
from regraft.tracking.options import TrackingOptions
from regraft.tracking.tracker import Status, check_trackers
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.options import TrainingOptions
from regraft.training.progress import Listener, Silence
from regraft.training.train import train as train_classifier


def train_from(
    data: Path | str,
    config: Config,
    out: Path | str | None = None,
    *,
    listener: Listener | None = None,
    started: float | None = None,
) -> Run:
    """Scan, split, build, train and evaluate: what `regraft train` does.

    Args:
        data: A folder or a manifest, as `scan` takes it.
        config: All settings.
        out: The run's folder; it must not hold a run yet. Default: a new one under `runs/`.
        listener: Told how far the work is.
        started: Moment of `time.monotonic` at which a budget of time begins; default: now.

    Raises:
        RegraftError: Any of its kinds.
    """
    listener, started = listener or Silence(), time.monotonic() if started is None else started
    if out is not None:
        refuse_a_run(Path(out))
    model, split = prepare(data, config, listener)
    at_size = None if config.model.image_size else partial(build_for, config, split)
    model, config, deadline = fit_into_budget(model, split, config, started, listener, at_size=at_size)
    # Only now, so that a folder for runs within the data is not taken for a class.
    where = whole(data)
    with claimed(new_folder(out, Path(where).stem, config.model.backbone)) as path:
        write_json(path / SOURCE, {"data": where})
        listener.note(f"Run: {path}. If it is stopped, `regraft train --resume {path}` goes on with it.")
        return train_into(model, split, path, config, listener, deadline)


def resume(path: Path | str, *, track: str | Sequence[str] | None = None, listener: Listener | None = None) -> Run:
    """Go on with a run that was killed or interrupted, to the numbers that it would have ended with.

    Args:
        path: The run's folder. A run that is finished is left as it is.
        track: As of `train`; default: what the run has been tracked with so far.
        listener: Told how far the work is.

    Raises:
        UsageError: There is no such folder.
        RunError: The folder holds no run of `regraft train`, its data has changed, or another process is at work in it.
        RegraftError: Whatever else goes wrong.
    """
    path, listener = Path(path), listener or Silence()
    if not (path / SOURCE).is_file() or not (path / CONFIG).is_file():
        if not path.exists():
            raise UsageError(f"{path} does not exist. Expected the folder of a run that `regraft train` began.")
        raise RunError(
            f"{path} is no folder that `regraft train` made, or its training had not begun: there is nothing to "
            f"resume. Start it: regraft train DATA --out {path}"
        )
    with claimed(path, resumed=True):
        if (path / METRICS).is_file() and not (path / STANDING).is_file():
            listener.note(f"{path} is finished; nothing is left to do. Its result:")
            return Run(path)
        config = load_config(path / CONFIG)
        if track is not None:
            config = config.model_copy(update={"tracking": _tracking_options(track)})
        data = json.loads((path / SOURCE).read_text(encoding="utf-8"))["data"]
        model, split = prepare(data, config, listener)
        if (path / SPLIT).is_file() and split_text(split) != (path / SPLIT).read_text(encoding="utf-8"):
            raise RunError(f"{data} has changed since {path} was begun. Train anew, with another --out.")
        return train_into(model, split, path, config, listener)


def prepare(data: Path | str, config: Config, listener: Listener) -> tuple[Classifier, Split]:
    """Scan, split and build; what is quickly known to be wrong is said before."""
    # What is quickly known to be wrong is said before the work begins.
    find_backbone(config.model.backbone)
    check_trackers(config.tracking.to)
    choose_precision(config.training.precision, choose_device(config.training.device))
    if config.data.val + config.data.test >= 1:
        raise UsageError(f"data.val + data.test = {config.data.val + config.data.test:g} leaves nothing to train on.")
    dataset = scan(
        data,
        on_bad=config.data.on_bad,
        group_by=config.data.group_by,
        remote=config.data.remote,
        store=Store() if config.training.cache_gb else None,
        progress=lambda done, total: listener.work("scan", done, total, "images"),
        compare=lambda done, total: listener.work("near duplicates", done, total, "pairs"),
    )
    split = split_with(dataset, config)
    for note in (*dataset.notes, *_missing_parts(split, config)):
        listener.note(note)
    listener.note(describe(split))
    model = build_for(config, split, config.model.image_size)
    if (size := model.preprocessing.size) < model.spec.image_size and not config.model.image_size:
        listener.note(f"Images of {dataset.shorter_side} pixels: {size} is enough for the input (model.image_size).")
    return model, split


def build_for(config: Config, split: Split, image_size: int) -> Classifier:
    """The configuration's model for the classes of a split, at this side of the images in pixels (0: automatic)."""
    options = asdict(config.model) | {"image_size": image_size}
    return build(
        options.pop("backbone"),
        classes=split.classes,
        shorter_side=split.dataset.shorter_side,
        seed=config.training.seed,
        **options,
    )


def split_with(dataset: Dataset, config: Config) -> Split:
    """Split by the configuration's shares and seed."""
    val, test = config.data.val, config.data.test
    return split_dataset(
        dataset,
        train=1 - val - test,
        val=val,
        test=test,
        seed=config.training.seed,
        keep=config.data.keep_split or None,
    )


@told
def train(
    model: Classifier,
    split: Split,
    *,
    out: Path | str | None = None,
    augmentation: Augmentation | None = None,
    track: str | Sequence[str] = (),
    listener: Listener | None = None,
    **options: Any,
) -> Run:
    """Train a model on a split, evaluate it, and keep all of it in a run's folder.

    Args:
        model: From `build`; trained in place.
        split: From `split`.
        out: The run's folder; it must not hold a run yet. Default: a new one under `runs/`.
        augmentation: Of the training images; default: flips, crops and colours.
        track: `tensorboard`, `wandb` or `mlflow`, or several; they change no number and can fail without harm.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.
            `regraft.training.progress.Silence()` keeps quiet there too.
        **options: Fields of `TrainingOptions`, such as `finetune_epochs=5`.

    Raises:
        RunError: `out` holds a run already.
        MissingExtraError: What `track` names is not installed.
        RegraftError: Whatever else goes wrong.
    """
    started, listener = time.monotonic(), listener or Silence()
    config = _config_of(model, augmentation or Augmentation(), options)
    config = config.model_copy(update={"tracking": _tracking_options(track)})
    check_trackers(config.tracking.to)
    model, config, deadline = fit_into_budget(model, split, config, started, listener)
    with claimed(new_folder(out, "run", model.spec.name)) as path:
        return train_into(model, split, path, config, listener, deadline)


def train_into(
    model: Classifier,
    split: Split,
    path: Path,
    config: Config,
    listener: Listener,
    deadline: float | None = None,
) -> Run:
    """Train, evaluate and keep all of it in a folder that is claimed; goes on from the state that lies in it."""
    settings = config.model_dump(mode="json")
    with tracking(config.tracking.to, settings, path, listener) as tracked:
        run = _train_told(model, split, path, config, tracked, deadline)
        stopped = run.metrics["training"]["stopped"]
        status: Status = "finished" if stopped is None else "interrupted" if stopped == "interrupted" else "failed"
        tracked.finish(status, run.metrics, sorted((path / "plots").glob("*.png")))
    return run


def _train_told(
    model: Classifier, split: Split, path: Path, config: Config, listener: Listener, deadline: float | None
) -> Run:
    write_text(path / CONFIG, config.to_toml())
    write_split(path / SPLIT, split)
    training = train_classifier(
        model,
        split,
        augmentation=config.augmentation,
        scratch=path / SCRATCH,
        standing=path / STANDING,
        listener=listener,
        on_better=lambda better: save_classifier(better, path),
        deadline=deadline,
        **asdict(config.training),
    )
    model.cpu()
    held_out = calibrated(model, split, listener)
    save_classifier(model, path)
    keep_outcome(path, model, split, training, held_out)
    if training.stopped != "interrupted":
        shutil.rmtree((path / STANDING).parent, ignore_errors=True)
    run = Run(path, model)
    try:
        write_report(run, split.dataset)
    except RegraftError as error:  # the run is whole without it
        listener.note(f"The report could not be written: {error} `regraft report {path}` writes it.")
    return run


def _missing_parts(split: Split, config: Config) -> Iterator[str]:
    for part, share in (("val", config.data.val), ("test", config.data.test)):
        if share and part not in set(split):
            yield f"There are too few images (or groups) for a {part} part of {share:g}."


def describe(split: Split) -> str:
    """One line about the data: images, classes, parts, what was left out."""
    parts = ", ".join(f"{len(split[part])} {part}" for part in split)
    text = f"{len(split.dataset)} images in {len(split.classes)} classes: {parts}."
    bad, ignored = split.dataset.bad, split.dataset.ignored
    if bad:
        text += f" {len(bad)} cannot be read and {'is' if len(bad) == 1 else 'are'} left out: " + "; ".join(
            f"{b.path} ({b.reason})" for b in bad[:5]
        )
        text += f"; and {len(bad) - 5} more in {METRICS}." if len(bad) > 5 else "."
    if ignored:
        what = "other file is no image" if len(ignored) == 1 else "other files are no images"
        text += f" {len(ignored)} {what}, such as {ignored[0]}."
    return text


def _config_of(model: Classifier, augmentation: Augmentation, options: Mapping[str, Any]) -> Config:
    return Config(
        model=ModelOptions(
            backbone=model.spec.name,
            image_size=model.preprocessing.size,
            resize=model.preprocessing.resize,
            pooling=model.pooling,
            head_stages=model.head_stages,
            head="mlp" if model.head.widths else "linear",
            head_widths=model.head.widths or ModelOptions().head_widths,
            dropout=model.head.dropout if model.head.widths else ModelOptions().dropout,
            weights=model.weights.name if model.weights.source == "file" else model.weights.source,
        ),
        augmentation=augmentation,
        training=TrainingOptions(**options),
    )


def _tracking_options(names: str | Sequence[str]) -> TrackingOptions:
    """The names, each of which a tracker has."""
    names = [names] if isinstance(names, str) else list(names)
    check_trackers(names)
    return TrackingOptions(to=cast(Any, names))
