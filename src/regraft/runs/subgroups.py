"""Subgroups of a run's own held-out images, from its stored predictions and the table that it was trained on.

Input: a run, and columns or patterns. Output: evaluations with subgroups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regraft.config import DataOptions, load_run_config
from regraft.data.dataset import Part
from regraft.data.sources.table import SUFFIXES
from regraft.data.sources.urls import suffix_of
from regraft.data.subgroups import values_by
from regraft.errors import UsageError
from regraft.evaluation.compare_subgroups import compare_subgroups
from regraft.evaluation.subgroups import Subgroups, subgroups_from_json
from regraft.evaluation.tasks import AnyEvaluation, AnyPredictions
from regraft.runs.run import CONFIG, METRICS, Run
from regraft.runs.run_images import data_of, origin_of


def names_of(by: str | Sequence[str]) -> tuple[str, ...]:
    """One column or pattern, or several, as a tuple."""
    return (by,) if isinstance(by, str) else tuple(by)


def evaluate_stored(
    run: Run, part: Part | None = None, *, by: Sequence[str] = (), min_confidence: float | None = None
) -> AnyEvaluation:
    """Evaluate the stored predictions of one part, with the subgroups by each of `by`; without any those of the run.

    Raises as `subgroups_of_run` and `Run.evaluation`.
    """
    is_plain = min_confidence is None
    evaluation = run.evaluation(part) if is_plain else run.evaluate(part, min_confidence=min_confidence)
    predictions = run.stored(part)
    if by:
        return replace(evaluation, subgroups=subgroups_of_run(run, predictions, by))
    stored = run.metrics.get(predictions.parts[0], {}) if (run.path / METRICS).is_file() else {}
    return replace(evaluation, subgroups=subgroups_from_json(stored))


def subgroups_of_run(
    run: Run, predictions: AnyPredictions, by: Sequence[str], data: Path | str | None = None
) -> tuple[Subgroups, ...]:
    """Compare the subgroups of stored predictions; their columns are in `data`, by default where the run's images are.

    Raises `UsageError` if that is not there or groups of images get one answer each, and as `values_by`.
    """
    if run.counted == "group":
        raise UsageError(
            f"{run.path} gives one answer for several images, whose columns its predictions do not tell. Give the "
            "labeled images: regraft evaluate RUN DATA --by ..."
        )
    options = load_run_config(run.path / CONFIG).data if (run.path / CONFIG).is_file() else DataOptions()
    place = str(data or data_of(run)) or None
    if place is not None and suffix_of(place) in SUFFIXES and not Path(place).exists() and "://" not in place:
        raise UsageError(f"The table of {run.path} is not where it was, {place}. Say where it is now: give the data.")
    origin = origin_of(run)
    columns: dict[str, list[str | None]] = {}
    for one in by:
        known = values_by(
            one, place, predictions.ids, remote=options.remote, image_column=options.image_column,
            earlier=origin and origin.earlier,
        )  # fmt: skip
        columns[one] = [known.get(name) for name in predictions.ids]
    return compare_subgroups(predictions, columns)
