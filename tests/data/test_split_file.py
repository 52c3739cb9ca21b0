"""A split is written to a file and read from it."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.atomic_io import sha256_of
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.data.split_file import split_sha256, write_split
from regraft.errors import UsageError


def cats(count: int) -> Dataset:
    """Images of one class, no two with the same bytes."""
    return Dataset.from_arrays(np.arange(count, dtype=np.uint8).repeat(48).reshape(count, 4, 4, 3), ["cat"] * count)


@pytest.fixture
def folder(tmp_path) -> Path:
    names = [
        "plain",
        "a, b",
        'the "best"',
        " blanks ",
        "tab\tand\nline",
        "ünïcødé",
        "back\\slash",
        "-1",
        "=2",
    ]
    for label in ("cat", "big, dog", "'eel'"):
        for number, name in enumerate([*names, *map(str, range(11))]):
            seed = int.from_bytes(f"{label}{number}".encode(), "big")
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            file = tmp_path / "data" / label / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return tmp_path / "data"


def test_a_written_split_is_a_manifest_of_the_same_split(folder, tmp_path):
    parts = split(scan(folder), seed=3)
    assert list(parts) == ["train", "val", "test"]
    for file, root in ((folder / "split.csv", None), (tmp_path / "runs/one/split.csv", folder)):
        write_split(file, parts)
        assert split_sha256(parts) == sha256_of(file)
        again = split(scan(file, root=root, on_unreadable="error"), seed=8)
        assert again.dataset.samples == parts.dataset.samples
        assert again.classes == parts.classes
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".partial"]


def test_the_columns_of_a_written_split(tmp_path):
    write_split(tmp_path / "split.csv", split(cats(2), train=0.5, val=0.5, test=0))
    with (tmp_path / "split.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "part", "sha256"]
    assert sorted(row[2] for row in rows) == ["train", "val"]
    assert all(row[1] == "cat" and len(row[3]) == 64 for row in rows)


def test_a_kept_split_is_read_from_its_file_by_content_or_path(tmp_path):
    data = cats(50)
    before = split(data)
    write_split(tmp_path / "split.csv", before)
    moved = data.with_samples([dataclasses.replace(s, path=f"elsewhere/{s.path}") for s in data.samples])
    edited = data.with_samples([dataclasses.replace(s, sha256=s.sha256[::-1]) for s in data.samples])
    for changed in (moved, edited):
        for keep in (tmp_path, tmp_path / "split.csv", str(tmp_path)):
            after = split(changed, seed=7, keep=keep)
            assert [s.part for s in after.dataset.samples] == [s.part for s in before.dataset.samples]
    assert [s.part for s in split(data, seed=7).dataset.samples] != [s.part for s in before.dataset.samples]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path,part\nx.png,neither\n", "path,part\n,train\n"])
def test_what_is_no_split_is_refused(tmp_path, text):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UsageError, match="is not a split: expected the columns path and part"):
        split(cats(5), keep=tmp_path)
    with pytest.raises(UsageError, match=r"nowhere.csv cannot be read: No such file or directory\. Expected"):
        split(cats(5), keep=tmp_path / "nowhere.csv")
