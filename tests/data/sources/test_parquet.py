from __future__ import annotations

import gc
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.cache import Cache
from regraft.data import storage as storage_module
from regraft.data.decode import decode_image
from regraft.data.scan import scan
from regraft.data.sources import parquet as parquet_module
from regraft.data.sources.parquet import ParquetImages, RowGroupCache
from regraft.data.split import split
from regraft.data.split_file import write_split
from regraft.errors import DataError, ImageError, MissingExtraError

Encoded = Callable[[str], bytes]
pyarrow = importlib.import_module("pyarrow")
parquet = importlib.import_module("pyarrow.parquet")


def write(path: Path, columns: dict[str, Any], names: dict[str, Sequence[str]] | None = None, **options: Any) -> Path:
    """A Parquet file; `names` are those of the classes, as the `datasets` library keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if names is not None:
        features: dict[str, Any] = {name: {"dtype": "string", "_type": "Value"} for name in columns}
        features |= {name: {"names": list(of), "_type": "ClassLabel"} for name, of in names.items()}
        features |= {"image": {"_type": "Image"}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    parquet.write_table(table, path, **options)
    return path


@pytest.fixture
def structs(png: Encoded) -> Callable[..., list[dict[str, Any]]]:
    def images(*names: str, paths: bool = True) -> list[dict[str, Any]]:
        return [{"bytes": png(name), "path": name if paths else None} for name in names]

    return images


def found(path: Path) -> list[tuple[str, str, str | None]]:
    return [(s.path, s.label, s.part) for s in scan(path).samples]


def test_one_file_with_named_classes(tmp_path, structs, png):
    names = ["a.png", "b.png", "deep/c.png"]
    path = write(
        tmp_path / "x.parquet",
        {"image": structs(*names), "label": [1, 0, 1]},
        {"label": ["cat", "dog"]},
        row_group_size=2,
    )
    dataset = scan(path)
    assert [(s.path, s.label, s.part) for s in dataset.samples] == [
        ("0000000-a.png", "dog", None),
        ("0000001-b.png", "cat", None),
        ("0000002-c.png", "dog", None),
    ]
    assert dataset.root == path
    for sample, name in zip(dataset.samples, names, strict=True):
        assert np.array_equal(decode_image(dataset.source(sample)), decode_image(png(name)))


def test_bytes_alone_and_labels_as_text(tmp_path, png):
    for kind in (pyarrow.binary(), pyarrow.large_binary()):
        images = pyarrow.array([png("a"), png("b"), png("c")], kind)
        path = write(tmp_path / "x.parquet", {"image": images, "label": ["cat", "dog", " cat "]})
        assert found(path) == [("0000000", "cat", None), ("0000001", "dog", None), ("0000002", "cat", None)]


def test_parts_and_groups_in_columns(tmp_path, structs):
    columns = {
        "image": structs("a", "b", "c"),
        "label": ["cat", "dog", "cat"],
        "split": ["train", "train", "validation"],
    }
    dataset = scan(write(tmp_path / "x.parquet", {**columns, "group": ["g", None, "h"]}))
    assert [(s.part, s.group) for s in dataset.samples] == [("train", "g"), ("train", None), ("val", "h")]


@pytest.mark.parametrize("folder", [".", "data"])
def test_a_folder_of_shards_has_parts_by_their_names(tmp_path, structs, folder):
    shards = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
    for shard in shards:
        columns = {"image": structs(f"{shard}0", f"{shard}1", paths=False), "label": [0, 1]}
        write(tmp_path / "set" / folder / f"{shard}.parquet", columns, {"label": ["cat", "dog"]})
    (tmp_path / "set" / "README.md").write_text("a card")
    prefix = "" if folder == "." else f"{folder}/"
    assert found(tmp_path / "set") == [
        (f"{prefix}{shard}.parquet/000000{row}", label, shard.partition("-")[0])
        for shard in sorted(shards)
        for row, label in enumerate(("cat", "dog"))
    ]


def test_a_manifest_with_paths_stays_one(tmp_path, structs, png):
    (tmp_path / "a.png").write_bytes(png("a"))
    (tmp_path / "b.png").write_bytes(png("b"))
    path = write(
        tmp_path / "m.parquet", {"path": ["a.png", "b.png"], "label": ["cat", "dog"], "image": structs("c", "d")}
    )
    assert found(path) == [("a.png", "cat", None), ("b.png", "dog", None)]


def test_a_split_of_tables_is_read_back(tmp_path, structs):
    names = [f"{i}.png" for i in range(20)]
    for part in ("a", "b"):
        columns = {"image": structs(*(part + name for name in names)), "label": ["cat", "dog"] * 10}
        write(tmp_path / "set" / f"{part}.parquet", columns)
    parts = split(scan(tmp_path / "set"))
    write_split(tmp_path / "split.csv", parts)
    again = scan(tmp_path / "split.csv", root=tmp_path / "set")
    assert {(s.path, s.part) for s in again.samples} == {(s.path, s.part) for s in parts.dataset.samples}
    write_split(tmp_path / "split.csv", split(scan(tmp_path / "set/a.parquet")))
    assert len(scan(tmp_path / "split.csv", root=tmp_path / "set/a.parquet")) == 20


@pytest.mark.parametrize(
    ("columns", "names", "label"),
    [
        ({"kind": ["x", "y"]}, None, "x"),
        ({"kind": [0, 1], "age": ["3", "4"]}, {"kind": ["cat", "dog"]}, "cat"),
        ({"label": ["x", "y"], "kind": [0, 1]}, {"kind": ["cat", "dog"]}, "x"),
    ],
)
def test_which_column_holds_the_labels(tmp_path, structs, columns, names, label):
    assert found(write(tmp_path / "x.parquet", {"image": structs("a", "b"), **columns}, names))[0][1] == label


def test_a_class_may_be_called_like_a_number(tmp_path, structs):
    columns = {"image": structs("a", "b", "c"), "label": [0, 1, 2]}
    names = {"label": ["10", "2", "1"]}
    assert [label for _, label, _ in found(write(tmp_path / "x.parquet", columns, names))] == ["10", "2", "1"]


def test_the_only_column_of_images_may_have_another_name(tmp_path, structs):
    path = write(tmp_path / "x.parquet", {"img": structs("a", "b"), "label": ["cat", "dog"], "boxes": [[1], [2]]})
    assert len(scan(path)) == 2


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, structs):
    columns = {"image": structs("a", "b", "c", "d"), "label": [0, -1, 1, None]}
    dataset = scan(write(tmp_path / "x.parquet", columns, {"label": ["cat", "dog"]}))
    assert [s.label for s in dataset.samples] == ["cat", "dog"]
    assert dataset.ignored == ("0000001-b", "0000003-d")
    assert dataset.notes == ("2 images without a label ignored, for example 0000001-b.",)


def test_whole_numbers_that_pandas_made_floats(tmp_path, structs):
    path = write(tmp_path / "x.parquet", {"image": structs("a", "b", "c"), "label": [1.0, 2.0, float("nan")]})
    assert [label for _, label, _ in found(path)] == ["1", "2"]
    assert scan(path).notes == ("1 image without a label ignored, for example 0000002-c.",)


def test_rows_without_an_image_are_unreadable(tmp_path, structs):
    images = [*structs("a", "b"), {"bytes": None, "path": "c.png"}, None, {"bytes": b"none", "path": None}]
    dataset = scan(write(tmp_path / "x.parquet", {"image": images, "label": ["cat", "dog", "cat", "cat", "dog"]}))
    assert {bad.path: bad.reason.partition(" (")[0] for bad in dataset.bad} == {
        "0000002-c.png": "no image bytes in this row; paths are not followed",
        "0000003": "no image bytes in this row; paths are not followed",
        "0000004": "not an image that can be read: a text file",
    }


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"label": [0, 2]}, {"label": ["cat", "dog"]}, "has the label 2, but there are names for 0 to 1 only"),
        ({}, None, r"none that is known to be the labels\. Name one by --label-column"),
        ({"age": [3, 4], "kind": ["x", "y"]}, None, "several columns that may be the labels: age, kind"),
        ({"label": [None, None]}, None, r"has no row with a label\. Expected images with a column `label`"),
        ({"label": ["x", "y"], "split": ["train", "else"]}, None, "row 1: split 'else'; expected train, val or test"),
        ({"label": ["x", "y"], "split": ["train", None]}, None, "some rows or files say train, val or test"),
    ],
)
def test_tables_that_are_unclear(tmp_path, structs, columns, names, message):
    path = write(tmp_path / "x.parquet", {"image": structs("a", "b"), **columns}, names)
    with pytest.raises(DataError, match=message) as error:
        scan(path)
    assert str(path) in str(error.value)


def test_a_folder_of_tables_without_images(tmp_path):
    write(tmp_path / "set/x.parquet", {"path": ["a.png"], "label": ["cat"]})
    with pytest.raises(DataError, match="has the columns path, label, but no images"):
        scan(tmp_path / "set")


def test_damaged_files(tmp_path, structs):
    columns = {"image": structs(*map(str, range(50))), "label": ["cat", "dog"] * 25}
    path = write(tmp_path / "set/x.parquet", columns, compression="none", use_dictionary=False)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet: .*Download it again"):
        scan(tmp_path / "set")
    for _ in range(30):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 5):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            table = ParquetImages(path, RowGroupCache())
        except DataError:
            continue
        for name in table.names[::7]:
            try:
                table.read(name)
            except OSError:
                continue


def test_groups_of_rows_are_read_when_they_are_needed(tmp_path, structs, monkeypatch):
    columns = {"image": structs(*map(str, range(40))), "label": ["cat", "dog"] * 20}
    path = write(tmp_path / "x.parquet", columns, row_group_size=10)
    read: list[int] = []
    original = parquet.ParquetFile.read_row_group

    def counted(self: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    table = ParquetImages(path, RowGroupCache())
    assert read == []
    for name in table.names:
        table.read(name)
    assert read == [0, 1, 2, 3]
    small = ParquetImages(path, RowGroupCache(limit=1))
    for name in (*small.names[:11], small.names[0]):
        small.read(name)
    assert read == [0, 1, 2, 3, 0, 1, 0]


def test_large_groups_of_rows_go_to_the_disk(tmp_path, structs, monkeypatch):
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    monkeypatch.setattr(parquet_module, "_LARGE", 1000)
    images = [*structs(*map(str, range(40))), {"bytes": None, "path": None}]
    path = write(tmp_path / "x.parquet", {"image": images, "label": ["cat"] * 41})
    table = ParquetImages(path, RowGroupCache())
    assert [table.read(name) for name in table.names[:40]] == [image["bytes"] for image in images[:40]]
    with pytest.raises(OSError, match="no image bytes"):
        table.read(table.names[40])
    assert len(list(spools.iterdir())) == 1
    del table
    gc.collect()
    assert list(spools.iterdir()) == []


@pytest.mark.parametrize("large", [1000, 10**9])
def test_many_threads_read_the_same_as_one(tmp_path, structs, monkeypatch, large):
    monkeypatch.setattr(parquet_module, "_LARGE", large)
    images = structs(*map(str, range(60)))
    table = ParquetImages(
        write(tmp_path / "x.parquet", {"image": images, "label": ["cat"] * 60}, row_group_size=13),
        RowGroupCache(limit=5000),
    )
    order = np.random.default_rng(0).permutation(600) % 60
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: table.read(table.names[i]), order)) == [images[i]["bytes"] for i in order]


def test_a_second_scan_reads_no_image(tmp_path, structs, monkeypatch):
    monkeypatch.setattr(storage_module, "SETTLED", 0.0)
    path, cache = write(tmp_path / "x.parquet", {"image": structs("a", "b"), "label": ["cat", "dog"]}), Cache(tmp_path)
    first = scan(path, cache=cache)

    def refuse(self: ParquetImages, name: str) -> bytes:
        raise AssertionError(name)

    monkeypatch.setattr(ParquetImages, "read", refuse)
    assert scan(path, cache=cache) == first


def test_a_table_that_changed_is_not_read_at_the_old_places(tmp_path, structs):
    path = write(tmp_path / "x.parquet", {"image": structs("a", "b"), "label": ["cat", "dog"]})
    dataset = scan(path)
    dataset.storage._cache._groups.clear()  # type: ignore[union-attr]  # else the group is still in memory
    write(path, {"image": structs("c", "d", "e"), "label": ["cat", "dog", "dog"]})
    with pytest.raises(ImageError, match="the file has changed since it was opened"):
        dataset.source(dataset.samples[0])


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path, structs, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": structs("a", "b"), "label": ["cat", "dog"]})
    real = importlib.import_module

    def refuse(name: str, package: str | None = None) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match="needs the extra 'parquet'"):
        scan(path)


def test_lists_of_labels(tmp_path, structs):
    path = write(tmp_path / "x.parquet", {"image": structs(*"abcd"), "labels": [[0, 1], [1], [], None]})
    dataset = scan(path)
    assert (dataset.task, [s.label for s in dataset.samples]) == ("multilabel", ["0|1", "1", "", ""])
    features = {"labels": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    table = parquet.read_table(path)
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert [s.label for s in scan(path).samples] == ["cat|dog", "dog", "", ""]
    single = write(tmp_path / "y.parquet", {"image": structs(*"ab"), "tags": [["cat"], ["dog"]]})
    assert (scan(single).task, scan(single).classes) == ("classification", ("cat", "dog"))
