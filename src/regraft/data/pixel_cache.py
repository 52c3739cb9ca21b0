"""Decode and resize each image once and cache the pixels on disk, where they may exceed memory, for all runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL

from regraft import distributed
from regraft.cache import Cache, Table, cache_key
from regraft.data.dataset import Dataset
from regraft.data.decode import DECODER_VERSION
from regraft.data.preprocessing import Preprocessing
from regraft.resources import usable_cpus

_CHUNK = 64


class Pixels:
    """Cached pixels of N images; indexing works as for an array (N, size, size, 3) of uint8."""

    def __init__(self, table: Table, numbers: np.ndarray) -> None:
        self.table, self.numbers = table, numbers
        self.shape = (len(numbers), *table.shape)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return self.table.read(self.numbers[chosen])


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
    key = {
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "white": list(preprocessing.white),
        "fill": list(preprocessing.mean) if preprocessing.resize == "pad" else None,
    }
    table = cache.table("pixels", key, (preprocessing.size, preprocessing.size, 3), np.uint8)
    keys = [cache_key(sample.sha256) for sample in dataset.samples]
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
                numbers[chunk] = table.append([keys[i] for i in chunk], rows)
        except BaseException:  # on Ctrl-C the queued images are not decoded
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if distributed.is_distributed() and len(absent):
        distributed.barrier()
        return load_pixels(dataset, preprocessing, cache, workers=workers, progress=progress)
    return Pixels(table, numbers)
