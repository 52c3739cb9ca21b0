"""Whether the cells of tables have one label each, several, or something unclear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from regraft.data.labels import LabelOptions, split_labels
from regraft.data.sources.label_cells import form_of_texts, labels_in_list
from regraft.data.sources.manifest import parse_manifest
from regraft.data.storage import Folder
from regraft.errors import DataError, UsageError

#: Rows that have one label, to which a case adds others.
PLAIN = ["cat", "dog", "bird"] * 4


def read(tmp_path: Path, labels: Sequence[str], **options: str) -> tuple[str, list[str], str]:
    """Task, labels and notes of a manifest with these cells."""
    rows = "".join(f'{i}.jpg\t"{cell.replace(chr(34), 2 * chr(34))}"\n' for i, cell in enumerate(labels))
    found = parse_manifest(
        "m.tsv", f"path\tlabel\n{rows}".encode(), Folder(tmp_path), label_options=LabelOptions(**options)
    )
    return found.task, [row.label for row in found.rows], " ".join(found.notes)


@pytest.mark.parametrize(
    ("cells", "expected", "said"),
    [
        (["cat|dog", "bird | cat", ""], ["cat|dog", "bird|cat", ""], "2 of 15 have more than one, with '|' between"),
        (["cat;dog", "dog;cat;", ""], ["cat|dog", "cat|dog", ""], "with ';' between them"),
        (["cat, dog", "dog, bird"], ["cat|dog", "bird|dog"], "with ',' between them"),
        (["green|blue", "red|blue"], ["blue|green", "blue|red"], "2 of 14 have more than one"),
    ],
)
def test_several_labels_are_recognized_and_said(
    tmp_path: Path, cells: list[str], expected: list[str], said: str
) -> None:
    task, labels, notes = read(tmp_path, [*PLAIN, *cells])
    assert (task, labels) == ("multilabel", [*PLAIN, *expected])
    assert said in notes
    assert "--task classification refuses them" in notes


@pytest.mark.parametrize(
    ("cells", "several"),
    [
        (['["cat", "dog"]', "[]", '["dog"]'], ["cat|dog", "", "dog"]),
        (["['cat', 'dog']", "['dog']"], ["cat|dog", "dog"]),
        (["[0, 3]", "[3]"], ["0|3", "3"]),
        (['{"choices": ["cat", "dog"]}', '{"choices": ["dog"]}'], ["cat|dog", "dog"]),
        (['[{"x": 1, "rectanglelabels": ["cat"]}, {"rectanglelabels": ["dog"]}]', "[]"], ["cat|dog", ""]),
    ],
)
def test_lists_have_several_labels(tmp_path: Path, cells: list[str], several: list[str]) -> None:
    task, labels, notes = read(tmp_path, cells)
    assert (task, labels) == ("multilabel", several)
    assert "1 of" in notes


def test_lists_beside_single_labels(tmp_path: Path) -> None:
    cells = ["cat", '["cat", "dog"]', '{"choices": ["dog", "bird"]}']
    assert read(tmp_path, cells)[:2] == ("multilabel", ["cat", "cat|dog", "bird|dog"])


def test_lists_of_one_label_each_are_classes(tmp_path: Path) -> None:
    assert read(tmp_path, ['["cat"]', "['dog']"])[:2] == ("classification", ["cat", "dog"])
    with pytest.raises(DataError, match=r"2 labels: cat, dog; expected one class(.|\n)*--task multilabel"):
        read(tmp_path, ['["cat", "dog"]', "['dog']"], task="classification")


@pytest.mark.parametrize(
    "names", [["Paris, France", "London, England"], ["a;b", "c;d"], ["tench, Tinca", "pike, Esox"]]
)
def test_names_with_separators_are_one_label_each(tmp_path: Path, names: list[str]) -> None:
    task, labels, notes = read(tmp_path, names * 5)
    assert (task, labels) == ("classification", names * 5)
    assert f"{names[0]!r} is one label" in notes
    assert "--task multilabel" in notes


@pytest.mark.parametrize("cell", ["cat|dog", "cat, dog", "cat dog", "cat / dog", "cat+dog", "cat & dog"])
def test_one_odd_row_is_an_error_that_names_the_way_out(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"several labels: cat(.|\n)*--task multilabel"):
        read(tmp_path, [*PLAIN, cell])


@pytest.mark.parametrize(
    ("cells", "options", "expected", "said"),
    [
        (["cat|dog", ""], {}, ["cat|dog", ""], "labels with '|' between them"),
        (["cat,dog", "dog"], {}, ["cat|dog", "dog"], "labels with ',' between them"),
        (["Paris, France|Rome, Italy"], {}, ['["Paris, France", "Rome, Italy"]'], "'|'"),
        (["Paris, France"], {"label_separator": "|"}, ['["Paris, France"]'], "no image has more than one label"),
        (["cat dog", "dog"], {"label_separator": " "}, ["cat|dog", "dog"], ""),
        (["cat", "dog"], {}, ["cat", "dog"], "no image has more than one label"),
    ],
)
def test_asked_for(tmp_path: Path, cells: list[str], options: dict[str, str], expected: list[str], said: str) -> None:
    separator = options.get("label_separator", "")
    task, labels, notes = read(tmp_path, cells, task="multilabel", separator=separator)
    assert (task, labels) == ("multilabel", expected)
    assert said in notes


@pytest.mark.parametrize("between", [" ", "/", " & ", ","])
def test_another_separator_than_the_one_that_is_found_is_an_error(tmp_path: Path, between: str) -> None:
    cells = [*PLAIN, "cat|dog", "cat|dog", f"cat{between}dog"]
    with pytest.raises(DataError, match=r"several labels: cat\W+dog; expected one separator\n--label-separator"):
        read(tmp_path, cells, task="multilabel")
    with pytest.raises(DataError, match="expected one separator"):
        read(tmp_path, [*PLAIN, f"cat{between}dog"] if between != "," else cells, task="multilabel")
    labels = read(tmp_path, cells, task="multilabel", separator="|")[1]
    assert labels[-1] in (f"cat{between}dog", '["cat,dog"]')
    if between != ",":  # one class, as is said
        assert read(tmp_path, [*PLAIN, labels[-1]], task="classification")[1][-1] == labels[-1]


def test_a_separator_asks_for_several_labels(tmp_path: Path) -> None:
    assert read(tmp_path, ["cat dog", "dog"], separator=" ")[:2] == ("multilabel", ["cat|dog", "dog"])
    with pytest.raises(UsageError, match="no effect with task=classification"):
        LabelOptions("classification", "|")
    with pytest.raises(UsageError, match="expected auto, classification, multilabel"):
        LabelOptions("several")  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", ["['cat' 'dog']", '["cat"', "[cat]", "[[1]]", "[null]"])
def test_what_is_no_list_of_labels(tmp_path: Path, cell: str) -> None:
    assert labels_in_list(cell) is None
    with pytest.raises(DataError, match="expected a list of names"):
        read(tmp_path, [cell, "dog"], task="multilabel")


def flags(rows: Sequence[str]) -> bytes:
    return "\n".join(["path,cat,dog,bird", *(f"{i}.jpg,{row}" for i, row in enumerate(rows))]).encode()


def test_columns_with_several_ones(tmp_path: Path) -> None:
    found = parse_manifest("m.csv", flags(["1,1,0", "0,0,0", "0,1,1", "1,0,0"]), Folder(tmp_path))
    assert [row.label for row in found.rows] == ["cat|dog", "", "bird|dog", "cat"]
    assert "2 of 4 have more than one, and 1 none" in " ".join(found.notes)


@pytest.mark.parametrize("wrong", ["1,1,0", "0,0,0"])
def test_one_wrong_row_of_many_is_an_error(tmp_path: Path, wrong: str) -> None:
    rows = ["1,0,0", "0,1,0"] * 20
    with pytest.raises(DataError, match=r"line 42(.|\n)*--task multilabel"):
        parse_manifest("m.csv", flags([*rows, wrong]), Folder(tmp_path))
    found = parse_manifest("m.csv", flags([*rows, wrong]), Folder(tmp_path), label_options=LabelOptions("multilabel"))
    assert found.task == "multilabel"


def test_rows_of_an_image_are_united_where_that_is_asked_for(tmp_path: Path) -> None:
    data = b"path,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\n"
    with pytest.raises(DataError, match=r"a\.jpg is 'dog', but 'cat' in line 2(.|\n)*--task multilabel"):
        parse_manifest("m.csv", data, Folder(tmp_path))
    found = parse_manifest("m.csv", data, Folder(tmp_path), label_options=LabelOptions("multilabel"))
    assert [(row.path, row.label) for row in found.rows] == [("a.jpg", "cat|dog"), ("b.jpg", "dog")]
    assert "1 row names an image again with other labels" in " ".join(found.notes)


def test_the_texts_of_several_tables_are_judged_together() -> None:
    assert form_of_texts(Counter({"cat": 99, "cat|dog": 1, "dog": 5}), "x", LabelOptions()).task == "classification"
    assert form_of_texts(Counter({"cat": 20, "cat|dog": 2, "dog": 5}), "x", LabelOptions()).task == "multilabel"


def test_the_separator_of_most_cells_is_meant_where_several_labels_are_asked_for(tmp_path: Path) -> None:
    cells = ["cat, dog"] * 5 + ["cat;small, dog"]
    task, labels, _ = read(tmp_path, cells, task="multilabel")
    assert (task, labels[0], split_labels(labels[-1])) == ("multilabel", "cat|dog", ("cat;small", "dog"))
