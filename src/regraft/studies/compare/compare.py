"""Compare backbones, baselines and runs on the same test images; each model is trained in a subprocess of its own."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path

from regraft.atomic_io import write_json, write_text
from regraft.cluster.executor import Cluster, Executor, Task, open_executor
from regraft.config import Config
from regraft.data.sources.urls import absolute, is_url, redact
from regraft.errors import BudgetError, DataError, RegraftError, RunError, UsageError, WeightsError, continued_in
from regraft.evaluation.comparison import Difference, holm, paired_difference
from regraft.models.registry import BASELINES, find_backbone
from regraft.models.serialization import WEIGHTS
from regraft.report.run_table import run_row
from regraft.runs.progress import with_progress
from regraft.runs.report import write_report
from regraft.runs.run import SPLIT, Run
from regraft.runs.run_folder import new_folder
from regraft.runs.subprocess_train import Timing, time_in_subprocess, train_in_subprocess
from regraft.studies.compare.result import ComparedModel, Comparison, ModelPair, conclude
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter

#: Learning rate and least epochs of a baseline network, which trains as a whole from random weights.
_BASELINE_LR, _BASELINE_EPOCHS = 1e-3, 30
#: Seconds that a subprocess takes besides its training, to start and to time predictions, until it is measured.
_OVERHEAD = 10.0
#: Seconds to write the report of a model again, with the comparison in it.
_REPORT = 1.5
#: How much longer than before a model must train in the time that is left, so that it trains again.
_WORTH_IT = 1.3
#: Folder of the comparison's own cache: each model computes its features, whatever was trained before.
_CACHE = ".cache"


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
        UsageError: Fewer than two models, an unknown name, or a folder with something else.
        RunError: No model could be trained, or a run has no test images.

    Examples:
        >>> comparison = regraft.compare(runs=["runs/photos", "runs/more"], out="runs/comparison")
        >>> sorted(model.name for model in comparison.models)
        ['more', 'photos']
    """
    started, reporter, config = time.monotonic(), reporter or NullReporter(), config or Config()
    budget = budget or config.training.budget
    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    folders = list({path.resolve(): path for path in paths}.values())
    names = _check_names(data, backbones, baselines, folders)
    _check_budget(budget, len(names))
    path = _prepare_folder(out, data, names, config)
    models: dict[str, ComparedModel] = {}
    failed: dict[str, str] = {}
    overheads: list[float] = []  # measured seconds
    for run in folders:  # first, so that one that cannot be read fails before the work
        name, before = run.name if run.name not in (*names, *models) else str(run), time.monotonic()
        models[name] = _measure(name, Run(run), time_in_subprocess(run, reporter))
        overheads.append(time.monotonic() - before)
    if baselines and (ignored := _settings_not_for_baselines(config)):
        reporter.on_message(
            f"{', '.join(baselines)}: {', '.join(ignored)} does not apply, because a baseline trains as a whole, from "
            f"scratch, for at least {_BASELINE_EPOCHS} epochs."
        )
    deadline = started + budget - len(names) * _REPORT if budget else None
    order = sorted(names, key=_promise) if budget else names
    with continued_in(path), open_executor(cluster) as executor:
        trainer = _Trainer(_place(data), config, path, deadline, random_if_missing, reporter, executor, overheads)
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
    ordered = sorted(models.values(), key=lambda m: (-m.test_accuracy, m.test_loss, m.train_seconds))
    pairs, notes = _compare_pairs(ordered)
    conclusion = (*conclude(ordered, pairs, failed), *notes)
    result = Comparison(
        tuple(ordered), tuple(pairs), conclusion, failed, path, time.monotonic() - started, _untested(ordered)
    )
    result.write()
    shutil.rmtree(path / _CACHE, ignore_errors=True)
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
        if not len(Run(run).predictions.part("test")):
            raise NoTestError(f"{run} has no test images to compare models by.")
    return names


def _check_budget(budget: float, models: int) -> None:
    """Refuse a budget that the processes of the trainings use up before any training."""
    if budget and budget < (least := models * (_OVERHEAD + _REPORT)):
        raise BudgetError(
            f"A budget of {budget:g} s is too short for {pluralize(models, 'model')}: to start a process for each, to "
            f"time its predictions and to write its report takes about {least:.0f} s, without any training. Give at "
            f"least {3 * least:.0f} s, or compare fewer models."
        )


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


def _config_for(config: Config, name: str, budget: float) -> Config:
    training = replace(config.training, budget=budget)
    model = replace(config.model, backbone=name)
    if name in BASELINES:
        epochs = max(_BASELINE_EPOCHS, training.finetune_epochs)
        training = replace(training, finetune_from="all", finetune_lr=_BASELINE_LR, finetune_epochs=epochs)
        model = replace(model, weights="auto", image_size=0)
    return config.model_copy(update={"model": model, "training": training})


def _settings_not_for_baselines(config: Config) -> list[str]:
    """Settings other than the defaults that a baseline does not follow."""
    changed = _config_for(config, next(iter(BASELINES)), 0.0)
    return [
        f"{section}.{name}"
        for section in ("model", "training")
        for name, value in asdict(getattr(config, section)).items()
        if name not in ("backbone", "budget")
        and value not in (getattr(getattr(Config(), section), name), getattr(getattr(changed, section), name))
    ]


def _promise(name: str) -> tuple[bool, float]:
    """Sort key: pretrained models before baselines, then those with less computation; unknown computation last."""
    return name in BASELINES, find_backbone(name).gmac or float("inf")


def _place(data: Path | str | None) -> str:
    """The data as a worker finds it, whose current folder may be another."""
    return str(data) if data is None or is_url(data) else os.path.abspath(data)


@dataclass
class _Attempt:
    """A training of a model by a configuration into a folder; `is_least` if it is the smallest that there is."""

    name: str
    out: Path
    config: Config
    is_least: bool = False
    started: float = 0.0


@dataclass
class _Trainer:
    """Trains models in the time until the deadline.

    `overheads` are the seconds that subprocesses took besides what was meant for their training, and `shares` the
    seconds that each model had.
    """

    data: str
    config: Config
    path: Path
    deadline: float | None
    random_if_missing: bool
    reporter: ProgressReporter
    executor: Executor
    overheads: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

    def train(self, names: Sequence[str]) -> Iterator[tuple[str, Future[tuple[Run, Timing]]]]:
        """Train models, as many at once as the executor has slots; yield each when it has ended."""
        waiting = list(names)

        def next_attempt() -> _Attempt | None:
            if not waiting:
                return None
            name, number = waiting.pop(0), len(names) - len(waiting)
            self.reporter.on_progress("models", number - 1, len(names), name)
            self.reporter.on_message(f"{name} ({number} of {len(names)})")
            share = 0.0
            if self.deadline is not None:
                rounds = math.ceil((len(waiting) + 1) / self.executor.slots)
                left = max(0.0, self._left())  # without any, the training says so
                share = self.shares[name] = max(1.0, (left + self.overhead) / rounds - self.overhead)
            return _Attempt(name, self.path / name, _config_for(self.config, name, share))

        yield from self._run(next_attempt)

    def _run(self, next_attempt: Callable[[], _Attempt | None]) -> Iterator[tuple[str, Future[tuple[Run, Timing]]]]:
        """Run attempts; one without weights or time is followed by one that needs none, or less."""
        running: dict[Task, _Attempt] = {}
        following: list[_Attempt] = []
        out_of_time: list[_Attempt] = []

        def next_task() -> Task | None:
            while (attempt := following.pop() if following else next_attempt()) is not None:
                if self.deadline is not None and self._left() <= 0:
                    out_of_time.append(attempt)
                    continue
                attempt.started = time.monotonic()
                settings = self.path / f"{attempt.name}.toml"
                write_text(settings, attempt.config.with_absolute_weights().to_toml())
                places = (path.resolve() for path in (settings, attempt.out, self.path / _CACHE))
                task = Task(attempt.name, train_in_subprocess, (self.data, *places), self.reporter)
                running[task] = attempt
                return task
            return None

        for task, future in self.executor.run(next_task):
            attempt = running.pop(task)
            if (smaller := self._attempt_after(attempt, future.exception())) is not None:
                following.append(smaller)
                continue
            ended: Future[tuple[Run, Timing]] = Future()
            try:
                timing = future.result()
                self._measure_overhead(attempt, timing)
                ended.set_result((Run(attempt.out), timing))
            except Exception as error:
                ended.set_exception(error)
            yield attempt.name, ended
        for attempt in out_of_time:
            ended = Future()
            ended.set_exception(BudgetError("no time was left in the budget, which all models share"))
            yield attempt.name, ended

    def _attempt_after(self, attempt: _Attempt, error: BaseException | None) -> _Attempt | None:
        """What to train instead after an error, or None."""
        name, config = attempt.name, attempt.config
        if isinstance(error, WeightsError) and self.random_if_missing and config.model.weights != "none":
            self.reporter.on_message(f"{name}: its weights are not available, so it starts from random ones.")
            config = config.model_copy(update={"model": replace(config.model, weights="none")})
            return replace(attempt, config=config)
        if isinstance(error, BudgetError) and self.deadline is not None and not attempt.is_least:
            if (left := self._left()) <= 0:
                return None
            least = "one epoch" if name in BASELINES else "its head alone"
            self.reporter.on_message(
                f"{name} does not fit into its share, {self.shares[name]:.0f} s, and trains {least}."
            )
            training = replace(config.training, budget=left, finetune_epochs=int(name in BASELINES))
            return replace(attempt, config=config.model_copy(update={"training": training}), is_least=True)
        return None

    def choose_again(self, models: Mapping[str, ComparedModel]) -> str | None:
        """The most accurate on validation of the models for whose wanted epochs there was no time, but is now."""
        left = 0.0 if self.deadline is None else self._left()
        names = [
            name
            for name, share in self.shares.items()
            if name in models and share * _WORTH_IT < left
            and models[name].finetune_epochs < self._wanted_epochs(name)
        ]  # fmt: skip
        return max(names, key=lambda n: (n not in BASELINES, models[n].val_accuracy or 0.0), default=None)

    def train_again(self, name: str) -> tuple[Run, Timing]:
        """Train a model anew in all the time that is left, and replace its run."""
        share = self.shares[name] = self._left()
        new = self.path / f"{name}-again"
        attempts = iter([_Attempt(name, new, _config_for(self.config, name, share), is_least=True)])
        ((_, future),) = self._run(lambda: next(attempts, None))
        _, timing = future.result()
        shutil.rmtree(self.path / name)
        new.rename(self.path / name)
        return Run(self.path / name), timing

    @property
    def overhead(self) -> float:
        """Seconds that the next subprocess may take besides its training."""
        return max(self.overheads, default=_OVERHEAD)

    def _measure_overhead(self, attempt: _Attempt, timing: Timing) -> None:
        # What a training takes beyond its budget counts as well, so that the next ones get less.
        if (budget := attempt.config.training.budget) and timing.training:
            self.overheads.append(time.monotonic() - attempt.started - min(timing.training, budget))

    def _left(self) -> float:
        assert self.deadline is not None
        return self.deadline - time.monotonic() - self.overhead

    def _wanted_epochs(self, name: str) -> int:
        training = _config_for(self.config, name, 0.0).training
        return 0 if training.early_stopping or training.finetune_from == "none" else training.finetune_epochs


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
        "predict_ms_1": timing.one, "predict_ms_32": timing.batch, "test_loss": test["loss"],
        "test_accuracy_interval": tuple(test["accuracy_interval"]),
        "test_macro_f1_interval": tuple(test["intervals"]["macro_f1"]), "test_images": test["count"],
    })  # fmt: skip


def _untested(models: Sequence[ComparedModel]) -> tuple[str, ...]:
    """Names of the classes without a test image."""
    names: dict[str, None] = {}
    for model in models:
        test = Run(model.run).predictions.part("test")
        present = set(test.labels.tolist())
        names |= {name: None for index, name in enumerate(test.classes) if index not in present}
    return tuple(names)


def _compare_pairs(models: Sequence[ComparedModel]) -> tuple[list[ModelPair], list[str]]:
    """Compare every two models with the same test images, and name in a sentence those whose test images differ."""
    predictions = {m.name: Run(m.run).predictions.part("test") for m in models}
    images = {m.name: _test_images(Path(m.run)) for m in models}
    pairs: list[tuple[str, str, Difference]] = []
    different: list[str] = []
    for first, second in combinations(predictions, 2):
        with suppress(DataError):  # other labels
            if images[first] == images[second]:
                pairs.append((first, second, paired_difference(predictions[first], predictions[second])))
                continue
        different.append(f"{first} and {second}")
    corrected = holm([difference.p for *_, difference in pairs])
    notes = [f"Not compared, because their test images differ: {join_truncated(different)}."] if different else []
    return [ModelPair(*pair, p) for pair, p in zip(pairs, corrected, strict=True)], notes


def _test_images(run: Path) -> dict[str, str]:
    with (run / SPLIT).open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["sha256"] for row in csv.DictReader(file) if row["part"] == "test"}
