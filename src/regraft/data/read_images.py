"""Read the images of an opened source, each file once, and their thumbnails when these are asked for.

Input: a source, or a data set that was scanned. Output: samples in columns, the unreadable files, and thumbnails by the
numbers of samples, which are on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from regraft.cache import Cache
from regraft.data.dataset import BadFile
from regraft.data.entries import EntryTable
from regraft.data.index import ImageIndex, Progress
from regraft.data.samples import SampleTable
from regraft.data.sources.open import DataSource
from regraft.data.storage import Storage
from regraft.resources import usable_cpus

#: Smallest number of threads that read from a network.
_CONNECTIONS = 16
#: Files above which the thumbnails of small images are not kept: they would take as much room as the features, and
#: reading such a file again takes a fraction of a millisecond. `runs/training_overlap.py` looks at no more images.
_KEPT_THUMBNAILS = 30_000

#: Thumbnails, uint8 (n, S, S), by the numbers of samples, int64 (n,).
Thumbnails = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ReadImages:
    """The readable images of a source, sorted by path, and the others; `thumbnails` reads those of some samples."""

    samples: SampleTable
    bad: tuple[BadFile, ...]
    thumbnails: Callable[[SampleTable], Thumbnails]


@contextmanager
def open_cache(cache: Cache | None) -> Iterator[Cache]:
    """The cache, or a temporary one for None."""
    with ExitStack() as stack:
        folder = None if cache else stack.enter_context(tempfile.TemporaryDirectory(prefix="regraft-"))
        yield cache or Cache(Path(str(folder)))


@contextmanager
def read_images(
    source: DataSource,
    found: EntryTable,
    *,
    max_pixels: int,
    cache: Cache,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[ReadImages]:
    """Read every file of `found` that is not in the cache; thumbnails can be read as long as the context is open.

    `workers` is the number of threads or processes; None: one for each core, and more for a network.
    """
    with _index(source.storage, source.root, len(found), max_pixels, cache) as index:
        workers = workers or _workers(source.is_remote)
        samples, unreadable = index.read(found, workers, progress, subprocesses=not source.is_remote)
        bad = tuple(sorted([*source.layout.bad, *unreadable], key=lambda file: file.path))
        pictures = partial(index.read_thumbnails, workers=workers, subprocesses=not source.is_remote)
        yield ReadImages(samples, bad, pictures)


@contextmanager
def read_thumbnails(
    storage: Storage, root: Path | str, samples: SampleTable, *, max_pixels: int, cache: Cache
) -> Iterator[Thumbnails]:
    """The thumbnails of images that were scanned before; those that are not in the cache are read again.

    Raises `DataError` if a file has changed since the scan.
    """
    is_remote = isinstance(root, str)
    with _index(storage, root, len(samples), max_pixels, cache) as index:
        yield index.read_thumbnails(samples, _workers(is_remote), subprocesses=not is_remote)


@contextmanager
def _index(storage: Storage, root: Path | str, files: int, max_pixels: int, cache: Cache) -> Iterator[ImageIndex]:
    index = ImageIndex(storage, root, max_pixels, cache, keeps_small=files <= _KEPT_THUMBNAILS)
    try:
        yield index
    finally:
        index.close()


def _workers(is_remote: bool) -> int:
    return max(_CONNECTIONS if is_remote else 1, usable_cpus())
