"""New images and those of an earlier training are one source."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from regraft.data.sources.earlier import ImagesOrigin, join, open_origin, select
from regraft.data.sources.open import open_data
from regraft.errors import DataError, UsageError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """New images in a folder, and old ones of the same names in an archive."""
    for place, color in (("new", "red"), ("old", "blue")):
        for label in ("cat", "dog"):
            (tmp_path / place / label).mkdir(parents=True)
            Image.new("RGB", (8, 8), color).save(tmp_path / place / label / "1.png")
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        for file in sorted((tmp_path / "old").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "old"))
    return tmp_path / "new", tmp_path / "old.zip"


def test_images_of_two_places_are_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = folders
    origin = ImagesOrigin(str(new), earlier=ImagesOrigin(str(old), group_by=r"^(\w+)/"))
    assert ImagesOrigin.from_json(origin.to_json()) == origin
    source = open_origin(origin)
    entries = {entry.path: (entry.label, entry.group) for entry in source.layout.found}
    assert entries == {
        "cat/1.png": ("cat", None), "dog/1.png": ("dog", None),
        "earlier/cat/1.png": ("cat", "cat"), "earlier/dog/1.png": ("dog", "dog"),
    }  # fmt: skip
    storage = pickle.loads(pickle.dumps(source.storage))
    assert storage.read("cat/1.png") == (new / "cat" / "1.png").read_bytes()
    assert storage.read("earlier/cat/1.png") == (tmp_path / "old" / "cat" / "1.png").read_bytes()
    assert storage.source("cat/1.png") == new / "cat" / "1.png"
    assert [storage.exists(name) for name in ("cat/1.png", "earlier/dog/1.png", "earlier/dog/2.png", "earlier")] == [
        True, True, False, False
    ]  # fmt: skip
    assert storage.stamp("cat/1.png") == open_data(new).storage.stamp("cat/1.png")
    assert all(entry.group is None for entry in open_origin(origin.for_reading()).layout.found)


def test_some_images_with_other_labels(folders: tuple[Path, Path]) -> None:
    chosen = select(open_data(folders[0]), {"cat/1.png": ("animal", "test"), "gone.png": ("cat", "train")})
    (entry,) = chosen.layout.found
    assert (entry.path, entry.label, entry.part) == ("cat/1.png", "animal", "test")


def test_a_folder_of_that_name_is_refused(folders: tuple[Path, Path]) -> None:
    new, old = folders
    shutil.copytree(new / "cat", new / "earlier")
    with pytest.raises(UsageError, match="Rename the folder"):
        join(open_data(new), open_data(old))
    with pytest.raises(DataError, match="does not match"):
        open_origin(ImagesOrigin(str(new), group_by="nothing"))
