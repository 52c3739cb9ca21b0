"""Decoded and resized images: cached on disk for all runs, or decoded again whenever they are read.

Both give the same pixels. Whoever reads every image once needs no cache of them (docs/decisions/streaming.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
import PIL

from regraft import distributed
from regraft.cache import Cache, Table, cache_key
from regraft.data.dataset import Dataset
from regraft.data.decode import DECODER_VERSION
from regraft.data.preprocessing import Preprocessing
from regraft.key_index import collect_keys
from regraft.resources import usable_cpus

_CHUNK = 64
#: Batches that are decoded ahead of the one that is read.
_AHEAD = 2


class PixelSource(Protocol):
    """Pixels of N images; indexing works as for an array (N, H, W, C) of uint8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Pixels of some images, (n, H, W, C)."""

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pixels of one group of images after the other, given by their numbers, int64 (n,)."""


class Pixels:
    """Cached pixels of N images; indexing works as for an array (N, H, W, C) of uint8."""

    def __init__(self, table: Table, numbers: np.ndarray) -> None:
        self.table, self.numbers = table, numbers
        self.shape = (len(numbers), *table.shape)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return self.table.read(self.numbers[chosen])

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pixels of one group of images after the other."""
        return (self[part] for part in parts)


class StreamedPixels:
    """Pixels that are decoded when they are read, except those that a cache has already; nothing is stored.

    Reading raises `ImageError` if an image can no longer be read.
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, cache: Cache | None = None, *, workers: int | None = None
    ) -> None:
        self.dataset, self.preprocessing, self.workers = dataset, preprocessing, workers or usable_cpus()
        self.shape = (len(dataset), *preprocessing.pixel_shape)
        self.table = None if cache is None else cache.existing_table("pixels", *_rows_of(preprocessing))
        self.numbers = np.full(len(dataset), -1)
        if self.table is not None:
            self.numbers = self.table.find(_keys_of(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return next(self.batches([np.arange(len(self))[chosen]]))

    def batches(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pixels of one group of images after the other; threads decode two groups ahead, and no more."""
        with ThreadPoolExecutor(self.workers) as pool:
            submitted = ((part, [pool.submit(self._decode, int(i)) for i in self._missing(part)]) for part in parts)
            try:
                waiting = deque(islice(submitted, 1 + _AHEAD))
                while waiting:
                    part, futures = waiting.popleft()
                    rows = self._rows(part, futures)
                    waiting.extend(islice(submitted, 1))
                    yield rows
            except BaseException:  # on Ctrl-C, or when no more is read, the queued images are not decoded
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _missing(self, part: np.ndarray) -> np.ndarray:
        missing: np.ndarray = part[self.numbers[part] < 0]
        return missing

    def _rows(self, part: np.ndarray, futures: list[Future[np.ndarray]]) -> np.ndarray:
        rows = np.empty((len(part), *self.shape[1:]), np.uint8)
        numbers = self.numbers[part]
        if self.table is not None and (numbers >= 0).any():
            rows[numbers >= 0] = self.table.read(numbers[numbers >= 0])
        for place, future in zip(np.flatnonzero(numbers < 0), futures, strict=True):
            rows[place] = future.result()
        return rows

    def _decode(self, i: int) -> np.ndarray:
        return self.preprocessing(self.dataset.source(self.dataset.samples[i]), max_pixels=self.dataset.max_pixels)


def _keys_of(dataset: Dataset) -> np.ndarray:
    """Cache key of each image, uint8 (N, 16)."""
    return collect_keys(map(cache_key, dataset.table.sha256s()), len(dataset))


def _rows_of(preprocessing: Preprocessing) -> tuple[dict[str, Any], tuple[int, int, int], type]:
    """Key, shape and type of the rows of the table of pixels."""
    key = {
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "value_range": [list(ends) for ends in preprocessing.value_range],
        "fill": list(preprocessing.mean) if preprocessing.resize == "pad" else None,
    }
    if (bands := preprocessing.bands) is not None:
        key["bands"] = [[number, *ends] for number, ends in zip(bands.numbers, bands.ranges, strict=True)]
    return key, preprocessing.pixel_shape, np.uint8


def load_pixels(
    dataset: Dataset,
    preprocessing: Preprocessing,
    cache: Cache,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Decode and resize every sample that is not in the cache, in `workers` threads, by default one for each core.

    Several processes, which share the cache, divide the samples among them.
    `progress` is called with (images done, images to decode). Raises `ImageError` if an image can no longer be read;
    images decoded before it stay in the cache.
    """
    table = cache.table("pixels", *_rows_of(preprocessing))
    keys = _keys_of(dataset)
    numbers = distributed.on_rank_0(lambda: table.find(keys))  # of one time, for all of them
    absent = np.flatnonzero(numbers < 0)
    missing = absent[distributed.share(len(absent))]

    def prepare(i: int) -> np.ndarray:
        return preprocessing(dataset.source(dataset.samples[i]), max_pixels=dataset.max_pixels)

    done = 0
    with ThreadPoolExecutor(workers or usable_cpus()) as pool:
        chunks = (missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK))
        submitted = ((chunk, pool.map(prepare, chunk)) for chunk in chunks)
        following = next(submitted, None)
        try:
            while following:
                # The next chunk is decoded while this one is stored; only these two are in memory.
                (chunk, results), following = following, next(submitted, None)
                rows = np.empty((len(chunk), *table.shape), np.uint8)
                for i, row in enumerate(results):
                    rows[i] = row
                    done += 1
                    if progress:
                        progress(done, len(missing))
                numbers[chunk] = table.append(keys[chunk], rows)
        except BaseException:  # on Ctrl-C the queued images are not decoded
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if distributed.is_distributed() and len(absent):
        distributed.barrier()
        return load_pixels(dataset, preprocessing, cache, workers=workers, progress=progress)
    return Pixels(table, numbers)
