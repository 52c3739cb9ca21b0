from __future__ import annotations

import importlib
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.data.scan import scan
from regraft.errors import DataError

Encoded = Callable[[str], bytes]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, png: Encoded) -> Write:
    """Write images by their names and other files by their contents; returns their folder."""

    def write(*names: str, **files: str | bytes) -> Path:
        root = tmp_path / "data"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(name))
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write


def found(path: Path) -> list[tuple[str, str, str | None, str | None]]:
    return [(s.path, s.label, s.part, s.group) for s in scan(path).samples]


def test_metadata_in_the_root(write):
    root = write("a.png", "deep/b.png", "c.png", **{"metadata.csv": "file_name,label\na.png,cat\n./deep/b.png,dog\n"})
    assert found(root) == [("a.png", "cat", None, None), ("deep/b.png", "dog", None, None)]
    dataset = scan(root)
    assert dataset.ignored == ("c.png",)
    assert dataset.notes == ("1 image not in metadata.csv ignored, for example c.png.",)


def test_json_lines_with_all_columns(write):
    lines = [
        {"file_name": "a.png", "label": 3, "split": "train", "group": "p1", "boxes": [[1, 2]]},
        {"file_name": "b.png", "label": "dog", "split": "validation", "group": None},
        {"label": "dog", "file_name": "c.png", "split": "train"},
        {"label": 3, "file_name": "d.png", "split": "train"},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    assert found(write("a.png", "b.png", "c.png", "d.png", **{"metadata.jsonl": text})) == [
        ("a.png", "3", "train", "p1"),
        ("b.png", "dog", "val", None),
        ("c.png", "dog", "train", None),
        ("d.png", "3", "train", None),
    ]


def test_parquet(write, tmp_path):
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    root = write("a.png", "b.png")
    parquet.write_table(pyarrow.table({"file_name": ["a.png", "b.png"], "kind": [0, 1]}), root / "metadata.parquet")
    assert found(root) == [("a.png", "0", None, None), ("b.png", "1", None, None)]


def test_metadata_in_each_part_and_any_name_for_the_labels(write):
    rows = "file_name,kind\n1.png,cat\n2.png,dog\n"
    root = write(
        *(f"{part}/{i}.png" for part in ("train", "Validation") for i in (1, 2)),
        **{"train/metadata.csv": rows, "Validation/metadata.csv": rows},
    )
    assert found(root) == [
        ("Validation/1.png", "cat", "val", None),
        ("Validation/2.png", "dog", "val", None),
        ("train/1.png", "cat", "train", None),
        ("train/2.png", "dog", "train", None),
    ]


def test_one_table_for_folders_of_parts(write):
    text = "file_name,label\ntrain/1.png,cat\ntrain/2.png,dog\ntest/1.png,cat\n"
    root = write("train/1.png", "train/2.png", "test/1.png", **{"metadata.csv": text})
    assert {(path, part) for path, _, part, _ in found(root)} == {
        ("train/1.png", "train"),
        ("train/2.png", "train"),
        ("test/1.png", "test"),
    }


@pytest.mark.parametrize("top", ["", "photos/"])
def test_metadata_in_archives(write, tmp_path, top):
    root = write("a.png", "b.png", **{"metadata.csv": "file_name,label\na.png,cat\nb.png,dog\n"})
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in root.iterdir():
            archive.write(file, top + file.name)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for file in root.iterdir():
            tar.add(file, top + file.name)
    for name in ("x.zip", "x.tar.gz"):
        assert found(tmp_path / name) == [(f"{top}a.png", "cat", None, None), (f"{top}b.png", "dog", None, None)]


def test_what_is_named_and_not_there_is_unreadable(write):
    text = "file_name,label\na.png,cat\nb.png,dog\nlost.png,dog\n"
    dataset = scan(write("a.png", "b.png", **{"metadata.csv": text}))
    assert [(bad.path, bad.reason) for bad in dataset.bad] == [("lost.png", "no such file or directory")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"metadata.csv": "file_name,age,kind\na.png,3,cat\n"},
            r"metadata\.csv has several columns that may be the labels: age, kind\. Name one by --label-column",
        ),
        (
            {"metadata.csv": "file_name,split\na.png,train\n"},
            r"none that is known to be the labels\. Name one by --label-column",
        ),
        ({"metadata.csv": "file_name,label\na.png,\n"}, r"line 2: no label for a\.png"),
        ({"metadata.jsonl": '{"file_name": "a.png"\n'}, r"metadata\.jsonl, line 1, cannot be read as a JSON object"),
        ({"metadata.jsonl": '["file_name"]\n'}, r"metadata\.jsonl, line 1, cannot be read as a JSON object"),
        (
            {"metadata.csv": "file_name,label\na.png,cat\n", "metadata.jsonl": '{"file_name": "a.png", "label": 1}'},
            r"has metadata\.csv and metadata\.jsonl\. Keep one of them",
        ),
        (
            {"train/metadata.csv": "file_name,label,split\n1.png,cat,test\n"},
            "has rows for test, but is in the folder",
        ),
        ({"metadata.csv": "file_name,label,split\na.png,cat,train\nb.png,dog,\n"}, "some rows have a split and some"),
    ],
)
def test_metadata_that_are_unclear(write, files, message):
    root = write("a.png", "b.png", "train/1.png", **files)
    with pytest.raises(DataError, match=message) as error:
        scan(root)
    assert str(root) in str(error.value)


@pytest.mark.parametrize("content", ["image_id,age\n1,3\n", b"\xff\xfe\x00", ""])
def test_a_table_of_that_name_that_names_no_files_is_another_file(write, content):
    dataset = scan(write("cat/1.png", "dog/1.png", **{"metadata.csv": content}))
    assert dataset.classes == ("cat", "dog")
    assert dataset.ignored == ("metadata.csv",)


def test_lists_of_labels_in_json_lines(write):
    rows = [["cat", "dog"], ["dog"], [], "dog"]
    lines = [json.dumps({"file_name": f"{i}.png", "labels": row, "bbox": [1, 2]}) for i, row in enumerate(rows)]
    dataset = scan(write(*(f"{i}.png" for i in range(4)), **{"metadata.jsonl": "\n".join(lines)}), task="multilabel")
    assert [s.label for s in dataset.samples] == ["cat|dog", "dog", "", "dog"]


def test_the_tables_of_all_parts_decide_together(write):
    rows = {"train": [["cat", "dog"], ["dog"]], "test": [["cat"], ["dog"]]}
    tables = {
        f"{part}/metadata.jsonl": "\n".join(
            json.dumps({"file_name": f"{part}{i}.png", "labels": row}) for i, row in enumerate(labels)
        )
        for part, labels in rows.items()
    }
    dataset = scan(write(*(f"{part}/{part}{i}.png" for part in rows for i in range(2)), **tables))
    assert dataset.task == "multilabel"
    assert [(s.label, s.part) for s in dataset.samples] == [
        ("cat", "test"), ("dog", "test"), ("cat|dog", "train"), ("dog", "train"),
    ]  # fmt: skip
