"""Write a document about a run that people complete, and never over what a person wrote.

Input: a run and a template. Output: a Markdown file, whose last line has a checksum of the others: where it does not
fit, a person has changed the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from regraft.atomic_io import write_text
from regraft.errors import UsageError, as_path
from regraft.report.annex_iv import annex_iv
from regraft.report.datasheet import datasheet
from regraft.report.model_card import model_card
from regraft.report.record import RunRecord
from regraft.runs.record import damage_named, record_of
from regraft.runs.run import Run

#: Names of the documents, and of the model card's file.
Template = Literal["model-card", "datasheet", "annex-iv"]
CARD = "MODEL_CARD.md"
#: By its name, the file of a document in a run's folder, and what makes its text.
TEMPLATES: Mapping[str, tuple[str, Callable[[RunRecord], str]]] = {
    "model-card": (CARD, model_card),
    "datasheet": ("DATASHEET.md", datasheet),
    "annex-iv": ("ANNEX_IV.md", annex_iv),
}
_CHECKSUM = re.compile(r"<!-- regraft: ([0-9a-f]{16}) -->\n\Z")


def write_document(run: Run, template: str, out: Path | str | None = None) -> Path:
    """Write a document and return its file, by default in the run's folder.

    Raises:
        UsageError: There is no such template; or `out` is a folder, or a file that a person wrote or changed.
        RunError: A file of the run is damaged.
    """
    if template not in TEMPLATES:
        raise UsageError(f"template={template!r}; expected {', '.join(TEMPLATES)}.")
    name, make = TEMPLATES[template]
    file = run.path / name if out is None else as_path(out, "The file of the document")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; expected a file, such as {file / name}.")
    is_card = file == run.path / CARD  # that of an earlier version has no checksum
    if is_changed(file) if is_card else file.exists() and not is_as_written(file):
        raise UsageError(
            f"{file} was written or changed by a person, and is kept. Give another file (out), or move this one away."
        )
    record = record_of(run)
    with damage_named(run):
        text = make(record)
    write_text(file, with_checksum(text))
    return file


def with_checksum(text: str) -> str:
    """The text with a last line, which no reader of Markdown sees, by which `is_as_written` knows it."""
    return f"{text}\n<!-- regraft: {_checksum(text)} -->\n"


def is_as_written(file: Path) -> bool:
    """Whether a file has the text that regraft wrote; False for any other file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    found = _CHECKSUM.search(text)
    return found is not None and found[1] == _checksum(text[: found.start() - 1])


def is_changed(file: Path) -> bool:
    """Whether regraft wrote a file, with a checksum, and a person has changed it since."""
    return file.is_file() and not is_as_written(file) and "<!-- regraft: " in file.read_text("utf-8", "replace")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
