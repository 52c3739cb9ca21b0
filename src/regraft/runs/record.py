"""Read everything that is reported about a run from its folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import UndefinedError

from regraft.atomic_io import sha256_of
from regraft.data.dataset import Part
from regraft.data.labels import Task, split_labels
from regraft.errors import DataError, RunError
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.multilabel.label_errors import find_label_doubts
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
from regraft.evaluation.regression.metrics import RegressionEvaluation
from regraft.evaluation.stored_predictions import find_predictions
from regraft.evaluation.tasks import AnyEvaluation, AnyPredictions, evaluate_any
from regraft.report.multilabel.record import LabelSuspect, MultilabelRecord
from regraft.report.record import ClassificationRecord, RunRecord, Suspect
from regraft.report.regression.record import RegressionRecord
from regraft.runs.run import CONFIG, HISTORY, METRICS, SPLIT, Run
from regraft.runs.run_images import data_of, read_json, split_rows

COMPARISON = "comparison.json"


def record_of(run: Run) -> RunRecord:
    """Read everything that is reported about a run. Raises `RunError` if a file of the run is damaged."""
    record = stored_record(run)
    if record.predictions is None or record.at_chance:
        return record
    return replace(record, suspects=_TASKS[run.task].suspects(record))


def stored_record(run: Run) -> RunRecord:
    """Read what the files of a run say, without the search for label errors. Raises as `record_of`."""
    with damage_named(run):
        return _stored_record(run)


@contextmanager
def damage_named(run: Run) -> Iterator[None]:
    """Within it, an error by values that no run has is a `RunError`: a file of the run is damaged."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, UndefinedError) as error:
        files = f"{METRICS}, {HISTORY} or another file"
        raise RunError(f"{files} in {run.path} is damaged: {error!r}. Copy the run again.") from error


def _stored_record(run: Run) -> RunRecord:
    has = {name: (run.path / name).is_file() for name in (METRICS, HISTORY, CONFIG)}
    metrics = run.metrics if has[METRICS] else {}
    stored = find_predictions(run.path)
    of_task = _TASKS[run.task]
    predictions = of_task.predictions(run) if stored else None
    if predictions is not None and predictions.classes != run.classes:
        raise RunError(f"{stored} has other classes than model.json. Copy the run again.")
    return of_task.record(
        name=run.path.resolve().name,
        description=run.description,
        config=(run.path / CONFIG).read_text(encoding="utf-8") if has[CONFIG] else "",
        source=data_of(run),
        metrics=metrics,
        history=run.history if has[HISTORY] else (),
        head_path=run.head_path if has[HISTORY] else (),
        predictions=predictions,
        evaluations=_evaluations(metrics, predictions, of_task),
        counts=(metrics.get("data") or {}).get("counts") or _counts(run),
        hashes={
            **run.description.get("sha256", {}),
            **{name: sha256_of(run.path / name) for name in (CONFIG, SPLIT) if (run.path / name).is_file()},
        },
        comparison=_comparison(run.path.resolve()),
    )


def _evaluations(
    metrics: Mapping[str, Any], predictions: AnyPredictions | None, of_task: _Task
) -> dict[Part, AnyEvaluation]:
    """The evaluations in the metrics; those of an earlier version lack values and are computed again."""
    evaluations: dict[Part, AnyEvaluation] = {}
    parts: tuple[Part, ...] = ("val", "test")
    for part in parts:
        if predictions is None or part not in metrics:
            continue
        try:
            evaluations[part] = replace(of_task.evaluation(metrics[part]), counted=predictions.counted)
        except DataError:
            evaluations[part] = evaluate_any(predictions.part(part))
    return evaluations


def _counts(run: Run) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in split_rows(run.path):
        label = run.classes[0] if run.task == "regression" else row.get("label") or ""
        counts[row.get("part") or ""].update(split_labels(label) if run.task == "multilabel" else [label])
    return {part: dict(counter) for part, counter in counts.items()}


def _suspects(record: ClassificationRecord) -> tuple[Suspect, ...]:
    """Likely label errors among the validation and test images."""
    predictions = record.predictions
    if predictions is None or len(np.unique(predictions.labels)) < 2:
        return ()
    names, ids, labels = predictions.classes, predictions.ids, predictions.labels
    return tuple(
        Suspect(ids[e.index], names[labels[e.index]], names[e.suggested], e.probability, e.given)
        for e in find_label_errors(labels, predictions.probabilities)
    )


def _label_suspects(record: MultilabelRecord) -> tuple[LabelSuspect, ...]:
    """Likely missing and wrong labels among these images, of the classes that the model tells from the rest."""
    predictions = record.predictions
    if predictions is None or record.part is None:
        return ()
    columns = [predictions.classes.index(name) for name in record.evaluations[record.part].doubtable]
    names = predictions.names(predictions.indicators)
    return tuple(
        LabelSuspect(
            predictions.ids[d.index], split_labels(names[d.index]), predictions.classes[d.column], d.suggestion,
            d.probability,
        )
        for d in find_label_doubts(predictions.indicators, predictions.probabilities, columns)
    )  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """What is read of a run of a task: its predictions, the evaluation in `metrics.json`, and likely label errors."""

    record: type[RunRecord]
    predictions: Callable[[Run], AnyPredictions]
    evaluation: Callable[[Mapping[str, Any]], AnyEvaluation]
    suspects: Callable[[Any], tuple[Any, ...]]


_TASKS: Mapping[Task, _Task] = {
    "classification": _Task(ClassificationRecord, lambda run: run.predictions, Evaluation.from_json, _suspects),
    "multilabel": _Task(
        MultilabelRecord, lambda run: run.label_predictions, MultilabelEvaluation.from_json, _label_suspects
    ),
    "regression": _Task(
        RegressionRecord, lambda run: run.number_predictions, RegressionEvaluation.from_json, lambda record: ()
    ),
}


def _comparison(path: Path) -> Mapping[str, Any] | None:
    """The comparison in the parent folder if it includes the run; other files of that name are ignored."""
    file = path.parent / COMPARISON
    try:
        value = read_json(file) if file.is_file() else None
    except RunError:
        return None
    if not isinstance(value, dict):
        return None
    models = value.get("models")
    if not isinstance(models, list) or not all(isinstance(model, dict) and "name" in model for model in models):
        return None
    if not any(Path(str(model.get("run", ""))).name == path.name for model in models):
        return None
    return dict(value)
