"""Open new pictures, and keep those that count: no copies, no near duplicates, one of each group, none of the training.

Input: a folder, an archive, or a table of paths. Output: a data set without labels, and notes on what was left out. The
tests are of pictures that are independent of each other, and twenty frames of one scene are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.decode import MAX_PIXELS
from regraft.data.quality.near_duplicates import Pictures as Thumbnails
from regraft.data.quality.same_pictures import picture_numbers
from regraft.data.read_images import read_images
from regraft.data.samples import SampleTable
from regraft.data.sources.grouping import with_groups
from regraft.data.sources.open import open_images
from regraft.data.sources.urls import absolute
from regraft.errors import DataError
from regraft.runs.run import Run
from regraft.runs.run_images import split_rows
from regraft.text import pluralize
from regraft.training.callbacks import ProgressReporter

#: Pictures that are compared at most; of more a random part is drawn.
MAX_PICTURES = 20_000


@dataclass(frozen=True, eq=False)
class NewPictures:
    """The pictures that count, and notes on the others; `unreadable` are paths and reasons."""

    dataset: Dataset
    notes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]


def open_pictures(run: Run, path: Path | str, group_by: str, reporter: ProgressReporter) -> NewPictures:
    """Read the pictures at a path, and leave out what does not count.

    Raises:
        UsageError: There is nothing at the path, or its format is unknown.
        DataError: No picture is left.
    """
    source = with_groups(open_images(path, group_by=group_by), group_by)
    found, notes = source.layout.found, [note for note in source.layout.notes if group_by]
    if len(found) > MAX_PICTURES:
        notes.append(f"{MAX_PICTURES:,} of {len(found):,} pictures are compared, drawn at random.")
        found = found.take(np.sort(np.random.default_rng(0).permutation(len(found))[:MAX_PICTURES]))
    found, cache = found.sorted_by_path(), Cache()

    def on_read(done: int, total: int) -> None:
        reporter.on_progress("read", done, total, "images")

    with read_images(source, found, max_pixels=MAX_PIXELS, cache=cache, progress=on_read) as images:
        samples, bad = images.samples, images.bad

        def thumbnails(first: np.ndarray) -> tuple[Thumbnails, np.ndarray]:
            chosen = samples.take(first)
            return images.thumbnails(chosen), chosen.shorter_sides

        hashes = list(samples.sha256s())
        pictures = picture_numbers(hashes, thumbnails, cache=cache) if hashes else np.empty(0, np.int64)
    unreadable = tuple((file.path, file.reason) for file in bad)
    if unreadable:
        notes.append(f"{pluralize(len(unreadable), 'file')} cannot be read, such as {': '.join(unreadable[0])}.")
    known = _of_training(run)
    kept = np.array([hash_ not in known for hash_ in hashes], bool)
    if count := int((~kept).sum()):
        notes.append(f"Not compared, because the run was trained on them: {pluralize(count, 'picture')}.")
    rows = np.flatnonzero(kept)
    independent = _one_of_each(rows, pictures, samples)
    if count := len(rows) - len(independent):
        group = ", or of a group with others" if group_by else ""
        notes.append(f"Not counted as copies or near duplicates of others{group}: {pluralize(count, 'picture')}.")
    if not len(independent):
        raise DataError(f"{absolute(path)} has no picture to compare. {' '.join(notes)}".rstrip())
    dataset = Dataset(
        source.root, samples.take(independent), (), bad, storage=source.storage, scanned=absolute(path)
    )  # fmt: skip
    return NewPictures(dataset, tuple(notes), unreadable)


def _of_training(run: Run) -> set[str]:
    """The SHA-256 of the run's training images."""
    return {row["sha256"] for row in split_rows(run.path) if row.get("part") == "train" and row.get("sha256")}


def _one_of_each(rows: np.ndarray, pictures: np.ndarray, samples: SampleTable) -> np.ndarray:
    """Those of the rows that are the first of their picture and the first of their group."""
    first = rows[np.unique(pictures[rows], return_index=True)[1]]
    codes = samples.groups.codes[first]
    _, of_groups = np.unique(codes, return_index=True)
    alone = np.flatnonzero(codes < 0)
    grouped = of_groups[codes[of_groups] >= 0]
    return np.sort(first[np.concatenate([alone, grouped])])
