"""Images without labels are found in folders of any names, and none is an image that the training is evaluated on."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture

from regraft.cache import Cache
from regraft.data import read_images
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.data.unlabelled import find_unlabeled, unlabeled_sha256, write_unlabeled
from regraft.errors import DataError, UsageError


@pytest.fixture(scope="module")
def labeled(squares_folder: Path) -> Dataset:
    return split(scan(squares_folder), train=0.5, val=0.25, test=0.25).dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five new pictures, in a folder and outside of any."""
    rng, root = np.random.default_rng(5), tmp_path / "new"
    (root / "some" / "folder").mkdir(parents=True)
    for i in range(5):
        Image.fromarray(picture("green", rng)).save(root / ("" if i else "some/folder") / f"{i}.png")
    return root


def file_in(labeled: Dataset, part: str) -> Path:
    return Path(labeled.root) / next(sample.path for sample in labeled.samples if sample.part == part)


def test_images_of_all_folders_are_found(labeled: Dataset, folder: Path) -> None:
    found = find_unlabeled(folder, labeled)
    assert [sample.path for sample in found.images.samples] == ["1.png", "2.png", "3.png", "4.png", "some/folder/0.png"]
    assert (found.found, len(found), any(found.left_out().values())) == (5, 5, False)
    assert found.describe() == "5 unlabeled images, of which 5 can be used."
    assert found.path == str(folder)


def test_what_the_training_is_evaluated_on_is_left_out(labeled: Dataset, folder: Path) -> None:
    for part in ("train", "val", "test"):
        shutil.copy(file_in(labeled, part), folder / f"copy-{part}.png")
        with Image.open(file_in(labeled, part)) as image:
            brighter = Image.fromarray((np.asarray(image) * 0.9 + 12).astype(np.uint8))
        brighter.save(folder / f"near-{part}.png")
    shutil.copy(folder / "1.png", folder / "again.png")
    (folder / "broken.png").write_bytes(b"no image")
    found = find_unlabeled(folder, labeled)
    assert found.left_out() == {
        "copies of held-out images": 2,
        "near duplicates of held-out images": 2,
        "of a group with held-out images": 0,
        "copies of training images": 1,
        "near duplicates of training images": 1,
        "copies of one another": 1,
        "unreadable": 1,
    }
    assert (found.found, len(found)) == (12, 5)
    assert "left out: 2 copies of held-out images" in found.describe()
    with pytest.raises(DataError, match=r"broken\.png"):
        find_unlabeled(folder, labeled, on_unreadable="error")


def test_without_parts_all_images_are_held_out_in_turn(squares_folder: Path, folder: Path) -> None:
    labeled = scan(squares_folder)
    shutil.copy(squares_folder / "red" / "00.png", folder / "copy.png")
    found = find_unlabeled(folder, labeled)
    assert (found.held_out_copies, found.training_copies, len(found)) == (1, 0, 5)


def test_groups_of_held_out_images_are_left_out(squares_folder: Path, tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    for number, label in enumerate(("blue", "red")):
        (data / label).mkdir(parents=True)
        for i in range(8):
            name = data / label / f"p{4 * number + i // 2}-{i}.png"
            shutil.copy(squares_folder / label / f"{i:02d}.png", name)
    labeled = split(scan(data, group_by="p[0-9]+"), train=0.5, val=0.25, test=0.25).dataset
    group_of = {sample.part: sample.group for sample in labeled.samples}
    for i, part in enumerate(("train", "val", "test"), start=1):
        (folder / f"{i}.png").rename(folder / f"{group_of[part]}-new.png")
    found = find_unlabeled(folder, labeled, group_by="p[0-9]+")
    assert (found.held_out_groups, len(found)) == (2, 3)


def test_archives_and_tables_are_read(labeled: Dataset, folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    expected = unlabeled_sha256(find_unlabeled(folder, labeled))
    assert unlabeled_sha256(find_unlabeled(tmp_path / "new.zip", labeled)) == expected
    write_unlabeled(folder / "list.csv", find_unlabeled(folder, labeled))
    assert unlabeled_sha256(find_unlabeled(folder / "list.csv", labeled)) == expected
    (folder / "two.csv").write_text("path,label\n1.png,\n2.png,cat\n")  # labels do not count
    assert len(find_unlabeled(folder / "two.csv", labeled)) == 2


def test_of_many_images_no_thumbnails_stay(
    squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of small images are on disk while they are compared, and are read by all threads."""
    monkeypatch.setattr(read_images, "_KEPT_THUMBNAILS", 4)
    cache = Cache(tmp_path / "cache")
    labeled = split(scan(squares_folder, cache=cache), train=0.5, val=0.25, test=0.25).dataset
    with Image.open(file_in(labeled, "val")) as image:
        Image.fromarray((np.asarray(image) * 0.9 + 12).astype(np.uint8)).save(folder / "near.png")
    found = find_unlabeled(folder, labeled, cache=cache)
    assert (found.held_out_near_duplicates, len(found)) == (1, 5)
    assert [entry.rows for entry in cache.entries() if entry.kind == "thumbnails" and entry.rows] == []


def test_a_labeled_image_that_changed_is_an_error(squares_folder: Path, folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares_folder, data)
    labeled = split(scan(data), train=0.5, val=0.25, test=0.25).dataset
    shutil.copy(folder / "1.png", file_in(labeled, "train"))
    with pytest.raises(DataError, match="changed while the data was read"):
        find_unlabeled(folder, labeled, cache=Cache(tmp_path / "cache"))


def test_labeled_images_in_memory(squares: Dataset, folder: Path) -> None:
    assert len(find_unlabeled(folder, split(squares, train=0.5, val=0.25, test=0.25).dataset)) == 5


def test_bands_beside_labeled_colors_are_an_error(labeled: Dataset, tmp_path: Path) -> None:
    np.save(tmp_path / "field.npy", np.zeros((32, 32, 4), np.uint16))
    with pytest.raises(DataError, match="images of 4 bands that are not colors, and the labeled images have colors"):
        find_unlabeled(tmp_path, labeled)


def test_nothing_to_use_is_an_error(labeled: Dataset, squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image to learn from.*left out"):
        find_unlabeled(squares_folder, labeled)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        find_unlabeled(tmp_path / "empty", labeled)
    with pytest.raises(UsageError, match="does not exist"):
        find_unlabeled(tmp_path / "nowhere", labeled)
