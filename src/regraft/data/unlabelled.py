"""Find images without labels for a training, none of which is, or nearly shows, an image that it is evaluated on.

Input: a folder, archive or table of paths, and the labeled data. Output: the images that may be used, and how many were
left out for which reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from regraft.atomic_io import csv_sha256, write_csv
from regraft.cache import Cache
from regraft.data.band_values import choose_bands, format_numbers
from regraft.data.dataset import Dataset, Unlabeled
from regraft.data.image_stats import THUMBNAIL_SIZE
from regraft.data.index import Progress
from regraft.data.quality.near_duplicates import Pictures
from regraft.data.quality.same_pictures import picture_numbers, read_pictures
from regraft.data.read_images import ReadImages, Thumbnails, open_cache, read_images, read_thumbnails
from regraft.data.samples import PARTS, SampleTable
from regraft.data.scan import OnUnreadable, describe_unreadable
from regraft.data.sources.groups import compile_pattern, group_of
from regraft.data.sources.open import open_images
from regraft.data.sources.urls import absolute
from regraft.data.storage import Folder
from regraft.data.strings import in_blocks
from regraft.errors import DataError
from regraft.text import pluralize


def find_unlabeled(
    path: Path | str,
    labeled: Dataset,
    *,
    on_unreadable: OnUnreadable = "skip",
    group_by: str = "",
    remote: bool = False,
    image_column: str = "",
    cache: Cache | None = None,
    progress: Progress | None = None,
    compare_progress: Progress | None = None,
) -> Unlabeled:
    """Find the images without labels that a training on labeled images may use.

    Labeled images in val or test are held out; images without a part, too, since they are held out in turn. Left out
    are copies and near duplicates of held-out images, also by way of others, since the training must not see them;
    images of the same group, where `group_by` says so; and copies and near duplicates of training images, which bring
    nothing new, and by which a graph would know the images that its cross-validation holds out.

    Args:
        path: A folder with image files, in folders of any names; an archive of one; or anything else that `scan` takes,
            whose labels and parts do not count, such as a table with a column of paths.
        labeled: The labeled images.
        on_unreadable: As in `scan`.
        group_by: As in `scan`; a path without a match has no group.
        remote: As in `scan`.
        image_column: As in `scan`.
        cache: As in `scan`.
        progress: As in `scan`.
        compare_progress: As in `scan`.

    Raises:
        UsageError: `path` does not exist, or has no known format.
        DataError: It cannot be read, or no image is left.
    """
    source = open_images(path, remote=remote, image_column=image_column)
    found = source.layout.found.sorted_by_path()
    with (
        open_cache(cache) as store,
        read_images(source, found, max_pixels=labeled.max_pixels, cache=store, progress=progress) as images,
    ):
        if images.bad and on_unreadable == "error":
            raise DataError(describe_unreadable(images.bad))
        everything = Dataset(
            source.root, images.samples, (), images.bad, max_pixels=labeled.max_pixels, storage=source.storage,
            scanned=absolute(path),
        )  # fmt: skip
        table = everything.table.stats
        setting = format_numbers(labeled.band_numbers) if labeled.band_numbers else ""
        numbers = choose_bands(setting, images.samples.paths, table["mode"], table["frames"])
        if numbers != labeled.band_numbers:
            raise DataError(
                f"{everything.scanned} has images of {pluralize(len(numbers), 'band')} that are not colors, and the "
                "labeled images have colors. Expected images of the same kind."
            )
        unlabeled = _without_known(everything, images, labeled, group_by, store, compare_progress)
    if not len(unlabeled):
        raise DataError(f"{unlabeled.path} has no image to learn from. {unlabeled.describe()}")
    return unlabeled


def _without_known(
    everything: Dataset,
    images: ReadImages,
    labeled: Dataset,
    group_by: str,
    cache: Cache,
    progress: Progress | None,
) -> Unlabeled:
    """Leave out what shows the same picture as a labeled image, or is of the same group as a held-out one."""
    samples, count = images.samples, len(labeled)
    hashes = [*labeled.table.sha256s(), *samples.sha256s()]
    with ExitStack() as stack:

        def pictures_of(first: np.ndarray) -> tuple[Pictures, np.ndarray]:
            known, others = labeled.table.take(first[first < count]), samples.take(first[first >= count] - count)
            sides = np.empty(len(first), np.int64)
            sides[first < count], sides[first >= count] = known.shorter_sides, others.shorter_sides
            of_known = stack.enter_context(_thumbnails_of(labeled.with_samples(known), cache))
            return _side_by_side(first < count, of_known, images.thumbnails(others)), sides

        pictures = picture_numbers(hashes, pictures_of, cache=cache, progress=progress)
    # Those without a part, too: each fold of a cross-validation holds out some of them.
    held_out = labeled.table.parts != PARTS.index("train")
    every_hash = np.array(hashes)
    left = np.ones(len(samples), bool)
    counts = {}
    for name, known in (("held_out", held_out), ("training", ~held_out)):
        copies = np.isin(every_hash[count:], every_hash[:count][known])
        near = np.isin(pictures[count:], pictures[:count][known])
        counts[f"{name}_copies"] = int((left & copies).sum())
        left &= ~copies
        counts[f"{name}_near_duplicates"] = int((left & near).sum())
        left &= ~near
        if name == "held_out" and group_by:
            same = _of_groups(samples, group_by, set(labeled.table.take(held_out).groups.used()))
            counts["held_out_groups"] = int((left & same).sum())
            left &= ~same
    _, first = np.unique(samples.contents[left], return_index=True)
    rows = np.flatnonzero(left)[np.sort(first)]
    return Unlabeled(
        replace(everything, samples=samples.take(rows)), everything.scanned, len(samples),
        repeated=int(left.sum()) - len(rows), **counts,
    )  # fmt: skip


@contextmanager
def _thumbnails_of(labeled: Dataset, cache: Cache) -> Iterator[Thumbnails]:
    """Thumbnails of labeled images, whose scan has put most of them into the cache."""
    table = labeled.table
    if labeled.is_in_memory:
        hashes, samples = list(table.sha256s()), labeled.samples
        yield read_pictures(
            hashes, lambda i: labeled.source(samples[i]), max_pixels=labeled.max_pixels, cache=cache
        )[0]  # fmt: skip
        return
    storage = labeled.storage or Folder(Path(labeled.root))
    with read_thumbnails(storage, labeled.root, table, max_pixels=labeled.max_pixels, cache=cache) as thumbnails:
        yield thumbnails


def _side_by_side(is_first: np.ndarray, first: Thumbnails, second: Thumbnails) -> Thumbnails:
    """Thumbnails of images that are in one of two sets, each in its order: in the first where `is_first`, bool (N,)."""
    place = np.where(is_first, np.cumsum(is_first), np.cumsum(~is_first)) - 1

    def read(numbers: np.ndarray) -> np.ndarray:
        thumbnails = np.empty((len(numbers), THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
        chosen = is_first[numbers]
        thumbnails[chosen] = first(place[numbers[chosen]])
        thumbnails[~chosen] = second(place[numbers[~chosen]])
        return thumbnails

    return read


def _of_groups(samples: SampleTable, group_by: str, groups: set[str]) -> np.ndarray:
    """Which paths match the pattern with one of these texts, bool (N,)."""
    pattern = compile_pattern(group_by)
    return np.array([group_of(path, pattern) in groups for path in in_blocks(samples.paths)], bool)


_COLUMNS = ("path", "sha256")


def write_unlabeled(path: Path, unlabeled: Unlabeled) -> None:
    """Write the images that are used as `path,sha256`, which `find_unlabeled` reads as a table of paths."""
    write_csv(path, _COLUMNS, _rows(unlabeled))


def unlabeled_sha256(unlabeled: Unlabeled) -> str:
    """The SHA-256 of the file that `write_unlabeled` writes, in hexadecimal."""
    return csv_sha256(_COLUMNS, _rows(unlabeled))


def _rows(unlabeled: Unlabeled) -> Iterator[tuple[str, str]]:
    table = unlabeled.images.table
    return zip(in_blocks(table.paths), table.sha256s(), strict=True)
