"""Compare backbones, baselines and runs on the same test images; each model is trained in a subprocess of its own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np

from regraft.atomic_io import write_json
from regraft.cluster.executor import Cluster, open_executor
from regraft.config import Config
from regraft.data.sources.urls import absolute, is_url, redact
from regraft.errors import DataError, RegraftError, RunError, UsageError, continued_in
from regraft.evaluation.comparison import holm
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.tasks import AnyDifference, AnyPredictions, paired_difference_any
from regraft.models.registry import BASELINES, find_backbone
from regraft.models.serialization import WEIGHTS
from regraft.report.run_table import run_row
from regraft.runs.progress import with_progress
from regraft.runs.report import write_report
from regraft.runs.run import SPLIT, Run
from regraft.runs.run_folder import new_folder
from regraft.runs.scan_and_split import asked_task, refuse_settings_of_classes
from regraft.runs.subprocess_train import Timing, time_in_subprocess
from regraft.runs.teacher import refuse_teacher
from regraft.runs.unlabelled import refuse_unlabeled
from regraft.spreadsheets import read_records
from regraft.studies.compare.result import ComparedModel, Comparison, ModelPair, conclude
from regraft.studies.compare.trainer import (
    BASELINE_EPOCHS,
    CACHE,
    REPORT_SECONDS,
    ModelTrainer,
    check_budget,
    promise_of,
    settings_not_for_baselines,
)
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter


class NoTestError(RunError):
    """A run has no test images to compare models by."""


@with_progress
def compare(
    data: Path | str | None = None,
    backbones: Sequence[str] = (),
    *,
    baselines: Sequence[str] = (),
    runs: Sequence[Run | Path | str] = (),
    config: Config | None = None,
    budget: float = 0.0,
    random_if_missing: bool = False,
    out: Path | str | None = None,
    cluster: Cluster | str | None = None,
    reporter: ProgressReporter | None = None,
) -> Comparison:
    """Train each model on the same split and compare them on the same test images.

    The score is the accuracy, the mean average precision where an image has any number of classes, or the mean absolute
    error where it has a number.

    Args:
        data: Labeled images that `scan` takes; not needed if only runs are compared.
        backbones: Names from `regraft backbones`, or any timm names.
        baselines: `ann`, `cnn` or both: small networks that train from random weights.
        runs: Existing runs or their folders, trained on the same split.
        config: Configuration of all trainings; the baselines train as a whole, for 30 epochs.
        budget: Seconds for all trainings together; 0: no limit. Pretrained models come first, cheap ones before
            expensive ones, each with an even share of what is left. One that does not fit into its share trains its
            head alone (a baseline one epoch), and what is left in the end goes to models that trained less than asked.
        random_if_missing: Whether a backbone starts from random weights if its own are not available; it is marked.
        out: Folder; an unfinished comparison in it is resumed. Default: a new one under `runs/`.
        cluster: Address of a Ray cluster that trains models at the same time (`ray://HOST:10001`, `auto` or `local`),
            whose nodes see the data and `out` at the same paths.
        reporter: Receives the progress. Default: progress bars in a notebook or terminal.

    Raises:
        UsageError: Fewer than two models, an unknown name, runs of several tasks, or a folder with something else.
        RunError: No model could be trained, or a run has no test images.

    Examples:
        >>> comparison = regraft.compare(runs=["runs/photos", "runs/more"], out="runs/comparison")
        >>> sorted(model.name for model in comparison.models)
        ['more', 'photos']
    """
    started, reporter, config = time.monotonic(), reporter or NullReporter(), config or Config()
    budget = budget or config.training.budget
    refuse_teacher(config, "regraft compare")
    refuse_unlabeled(config, "regraft compare")
    refuse_settings_of_classes(asked_task(config), config)
    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    folders = list({path.resolve(): path for path in paths}.values())
    names = _check_names(data, backbones, baselines, folders)
    check_budget(budget, len(names))
    path = _prepare_folder(out, data, names, config)
    models: dict[str, ComparedModel] = {}
    failed: dict[str, str] = {}
    overheads: list[float] = []  # measured seconds
    for run in folders:  # first, so that one that cannot be read fails before the work
        name, before = run.name if run.name not in (*names, *models) else str(run), time.monotonic()
        models[name] = _measure(name, Run(run), time_in_subprocess(run, reporter))
        overheads.append(time.monotonic() - before)
    if baselines and (ignored := settings_not_for_baselines(config)):
        reporter.on_message(
            f"Without effect on {', '.join(baselines)}: {', '.join(ignored)}. A baseline trains as a whole, from "
            f"scratch, for at least {BASELINE_EPOCHS} epochs."
        )
    deadline = started + budget - len(names) * REPORT_SECONDS if budget else None
    order = sorted(names, key=promise_of) if budget else names
    with continued_in(path), open_executor(cluster) as executor:
        trainer = ModelTrainer(_place(data), config, path, deadline, random_if_missing, reporter, executor, overheads)
        for name, future in trainer.train(order):
            try:
                models[name] = _measure(name, *future.result())
            except NoTestError:
                raise
            except RegraftError as error:
                failed[name] = str(error)
                reporter.on_message(f"{name} could not be trained: {error}")
        while (again := trainer.choose_again(models)) is not None:
            reporter.on_message(f"{again} trains again, because there is time left for more than it had.")
            with suppress(RegraftError):  # the first training stays
                models[again] = _measure(again, *trainer.train_again(again))
    reporter.on_progress("models", len(names), len(names))
    if not models:
        reasons = "\n  ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RunError(f"None of {pluralize(len(names), 'model')} could be trained:\n  {reasons}")
    ordered = sorted(models.values(), key=lambda m: (-m.merit, m.test_loss, m.train_seconds))
    pairs, notes = _compare_pairs(ordered)
    conclusion = (*conclude(ordered, pairs, failed), *notes)
    result = Comparison(
        tuple(ordered), tuple(pairs), conclusion, failed, path, time.monotonic() - started, _untested(ordered)
    )
    result.write()
    shutil.rmtree(path / CACHE, ignore_errors=True)
    for model in ordered:  # each report now shows the comparison
        if Path(model.run).resolve().parent == path.resolve():
            write_report(model.run)
    return result


def _check_names(
    data: Path | str | None, backbones: Sequence[str], baselines: Sequence[str], runs: Sequence[Path | str]
) -> list[str]:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise UsageError(f"--with {', '.join(unknown)}: expected {' or '.join(BASELINES)}.")
    names = list(dict.fromkeys([*(find_backbone(name).name for name in backbones), *baselines]))
    if len(names) + len(runs) < 2:
        raise UsageError(f"{pluralize(len(names) + len(runs), 'model')} to compare; expected at least two.")
    if names and data is None:
        raise UsageError(f"{', '.join(names)}: expected DATA to train on.")
    for run in runs:
        if not len(_test_part(Run(run))):
            raise NoTestError(f"{run} has no test images to compare models by.")
    if len(tasks := {Run(run).task for run in runs}) > 1:
        raise UsageError(f"The runs have the tasks {' and '.join(sorted(tasks))}; expected one task.")
    return names


def _test_part(run: Run) -> AnyPredictions:
    return run.every_prediction.part("test")


def _prepare_folder(out: Path | str | None, data: Path | str | None, names: Sequence[str], config: Config) -> Path:
    """Create the folder with a file of the settings, since only a comparison with the same settings is resumed."""
    settings = {"data": None if data is None else absolute(data), "config": config.to_toml()}
    path = Path(out) if out is not None else new_folder(None, Path(redact(str(data or "runs"))).stem, "compare")
    file = path / "settings.json"
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != settings:
            raise UsageError(f"{path} contains a comparison with other data or settings. Choose another --out.")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not empty, and nothing is overwritten. Choose another --out.")
    path.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
    return path


def _place(data: Path | str | None) -> str:
    """The data as a worker finds it, whose current folder may be another."""
    return str(data) if data is None or is_url(data) else os.path.abspath(data)


def _measure(name: str, run: Run, timing: Timing) -> ComparedModel:
    metrics = run.metrics
    if "test" not in metrics:
        raise NoTestError(f"{run.path} has no test images to compare models by. Add images, or raise data.test.")
    test, row = metrics["test"], run_row(metrics)
    return ComparedModel(**row | {
        "name": name, "run": str(run.path), "megabytes": (run.path / WEIGHTS).stat().st_size / 1e6,
        "train_seconds": row["train_seconds"] - metrics["time"]["steps"].get("decode", 0.0),
        "stopped": metrics["training"]["stopped"],
        "finetune_epochs": sum(epoch["phase"] == "finetune" for epoch in run.history),
        "predict_ms_1": timing.one, "predict_ms_32": timing.batch,
        "test_loss": test["loss"] if "loss" in test else test["rmse"] ** 2,
        "test_images": test["count"],
        **{name: tuple(value) for name, value in row.items() if name.endswith("_interval") and value is not None},
    })  # fmt: skip


def _untested(models: Sequence[ComparedModel]) -> tuple[str, ...]:
    """Names of the classes without a test image."""
    names: dict[str, None] = {}
    for model in models:
        test = _test_part(Run(model.run))
        if isinstance(test, RegressionPredictions):
            return ()
        if isinstance(test, MultilabelPredictions):
            present = set(np.flatnonzero(test.indicators.any(axis=0) & ~test.indicators.all(axis=0)).tolist())
        else:
            present = set(test.labels.tolist())
        names |= {name: None for index, name in enumerate(test.classes) if index not in present}
    return tuple(names)


def _compare_pairs(models: Sequence[ComparedModel]) -> tuple[list[ModelPair], list[str]]:
    """Compare every two models with the same test images, and name in a sentence those whose test images differ."""
    predictions = {m.name: _test_part(Run(m.run)) for m in models}
    images = {m.name: _test_images(Path(m.run)) for m in models}
    pairs: list[tuple[str, str, AnyDifference]] = []
    different: list[str] = []
    for first, second in combinations(predictions, 2):
        with suppress(DataError):  # other labels
            if images[first] == images[second]:
                pairs.append((first, second, paired_difference_any(predictions[first], predictions[second])))
                continue
        different.append(f"{first} and {second}")
    corrected = holm([difference.p for *_, difference in pairs])
    notes = [f"Not compared, because their test images differ: {join_truncated(different)}."] if different else []
    return [ModelPair(*pair, p) for pair, p in zip(pairs, corrected, strict=True)], notes


def _test_images(run: Path) -> dict[str, str]:
    with (run / SPLIT).open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["sha256"] for row in read_records(file) if row["part"] == "test"}
