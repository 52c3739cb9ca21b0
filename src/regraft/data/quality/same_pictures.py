"""Find which images of several sources show the same picture: copies, and near duplicates.

Input: the SHA-256 of each image, and thumbnails where the answer is not in the cache. Output: for each image the number
of its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.cache import Cache, cache_key_of
from regraft.data.decode import ImageSource, decode_image
from regraft.data.image_stats import STATS_VERSION, examine_image, measure, stats_of
from regraft.data.index import ImageIndex, Progress
from regraft.data.index_workers import content_key
from regraft.data.quality.near_duplicates import NEAR_DUPLICATES_VERSION, Pictures, find_near_duplicates
from regraft.data.storage import Folder
from regraft.data.union_find import connected_sets


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
    hashes: Sequence[str], source: Callable[[int], ImageSource], *, max_pixels: int, cache: Cache
) -> tuple[Pictures, np.ndarray]:
    """Thumbnails of images by number, and shorter sides in pixels, (N,).

    `source` gives the content of an image by its number, and is called for those without a thumbnail in the cache, one
    after the other; their thumbnails stay in memory, 4 KB each.
    """
    index = ImageIndex(Folder(Path()), Path(), max_pixels, cache)
    thumbnails = _Thumbnails(index, hashes, source)
    return thumbnails, thumbnails.sides


class _Thumbnails:
    """Thumbnails, uint8 (n, S, S), by numbers, and shorter sides in pixels; images outside the cache are read."""

    def __init__(self, index: ImageIndex, hashes: Sequence[str], source: Callable[[int], ImageSource]) -> None:
        keys = [content_key(sha256) for sha256 in hashes]
        rows, stats = index.thumbnails.find(keys), index.image_stats.find(keys)
        self._table, self.sides = index.thumbnails, np.zeros(len(keys))
        self._rows = np.where(stats >= 0, rows, -1)
        known = np.flatnonzero(self._rows >= 0)
        for start in range(0, len(known), 4096):
            part = known[start : start + 4096]
            self.sides[part] = [min(row.width, row.height) for row in stats_of(index.image_stats.read(stats[part]))]
        self._read: dict[int, np.ndarray] = {}
        for i in np.flatnonzero(self._rows < 0).tolist():
            content = source(i)
            if isinstance(content, (str, Path, bytes)):
                record = examine_image(content, max_pixels=index.max_pixels)
                self._read[i] = record["thumbnail"]
                self.sides[i] = min(record["stats"]["width"], record["stats"]["height"])
            else:  # pixels
                pixels = decode_image(content, max_pixels=index.max_pixels)
                self._read[i], self.sides[i] = measure(Image.fromarray(pixels))[0], min(pixels.shape[:2])

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """A copy of the thumbnails of these images."""
        thumbnails = np.empty((len(numbers), *self._table.shape), np.uint8)
        rows = self._rows[numbers]
        thumbnails[rows >= 0] = self._table.read(rows[rows >= 0])
        for place in np.flatnonzero(rows < 0).tolist():
            thumbnails[place] = self._read[int(numbers[place])]
        return thumbnails
