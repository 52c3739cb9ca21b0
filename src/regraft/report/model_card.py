"""A run as a model card: Markdown with YAML front matter, the page beside the weights on the Hugging Face Hub.

Its sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

from __future__ import annotations

import json

from markupsafe import Markup

from regraft.report.document import render_document
from regraft.report.record import RunRecord
from regraft.report.tasks import summary
from regraft.text import one_line


def model_card(record: RunRecord) -> str:
    """Return the card. It names no folder of the data, because a card is made to be published."""
    return render_document("model_card.md.jinja", record, yaml=_yaml, sentences=summary(record))


def _yaml(value: str | float) -> Markup:
    """Return a YAML scalar; a text is quoted as in JSON, without the characters that YAML forbids."""
    if not isinstance(value, str):
        return Markup(json.dumps(value))
    text = one_line(value).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD, 0x7F: 0x20})
    return Markup(json.dumps(text, ensure_ascii=False))
