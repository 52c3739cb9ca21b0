"""A run's images as a datasheet: the questions of Gebru et al. 2021, "Datasheets for Datasets" (arXiv 1803.09010)."""

from __future__ import annotations

from regraft.report.document import render_document
from regraft.report.record import RunRecord
from regraft.report.tasks import REPORTS


def datasheet(record: RunRecord) -> str:
    """Return the datasheet, with what the run knows filled in. It names no folder of the data."""
    return render_document("datasheet.md.jinja", record, quality=list(REPORTS[record.task].quality(record)))
