"""What a search found, and the files that say so.

Enters: the records of the trials, and of those that trained in full. Leaves: a `Tuning`, `tune.json`, `trials.csv`,
`best.toml` and two pictures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import Config
from regraft.files import write_csv, write_json, write_text
from regraft.pipeline.attempt import Metric
from regraft.pipeline.run import Run
from regraft.pipeline.trials import ENOUGH, Final, Record
from regraft.report.tuning import Dot, plot_importance, plot_trials
from regraft.shown import Shown

RESULT, TABLE, BEST = "tune.json", "trials.csv", "best"
_STEPS = ("decode", "prefix", "head", "finetune")


@dataclass(frozen=True)
class Tuning(Shown, by="regraft.pipeline.notebook.tuning"):
    """What a search found.

    Attributes:
        path: Its folder.
        metric: What validation was judged by.
        trials: Every trial; the first is the base configuration.
        finals: Those that trained in full, by number; empty where there was no time.
        best: The winner: of the finals, or where there are none, of the short trials as they were.
        changes: Setting -> (value in the base, value in the winner).
        importance: Share of each parameter in what makes a trial one of the best quarter; None with too few trials.
        seconds: Of this call: prepare, search, finalists, run.
        stopped: `interrupted`, `time`, or None.
        run: The winner's run; None where it was not trained.
    """

    path: Path
    metric: Metric
    trials: tuple[Record, ...] = field(repr=False)
    finals: tuple[Final, ...]
    best: Final
    changes: dict[str, tuple[Any, Any]]
    importance: dict[str, float] | None
    seconds: dict[str, float]
    stopped: str | None = None
    run: Run | None = None

    def __repr__(self) -> str:
        """One line."""
        record = self.best.record
        return (
            f"Tuning({str(self.path)!r}, {len(self.trials)} trials, best {record.number} with validation loss "
            f"{record.loss:.4f}, accuracy {record.accuracy:.4f})"
        )

    @property
    def config(self) -> Config:
        """The winner's configuration."""
        return self.best.config

    @property
    def base(self) -> Record | None:
        """What the base configuration gave, judged as the winner was; None where that failed."""
        records = [final.record for final in self.finals] or self.trials
        found = next((record for record in records if not record.number), None)
        return found if found and found.state == "complete" else None

    @property
    def gain(self) -> tuple[float, float] | None:
        """By how much the loss of a validation image is lower than the base's, and the standard error of that mean.

        None where the winner is the base or they were not trained in full. The winner was chosen by these images, so
        this is more than other images will show.
        """
        base = next((final for final in self.finals if not final.record.number), None)
        if base is None or not self.best.record.number or not self.best.refined:
            return None
        gains = np.subtract(base.refined, self.best.refined)
        return float(gains.mean()), float(gains.std(ddof=min(1, len(gains) - 1)) / len(gains) ** 0.5)

    @property
    def trials_per_minute(self) -> float:
        """Of the trials that trained, those of earlier calls included."""
        trained = [record.seconds for record in self.trials if record.seconds]
        return 60 * len(trained) / max(1e-9, sum(trained))

    @property
    def frozen_seconds(self) -> tuple[float, float]:
        """Seconds for decoding and frozen layers: of the first trial, and the median of the later ones that trained."""
        spent = [r.steps.get("decode", 0.0) + r.steps.get("prefix", 0.0) for r in self.trials if r.steps]
        return (spent[0] if spent else 0.0), (statistics.median(spent[1:]) if len(spent) > 1 else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        first, later = self.frozen_seconds
        return {
            "metric": self.metric,
            "trials": [record.to_json() for record in self.trials],
            "finalists": [final.record.to_json() for final in self.finals],
            "best": {
                **self.best.record.to_json(),
                "in_full": bool(self.finals),
                "config": {name: asdict(getattr(self.config, name)) for name in Config.model_fields},
            },
            "base": None if self.base is None else self.base.to_json(),
            "changes": {name: {"from": before, "to": after} for name, (before, after) in self.changes.items()},
            "gain": None if self.gain is None else {"loss": self.gain[0], "standard_error": self.gain[1]},
            "importance": self.importance,
            "importance_needs": ENOUGH,
            "trials_per_minute": self.trials_per_minute,
            "frozen_seconds": {"first_trial": first, "later_trials": later},
            "seconds": self.seconds,
            "stopped": self.stopped,
            "run": None if self.run is None else str(self.run.path),
            "test": None if self.run is None else self.run.metrics.get("test"),
        }


def write_tuning(tuning: Tuning, *, pictures: bool = True) -> None:
    """Write everything into the search's folder; a kill leaves each file as it was or as it will be."""
    path = tuning.path
    names = sorted({name for record in tuning.trials for name in record.params})
    columns = ("number", "in_full", "state", "value", "loss", "accuracy", "macro_f1", "finetuned", "seconds")
    rows = [(record, False) for record in tuning.trials] + [(final.record, True) for final in tuning.finals]
    write_csv(
        path / TABLE,
        (*columns, *_STEPS, *names, "why"),
        [
            [
                record.number, in_full, record.state,
                *map(_cell, (record.value, record.loss, record.accuracy, record.macro_f1)),
                record.finetuned, round(record.seconds, 3), *(round(record.steps.get(step, 0.0), 3) for step in _STEPS),
                *(_cell(record.params.get(name)) for name in names), record.why,
            ]
            for record, in_full in rows
        ],
    )  # fmt: skip
    write_text(path / f"{BEST}.toml", tuning.config.to_toml())
    write_json(path / RESULT, tuning.to_json())
    if not pictures:
        return
    plot_trials(
        [_dot(record, tuning.metric) for record in tuning.trials],
        [_dot(final.record, tuning.metric) for final in tuning.finals],
        path / "plots" / "history.png",
        metric=tuning.metric,
        best=tuning.best.record.number,
    )
    if tuning.importance:
        complete = sum(record.state == "complete" for record in tuning.trials)
        plot_importance(tuning.importance, path / "plots" / "importance.png", trials=complete)


def _dot(record: Record, metric: Metric) -> Dot:
    shown: Mapping[str, float | None] = {
        "loss": record.loss,
        "accuracy": record.accuracy,
        "macro_f1": record.macro_f1,
    }
    return Dot(record.number, record.state, shown[metric])


def _cell(value: Any) -> Any:
    return "" if value is None else value
