"""Tables are read whatever their separator and encoding, or refused with the line."""

from __future__ import annotations

import csv
import importlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.sources.table import read_cells, text_of
from regraft.errors import DataError

ROWS = [["a.jpg", "cat"], ["b.jpg", "dog"]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(separator, end):
    text = end.join(separator.join(row) for row in (["path", "label"], *ROWS, [])).encode()
    cells = read_cells("m.csv", text)
    assert (cells.columns, [row for row in cells.rows if row], cells.notes) == (["path", "label"], ROWS, [])


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.encode("cp1252"),
    ],
)
def test_encodings_of_excel(encode):
    cells = read_cells("m.csv", encode("path\tlabel\nä.jpg\tGrünkohl € roh\n"))
    assert [row for row in cells.rows if row] == [["ä.jpg", "Grünkohl € roh"]]


def test_a_guessed_encoding_is_said():
    (note,) = read_cells("m.csv", "path,label\na.jpg,Käfer\n".encode("latin-1")).notes
    assert note == "m.csv is not UTF-8, and was read as Windows-1252, for example 'a.jpg,Käfer'."


def test_excel_names_its_separator():
    for first in ("sep=;", '"sep=;"', "sep=;\r"):
        cells = read_cells("m.csv", f"{first}\npath;label\na.jpg;cat, black\n".encode())
        assert (cells.rows[0], cells.place(0)) == (["a.jpg", "cat, black"], "line 3")


def test_quotes_around_cells():
    cells = read_cells("m.csv", b'path, label ,note\na.jpg, "cat, black" ,"one\ntwo"\n"b ""x"".jpg",dog,\n')
    assert cells.rows[:2] == [["a.jpg", "cat, black", "one\ntwo"], ['b "x".jpg', "dog", ""]]
    assert [cells.place(i) for i in range(2)] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("path,label\na.jpg,cat, black\n", ["line 2: 3 cells, but 2 in the header: a.jpg,cat, black"]),
        ("path,label\na.jpg,cat\npath,label\nb.jpg,dog\n", ["line 3: the header again"]),
        ("path,label,split\na.jpg,cat\n", ["line 2: 2 cells, but 3 in the header: a.jpg,cat"]),
        ("path,label\n\na.jpg;cat\n", ["line 3: 1 cell, but 2 in the header: a.jpg;cat"]),
        ('path,label\na.jpg,"cat\nb.jpg,dog\n', ['line 2: a stray quote: a.jpg,"cat']),
        ('path,label\na.jpg,cat"\nb.jpg,dog\n', ['line 2: a stray quote: a.jpg,cat"']),
        ('path,label\na.jpg,ca"t\n', ['line 2: a stray quote: a.jpg,ca"t']),
        ('path,label\na.jpg,"cat"s\n', ['line 2: a stray quote: a.jpg,"cat"s']),
        (
            'path,label\na.jpg,"cat\nb.jpg,dog"\nc.jpg,"dog\n',
            [f"line {i}: a stray quote: {row}" for i, row in ((2, 'a.jpg,"cat'), (3, 'b.jpg,dog"'), (4, 'c.jpg,"dog'))],
        ),
        (
            'path,label,note\na.jpg,cat,"n\nb.jpg,dog,m"\n',
            [f"line {i}: a stray quote: {row}" for i, row in ((2, 'a.jpg,cat,"n'), (3, 'b.jpg,dog,m"'))],
        ),
    ],
)
def test_damaged_lines_are_named(text, errors):
    with pytest.raises(DataError) as error:
        read_cells("m.csv", text.encode())
    first, *lines, advice = str(error.value).splitlines()
    assert first == f"m.csv has {len(errors)} error{'s' if len(errors) > 1 else ''}:"
    assert [line.strip() for line in lines] == errors
    assert advice.startswith("Expected as many cells in each line as in the header, with a comma between them")


def test_empty_cells_at_the_end_are_no_cells():
    cells = read_cells("m.csv", b"path,label,,\na.jpg,cat,,\nb.jpg,dog\n,,,,,\n\x1a")
    assert (cells.columns, cells.rows[:3]) == (["path", "label"], [*ROWS, []])


def test_mixed_separators_in_a_header_are_refused():
    with pytest.raises(DataError, match=r"m\.csv, line 1, has a comma and a semicolon between its cells: path,label;x"):
        read_cells("m.csv", b"path,label;x\na.jpg,cat;1\n")
    assert read_cells("m.csv", b'path,"a;b"\na.jpg,cat\n').columns == ["path", "a;b"]
    assert read_cells("m.tsv", b"path\ta, b\na.jpg\tcat\n").columns == ["path", "a, b"]


def test_a_stray_quote_in_a_long_table_is_found_at_once():
    rows = "".join(f"{i}.jpg,cat\n" for i in range(30_000))
    with pytest.raises(DataError, match=r"(?s)has 2 errors:\n  line 2: a stray quote.*line 30003: a stray quote"):
        read_cells("m.csv", f'path,label\nx.jpg,"cat\n{rows}y.jpg,dog"\n'.encode())


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), min_size=3, max_size=3))
)
@settings(max_examples=60, deadline=None)
def test_what_csv_writes_is_read(rows):
    file = io.StringIO()
    csv.writer(file).writerows([["path", "label", "note"], *rows])
    read = [row for row in read_cells("m.csv", file.getvalue().encode()).rows if row]
    assert read == [row for row in rows if any(cell.strip() for cell in row)]


def test_missing_values_and_whole_numbers():
    values = [None, float("nan"), 1.0, 1.5, 7, "NA", "007", " x", True]
    assert [text_of(value) for value in values] == ["", "", "1", "1.5", "7", "NA", "007", " x", "True"]


def test_the_same_values_in_parquet_and_json_lines(tmp_path):
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    file = tmp_path / "m.parquet"
    parquet.write_table(pyarrow.table({"path": ["a.jpg", "b.jpg"], "label": [1.0, float("nan")]}), file)
    cells = read_cells("m.parquet", file.read_bytes())
    assert (cells.rows, cells.place(1)) == ([["a.jpg", "1"], ["b.jpg", ""]], "row 2")
    lines = b'{"path": "a.jpg", "label": 1.0, "box": [1]}\n\n{"path": "b.jpg", "label": null}\n'
    cells = read_cells("m.jsonl", lines)
    assert (cells.rows, cells.place(2)) == ([["a.jpg", "1"], [], ["b.jpg", ""], []], "line 3")
