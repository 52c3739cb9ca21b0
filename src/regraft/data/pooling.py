"""Several pictures of one thing: a group of images that gets one answer.

Input: a data set whose samples have groups. Output: which images a group has, and the data set with one sample for each
group, its first image. An image without a group is a group by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from regraft.data.dataset import Dataset, Split
from regraft.data.entries import EntryTable
from regraft.data.samples import PARTS, SampleTable
from regraft.data.strings import Names, string_array
from regraft.errors import DataError, UsageError
from regraft.text import pluralize

#: What gets an answer, and is counted by metrics: an image, or a group of images.
Counted = Literal["image", "group"]


@dataclass(frozen=True, eq=False)
class Groups:
    """N images in G groups, which are numbered as they first occur.

    Attributes:
        numbers: Group of each image, int64 (N,).
        firsts: Number of the first image of each group, int64 (G,), rising.
        names: Name of each group, length G; that of its image for an image without a group.
    """

    numbers: np.ndarray
    firsts: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, table: SampleTable) -> Groups:
        """The groups of samples that get one answer each."""
        return cls.named(_pooled(table), table.paths)

    @classmethod
    def named(cls, groups: Names, paths: np.ndarray) -> Groups:
        """The groups of images by their name, and those without one by their path, strings (N,)."""
        codes, single = groups.codes.astype(np.int64), np.arange(len(groups))
        keys = np.where(codes < 0, single + len(groups.names), codes)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        firsts = first[order]
        pairs = zip(groups[firsts].to_list(), paths[firsts].tolist(), strict=True)
        return cls(rank[inverse], firsts, tuple(path if name is None else name for name, path in pairs))

    def __len__(self) -> int:
        return len(self.firsts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of images of each group, int64 (G,)."""
        return np.bincount(self.numbers, minlength=len(self))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over the images of each group, float64 (G, ...), of values (N, ...)."""
        sums = np.zeros((len(self), *values.shape[1:]))
        np.add.at(sums, self.numbers, values)
        return np.asarray(sums / self.sizes.reshape(-1, *[1] * (values.ndim - 1)))

    def any(self, values: np.ndarray) -> np.ndarray:
        """Whether it is true of an image of each group, bool (G,), for bool (N,)."""
        return np.bincount(self.numbers[values], minlength=len(self)) > 0

    def describe(self) -> str:
        """How many groups there are, and of how many pictures, such as `12 groups of 3 to 5 pictures`."""
        low, high = (int(self.sizes.min()), int(self.sizes.max())) if len(self) else (0, 0)
        pictures = pluralize(high, "picture") if low == high else f"{low:,} to {high:,} pictures"
        return f"{pluralize(len(self), 'group')} of {pictures}"


def groups_of(dataset: Dataset) -> Groups | None:
    """The groups that get one answer each; None where each image gets one."""
    return Groups.of(dataset.table) if dataset.pool_by else None


def per_answer(dataset: Dataset) -> Dataset:
    """The data set with the first image of each group; all as it is where each image gets an answer."""
    groups = groups_of(dataset)
    return dataset if groups is None else dataset.with_samples(dataset.table.take(groups.firsts))


def split_per_answer(split: Split) -> Split:
    """The same of a split, whose groups are whole."""
    return Split(per_answer(split.dataset)) if split.dataset.pool_by else split


def pooled_by(dataset: Dataset, pool_by: str) -> Dataset:
    """The data set whose groups get one answer each; `pool_by` says what they are.

    Raises `UsageError` if no sample has a group, and `DataError` as `check_groups`.
    """
    _refuse_without_groups(_pooled(dataset.table), pool_by)
    pooled = replace(dataset, pool_by=pool_by)
    check_groups(pooled)
    return pooled


def check_groups(dataset: Dataset) -> None:
    """Raise `DataError` if a group that gets one answer has images with different labels, or in several parts.

    So it does if these are of several wider groups, such as two patients, which a split leaves whole.
    """
    if dataset.pool_by:
        _check(dataset.table, dataset.targets.reshape(len(dataset), -1), dataset.pool_by)


def check_entries(found: EntryTable, pool_by: str, *, with_labels: bool = True) -> None:
    """Raise as `pooled_by`, before an image is read, so that it costs no time; not `with_labels`: of parts alone."""
    _refuse_without_groups(_pooled(found), pool_by)
    codes = found.labels.codes if with_labels else np.zeros(len(found))
    _check(found, codes[:, None], pool_by)


def _refuse_without_groups(groups: Names, pool_by: str) -> None:
    if not any(groups.used()):
        raise UsageError(
            f"pool_by={pool_by!r} needs images with groups. Expected a data set that was scanned with pool_by or "
            "group_by, or made with groups."
        )


def _pooled(table: SampleTable | EntryTable) -> Names:
    """The names of the groups that get one answer each."""
    return table.pooled_groups if any(table.pooled_groups.used()) else table.groups


def _check(table: SampleTable | EntryTable, targets: np.ndarray, pool_by: str) -> None:
    """Raise as `check_groups` for images with targets (N, T)."""
    pooled = _pooled(table)
    groups = Groups.named(pooled, table.paths)
    firsts = groups.firsts[groups.numbers]
    parts = Names(table.parts.astype(np.int32), string_array(list(PARTS)))
    wider = Names.none(len(table)) if pooled is table.groups else table.groups
    for different, values, what, found in (
        ((targets != targets[firsts]).any(axis=1), table.labels, "label", "has images with different labels"),
        (parts.codes != parts.codes[firsts], parts, "part", "has images with different parts"),
        (wider.codes != wider.codes[firsts], wider, "wider group", "is in several groups that a split leaves whole"),
    ):
        if not different.any():
            continue
        row = int(np.argmax(different))
        rows = np.array([firsts[row], row])
        (first, second), (one, other) = table.paths[rows].tolist(), (name or "none" for name in values[rows].to_list())
        count = int(groups.any(different).sum())
        more = f", and so have {count - 1} more groups" if count > 1 else ""
        raise DataError(
            f"The group {groups.names[groups.numbers[row]]!r} ({pool_by}) {found}: {first} has {one!r} and {second} "
            f"has {other!r}{more}. A group gets one answer: expected one {what} for all of its images."
        )
