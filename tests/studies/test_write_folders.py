from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.scan import scan
from regraft.errors import UsageError
from regraft.studies.write_folders import SPLIT, clean_into, split_into


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of ten images; two folders of one class have files with the same names."""
    rng = np.random.default_rng(0)
    for folder in ("a/one", "a/two", "b"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for i in range(10 if folder == "b" else 5):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "source" / folder / f"{i}.png")
    return tmp_path / "source"


def test_files_with_the_same_name_get_a_number_and_new_images_join_an_earlier_split(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    split_into(source, target)
    first = {row["source"]: row["path"] for row in rows_of(target / SPLIT)}
    assert len(set(first.values())) == 20
    for name, path in first.items():
        assert (target / path).read_bytes() == (source / name).read_bytes()
    Image.new("RGB", (32, 32), "red").save(source / "b" / "new.png")
    split_into(source, target)
    second = {row["source"]: row["path"] for row in rows_of(target / SPLIT)}
    assert {name: second[name] for name in first} == first
    assert len(second) == 21


def test_shares_that_a_divided_target_does_not_have_are_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    split_into(source, target, train=0.5, val=0.25, test=0.25)
    split_into(source, target, train=0.5, val=0.25, test=0.25)  # the same call again
    with pytest.raises(UsageError, match=r"divided already \(10 train, 5 val, 5 test\).* so train=0.8, val=0 would"):
        split_into(source, target, train=0.8, val=0, test=0.2)
    with pytest.raises(UsageError, match=r"divided already, into train, val, test, so test=0\.3 would have no effect"):
        split_into(target, tmp_path / "other", test=0.3)


def test_a_target_inside_the_source_or_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is inside"):
        split_into(source, source / "parts")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="was not written by `regraft split`"):
        split_into(source, tmp_path / "mine")


def test_a_cleaned_manifest_omits_duplicates_with_their_reasons(source: Path, tmp_path: Path) -> None:
    (source / "b" / "copy.png").write_bytes((source / "b" / "0.png").read_bytes())
    out = tmp_path / "clean.csv"
    _, kept, dropped = clean_into(source, out, ["duplicates"])
    assert len(kept) == 20
    assert [row["finding"] for row in rows_of(tmp_path / "clean.dropped.csv")] == ["duplicates"] * len(dropped)
    assert set(rows_of(out)[0]) == {"path", "label"}
    assert all((out.parent / row["path"]).is_file() for row in rows_of(out))
    with pytest.raises(UsageError, match="nothing is overwritten"):
        clean_into(source, out, ["duplicates"])


def test_files_that_cannot_be_read_are_dropped_with_their_reasons(source: Path, tmp_path: Path) -> None:
    (source / "b" / "empty.png").touch()
    (source / "b" / "page.png").write_text("<html>404</html>")
    _, kept, dropped = clean_into(source, tmp_path / "clean.csv", ["empty"])
    assert (len(kept), len(dropped)) == (20, 2)
    found = {Path(row["path"]).name: row["finding"] for row in rows_of(tmp_path / "clean.dropped.csv")}
    assert found == {"empty.png": "empty", "page.png": "unreadable"}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A table of twelve images with several labels, two of which are the same picture."""
    rng, rows = np.random.default_rng(1), ["path,label,split"]
    (tmp_path / "several").mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "several" / f"{i}.png")
        rows.append(f"{i}.png,{('cat|dog', 'dog', 'cat', '')[i % 4]},")
    (tmp_path / "several" / "copy.png").write_bytes((tmp_path / "several" / "0.png").read_bytes())
    rows.append('copy.png,"[""cat"", ""dog""]",')
    (tmp_path / "several" / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "several" / "labels.csv"


def test_images_with_several_labels_are_in_the_folder_of_their_part(several: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    parts = split_into(several, target)
    assert parts.dataset.task == "multilabel"
    rows = rows_of(target / SPLIT)
    assert {Path(row["path"]).parent.as_posix() for row in rows} == {"train", "val", "test"}
    assert all((target / row["path"]).is_file() for row in rows)
    again = scan(target / SPLIT, task="multilabel")
    labels = {sample.sha256: (sample.label, sample.part) for sample in parts.dataset.samples}
    assert {sample.sha256: (sample.label, sample.part) for sample in again.samples} == labels
    assert {label for label, _ in labels.values()} == {"cat|dog", "dog", "cat", ""}
    split_into(several, target)
    assert rows_of(target / SPLIT) == rows


def test_a_cleaned_manifest_has_all_labels(several: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.csv"
    _, kept, dropped = clean_into(several, out, ["duplicates"])
    assert [(row.label, row.kind) for row in dropped] == [("cat|dog", "duplicates")]
    again = scan(out, task="multilabel")
    assert [sample.label for sample in again.samples] == [sample.label for sample in kept.samples]
    assert len(again) == 12


def test_bands_are_chosen_by_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "source" / label).mkdir(parents=True)
        for i in range(5):
            np.save(tmp_path / "source" / label / f"{i}.npy", rng.integers(0, 3000, (40, 40, 3 + i % 2), np.uint16))
    shutil.copy(tmp_path / "source" / "a" / "0.npy", tmp_path / "source" / "a" / "copy.npy")
    parts = split_into(tmp_path / "source", tmp_path / "target", bands="3,1", train=0.6, val=0.2, test=0.2)
    assert parts.dataset.band_numbers == (3, 1)
    assert len(rows_of(tmp_path / "target" / SPLIT)) == 11
    inspection, kept, _ = clean_into(tmp_path / "source", tmp_path / "clean.csv", ["duplicates"], bands="3,1")
    assert inspection.dataset.band_numbers == (3, 1)
    assert len(kept) == len(rows_of(tmp_path / "clean.csv")) == 10
