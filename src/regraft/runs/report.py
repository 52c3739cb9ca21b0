"""The report of a run and its model card, written from the run's folder; the same run always gives the same files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.atomic_io import sha256_of, write_csv, write_text
from regraft.data.dataset import Dataset, Part
from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.preprocessing import Preprocessing
from regraft.errors import DataError, RegraftError, RunError, UsageError, suggest_names
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import find_predictions
from regraft.report.model_card import model_card
from regraft.report.plots.attribution_plots import overlay
from regraft.report.record import RunRecord, Suspect
from regraft.report.run_page import run_page
from regraft.report.thumbnails import THUMBNAIL_SIZE, data_uri, read_thumbnails
from regraft.runs.explain import stream
from regraft.runs.run import CONFIG, HISTORY, METRICS, SPLIT, Run
from regraft.runs.run_images import SourceOf, data_of, images_of, read_json, split_rows

REPORT, CARD, SUSPECTS, COMPARISON = "report.html", "MODEL_CARD.md", "label_errors.csv", "comparison.json"


@suggest_names
def write_report(run: Run | Path | str, data: Dataset | Path | str | None = None) -> Path:
    """Write the `report.html`, `MODEL_CARD.md` and `label_errors.csv` of a run.

    Args:
        run: A run, or its folder. The report says what it does not contain, such as the metrics of a training that was
            stopped.
        data: The images of the run: a data set, or what `scan` accepts. Default: the location in the run, if it exists
            on this machine. The report marks images that are missing or have changed.

    Returns:
        The HTML file.

    Raises:
        UsageError: The run's folder does not exist, or `data` cannot be read.
        RunError: The folder contains no model, or a file in it is damaged.
        DataError: The predictions or the data are damaged.

    Examples:
        >>> print(regraft.write_report("runs/photos"))
        runs/photos/report.html
    """
    run = run if isinstance(run, Run) else Run(run)
    record = record_of(run)
    source = images_of(run, data)
    max_pixels = data.max_pixels if isinstance(data, Dataset) else MAX_PIXELS
    value_range = Preprocessing.from_json(run.description["preprocessing"]).value_range
    thumbnails = {} if source is None else read_thumbnails(record.image_names(), source, max_pixels, value_range)
    suspects = [(s.path, s.label, s.suggested, s.probability) for s in record.suspects]
    write_csv(run.path / SUSPECTS, ("path", "label", "looks_like", "probability"), suspects)
    write_text(run.path / CARD, model_card(record))
    maps = {}
    if source is not None and not record.at_chance:
        maps = _attribution_maps(run, record, source, max_pixels, set(thumbnails))
    write_text(run.path / REPORT, run_page(record, thumbnails, maps))
    return run.path / REPORT


def _attribution_maps(
    run: Run, record: RunRecord, source: SourceOf, max_pixels: int, available: set[str]
) -> dict[str, str]:
    """Data URIs by name of the best and worst predictions under their attribution maps; empty without a method.

    A map that is zero everywhere is left out.
    """
    sources: dict[str, ImageSource] = {}
    for name in record.predicted_image_names():
        if name in available:
            with suppress(RegraftError, OSError):  # the file is gone since the thumbnail was made
                sources[name] = source(name)
    try:
        explanations = stream(run, sources.values(), max_pixels=max_pixels, side=2 * THUMBNAIL_SIZE)
        return {
            name: data_uri(Image.fromarray(overlay(explanation.image, explanation.heat[0])))
            for name, explanation in zip(sources, explanations, strict=True)
            if explanation.error is None and explanation.heat.any()
        }
    except (UsageError, RunError):  # no spatial stage, or no weights
        return {}


def record_of(run: Run) -> RunRecord:
    """Read everything that is reported about a run. Raises `RunError` if a file of the run is damaged."""
    has = {name: (run.path / name).is_file() for name in (METRICS, HISTORY, CONFIG)}
    metrics = run.metrics if has[METRICS] else {}
    stored = find_predictions(run.path)
    predictions = run.predictions if stored else None
    if predictions is not None and predictions.classes != run.classes:
        raise RunError(f"{stored} has other classes than model.json. Copy the run again.")
    record = RunRecord(
        name=run.path.resolve().name,
        description=run.description,
        config=(run.path / CONFIG).read_text(encoding="utf-8") if has[CONFIG] else "",
        source=data_of(run),
        metrics=metrics,
        history=run.history if has[HISTORY] else (),
        head_path=run.head_path if has[HISTORY] else (),
        predictions=predictions,
        evaluations=_evaluations(metrics, predictions),
        counts=(metrics.get("data") or {}).get("counts") or _counts(run.path),
        hashes={
            **run.description.get("sha256", {}),
            **{name: sha256_of(run.path / name) for name in (CONFIG, SPLIT) if (run.path / name).is_file()},
        },
        comparison=_comparison(run.path.resolve()),
    )
    return record if predictions is None or record.at_chance else replace(record, suspects=_suspects(predictions))


def _evaluations(metrics: Mapping[str, Any], predictions: Predictions | None) -> dict[Part, Evaluation]:
    """The evaluations in the metrics; those of an earlier version lack values and are computed again."""
    evaluations: dict[Part, Evaluation] = {}
    parts: tuple[Part, ...] = ("val", "test")
    for part in parts if predictions is not None else ():
        if part not in metrics:
            continue
        try:
            evaluations[part] = Evaluation.from_json(metrics[part])
        except DataError:
            assert predictions is not None
            evaluations[part] = evaluate_predictions(predictions.part(part))
    return evaluations


def _counts(path: Path) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in split_rows(path):
        counts[row.get("part") or ""][row.get("label") or ""] += 1
    return {part: dict(counter) for part, counter in counts.items()}


def _suspects(predictions: Predictions) -> tuple[Suspect, ...]:
    """Likely label errors among the validation and test images."""
    if len(np.unique(predictions.labels)) < 2:
        return ()
    names, ids, labels = predictions.classes, predictions.ids, predictions.labels
    return tuple(
        Suspect(ids[e.index], names[labels[e.index]], names[e.suggested], e.probability, e.given)
        for e in find_label_errors(labels, predictions.probabilities)
    )


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
