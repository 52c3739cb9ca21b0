"""A run as a model card: Markdown with YAML front matter, the page beside the weights on the Hugging Face Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import PurePosixPath

from markupsafe import Markup

from regraft.data.dataset import PARTS
from regraft.evaluation.calibration import MIN_IMAGES
from regraft.report import sentences
from regraft.report.html import Name, escape_markdown, render, short
from regraft.report.record import RunRecord
from regraft.report.sentences import Sentence
from regraft.text import join_truncated, one_line

#: Maximum number of classes that are named, and of rows of the per-class table.
_MAX_NAMED, _MAX_ROWS = 100, 50


def model_card(record: RunRecord) -> str:
    """Return the card. It names no folder of the data, because a card is made to be published."""
    parts = [part for part in PARTS if part in record.counts]
    totals = {name: sum(record.counts[part].get(name, 0) for part in parts) for name in record.classes}
    text = render(
        "model_card.md.jinja",
        record=record,
        yaml=_yaml,
        metrics=_metrics(record),
        data_name=PurePosixPath(record.source.replace("\\", "/")).name or record.name,
        sentences=[_markdown(sentence) for sentence in sentences.summary(record)],
        parts=parts,
        largest=sorted(record.classes, key=lambda name: -totals[name])[:_MAX_NAMED],
        max_named=_MAX_NAMED,
        max_rows=_MAX_ROWS,
        evaluation=record.evaluations[record.part] if record.part else None,
        weakest=[row for row in record.weakest_first() if row.support],
        part_names=sentences.PARTS,
        limitations=[*record.cautions, *_weak_classes(record), *_label_errors(record), *record.missing],
        ood_rate=_ood_rate(record),
        min_calibrated=MIN_IMAGES,
    )
    front_matter, end, body = text.partition("\n---\n")
    return front_matter + end + body.replace("\N{NO-BREAK SPACE}", " ") + "\n"  # a search for "90.1 %" shall find it


def _yaml(value: str | float) -> Markup:
    """Return a YAML scalar; a text is quoted as in JSON, without the characters that YAML forbids."""
    if not isinstance(value, str):
        return Markup(json.dumps(value))
    text = one_line(value).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD, 0x7F: 0x20})
    return Markup(json.dumps(text, ensure_ascii=False))


def _metrics(record: RunRecord) -> list[tuple[str, str, float]]:
    """Metrics of the front matter: type, name and value."""
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    macro_f1 = "Macro F1" + (" of the tested classes" if evaluation.untested else "")
    metrics = [("accuracy", "Accuracy", evaluation.accuracy), ("f1", macro_f1, evaluation.macro_f1)]
    if record.calibrations and evaluation.count >= MIN_IMAGES:
        metrics.append(("expected_calibration_error", "Expected calibration error", record.calibrations[1].ece))
    return [(kind, name, round(value, 6)) for kind, name, value in metrics]


def _markdown(sentence: Sentence) -> Markup:
    return Markup("").join(escape_markdown(p) if isinstance(p, Name) else Markup(p) for p in sentence)


def _weak_classes(record: RunRecord) -> Iterable[str]:
    """A sentence about the classes whose recall is below one half with 97.5 % certainty."""
    rows = record.evaluations[record.part].per_class if record.part else ()
    names = [short(row.name, 40) for row in rows if row.support and row.recall_interval[1] < 0.5]
    if names:
        yield f"The recall is below 50 % for {join_truncated(names)}."


def _label_errors(record: RunRecord) -> Iterable[str]:
    if record.suspects:
        yield (f"{len(record.suspects):,} of the validation and test images may have a wrong label (label_errors.csv), "
               "which affects all metrics.")  # fmt: skip


def _ood_rate(record: RunRecord) -> float | None:
    """The share of in-distribution images to reject, 0.01 or the least that the validation images can resolve."""
    ood = record.description.get("ood")
    return max(0.01, math.ceil(100 / (ood["calibration_images"] + 1)) / 100) if ood else None
