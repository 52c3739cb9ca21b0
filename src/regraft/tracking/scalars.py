"""Numbers and names as trackers take them.

Enters: settings in sections, rows of the history, the content of `metrics.json`. Leaves: flat tables whose keys every
tracker accepts, whatever the classes are called.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.training.progress import Epoch

#: More classes than this have no curves of their own.
_MOST_CLASSES = 100
#: MLflow takes 250 characters in all.
_LONGEST = 100


def tag(text: str) -> str:
    """A name, or a part of one, of letters of any script, digits, blanks and `_-.`; never empty, never a path."""
    plain = re.sub(r"[^\w .-]", "_", unicodedata.normalize("NFC", text))[:_LONGEST].strip()
    return plain if plain.strip(".") else "_" * max(1, len(plain))


def distinct_tags(names: list[str]) -> list[str]:
    """A tag for each name, no two alike, in upper or lower case either (some databases do not tell them apart)."""
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


def printable(text: str) -> str:
    """The text as UTF-8 can have it: bytes of a file's name that are none are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def flat_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | int | float | str]:
    """`section.key` -> value; lists as JSON."""
    return {
        f"{section}.{key}": value
        if isinstance(value, (bool, int, float))
        else printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for section, options in settings.items()
        for key, value in options.items()
    }


def epoch_scalars(row: Epoch) -> dict[str, float]:
    """`phase/number` -> value, for all that the row has."""
    kept = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "lr", "strength")
    found = {name: getattr(row, name) for name in (*kept, "seconds", "images_per_second")}
    return {f"{row.phase}/{name}": float(value) for name, value in found.items() if value is not None}


def final_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `metrics.json` that one compares: of each part with intervals, of calibration, cost and size."""
    found = {name: float(value) for name, value in _finals(metrics) if value is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


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
    calibration = metrics.get("calibration", {})
    yield "calibration/temperature", calibration.get("temperature")
    for part in ("val", "test"):
        for when in ("before", "after"):
            yield f"calibration/{part}_ece_{when}", calibration.get(part, {}).get(when, {}).get("ece")
    for section, name in (
        ("time", "train_seconds"),
        ("time", "predict_ms_per_image"),
        ("model", "parameters"),
        ("model", "megabytes"),
        ("memory", "peak_megabytes"),
    ):
        yield f"{section}/{name}", metrics.get(section, {}).get(name)
