"""A run as a model card: Markdown with YAML front matter, the page beside the weights on the Hugging Face Hub."""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath

from markupsafe import Markup

from regraft.data.dataset import PARTS
from regraft.report.html import Name, escape_markdown, render
from regraft.report.not_for import not_for
from regraft.report.record import RunRecord
from regraft.report.sentences import PARTS as PART_NAMES
from regraft.report.task_report import Sentence
from regraft.report.tasks import REPORTS, summary
from regraft.text import one_line

#: Maximum number of classes that are named, and of rows of the per-class table.
_MAX_NAMED, _MAX_ROWS = 100, 50


def model_card(record: RunRecord) -> str:
    """Return the card. It names no folder of the data, because a card is made to be published."""
    parts = [part for part in PARTS if part in record.counts]
    totals = {name: sum(record.counts[part].get(name, 0) for part in parts) for name in record.classes}
    report = REPORTS[record.task]
    view = dict(report.card_view(record))
    text = render(
        report.card,
        record=record,
        yaml=_yaml,
        data_name=PurePosixPath(record.source.replace("\\", "/")).name or record.name,
        sentences=[_markdown(sentence) for sentence in summary(record)],
        parts=parts,
        largest=sorted(record.classes, key=lambda name: -totals[name])[:_MAX_NAMED],
        max_named=_MAX_NAMED,
        max_rows=_MAX_ROWS,
        evaluation=record.evaluations[record.part] if record.part else None,
        part_names=PART_NAMES,
        limitations=[*record.cautions, *view.pop("limitations"), *record.missing],
        ood_rate=_ood_rate(record),
        not_for=list(not_for(record)),
        **view,
    )
    front_matter, end, body = text.partition("\n---\n")
    return front_matter + end + body.replace("\N{NO-BREAK SPACE}", " ") + "\n"  # a search for "90.1 %" shall find it


def _yaml(value: str | float) -> Markup:
    """Return a YAML scalar; a text is quoted as in JSON, without the characters that YAML forbids."""
    if not isinstance(value, str):
        return Markup(json.dumps(value))
    text = one_line(value).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD, 0x7F: 0x20})
    return Markup(json.dumps(text, ensure_ascii=False))


def _markdown(sentence: Sentence) -> Markup:
    return Markup("").join(escape_markdown(p) if isinstance(p, Name) else Markup(p) for p in sentence)


def _ood_rate(record: RunRecord) -> float | None:
    """The share of in-distribution images to reject, 0.01 or the least that the validation images can resolve."""
    ood = record.description.get("ood")
    return max(0.01, math.ceil(100 / (ood["calibration_images"] + 1)) / 100) if ood else None
