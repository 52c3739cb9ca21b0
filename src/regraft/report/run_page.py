"""The report of a run as one HTML file that needs no other file, and says what the run does not contain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from regraft.data.dataset import PARTS
from regraft.report import plots
from regraft.report.html import bidi, percent, render_page
from regraft.report.record import SHOWN, RunRecord
from regraft.report.subgroups import subgroup_table
from regraft.report.tasks import REPORTS, summary
from regraft.report.thumbnails import Album
from regraft.text import in_shell, one_line, shorten

#: Maximum number of names in a list, and of characters of the configuration.
_MAX_NAMES, _MAX_CONFIG = 200, 20_000
#: Words for the steps of a training.
_STEPS = {
    "members": "fine-tuning of each backbone",
    "decode": "decoding",
    "prefix": "frozen layers",
    "finetune": "fine-tuning",
    "evaluate": "evaluation",
}


def run_page(record: RunRecord, thumbnails: Mapping[str, str], maps: Mapping[str, str] | None = None) -> str:
    """Return the page; the same record and thumbnails always give the same page.

    `thumbnails` are data URIs by image name, those of `record.image_names()` that can be read, and `maps` the pictures
    of `record.predicted_image_names()` under their attribution maps; None if attribution was not requested.
    """
    report = REPORTS[record.task]
    evaluation = record.evaluations[record.part] if record.part else None
    parts = [part for part in PARTS if part in record.counts]
    sections = {
        "summary": "Summary", "data": "Data",
        **({"backbones": "Choice of the backbone"} if record.backbone_search else {}),
        "training": "Training curves", **report.sections(record),
        **({"subgroups": "Subgroups"} if evaluation and evaluation.subgroups else {}),
        **({"comparison": "Comparison"} if record.comparison else {}),
        "reproduce": "Reproduce this run",
    }  # fmt: skip
    image_names = record.image_names()
    missing_count = sum(path not in thumbnails for path in image_names)
    data = record.metrics.get("data") or {}
    config = record.config if len(record.config) <= _MAX_CONFIG else record.config[:_MAX_CONFIG] + "\n…"
    return render_page(
        report.page,
        title=shorten(one_line(record.name), 120),
        kind="training report",
        sections=sections,
        record=record,
        evaluation=evaluation,
        values=key_numbers(record),
        sentences=summary(record),
        cautions=record.cautions,
        parts=parts,
        class_rows=_class_rows(record, parts),
        subgroups=[subgroup_table(one) for one in evaluation.subgroups] if evaluation else [],
        notes=data.get("notes", ())[:_MAX_NAMES],
        unreadable=data.get("bad", ()),
        max_names=_MAX_NAMES,
        search=_search_view(record),
        training=training_view(record),
        album=Album(thumbnails, "not available"),
        maps=Album(maps, "no map") if maps else None,
        some_maps=bool(maps) and len(maps or ()) < len(record.predicted_image_names()),
        no_maps=maps is not None and not maps and missing_count < len(image_names),
        at_chance=report.objection(record),
        image_count=len(image_names),
        missing_count=missing_count,
        groups=record.picture_groups(),
        shown=SHOWN,
        command=f"regraft train {in_shell(one_line(record.source))} --config config.toml --out AGAIN"
        if record.source else None,
        environment=_environment(record),
        config=config.splitlines(),
        **report.page_view(record),
    )  # fmt: skip


def key_numbers(record: RunRecord) -> list[tuple[str, str]]:
    """Return the most important numbers, each with its name."""
    numbers = list(REPORTS[record.task].numbers(record))
    numbers += [(f"{count:,}", f"{part} images") for part, count in record.image_counts.items()
                if part != record.part]  # fmt: skip
    metrics = record.metrics
    for part in ("train", "val"):
        if part != record.part and (accuracy := (metrics.get(part) or {}).get("accuracy")) is not None:
            numbers.append((percent(accuracy), f"{part} {REPORTS[record.task].train_accuracy}"))
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
        draw = partial(plots.training_curve.draw_head_path, path=path)
        charts.append(("Head: validation loss by L2 strength", plots.svg.panel(draw, "head-path", label)))
    measures = ("loss", "accuracy") if REPORTS[record.task].train_accuracy else ("loss",)
    for measure in measures if epochs else ():
        draw = partial(plots.training_curve.draw_curves, epochs=epochs, measure=measure)
        chart = plots.svg.panel(draw, measure, plots.training_curve.describe_curves(epochs, measure))
        title = REPORTS[record.task].train_accuracy if measure == "accuracy" else measure
        charts.append((title.capitalize(), chart))
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
            "The one with the lowest log loss came first, then at each step the one that lowered it most. As many are "
            "combined as are not clearly worse than fewer."
        )
    else:
        sentences.append("Of those that were compared last, the one with the lowest log loss was chosen.")
    sentences.append("The validation and test images took no part in it.")
    return {"sentences": " ".join(sentences), "seconds": search["seconds"], "rows": rows}


def _class_rows(record: RunRecord, parts: Iterable[str]) -> list[tuple[str, int, list[int]]]:
    rows = [(name, [record.counts[part].get(name, 0) for part in parts]) for name in record.classes]
    return sorted(((name, sum(counts), counts) for name, counts in rows), key=lambda row: -row[1])


def _environment(record: RunRecord) -> list[tuple[str, Markup]]:
    weights, time = record.description.get("weights") or {}, record.metrics.get("time") or {}
    training, every = record.metrics.get("training") or {}, weights.get("members") or [weights]
    pretrained = _join_known(weights, "source", "name", "license")
    if record.has_random_weights:
        pretrained = "none: random weights"
    rows = [
        ("Backbone", record.description["backbone"].get("timm_name", record.backbone)),
        ("Pretrained weights", pretrained),
        ("License of the weights", " ".join(record.license_conditions)),
        ("SHA-256 of the weights", ", ".join(filter(None, (one.get("sha256") for one in every)))),
        ("Device", _join_known(training, "device", "precision", "prefix_backend") + _in_int8(training)),
        ("Time", ", ".join(f"{_STEPS.get(name, name)} {s:.1f} s" for name, s in (time.get("steps") or {}).items())),
        ("Prediction from a file", _format_or_empty(time.get("predict_ms_per_image"), "{:.1f} ms per image")),
        ("Peak memory", _format_or_empty((record.metrics.get("memory") or {}).get("peak_megabytes"), "{:,.0f} MB")),
        ("Versions", ", ".join(f"{name} {number}" for name, number in record.description.get("versions", {}).items())),
    ]
    return [(name, bidi(str(value), 400)) for name, value in rows if value]


def _in_int8(training: Mapping[str, Any]) -> str:
    used = (training.get("int8") or {}).get("used")
    return ", int8 for training images in the frozen layers" if used else ""


def _join_known(values: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(str(values[key]) for key in keys if values.get(key))


def _gigabytes(metrics: Mapping[str, Any]) -> float | None:
    size = (metrics.get("memory") or {}).get("peak_megabytes")
    return None if size is None else size / 1000


def _format_or_empty(value: Any, pattern: str) -> str:
    return "" if value is None else pattern.format(value)
