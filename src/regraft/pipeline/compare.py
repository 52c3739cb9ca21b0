"""Compare backbones, plain networks and runs that exist, on the same images.

Enters: data and names. Leaves: a `Comparison`, and a folder with a run for each, a table and a picture. Each training
has a process of its own: its memory is its own, and what ends it does not end the others.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from regraft.config import Config
from regraft.data.urls import shown, whole
from regraft.errors import DataError, RegraftError, RunError, UsageError, WeightsError, counted, listed
from regraft.evaluation.comparison import SIGNIFICANT, Difference, holm, paired_difference
from regraft.evaluation.predictions import Predictions
from regraft.files import csv_text, write_json, write_text
from regraft.models.checkpoint import WEIGHTS
from regraft.models.registry import BASELINES, find_backbone
from regraft.pipeline.apart import Timing, time_apart, train_apart
from regraft.pipeline.folder import new_folder
from regraft.pipeline.listening import told
from regraft.pipeline.report import write_report
from regraft.pipeline.run import SPLIT, Run
from regraft.report.comparison import markdown_of, plot_comparison
from regraft.shown import Shown
from regraft.training.progress import Listener, Silence

_RESULT, _TABLE, _MARKDOWN, _PICTURE = "comparison.json", "comparison.csv", "comparison.md", "comparison.png"
#: Learning rate and least epochs of a plain network, all of which trains, from random weights.
_RATE_FROM_SCRATCH, _EPOCHS_FROM_SCRATCH = 1e-3, 30
#: Seconds that a process needs beside its training: to start, to time its predictions, to write its report.
_START = 10.0
#: Folder of what is kept while the models are trained: each pays for its own, whatever was trained before.
_STORE = ".store"


class NoTestError(RunError):
    """There is nothing to compare models by."""


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    Attributes:
        name: Of the backbone, or of the folder of a run that existed.
        run: Folder.
        weights: Where it began: `file`, `wheel`, `hub`, or `none` (random weights).
        parameters: Backbone and head.
        image_size: Side of the input in pixels.
        megabytes: Of the weights' file, in 10^6 bytes.
        peak_megabytes: The most memory of the process that trained it, in 10^6 bytes.
        train_seconds: Training alone, by the wall clock, without decoding the images, which only the first model of a
            size has to do.
        finetune_epochs: That ran, beside the solved head; a budget may have left none.
        predict_ms_1: The network's time for an image alone, in milliseconds, decoding not counted.
        predict_ms_32: The same in batches of 32.
        train_accuracy: On the plain training images, 0..1; None where training was stopped before.
        val_accuracy: 0..1; None without validation images.
        test_accuracy: 0..1.
        test_accuracy_interval: 95 % Wilson interval, (low, high).
        test_macro_f1: 0..1.
        test_macro_f1_interval: 95 % interval by the Bayesian bootstrap, (low, high).
        test_images: How many.
        stopped: Why training ended early, or None.
    """

    name: str
    run: str
    weights: str
    parameters: int
    image_size: int
    megabytes: float
    peak_megabytes: float
    train_seconds: float
    finetune_epochs: int
    predict_ms_1: float
    predict_ms_32: float
    train_accuracy: float | None
    val_accuracy: float | None
    test_accuracy: float
    test_accuracy_interval: tuple[float, float]
    test_macro_f1: float
    test_macro_f1_interval: tuple[float, float]
    test_images: int
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class Pair:
    """Two rows, the difference on the same test images, and its probability by chance, corrected for all pairs."""

    first: str
    second: str
    difference: Difference
    p_corrected: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"first": self.first, "second": self.second, **self.difference.to_json(),
                "p_corrected": self.p_corrected}  # fmt: skip


@dataclass(frozen=True)
class Comparison(Shown, by="regraft.pipeline.notebook.comparison"):
    """The table, and what may be said by it.

    Attributes:
        models: The most accurate on the test images first.
        pairs: Every two of them that have the same test images.
        conclusion: In sentences.
        failed: Names, and why they could not be trained.
        path: Folder of the table and the new runs.
        seconds: That it took by the wall clock.
    """

    models: tuple[Measured, ...]
    pairs: tuple[Pair, ...]
    conclusion: tuple[str, ...]
    failed: dict[str, str]
    path: Path
    seconds: float

    def __repr__(self) -> str:
        """One line."""
        return f"Comparison({', '.join(f'{m.name} {m.test_accuracy:.3f}' for m in self.models)})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "models": [model.to_json() for model in self.models],
            "pairs": [pair.to_json() for pair in self.pairs],
            "conclusion": list(self.conclusion),
            "failed": self.failed,
            "path": str(self.path),
            "seconds": self.seconds,
        }


@told
def compare(
    data: Path | str | None = None,
    backbones: Sequence[str] = (),
    *,
    baselines: Sequence[str] = (),
    runs: Sequence[Path | str] = (),
    config: Config | None = None,
    budget: float = 0.0,
    random_if_missing: bool = False,
    out: Path | str | None = None,
    listener: Listener | None = None,
) -> Comparison:
    """Train each on the same split and compare them on the same test images.

    Args:
        data: As for `regraft train`; not needed where only runs are compared.
        backbones: Names that `regraft backbones` lists, or any timm names.
        baselines: `ann`, `cnn` or both: plain networks from random weights.
        runs: Folders of runs that exist, trained on the same split.
        config: Of all trainings; the plain networks train as a whole, for 30 epochs.
        budget: Seconds that all may take together, shared evenly; 0: no limit.
        random_if_missing: Whether a backbone whose weights cannot be had begins with random ones, and is called so.
        out: Folder; one that an earlier call left unfinished is gone on with. Default: a new one under `runs/`.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

    Raises:
        UsageError: Fewer than two models, a name that nobody knows, or a folder of something else.
        RunError: None of them could be trained, or a run has no test images.
    """
    started, listener, config = time.monotonic(), listener or Silence(), config or Config()
    budget = budget or config.training.budget
    folders = list({run.resolve(): run for run in map(Path, runs)}.values())
    names = _checked(data, backbones, baselines, folders)
    path = _folder(out, data, names, config)
    models: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    for run in folders:  # first, so that one that cannot be read is known before the work
        name = run.name if run.name not in (*names, *models) else str(run)
        models[name] = _measured(name, Run(run), time_apart(run, listener))
    for number, name in enumerate(names):
        listener.work("models", number, len(names), name)
        listener.note(f"{name} ({number + 1} of {len(names)})")
        left = budget - (time.monotonic() - started) if budget else 0.0
        settings = _settings(config, name, max(1.0, left / (len(names) - number) - _START) if budget else 0.0)
        try:
            if budget and left <= _START:
                raise RunError("nothing was left of the budget, which all of them share")
            trained = _trained(str(data), name, settings, path, random_if_missing, listener)
            models[name] = _measured(name, *trained)
        except NoTestError:
            raise
        except RegraftError as error:
            failed[name] = str(error)
            listener.note(f"{name} could not be trained: {error}")
    listener.work("models", len(names), len(names))
    if not models:
        reasons = "\n  ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RunError(f"None of {counted(len(names), 'model')} could be trained:\n  {reasons}")
    ordered = sorted(models.values(), key=lambda m: (-m.test_accuracy, m.train_seconds))
    pairs, notes = _pairs(ordered)
    result = Comparison(
        tuple(ordered),
        tuple(pairs),
        (*conclude(ordered, pairs), *notes),
        failed,
        path,
        time.monotonic() - started,
    )
    _write(result)
    shutil.rmtree(path / _STORE, ignore_errors=True)
    for model in ordered:  # the page of each now shows them all
        if Path(model.run).resolve().parent == path.resolve():
            write_report(model.run)
    return result


def conclude(models: Sequence[Measured], pairs: Sequence[Pair]) -> list[str]:
    """What the table says, and what it does not.

    Args:
        models: The most accurate first.
        pairs: Of them.
    """
    best, *others = models
    low, high = best.test_accuracy_interval
    said = [
        f"{best.name} has the highest accuracy on {counted(best.test_images, 'test image')}: "
        f"{100 * best.test_accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})."
    ]
    by_name = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    found = [(m, by_name[frozenset((best.name, m.name))]) for m in others if frozenset((best.name, m.name)) in by_name]
    worse = [m.name for m, pair in found if pair.p_corrected < SIGNIFICANT]
    alike = [m for m, pair in found if pair.p_corrected >= SIGNIFICANT]
    if worse:
        said.append(f"It is better than {listed(worse)}, beyond chance.")
    if alike:
        said.append(f"Between it and {listed(m.name for m in alike)} no difference can be shown.")
        group = [best, *alike]
        fastest = min(group, key=lambda m: m.train_seconds)
        quickest, smallest = min(group, key=lambda m: m.predict_ms_1), min(group, key=lambda m: m.parameters)
        said.append(
            f"Of those, {fastest.name} trained fastest ({fastest.train_seconds:.0f} s), {quickest.name} answers "
            f"fastest ({quickest.predict_ms_1:.1f} ms an image) and {smallest.name} is the smallest "
            f"({smallest.parameters / 1e6:.1f} M parameters)."
        )
    if others:
        said.append(
            "The best of several on the same test images looks a little better than it is, and each was trained once: "
            "with another seed the order of near ones may change."
        )
    cut = [f"{m.name} ({m.stopped})" for m in models if m.stopped]
    if cut:
        said.append(f"Training ended early of {listed(cut)}.")
    random = [m.name for m in models if m.weights == "none" and m.name not in BASELINES]
    if random:
        said.append(
            f"{listed(random)} began with random weights: {'this says' if len(random) == 1 else 'these say'} nothing "
            "of the pretrained ones."
        )
    return said


def _checked(
    data: Path | str | None, backbones: Sequence[str], baselines: Sequence[str], runs: Sequence[Path | str]
) -> list[str]:
    """Names of all that is to be trained, in order."""
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise UsageError(f"--with {', '.join(unknown)}: expected {' or '.join(BASELINES)}.")
    names = list(dict.fromkeys([*(find_backbone(name).name for name in backbones), *baselines]))
    if len(names) + len(runs) < 2:
        raise UsageError(f"{counted(len(names) + len(runs), 'model')} to compare; expected at least two.")
    if names and data is None:
        raise UsageError(f"{', '.join(names)}: expected DATA to train on.")
    for run in runs:
        if not len(Run(run).predictions.part("test")):
            raise NoTestError(f"{run} has no test images to be compared on.")
    return names


def _folder(out: Path | str | None, data: Path | str | None, names: Sequence[str], config: Config) -> Path:
    """The folder, with what is asked for in it, so that only the same is gone on with."""
    asked = {"data": _whole(data), "config": config.to_toml()}
    path = Path(out) if out is not None else new_folder(None, Path(shown(str(data or "runs"))).stem, "compare")
    mark = path / "asked.json"
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) != asked:
            raise UsageError(f"{path} holds a comparison of other data or settings. Choose another --out.")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not empty, and nothing is overwritten. Choose another --out.")
    path.mkdir(parents=True, exist_ok=True)
    write_json(mark, asked)
    return path


def _whole(data: Path | str | None) -> str | None:
    if data is None:
        return None
    return whole(data)


def _settings(config: Config, name: str, budget: float) -> Config:
    training = replace(config.training, budget=budget)
    if name in BASELINES:
        epochs = max(_EPOCHS_FROM_SCRATCH, training.finetune_epochs)
        training = replace(training, finetune_from="all", finetune_lr=_RATE_FROM_SCRATCH, finetune_epochs=epochs)
        model = replace(config.model, backbone=name, weights="auto", image_size=0)
    else:
        model = replace(config.model, backbone=name)
    return config.model_copy(update={"model": model, "training": training})


def _trained(
    data: str, name: str, config: Config, path: Path, random_if_missing: bool, listener: Listener
) -> tuple[Run, Timing]:
    out, settings, store = path / name, path / f"{name}.toml", path / _STORE
    write_text(settings, config.to_toml())
    try:
        timing = train_apart(data, settings, out, store, listener)
    except WeightsError:
        if not random_if_missing:
            raise
        listener.note(f"{name}: its weights cannot be had, so it begins with random ones.")
        config = config.model_copy(update={"model": replace(config.model, weights="none")})
        write_text(settings, config.to_toml())
        timing = train_apart(data, settings, out, store, listener)
    return Run(out), timing


def _measured(name: str, run: Run, timing: Timing) -> Measured:
    metrics = run.metrics
    if "test" not in metrics:
        raise NoTestError(f"{run.path} has no test images to be compared on. Give the data more, or data.test.")
    test = metrics["test"]
    return Measured(
        name=name,
        run=str(run.path),
        weights=metrics["model"]["weights"]["source"],
        parameters=metrics["model"]["parameters"],
        image_size=metrics["model"]["image_size"],
        megabytes=(run.path / WEIGHTS).stat().st_size / 1e6,
        peak_megabytes=metrics["memory"]["peak_megabytes"],
        train_seconds=metrics["time"]["train_seconds"] - metrics["time"]["steps"].get("decode", 0.0),
        stopped=metrics["training"]["stopped"],
        finetune_epochs=sum(row["phase"] == "finetune" for row in run.history),
        predict_ms_1=timing.one,
        predict_ms_32=timing.batch,
        train_accuracy=metrics["train"]["accuracy"],
        val_accuracy=metrics["val"]["accuracy"] if "val" in metrics else None,
        test_accuracy=test["accuracy"],
        test_accuracy_interval=tuple(test["accuracy_interval"]),
        test_macro_f1=test["macro_f1"],
        test_macro_f1_interval=tuple(test["intervals"]["macro_f1"]),
        test_images=test["count"],
    )


def _pairs(models: Sequence[Measured]) -> tuple[list[Pair], list[str]]:
    """Every two with the same test images, and a sentence about those without."""
    tests: dict[str, Predictions] = {m.name: Run(m.run).predictions.part("test") for m in models}
    contents = {m.name: _contents(Path(m.run)) for m in models}
    found: list[tuple[str, str, Difference]] = []
    apart: list[str] = []
    for first, second in combinations(tests, 2):
        try:
            difference = paired_difference(tests[first], tests[second])
        except DataError:
            apart.append(f"{first} and {second}")
            continue
        if contents[first] == contents[second]:
            found.append((first, second, difference))
        else:
            apart.append(f"{first} and {second}")
    corrected = holm([difference.p for *_, difference in found])
    notes = [f"Not compared, since their test images are not the same: {listed(apart)}."] if apart else []
    return [Pair(*row, p) for row, p in zip(found, corrected, strict=True)], notes


def _contents(run: Path) -> dict[str, str]:
    """SHA-256 of each test image, by its path."""
    with (run / SPLIT).open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["sha256"] for row in csv.DictReader(file) if row["part"] == "test"}


def _write(result: Comparison) -> None:
    rows = [model.to_json() for model in result.models]
    columns = [
        column
        for name, value in rows[0].items()
        for column in (
            [name.replace("interval", end) for end in ("low", "high")] if isinstance(value, list) else [name]
        )
    ]
    cells = [
        [cell for value in row.values() for cell in (value if isinstance(value, list) else [value])] for row in rows
    ]
    write_text(result.path / _TABLE, csv_text(columns, cells))
    write_text(result.path / _MARKDOWN, markdown_of(rows, [p.to_json() for p in result.pairs], result.conclusion))
    plot_comparison(rows, result.path / _PICTURE)
    write_json(result.path / _RESULT, result.to_json())  # last: where it is, all is
