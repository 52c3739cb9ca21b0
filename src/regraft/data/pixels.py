"""Decoded pixels of a whole part: each image is decoded once, for all runs, and all may exceed memory.

Enters: a `Dataset`, a `Preprocessing` and a `Store`. Leaves: pixels (N, size, size, 3) that are read from the disk as
they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL

from regraft.data.dataset import Dataset
from regraft.data.decode import DECODER_VERSION
from regraft.data.preprocessing import Preprocessing
from regraft.store import Store, Table, name_of

_CHUNK = 64


class Pixels:
    """Pixels of N images in a table; reads like an array (N, size, size, 3) of uint8."""

    def __init__(self, table: Table, numbers: np.ndarray) -> None:
        """Take the rows of the images, int64 (N,)."""
        self.table, self.numbers = table, numbers
        self.shape = (len(numbers), *table.shape)

    def __len__(self) -> int:
        """N."""
        return len(self.numbers)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """A copy of some of them."""
        return self.table.read(self.numbers[chosen])


def load_pixels(
    dataset: Dataset,
    preprocessing: Preprocessing,
    store: Store,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Decode and resize every sample that the store does not have.

    Args:
        dataset: N samples.
        preprocessing: The model's own.
        store: Where the pixels are and go.
        workers: Threads; default: one a core.
        progress: Called with (images done, images in all) where there is something to do.

    Raises:
        ImageError: An image that `scan` could read can no longer be read. What was decoded before it is kept.
    """
    key = {
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "fill": list(preprocessing.mean) if preprocessing.resize == "pad" else None,
    }
    table = store.table("pixels", key, (preprocessing.size, preprocessing.size, 3), np.uint8)
    names = [name_of(sample.sha256) for sample in dataset.samples]
    numbers = table.find(names)
    missing = np.flatnonzero(numbers < 0)

    def prepare(i: int) -> np.ndarray:
        return preprocessing(dataset.source(dataset.samples[i]), max_pixels=dataset.max_pixels)

    done = 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        chunks = (missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK))
        begun = ((chosen, pool.map(prepare, chosen)) for chosen in chunks)
        following = next(begun, None)
        try:
            while following:
                # The next chunk is decoded while this one is stored; no more than these two are in memory.
                (chosen, answers), following = following, next(begun, None)
                rows = np.empty((len(chosen), *table.shape), np.uint8)
                for i, row in enumerate(answers):
                    rows[i] = row
                    done += 1
                    if progress:
                        progress(done, len(missing))
                numbers[chosen] = table.append([names[i] for i in chosen], rows)
        except BaseException:  # Ctrl-C: the images that wait are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Pixels(table, numbers)
