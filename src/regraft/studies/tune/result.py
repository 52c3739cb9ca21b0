"""The result of a search, and the files that hold it: `tune.json`, `trials.csv` and `best.toml`."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from regraft.atomic_io import write_csv, write_json, write_text
from regraft.config import Config
from regraft.data.labels import ModelTask
from regraft.runs.run import Run
from regraft.training.prefix_backend import BackendName

Metric = Literal["loss", "accuracy", "macro_f1", "mean_average_precision", "mae", "quadratic_kappa"]
METRICS: tuple[Metric, ...] = get_args(Metric)
#: The metrics of each task, after the loss the one that is best known; the accuracy of several labels is mostly that of
#: the classes that images lack.
METRICS_OF: dict[ModelTask, tuple[Metric, ...]] = {
    "classification": ("loss", "accuracy", "macro_f1"),
    "ordinal": ("loss", "quadratic_kappa", "accuracy", "macro_f1"),
    "multilabel": ("loss", "mean_average_precision", "macro_f1"),
    "regression": ("loss", "mae"),
}
#: How metrics are called.
METRIC_NAMES: dict[Metric, str] = {
    "loss": "validation loss", "accuracy": "accuracy", "macro_f1": "macro-F1", "mean_average_precision": "mAP",
    "mae": "MAE", "quadratic_kappa": "quadratic kappa",
}  # fmt: skip
#: Complete trials below which importances would be chance.
MIN_TRIALS_FOR_IMPORTANCE = 12
#: The name of the winner's run, and of its configuration with `.toml`.
BEST = "best"

_STEPS = ("decode", "prefix", "head", "finetune")
_COLUMNS = (
    "number", "in_full", "state", "value", "loss", "accuracy", "macro_f1", "mean_average_precision", "mae",
    "quadratic_kappa", "finetuned", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class TrialRecord:
    """The outcome of one trial; trial 0 is the base configuration. Scores but errors are in 0..1."""

    number: int
    params: dict[str, Any]  # the drawn parameters, by setting
    state: Literal["complete", "pruned", "failed"]
    value: float | None = None  # what the search minimizes; None unless complete
    #: Mean of the validation images at the best temperature, in nats; of squared errors a share of the variance.
    loss: float | None = None
    accuracy: float | None = None  # None where an image has a number, as macro-F1
    macro_f1: float | None = None
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    finetuned: bool = False  # whether fine-tuning was better than the head alone
    prefix_backend: BackendName = "torch"
    cache_too_small: bool = False
    message: str = ""  # why the trial ended early, or which trial it repeats
    mean_average_precision: float | None = None  # mAP; None unless an image has any number of classes
    mae: float | None = None  # mean absolute error in the unit of the numbers; None unless an image has a number
    quadratic_kappa: float | None = None  # quadratic weighted kappa, at most 1; None unless the classes have an order

    @property
    def task(self) -> ModelTask:
        """The task of the data, by what was measured."""
        if self.mae is not None:
            return "regression"
        if self.quadratic_kappa is not None:
            return "ordinal"
        return "classification" if self.mean_average_precision is None else "multilabel"

    def text(self, metric: Metric) -> str:
        """The value of a metric of a complete trial."""
        return f"{getattr(self, metric):{'.4g' if metric == 'mae' else '.4f'}}"

    def describe(self) -> str:
        """Validation loss of a complete trial, and the best known metric beside it."""
        return ", ".join(f"{METRIC_NAMES[metric]} {self.text(metric)}" for metric in METRICS_OF[self.task][:2])

    @property
    def rank(self) -> float:
        """The value by which trials are sorted, best first; infinite unless complete."""
        return float("inf") if self.value is None else self.value


@dataclass(frozen=True)
class TrialResult:
    """The result of training a configuration, in full or shortened."""

    record: TrialRecord
    config: Config  # with the prefix backend that ran, so that training it again gives the same numbers
    calibrated_losses: tuple[float, ...] = field(default=(), repr=False)  # by val image, in nats; empty: not kept


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes:
        path: Folder of the search.
        metric: Validation metric that was optimized.
        trials: Every trial; the first is the base configuration.
        finalists: Trials that were trained in full, by number; empty where there was no time.
        best: Winner: the best finalist, or the best short trial where there is no finalist.
        changes: Setting -> (value in the base, value in the winner).
        importance: Parameter -> its share in what separates the best quarter of the trials from the rest; None with
            too few trials.
        seconds: Durations of this call's steps: prepare, search, finalists, run.
        stopped: `interrupted`, `time`, or None.
        run: The winner's run; None where it was not trained.
    """

    path: Path
    metric: Metric
    trials: tuple[TrialRecord, ...] = field(repr=False)
    finalists: tuple[TrialResult, ...]
    best: TrialResult
    changes: dict[str, tuple[Any, Any]]
    importance: dict[str, float] | None
    seconds: dict[str, float]
    stopped: str | None = None
    run: Run | None = None

    def __repr__(self) -> str:
        record = self.best.record
        return (
            f"TuneResult({str(self.path)!r}, {len(self.trials)} trials, best {record.number} with {record.describe()})"
        )

    @property
    def config(self) -> Config:
        """The winner's configuration."""
        return self.best.config

    @property
    def base(self) -> TrialRecord | None:
        """The base configuration's outcome, trained as the winner was; None where it failed."""
        records = [finalist.record for finalist in self.finalists] or self.trials
        return next((record for record in records if not record.number and record.state == "complete"), None)

    @property
    def gain(self) -> tuple[float, float] | None:
        """Decrease of the mean validation loss against the base, and its standard error.

        None where the winner is the base, or they were not trained in full. Other images will show a smaller decrease.
        """
        base = next((finalist for finalist in self.finalists if not finalist.record.number), None)
        if base is None or not self.best.record.number or not self.best.calibrated_losses:
            return None
        gains = np.subtract(base.calibrated_losses, self.best.calibrated_losses)
        return float(gains.mean()), float(gains.std(ddof=min(1, len(gains) - 1)) / len(gains) ** 0.5)

    @property
    def trials_per_minute(self) -> float:
        """Rate of the trials that trained, those of earlier calls included."""
        trained = [record.seconds for record in self.trials if record.seconds]
        return 60 * len(trained) / max(1e-9, sum(trained))

    @property
    def frozen_seconds(self) -> tuple[float, float]:
        """Seconds for decoding and frozen layers: in the first trial, and the median of the later ones that trained."""
        spent = [r.steps.get("decode", 0.0) + r.steps.get("prefix", 0.0) for r in self.trials if r.steps]
        return (spent[0] if spent else 0.0), (statistics.median(spent[1:]) if len(spent) > 1 else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        first, later = self.frozen_seconds
        return {
            "metric": self.metric,
            "trials": [asdict(record) for record in self.trials],
            "finalists": [asdict(finalist.record) for finalist in self.finalists],
            "best": {
                **asdict(self.best.record),
                "in_full": bool(self.finalists),
                "config": {name: asdict(getattr(self.config, name)) for name in Config.model_fields},
            },
            "base": None if self.base is None else asdict(self.base),
            "changes": {name: {"from": before, "to": after} for name, (before, after) in self.changes.items()},
            "gain": None if self.gain is None else {"loss": self.gain[0], "standard_error": self.gain[1]},
            "importance": self.importance,
            "importance_needs": MIN_TRIALS_FOR_IMPORTANCE,
            "trials_per_minute": self.trials_per_minute,
            "frozen_seconds": {"first_trial": first, "later_trials": later},
            "seconds": self.seconds,
            "stopped": self.stopped,
            "run": None if self.run is None else str(self.run.path),
            "test": None if self.run is None else self.run.metrics.get("test"),
        }

    def write(self) -> None:
        """Write `trials.csv`, `best.toml` and `tune.json` into the search's folder, each in one step."""
        params = sorted({name for record in self.trials for name in record.params})
        records = [(record, False) for record in self.trials] + [(f.record, True) for f in self.finalists]
        rows = []
        for record, in_full in records:
            values = asdict(record) | {"in_full": in_full, "seconds": round(record.seconds, 3)}
            steps = [round(record.steps.get(step, 0.0), 3) for step in _STEPS]
            cells = [*(values[name] for name in _COLUMNS), *steps, *map(record.params.get, params), record.message]
            rows.append(["" if cell is None else cell for cell in cells])
        write_csv(self.path / "trials.csv", (*_COLUMNS, *_STEPS, *params, "message"), rows)
        write_text(self.path / f"{BEST}.toml", self.config.to_toml())
        write_json(self.path / "tune.json", self.to_json())
