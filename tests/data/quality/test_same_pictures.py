"""Images of any sources that show the same picture, read by several threads, with thumbnails in the cache."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.decode import MAX_PIXELS, ImageSource, decode_image
from regraft.data.image_stats import measure
from regraft.data.quality.near_duplicates import Pictures
from regraft.data.quality.same_pictures import picture_numbers, read_pictures
from regraft.errors import DataError, ImageError


def _read(contents: list[ImageSource], hashes: list[str], cache: Cache) -> tuple[Pictures, np.ndarray]:
    return read_pictures(hashes, contents.__getitem__, max_pixels=MAX_PIXELS, cache=cache, workers=2)


def _numbers(contents: list[ImageSource], hashes: list[str], cache: Cache) -> list[int]:
    def pictures(first: np.ndarray) -> tuple[Pictures, np.ndarray]:
        return _read([contents[i] for i in first], [hashes[i] for i in first], cache)

    found: list[int] = picture_numbers(hashes, pictures, cache=cache).tolist()
    return found


def _picture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures in two classes."""
    root = tmp_path / "data"
    for seed in range(20):
        (root / f"class{seed % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(_picture(seed)).save(root / f"class{seed % 2}" / f"{seed:02d}.png")
    return root


@pytest.fixture
def mixed(folder: Path) -> tuple[list[ImageSource], list[str]]:
    """Contents and hashes of files, pixels in memory and bytes; three show picture 0, and two picture 2."""
    larger = Image.fromarray(_picture(0)).resize((60, 60), Image.Resampling.BICUBIC)
    larger.save(folder / "larger.png")
    memory = Dataset.from_arrays([_picture(2), _picture(30)], ["a", "b"])
    files = [*sorted(folder.glob("class*/*.png")), folder / "larger.png"]
    contents: list[ImageSource] = [*files, *(memory.source(sample) for sample in memory.samples), files[0].read_bytes()]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return contents, [*hashes, *(sample.sha256 for sample in memory.samples), hashes[0]]


def test_files_pixels_and_bytes_that_show_the_same_picture(
    mixed: tuple[list[ImageSource], list[str]], tmp_path: Path
) -> None:
    contents, hashes = mixed
    first = _numbers(contents, hashes, Cache(tmp_path / "cache"))
    # Twenty files, the larger copy of picture 0, pictures 2 and 30 in memory, and the bytes of picture 0.
    assert first[0] == first[20] == first[23]
    assert first[1] == first[21], "picture 2 is the second file of its class"
    assert len(set(first)) == 21
    again = _numbers([], hashes, Cache(tmp_path / "cache"))  # no content is asked for
    assert again == first


def test_several_contents_are_read_at_a_time(mixed: tuple[list[ImageSource], list[str]], tmp_path: Path) -> None:
    contents, hashes = mixed
    together = threading.Barrier(2)

    def source(number: int) -> ImageSource:
        together.wait(20)  # for the other thread
        return contents[number]

    cache = Cache(tmp_path / "cache")
    thumbnails, _ = read_pictures(hashes[:20], source, max_pixels=MAX_PIXELS, cache=cache, workers=2)
    assert len(np.unique(thumbnails(np.arange(20)), axis=0)) == 20


def test_thumbnails_are_in_the_cache_and_not_in_memory(
    mixed: tuple[list[ImageSource], list[str]], tmp_path: Path
) -> None:
    contents, hashes = mixed
    cache = Cache(tmp_path / "cache")
    thumbnails, sides = _read(contents[:23], hashes[:23], cache)
    assert sides.tolist() == [48] * 20 + [60] + [48] * 2
    entries = [entry for entry in cache.entries() if entry.kind == "thumbnails"]
    assert sum(entry.rows for entry in entries) == 23
    numbers = np.array([20, 0, 21])
    expected = [measure(Image.fromarray(decode_image(contents[i])))[0] for i in numbers]
    assert np.abs(thumbnails(numbers).astype(int) - np.stack(expected)).max() <= 1
    kept = thumbnails(numbers)
    for entry in entries:  # the sizes stay
        cache.remove(entry)
    again, _ = _read(contents[:23], hashes[:23], Cache(tmp_path / "cache"))
    assert np.array_equal(again(numbers), kept)


def test_a_content_that_is_not_that_of_its_hash_is_an_error(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.glob("class*/*.png"))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    Image.fromarray(_picture(99)).save(files[3])
    with pytest.raises(DataError, match=rf"{files[3].name} changed since it was hashed"):
        _numbers([*files], hashes, Cache(tmp_path / "changed"))
    files[3].write_bytes(b"no image")
    with pytest.raises(ImageError, match=rf"{files[3].name}: not an image"):
        _numbers([*files], hashes, Cache(tmp_path / "broken"))


def test_what_the_source_raises_is_passed_on(folder: Path, tmp_path: Path) -> None:
    def source(number: int) -> ImageSource:
        raise ImageError("not in the data", f"{number}.png")

    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("class*/*.png")]
    with pytest.raises(ImageError, match="not in the data"):
        read_pictures(hashes, source, max_pixels=MAX_PIXELS, cache=Cache(tmp_path / "cache"), workers=2)
