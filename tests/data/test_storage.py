import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.errors import DataError


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.label for sample in dataset.samples}


def test_an_unreadable_folder_is_an_error(images, monkeypatch):
    root = images("cat/1.png", "cat/locked/1.png", "dog/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"locked: permission denied\. Expected a readable folder"):
        scan(root)


def test_an_unreadable_file_is_a_bad_image(images, monkeypatch):
    root = images("cat/1.png", "cat/2.png", "dog/1.png")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "2.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [(bad.path, bad.reason) for bad in scan(root).bad] == [("cat/2.png", "permission denied")]


@pytest.mark.parametrize("target", ["data/cat", "data", "."])
def test_a_link_to_a_folder_above_is_not_followed(images, tmp_path, target):
    root = images("cat/1.png", "dog/1.png")
    (root / "cat/above").symlink_to(tmp_path / target)
    assert labels_of(scan(root)) == {"cat/1.png": "cat", "dog/1.png": "dog"}


def test_a_folder_that_is_linked_twice_within_a_class_counts_once(images, tmp_path):
    root = images("cat/1.png", "dog/1.png", "dog/deep/2.png")
    (root / "dog/again").symlink_to(root / "dog/deep")
    assert len(scan(root)) == 3


def test_links_are_followed(images, tmp_path):
    root = images("cat/1.png", "dog/1.png")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(elsewhere / "more/3.png")
    (root / "bird").symlink_to(elsewhere)
    (root / "cat/2.png").symlink_to(root / "dog/1.png")
    (root / "knot").symlink_to(root / "knot")
    dataset = scan(root)
    assert labels_of(dataset) == {
        "bird/more/3.png": "bird",
        "cat/1.png": "cat",
        "cat/2.png": "cat",
        "dog/1.png": "dog",
    }


def test_a_name_that_is_not_utf_8_is_an_error(images):
    root = images("cat/1.png", "dog/1.png")
    name = os.fsencode(root / "cat") + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            file.write((root / "cat/1.png").read_bytes())
    except OSError:  # this file system takes no such name, so no scan can meet one
        return
    with pytest.raises(DataError, match=r"The name of .*caf\\xe9\.png' is not UTF-8"):
        scan(root)
