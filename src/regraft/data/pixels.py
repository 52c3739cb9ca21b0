"""Decoded pixels of a whole part, in a memory-mapped file: each image is decoded once, all may exceed memory.

Enters: a `Dataset` and a `Preprocessing`. Leaves: a uint8 array (N, size, size, 3) on disk that reads like
one in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.preprocessing import Preprocessing
from regraft.files import reserve


def load_pixels(
    dataset: Dataset,
    preprocessing: Preprocessing,
    file: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Decode and resize every sample into `file`.

    Args:
        dataset: N samples.
        preprocessing: The model's own.
        file: Where the array goes, as an `.npy` file; replaced if it exists, removed if an image fails.
        workers: Threads; default: one a core.
        progress: Called with (images done, images in all).

    Returns:
        uint8 memory map (N, size, size, 3).

    Raises:
        ImageError: An image that `scan` could read can no longer be read.
        RunError: The disk has no room for the file.
    """
    shape = (len(dataset), preprocessing.size, preprocessing.size, 3)
    if not len(dataset):
        return np.empty(shape, dtype=np.uint8)
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    reserve(file, file.stat().st_size, "Decoded images")

    def prepare(i: int) -> None:  # writes where it belongs: decoded images do not pile up behind a slow disk
        pixels[i] = preprocessing(dataset.source(dataset.samples[i]), max_pixels=dataset.max_pixels)

    try:
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            try:
                for done, _ in enumerate(pool.map(prepare, range(len(dataset))), start=1):
                    if progress:
                        progress(done, len(dataset))
            except BaseException:  # Ctrl-C: the images that wait are not read
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return pixels
