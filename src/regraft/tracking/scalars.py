"""Convert settings, epochs and metrics to flat dictionaries with names that every tracker accepts."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.text import encodable
from regraft.training.callbacks import Epoch, HeadFit

#: Largest number of classes with their own scalars.
_MOST_CLASSES = 100
#: Length of a name or part of a name; MLflow accepts 250 characters in total.
_LONGEST = 100


def tag(text: str) -> str:
    """Return the text as a part of a name: letters of any script, digits, blanks and `_-.`; never empty or a path."""
    plain = re.sub(r"[^\w .-]", "_", unicodedata.normalize("NFC", text))[:_LONGEST].strip()
    return plain if plain.strip(".") else "_" * max(1, len(plain))


def distinct_tags(names: list[str]) -> list[str]:
    """Return a distinct tag per name; tags also differ in more than case, which some databases ignore."""
    taken: set[str] = set()
    tags = []
    for name in names:
        stem = chosen = tag(name)
        number = 2
        while chosen.casefold() in taken:
            chosen, number = f"{stem}_{number}", number + 1
        taken.add(chosen.casefold())
        tags.append(chosen)
    return tags


def flat_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | int | float | str]:
    """Return values by `section.key`; lists as JSON."""
    return {
        f"{section}.{key}": value
        if isinstance(value, (bool, int, float))
        else encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for section, options in settings.items()
        for key, value in options.items()
    }


def epoch_scalars(row: Epoch) -> dict[str, float]:
    """Return the values of a row by `phase/name`, without those that are None."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "lr")
    values = {name: getattr(row, name) for name in (*names, "seconds", "images_per_second")}
    return {f"{row.phase}/{name}": float(value) for name, value in values.items() if value is not None}


def head_scalars(fit: HeadFit) -> dict[str, float]:
    """Return the values of a fit of the linear head by `head/name`, without those that are None."""
    values = {name: getattr(fit, name) for name in ("l2", "train_loss", "val_loss", "val_accuracy", "seconds")}
    return {f"head/{name}": float(value) for name, value in values.items() if value is not None}


def final_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Select the numbers of `metrics.json` to compare runs by: metrics with intervals, calibration, cost and size."""
    values = {name: float(value) for name, value in _finals(metrics) if value is not None}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _finals(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for part in ("train", "val", "test"):
        scores = metrics.get(part, {})
        for name, value in scores.items():
            if isinstance(value, (int, float)):
                yield f"{part}/{name}", value
        intervals = dict(scores.get("intervals", {}))
        if "accuracy_interval" in scores:
            intervals["accuracy"] = scores["accuracy_interval"]
        for name, (low, high) in intervals.items():
            yield f"{part}/{name}_low", low
            yield f"{part}/{name}_high", high
        reports = scores.get("per_class", [])
        if len(reports) <= _MOST_CLASSES:
            for report, name in zip(reports, distinct_tags([r["name"] for r in reports]), strict=True):
                yield f"{part}_recall/{name}", report["recall"]
                yield f"{part}_f1/{name}", report["f1"]
                yield f"{part}_average_precision/{name}", report.get("average_precision")
    calibration = metrics.get("calibration", {})
    yield "calibration/temperature", calibration.get("temperature")
    for part in ("val", "test"):
        for when in ("before", "after"):
            measured = calibration.get(part, {}).get(when, {})
            yield f"calibration/{part}_ece_{when}", measured.get("ece")
            yield f"calibration/{part}_ece_{when}_by_chance", measured.get("chance")
    for name in ("time/train_seconds", "time/predict_ms_per_image", "model/parameters", "model/megabytes",
                 "memory/peak_megabytes"):  # fmt: skip
        section, _, key = name.partition("/")
        yield name, metrics.get(section, {}).get(key)
