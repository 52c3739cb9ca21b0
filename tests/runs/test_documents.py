"""Documents of trained runs: their numbers are those of the run's files, and what a person wrote stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_documents import check_documents

import regraft
from regraft.errors import UsageError
from regraft.runs.documents import TEMPLATES, is_as_written
from regraft.runs.report import write_report


@pytest.fixture
def run(squares_run: regraft.Run, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(squares_run.path, tmp_path / "run"))


def test_the_numbers_are_those_of_a_run_of_classes(squares_run: regraft.Run, tmp_path: Path) -> None:
    documents = check_documents(squares_run, tmp_path)
    assert documents["model-card"] == (squares_run.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "1 unreadable file was left out: broken.png" in documents["datasheet"]


def test_the_numbers_are_those_of_a_run_of_numbers(numbers_run: regraft.Run, tmp_path: Path) -> None:
    documents = check_documents(numbers_run, tmp_path)
    assert "Yes, a number: brightness." in documents["datasheet"]


def test_a_document_is_in_the_run_by_default_and_written_again(run: Path) -> None:
    for name, (file, _) in TEMPLATES.items():
        written = write_report(run, template=name)  # type: ignore[arg-type]  # a name of the table
        assert written == run / file
        assert is_as_written(written)
        before = written.read_bytes()
        assert write_report(run, template=name).read_bytes() == before  # type: ignore[arg-type]
    assert not list(run.glob(".*.partial"))


def test_what_a_person_wrote_is_kept(run: Path, tmp_path: Path) -> None:
    sheet = write_report(run, template="datasheet")
    filled = sheet.read_text(encoding="utf-8").replace("the persons or the team", "Ada")
    sheet.write_text(filled, encoding="utf-8")
    with pytest.raises(UsageError, match=r"DATASHEET\.md was written or changed by a person, and is kept"):
        write_report(run, template="datasheet")
    assert sheet.read_text(encoding="utf-8") == filled
    own = tmp_path / "own.md"
    for content in (b"mine", b"", b"\xff", filled.encode() + b"more\n"):
        own.write_bytes(content)
        with pytest.raises(UsageError, match="by a person"):
            write_report(run, template="datasheet", out=own)
        assert own.read_bytes() == content


def test_a_changed_card_outlives_the_report_and_one_of_an_earlier_version_does_not(run: Path) -> None:
    card = run / "MODEL_CARD.md"
    written = card.read_text(encoding="utf-8")
    changed = written.replace("who made the model", "Ada made the model")
    card.write_text(changed, encoding="utf-8")
    (run / "report.html").unlink()
    write_report(run)
    assert (run / "report.html").is_file()
    assert card.read_text(encoding="utf-8") == changed
    card.write_text("# run\n", encoding="utf-8")
    write_report(run)
    assert card.read_text(encoding="utf-8") == written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda run: {"template": "readme"}, "expected model-card, datasheet, annex-iv"),
        (lambda run: {"template": "datasheet", "out": run}, r"is a folder; expected a file, such as .*DATASHEET\.md"),
        (lambda run: {"template": "datasheet", "data": run}, "data has no effect with template"),
        (lambda run: {"out": run / "x.md"}, "no effect without template"),
    ],
    ids=["template", "folder", "data", "out"],
)
def test_wrong_options_are_named(run: Path, options: Callable[[Path], dict[str, Any]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write_report(run, **options(run))
