"""Find which images of several sources show the same picture: copies, and near duplicates.

Input: the SHA-256 of each image, and thumbnails where the answer is not in the cache. Output: for each image the number
of its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.cache import Cache, cache_key_of
from regraft.data.decode import ImageSource, decode_picture
from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.image_stats import STATS_DTYPE, STATS_VERSION
from regraft.data.index import ImageIndex, Progress
from regraft.data.quality.near_duplicates import NEAR_DUPLICATES_VERSION, Pictures, find_near_duplicates
from regraft.data.strings import string_array
from regraft.data.union_find import connected_sets
from regraft.errors import DataError, ImageError
from regraft.key_index import KEY_BYTES
from regraft.resources import usable_cpus

#: Rows of a table that are read at once.
_READ = 4096


def near_duplicate_pairs(
    contents: Iterable[str],
    pictures: Callable[[], tuple[Pictures, np.ndarray]],
    *,
    cache: Cache,
    progress: Progress | None = None,
) -> np.ndarray:
    """The result of `find_near_duplicates` for different images, sorted by their SHA-256, which is cached.

    `pictures` gives its arguments, thumbnails and shorter sides, and is not called where the cache knows the result.
    """
    key = {"images": cache_key_of(contents).hex(), "stats": STATS_VERSION, "version": NEAR_DUPLICATES_VERSION}
    table = cache.table("near_duplicates", key, (4,), np.float64)
    found = table.read_list()
    if found is None:
        thumbnails, sides = pictures()
        found = table.write_list(find_near_duplicates(thumbnails, sides, progress=progress))
    return found


def picture_numbers(
    hashes: Sequence[str],
    pictures: Callable[[np.ndarray], tuple[Pictures, np.ndarray]],
    *,
    cache: Cache,
    progress: Progress | None = None,
) -> np.ndarray:
    """A number for each of N images, int64 (N,), that copies and near duplicates share, also by way of others.

    `pictures` is called with the numbers of n different images, int64 (n,), unless the cache knows the result. It
    returns a function from 0..n-1 to their thumbnails, and their shorter sides in pixels, (n,); what it raises is
    passed on.
    """
    unique, first, number_of = np.unique(np.array(hashes), return_index=True, return_inverse=True)
    found = near_duplicate_pairs(iter(unique.tolist()), lambda: pictures(first), cache=cache, progress=progress)
    return connected_sets(len(unique), found[:, :2].astype(np.int64))[number_of]


def read_pictures(
    hashes: Sequence[str],
    source: Callable[[int], ImageSource],
    *,
    max_pixels: int,
    cache: Cache,
    workers: int | None = None,
) -> tuple[Pictures, np.ndarray]:
    """Thumbnails of different images by number, which are in the cache, and shorter sides in pixels, (N,).

    `source` gives the content of an image by its number, and is called for those without a thumbnail in the cache, by
    several of the `workers` threads (None: one a CPU) at a time; what it raises is passed on. Raises `ImageError` if a
    content cannot be decoded, and `DataError` if it is not that of its hash.
    """
    contents, workers = _Contents(source, max_pixels), workers or usable_cpus()
    index = ImageIndex(contents, "", max_pixels, cache)
    digests = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
    sides = _sides(index, digests, contents, workers)
    files = _Files(string_array([str(number) for number in range(len(hashes))]), digests)
    return index.read_thumbnails(files, workers, name=contents.name), sides


def _sides(index: ImageIndex, digests: np.ndarray, contents: _Contents, workers: int) -> np.ndarray:
    """The shorter side of each image in pixels, (N,); images whose size is not in the cache are read."""
    keys = np.ascontiguousarray(digests[:, :KEY_BYTES])
    rows = index.image_stats.find(keys)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        entries = EntryTable(ImageEntry(str(number), "") for number in missing.tolist())
        samples, bad = index.read(entries, workers, None)
        if bad:
            raise ImageError(bad[0].reason, contents.name(bad[0].path), bad[0].code)
        for number, digest in zip(missing.tolist(), samples.hashes, strict=True):
            if not np.array_equal(digest, digests[number]):
                raise DataError(f"{contents.name(str(number))} changed since it was hashed. Start again.")
        rows = index.image_stats.find(keys)
    sides = np.zeros(len(keys))
    for start in range(0, len(keys), _READ):
        stats = index.image_stats.read(rows[start : start + _READ]).view(STATS_DTYPE).reshape(-1)
        sides[start : start + _READ] = np.minimum(stats["width"], stats["height"])
    return sides


@dataclass(frozen=True, eq=False)
class _Files:
    """Names, (N,), and SHA-256, uint8 (N, 32)."""

    paths: np.ndarray
    hashes: np.ndarray


class _Contents:
    """Images of any sources as files whose names are their numbers."""

    def __init__(self, source: Callable[[int], ImageSource], max_pixels: int) -> None:
        self._source, self._max_pixels = source, max_pixels

    def source(self, name: str) -> ImageSource:
        """A path, the bytes of a file, or pixels."""
        content = self._source(int(name))
        if isinstance(content, (Path, bytes)):
            return content
        return Path(content) if isinstance(content, str) else decode_picture(content, max_pixels=self._max_pixels)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        content = self._source(int(name))
        if isinstance(content, (str, Path)):
            return Path(content).read_bytes()
        if not isinstance(content, bytes):
            raise ValueError("pixels, not a file")
        return content

    def stamp(self, name: str) -> None:
        """There is none: the SHA-256 is known, not the file."""

    def name(self, name: str) -> str:
        """What a message calls an image."""
        content = self._source(int(name))
        return str(content) if isinstance(content, (str, Path)) else f"Image {int(name) + 1}"
