"""Documents about a run that people complete: a model card, a datasheet, Annex IV of the EU AI Act.

Input: a run's record and a template. Output: Markdown. What the run knows is filled in; each place that only a person
can fill begins with `MARK`, and the last line counts them.
"""

from __future__ import annotations

from typing import Any

from regraft.report.html import MARK, render
from regraft.report.not_for import not_for
from regraft.report.record import RunRecord
from regraft.report.run_facts import data_facts, model_facts
from regraft.report.task_report import Sentence
from regraft.report.tasks import REPORTS

#: Most rows of a table of classes.
_MAX_ROWS = 50


def render_document(template: str, record: RunRecord, **values: Any) -> str:
    """Return the document; `values` are those that the template needs besides the ones of all documents."""
    report = REPORTS[record.task]
    view = report.document(record)
    text = render(
        template,
        record=record,
        view=view,
        kind=_capitalized(view.kind),
        model=model_facts(record),
        data=data_facts(record),
        evaluation=record.evaluations[record.part] if record.part else None,
        limitations=[*record.cautions, *view.limitations, *record.missing],
        not_for=list(not_for(record)),
        max_rows=_MAX_ROWS,
        **values,
    )
    front_matter, end, body = text.rpartition("\n---\n")
    body = body.replace("\N{NO-BREAK SPACE}", " ")  # a search for "90.1 %" shall find it
    return f"{front_matter}{end}{body}\n\n{_count_line(count_places(body))}\n"


def count_places(text: str) -> int:
    """How many places of a document only a person can fill."""
    return text.count(MARK)


def _count_line(places: int) -> str:
    mark = MARK.strip("*:")
    verb = "place is" if places == 1 else "places are"
    return f"{places} {verb} for you to fill: search for “{mark}”."


def _capitalized(sentence: Sentence) -> Sentence:
    first, *rest = sentence
    return (first[0].upper() + first[1:], *rest)
