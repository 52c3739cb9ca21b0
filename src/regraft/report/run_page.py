"""The report of a run as one HTML file that needs no other file, and says what the run does not contain."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from regraft.data.dataset import PARTS
from regraft.evaluation.abstention import risk_coverage
from regraft.evaluation.calibration import MIN_IMAGES, Calibration
from regraft.evaluation.metrics import Evaluation
from regraft.report import sentences
from regraft.report.earlier_run import class_rows
from regraft.report.html import bidi, interval, percent, render_page
from regraft.report.plots.confusion import confusion_figure
from regraft.report.plots.reliability import draw_reliability, draw_risk_coverage
from regraft.report.plots.svg import panel, to_svg
from regraft.report.plots.training_curve import describe_curves, draw_curves, draw_head_path
from regraft.report.record import SHOWN, RunRecord
from regraft.report.thumbnails import Album
from regraft.text import one_line, shorten

#: Maximum number of classes in a confusion matrix with numbers, and in one without.
MAX_NUMBERS, MAX_DRAWN = 24, 100
#: Maximum number of pairs of confused classes, names in a list, and characters of the configuration.
_MAX_PAIRS, _MAX_NAMES, _MAX_CONFIG = 20, 200, 20_000
#: Words for the steps of a training.
_STEPS = {
    "members": "fine-tuning of each backbone",
    "decode": "decoding",
    "prefix": "frozen layers",
    "finetune": "fine-tuning",
    "evaluate": "evaluation",
}
#: Between the bounds of an interval in a narrow column.
_UNBROKEN_TO = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"


def run_page(record: RunRecord, thumbnails: Mapping[str, str], maps: Mapping[str, str] | None = None) -> str:
    """Return the page; the same record and thumbnails always give the same page.

    `thumbnails` are data URIs by image name, those of `record.image_names()` that can be read, and `maps` the pictures
    of `record.predicted_image_names()` under their attribution maps; None if attribution was not requested.
    """
    evaluation = record.evaluations[record.part] if record.part else None
    changes = class_rows(record.metrics.get("earlier_run") or {})
    parts = [part for part in PARTS if part in record.counts]
    sections = {
        "summary": "Summary", "data": "Data",
        **({"backbones": "Choice of the backbone"} if record.backbone_search else {}),
        "training": "Training curves", "confusion": "Confusion matrix",
        "classes": "Per-class metrics", **({"earlier": "Compared with the earlier run"} if changes else {}),
        "calibration": "Calibration", "predictions": "Top losses",
        "label_errors": "Label errors", **({"comparison": "Comparison"} if record.comparison else {}),
        "reproduce": "Reproduce this run",
    }  # fmt: skip
    image_names = record.image_names()
    missing_count = sum(path not in thumbnails for path in image_names)
    data = record.metrics.get("data") or {}
    config = record.config if len(record.config) <= _MAX_CONFIG else record.config[:_MAX_CONFIG] + "\n…"
    return render_page(
        "run.html.jinja",
        title=shorten(one_line(record.name), 120),
        kind="training report",
        sections=sections,
        record=record,
        evaluation=evaluation,
        values=key_numbers(record),
        sentences=sentences.summary(record),
        cautions=record.cautions,
        parts=parts,
        class_rows=_class_rows(record, parts),
        notes=data.get("notes", ())[:_MAX_NAMES],
        unreadable=data.get("bad", ()),
        max_names=_MAX_NAMES,
        search=_search_view(record),
        training=training_view(record),
        confusion=confusion_view(evaluation) if evaluation else None,
        changes=changes,
        per_class_rows=record.weakest_first(),
        calibration=_calibration_view(record),
        album=Album(thumbnails, "not available"),
        maps=Album(maps, "no map") if maps else None,
        some_maps=bool(maps) and len(maps or ()) < len(record.predicted_image_names()),
        no_maps=maps is not None and not maps and missing_count < len(image_names),
        at_chance=sentences.objection(evaluation) if evaluation else (),
        image_count=len(image_names),
        missing_count=missing_count,
        groups=[
            ("Top losses: wrong predictions with the highest confidence", record.worst(), "No prediction is wrong."),
            ("Correct predictions with the highest confidence", record.best(), "No prediction is correct."),
            ("Lowest confidence", record.least_confident(), ""),
        ],
        shown=SHOWN,
        command=f"regraft train {shlex.quote(one_line(record.source))} --config config.toml --out AGAIN"
        if record.source else None,
        environment=_environment(record),
        config=config.splitlines(),
    )  # fmt: skip


def key_numbers(record: RunRecord) -> list[tuple[str, str]]:
    """Return the most important numbers, each with its name."""
    numbers: list[tuple[str, str]] = []
    if record.part is not None:
        evaluation = record.evaluations[record.part]
        numbers += [
            (
                percent(evaluation.accuracy),
                f"{record.part} accuracy ({interval(evaluation.accuracy_interval)})".replace(" to ", _UNBROKEN_TO),
            ),
            (f"{evaluation.macro_f1:.3f}", f"macro-F1{' of the tested classes' if evaluation.untested else ''}"),
            (f"{evaluation.count:,}", f"{record.part} images"),
        ]
    numbers += [(f"{sum(counts.values()):,}", f"{part} images") for part, counts in record.counts.items()
                if part != record.part]  # fmt: skip
    metrics = record.metrics
    for part in ("train", "val"):
        if part != record.part and (accuracy := (metrics.get(part) or {}).get("accuracy")) is not None:
            numbers.append((percent(accuracy), f"{part} accuracy"))
    if model := metrics.get("model"):
        numbers += [(f"{model['parameters'] / 1e6:.1f} M", "parameters"),
                    (f"{model['megabytes']:.0f} MB", "of weights")]  # fmt: skip
    time = metrics.get("time") or {}
    numbers += [
        (text, name)
        for name, text in (
            ("peak memory", _format_or_empty(_gigabytes(metrics), "{:.1f} GB")),
            ("training time", _format_or_empty(time.get("train_seconds"), "{:,.0f} s")),
            ("prediction of an image file", _format_or_empty(time.get("predict_ms_per_image"), "{:.1f} ms")),
        )
        if text
    ]
    return numbers


def training_view(record: RunRecord) -> dict[str, Any]:
    """Return how the model was trained: a sentence, the training curves, and the head's path over its L2 strength."""
    charts = []
    path, epochs = record.head_path, record.history
    if any(row.get("val_loss") is not None for row in path):
        label = f"Validation loss of the head for {len(path)} L2 strengths."
        charts.append(("Head: validation loss by L2 strength",
                       panel(lambda axes: draw_head_path(axes, path), "head-path", label)))  # fmt: skip
    for measure in ("loss", "accuracy") if epochs else ():
        chart = panel(lambda axes, m=measure: draw_curves(axes, epochs, m), measure, describe_curves(epochs, measure))  # type: ignore[misc]
        charts.append((measure.capitalize(), chart))
    return {
        "sentence": record.training_sentence,
        "was_stopped": not record.metrics,
        "charts": charts,
        "head_path": [
            (f"{row['l2']:.3g}", _format_or_empty(row.get("val_loss"), "{:.4f}"),
             _format_or_empty(row.get("val_accuracy"), "{:.4f}"), _format_or_empty(row.get("seconds"), "{:.2f}"))
            for row in path
        ],
    }  # fmt: skip


def _search_view(record: RunRecord) -> dict[str, Any]:
    """Return what the search for a backbone found, with a row for each candidate; {} where there was none."""
    if not (search := record.backbone_search):
        return {}
    rows = [
        (
            row["name"].replace(",", ", "),
            str(row["image_size"] or ""),
            f"{row['images']:,}" if row["images"] else "",
            "" if row["accuracy"] is None else percent(row["accuracy"]),
            _format_or_empty(row["loss"], "{:.4f}"),
            "" if row["loss"] is None else f"{row['seconds']:.1f}",
            "" if row["outcome"] == "beaten" else row["outcome"],
        )
        for row in (*search["candidates"], *search["combinations"])
    ]
    images = {row["images"] for row in search["candidates"] if row["images"]}
    sentences = [
        "Each candidate was judged by a linear head on its frozen features, in "
        f"{search['folds']}-fold cross-validation on training images."
    ]
    if len(images) > 1:
        sentences.append("All were compared on few images, and the better ones on more.")
    if search["combinations"]:
        sentences.append(
            "The one with the lowest log loss came first, and others were added as long as one lowered it clearly."
        )
    else:
        sentences.append("Of those that were compared last, the one with the lowest log loss was chosen.")
    sentences.append("The validation and test images took no part in it.")
    return {"sentences": " ".join(sentences), "seconds": search["seconds"], "rows": rows}


def confusion_view(evaluation: Evaluation) -> dict[str, Any]:
    """Return the confusion matrix, as a table or a chart depending on its size, and the most frequent confusions."""
    names = [row.name for row in evaluation.per_class]
    confusion = evaluation.confusion
    support = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    levels = np.ceil(np.sqrt(confusion / support) * 8).astype(int)
    view: dict[str, Any] = {"names": names, "cells": None, "chart": None}
    if len(names) <= MAX_NUMBERS:
        view["cells"] = [
            [(f"{'hit' if i == j else 'miss'} heat-{levels[i, j]}", int(n)) for j, n in enumerate(row)]
            for i, row in enumerate(confusion)
        ]
    elif len(names) <= MAX_DRAWN:
        label = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} images are on the diagonal."
        view["chart"] = to_svg(confusion_figure(confusion, names, with_numbers=False), "confusion", label, tight=True)
    view["pairs"] = [
        (names[i], names[j], n, n / int(support[i, 0])) for i, j, n in sentences.confused(evaluation, _MAX_PAIRS)
    ]
    return view


def _class_rows(record: RunRecord, parts: Iterable[str]) -> list[tuple[str, int, list[int]]]:
    rows = [(name, [record.counts[part].get(name, 0) for part in parts]) for name in record.classes]
    return sorted(((name, sum(counts), counts) for name, counts in rows), key=lambda row: -row[1])


def _calibration_view(record: RunRecord) -> dict[str, Any]:
    view: dict[str, Any] = {"charts": [], "rows": [], "title": ""}
    if record.reported is None:
        return view
    if record.calibrations:
        before, after = record.calibrations
        view["title"] = f"At temperature {record.metrics['calibration']['temperature']:.2f}"
        for name, title, calibration in (("before", "before calibration", before), ("after", view["title"], after)):
            label = f"Reliability diagram {title}: expected calibration error {calibration.describe()}."
            chart = panel(lambda axes, c=calibration: draw_reliability(axes, c), f"reliability-{name}", label)  # type: ignore[misc]
            view["charts"].append((f"Reliability diagram, {title[0].lower() + title[1:]}", chart))
        view["rows"] = [
            ("Expected calibration error", *map(_calibration_error, record.calibrations)),
            ("The same by chance alone", *map(_chance, record.calibrations)),
            ("Brier score", f"{before.brier:.4f}", f"{after.brier:.4f}"),
            ("Log loss", f"{before.loss:.4f}", f"{after.loss:.4f}"),
        ]
    coverage, risk = risk_coverage(record.reported)
    half = float(risk[np.searchsorted(coverage, 0.5)])
    label = f"Error rate of all predictions: {100 * risk[-1]:.1f} %; of the more confident half: {100 * half:.1f} %."
    view["charts"].append(("Risk-coverage curve", panel(lambda axes: draw_risk_coverage(axes, coverage, risk),
                                                        "risk-coverage", label)))  # fmt: skip
    return view


def _calibration_error(calibration: Calibration) -> str:
    return f"{100 * calibration.ece:.2f} points" if calibration.images >= MIN_IMAGES else "too few images"


def _chance(calibration: Calibration) -> str:
    if calibration.chance is None or calibration.chance_interval is None:
        return ""
    return f"{100 * calibration.chance:.2f} points ({interval(calibration.chance_interval)})"


def _environment(record: RunRecord) -> list[tuple[str, Markup]]:
    weights, time = record.description.get("weights") or {}, record.metrics.get("time") or {}
    training, every = record.metrics.get("training") or {}, weights.get("members") or [weights]
    pretrained = _join_known(weights, "source", "name", "license")
    if record.has_random_weights:
        pretrained = "none: random weights"
    rows = [
        ("Backbone", record.description["backbone"].get("timm_name", record.backbone)),
        ("Pretrained weights", pretrained),
        ("SHA-256 of the weights", ", ".join(filter(None, (one.get("sha256") for one in every)))),
        ("Device", _join_known(training, "device", "precision", "prefix_backend")),
        ("Time", ", ".join(f"{_STEPS.get(name, name)} {s:.1f} s" for name, s in (time.get("steps") or {}).items())),
        ("Prediction from a file", _format_or_empty(time.get("predict_ms_per_image"), "{:.1f} ms per image")),
        ("Peak memory", _format_or_empty((record.metrics.get("memory") or {}).get("peak_megabytes"), "{:,.0f} MB")),
        ("Versions", ", ".join(f"{name} {number}" for name, number in record.description.get("versions", {}).items())),
    ]
    return [(name, bidi(str(value), 400)) for name, value in rows if value]


def _join_known(values: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(str(values[key]) for key in keys if values.get(key))


def _gigabytes(metrics: Mapping[str, Any]) -> float | None:
    size = (metrics.get("memory") or {}).get("peak_megabytes")
    return None if size is None else size / 1000


def _format_or_empty(value: Any, pattern: str) -> str:
    return "" if value is None else pattern.format(value)
