"""A run as a draft of the technical documentation that Annex IV of Regulation (EU) 2024/1689, the AI Act, asks for.

The template states the points of the annex in short words. It is a draft and no legal advice, as its first lines say.
"""

from __future__ import annotations

from regraft.report.document import render_document
from regraft.report.earlier_run import describe_earlier
from regraft.report.record import RunRecord
from regraft.report.tasks import REPORTS, describe_groups


def annex_iv(record: RunRecord) -> str:
    """Return the draft, with what the run knows filled in. It names no folder of the data."""
    report, earlier = REPORTS[record.task], record.metrics.get("earlier_run")
    training = record.metrics.get("training") or {}
    return render_document(
        "annex_iv.md.jinja",
        record,
        quality=list(report.quality(record)),
        confidence=list(report.confidence(record)),
        notes=[*((str(note),) for note in training.get("notes", ())), describe_groups(record.metrics)],
        earlier=list(describe_earlier(earlier)) if earlier else [],
    )
