from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from regraft.data.scan import scan
from regraft.data.sources.open import open_data
from regraft.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path, png) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "1.png").write_bytes(png(label))
    return tmp_path / "photos"


def labels(source):
    return {row.path: row.label for row in source.layout.found}


def test_a_folder_a_table_and_an_archive_of_it_hold_the_same_images(folder, tmp_path):
    expected = {"cat/1.png": "cat", "dog/1.png": "dog"}
    table = folder / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in expected.items()))
    assert labels(open_data(table)) == expected
    table.rename(tmp_path / "labels.csv")
    source = open_data(tmp_path / "labels.csv", root=folder)
    assert (labels(source), source.root, source.is_remote) == (expected, folder, False)
    assert labels(open_data(folder)) == labels(open_data(str(folder))) == expected
    assert labels(open_data(Path(shutil.make_archive(str(tmp_path / "x"), "zip", folder)))) == expected


def test_an_archive_may_have_folders_around_its_classes(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in folder.glob("*/*.png"):
            archive.write(file, Path("download/photos/train") / file.relative_to(folder))
    source = open_data(tmp_path / "x.zip")
    assert {(row.label, row.part) for row in source.layout.found} == {("cat", "train"), ("dog", "train")}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", UsageError, r"nowhere does not exist\. Expected a folder"),
        ("notes.txt", UsageError, r"notes\.txt is a file\. Expected a folder"),
        ("x.zip", DataError, r"x\.zip"),
        ("m.csv", DataError, r"m\.csv"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path, name, error, message):
    for file in ("notes.txt", "x.zip", "m.csv"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(error, match=message):
        open_data(tmp_path / name)


def test_a_root_is_for_manifests(folder, tmp_path):
    with pytest.raises(UsageError, match=r"photos is not a manifest and is its own root"):
        open_data(folder, root=tmp_path)


def test_a_path_object_that_was_a_url_is_told_what_it_lost():
    with pytest.raises(UsageError, match=r"s3:/bucket/photos does not exist\. Pass a URL as a string"):
        open_data(Path("s3://bucket/photos"))


def test_columns_are_named_for_tables(folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image_id,age,dx\n1,30,nv\ncat/1,40,mel\n")
    (folder / "cat" / "1.png").rename(folder / "cat" / "2.png")
    with pytest.raises(DataError, match=r"may be the labels: age, dx\. Name one by --label-column"):
        open_data(table)
    assert labels(open_data(table, label_column="dx")) == {"photos/dog/1.png": "nv", "cat/1": "mel"}
    with pytest.raises(UsageError, match=r"photos is not a manifest, and image_column and label_column name"):
        scan(folder, label_column="dx")
