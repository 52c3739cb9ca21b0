"""Subgroups of a data set, such as the images of each camera, for metrics of each.

Input: a data set and what the subgroups are: a column of its table, or a pattern on paths. Output: the data set
with the value of each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.pooling import groups_of
from regraft.data.sources.earlier import EARLIER, ImagesOrigin
from regraft.data.sources.grouping import with_groups
from regraft.data.sources.groups import UngroupedError, compile_pattern, groups_by_pattern
from regraft.data.sources.open import open_images
from regraft.data.sources.table import SUFFIXES
from regraft.data.sources.urls import suffix_of
from regraft.data.strings import in_blocks
from regraft.errors import RegraftError, UsageError

#: Largest number of subgroups, which are compared one by one.
MAX_SUBGROUPS = 100


def values_by(
    by: str,
    path: Path | str | None,
    names: Sequence[str],
    *,
    remote: bool = False,
    image_column: str = "",
    earlier: ImagesOrigin | None = None,
) -> dict[str, str]:
    """The value of each image that has one, by the image's name.

    `by` names a column of the table at `path`, as `group_by` in `scan` does, or is a pattern on the `names` of images.
    Without a path, or where that is no table, it is a pattern. Images of earlier runs, whose names are in the folder
    `earlier`, have the values that they have where `earlier` says that they are; if that cannot be read, none. Raises
    `DataError` and `UsageError` as `with_groups`, and `UsageError` if there are more than `MAX_SUBGROUPS` values.
    """
    prefix = f"{EARLIER}/"
    of_earlier = [] if earlier is None else [name for name in names if name.startswith(prefix)]
    own = [name for name in names if not name.startswith(prefix)] if of_earlier else names
    values: dict[str, str] = {}
    missing: RegraftError | None = None
    if earlier is not None and of_earlier:
        try:
            found = values_by(
                by, earlier.data, [name.removeprefix(prefix) for name in of_earlier], remote=earlier.remote,
                image_column=earlier.image_column, earlier=earlier.earlier,
            )  # fmt: skip
            values = {prefix + name: value for name, value in found.items()}
        except RegraftError as error:  # that table is gone, or has no such column
            missing = error
    try:
        if own:
            values |= _values_in(by, path, own, remote, image_column)
    except UngroupedError:  # only earlier images have values
        if not values:
            raise
    if missing and not values:
        raise missing
    if (count := len(set(values.values()))) > MAX_SUBGROUPS:
        raise UsageError(
            f"by={by!r} has {count:,} values for {len(names):,} images; expected at most {MAX_SUBGROUPS}, such as of a "
            "camera or a site, so that each has images enough to say something."
        )
    return values


def _values_in(
    by: str, path: Path | str | None, names: Sequence[str], remote: bool, image_column: str
) -> dict[str, str]:
    """The values of images at one place, as in `values_by`."""
    if path is not None and suffix_of(str(path)) in SUFFIXES:
        found = with_groups(open_images(path, remote=remote, image_column=image_column, group_by=by), by, "by")
        pairs = zip(in_blocks(found.layout.found.paths), found.layout.found.groups.to_list(), strict=True)
        wanted = set(names)
        return {name: value for name, value in pairs if value is not None and name in wanted}
    entries = EntryTable(ImageEntry(name, "") for name in names)
    groups, _ = groups_by_pattern(entries, compile_pattern(by, "by"), "by")
    return {name: value for name, value in zip(names, groups.to_list(), strict=True) if value is not None}


def with_subgroups(
    dataset: Dataset,
    path: Path | str | None,
    by: Sequence[str],
    *,
    remote: bool = False,
    image_column: str = "",
    earlier: ImagesOrigin | None = None,
) -> Dataset:
    """The data set with the values of its images by each of `by`, found as in `values_by`; raises as that does."""
    if not by:
        return dataset
    names = dataset.table.paths.tolist()
    found = {one: values_by(one, path, names, remote=remote, image_column=image_column, earlier=earlier) for one in by}
    return replace(dataset, subgroups={**dataset.subgroups, **found})


def values_of_answers(dataset: Dataset) -> Mapping[str, list[str | None]]:
    """The value of what gets an answer, an image or a group of images, in the order of the data set; None: it has none.

    A group whose images have several values has all of them, as `a + b`.
    """
    groups, paths = groups_of(dataset), dataset.table.paths.tolist()
    columns: dict[str, list[str | None]] = {}
    for by, of_path in dataset.subgroups.items():
        values = [of_path.get(path) for path in paths]
        if groups is not None:
            rows = (np.flatnonzero(groups.numbers == number) for number in range(len(groups)))
            found = (sorted({value for row in of_group.tolist() if (value := values[row])}) for of_group in rows)
            values = [" + ".join(several) or None for several in found]
        columns[by] = values
    return columns
