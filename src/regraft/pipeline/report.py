"""The report of a run and its model card, from what lies in the run's folder.

Enters: a run, and its images where they can still be read. Leaves: `report.html`, `MODEL_CARD.md` and
`label_errors.csv` in its folder; the same run gives the same files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.data.dataset import Dataset, Part
from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.errors import DataError, RegraftError, RunError, UsageError
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.files import sha256_of, write_csv, write_text
from regraft.pipeline.explain import stream
from regraft.pipeline.images import SourceOf, data_of, images_of, read_json, split_rows
from regraft.pipeline.run import CONFIG, HISTORY, METRICS, PREDICTIONS, SPLIT, Run
from regraft.report.heat import overlay
from regraft.report.model_card import model_card
from regraft.report.record import RunRecord, Suspect
from regraft.report.run_page import write_run_page
from regraft.report.thumbs import THUMB, data_uri, read_thumbs

REPORT, CARD, SUSPECTS, COMPARISON = "report.html", "MODEL_CARD.md", "label_errors.csv", "comparison.json"


def write_report(run: Run | Path | str, data: Dataset | Path | str | None = None) -> Path:
    """Write a run's `report.html`, `MODEL_CARD.md` and `label_errors.csv` anew.

    Args:
        run: A run, or its folder. What it does not hold, such as the metrics of a training that was stopped, the report
            says is missing.
        data: Its images, for the pictures; whatever `scan` takes, or a data set. Default: where the run says that they
            were, if that is still there and on this machine. Without them, or where one is gone or changed, the report
            says so in the picture's place.

    Returns:
        The HTML file.

    Raises:
        UsageError: There is no such folder, or `data` is nothing that can be read.
        RunError: It holds no model, or a file in it is damaged.
        DataError: Its predictions are damaged, or the data.
    """
    run = run if isinstance(run, Run) else Run(run)
    record = record_of(run)
    source = images_of(run, data)
    max_pixels = data.max_pixels if isinstance(data, Dataset) else MAX_PIXELS
    thumbs = {} if source is None else read_thumbs(record.pictured(), source, max_pixels)
    write_csv(
        run.path / SUSPECTS,
        ("path", "label", "looks_like", "probability"),
        [(s.path, s.label, s.suggested, s.probability) for s in record.suspects],
    )
    write_text(run.path / CARD, model_card(record))
    heat = {} if source is None else _heat(run, record, source, max_pixels, set(thumbs))
    write_run_page(record, run.path / REPORT, thumbs, heat)
    return run.path / REPORT


def _heat(run: Run, record: RunRecord, source: SourceOf, max_pixels: int, there: set[str]) -> dict[str, str]:
    """The best and worst answers under their heat maps, as data URIs by name; none where nothing can be explained."""
    read: dict[str, ImageSource] = {}
    for name in record.answered():
        if name in there:
            with suppress(RegraftError, OSError):  # it went away just now
                read[name] = source(name)
    try:
        found = stream(run, read.values(), max_pixels=max_pixels, side=2 * THUMB)
        return {
            name: data_uri(Image.fromarray(overlay(explanation.image, explanation.heat[0])))
            for name, explanation in zip(read, found, strict=True)
            if explanation.error is None
        }
    except (UsageError, RunError):  # no stage with places, or no weights
        return {}


def record_of(run: Run) -> RunRecord:
    """Everything that a run's folder tells."""
    has = {name: (run.path / name).is_file() for name in (METRICS, HISTORY, PREDICTIONS, CONFIG)}
    metrics = run.metrics if has[METRICS] else {}
    predictions = run.predictions if has[PREDICTIONS] else None
    if predictions is not None and predictions.classes != run.classes:
        raise RunError(f"{run.path / PREDICTIONS} has other classes than model.json: copy the run again.")
    return RunRecord(
        name=run.path.resolve().name,
        description=run.description,
        config=(run.path / CONFIG).read_text(encoding="utf-8") if has[CONFIG] else "",
        source=data_of(run),
        metrics=metrics,
        history=run.history if has[HISTORY] else (),
        predictions=predictions,
        evaluations=_evaluations(metrics, predictions),
        counts=(metrics.get("data") or {}).get("counts") or _counts(run.path),
        suspects=() if predictions is None else _suspects(predictions),
        hashes={
            **run.description.get("sha256", {}),
            **{name: sha256_of(run.path / name) for name in (CONFIG, SPLIT) if (run.path / name).is_file()},
        },
        comparison=_comparison(run.path.resolve()),
    )


def _evaluations(metrics: Mapping[str, Any], predictions: Predictions | None) -> dict[Part, Evaluation]:
    """As the metrics have them; of a run of an earlier version, which knew fewer, from the predictions."""
    found: dict[Part, Evaluation] = {}
    parts: tuple[Part, ...] = ("val", "test")
    for part in parts if predictions is not None else ():
        if part not in metrics:
            continue
        try:
            found[part] = Evaluation.from_json(metrics[part])
        except DataError:
            assert predictions is not None
            found[part] = evaluate_predictions(predictions.part(part))
    return found


def _counts(path: Path) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in split_rows(path):
        counts[row.get("part") or ""][row.get("label") or ""] += 1
    return {part: dict(counter) for part, counter in counts.items()}


def _suspects(predictions: Predictions) -> tuple[Suspect, ...]:
    """Likely wrong labels among images that no weight was fitted to."""
    if len(np.unique(predictions.labels)) < 2:
        return ()
    names = predictions.classes
    return tuple(
        Suspect(
            predictions.ids[error.index],
            names[predictions.labels[error.index]],
            names[error.suggested],
            error.probability,
            error.given,
        )
        for error in find_label_errors(predictions.labels, predictions.probabilities)
    )


def _comparison(path: Path) -> Mapping[str, Any] | None:
    """What `regraft compare` left beside the run, if the run is in it; other files of that name are none of ours."""
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
