"""Groups of the images of a source: those that a split leaves whole, and those that get one answer each.

Input: a source, and what its groups are: a column of its table, or a pattern on paths. Output: the source with groups.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from regraft.data.entries import EntryTable
from regraft.data.pooling import Groups
from regraft.data.sources.groups import UngroupedError, compile_pattern, groups_by_pattern, is_word
from regraft.data.sources.open import DataSource
from regraft.data.sources.urls import redact
from regraft.data.strings import Names
from regraft.errors import UsageError
from regraft.text import join_truncated


def with_groups(source: DataSource, group_by: str, option: str = "group_by") -> DataSource:
    """The source with the groups that a pattern finds in the paths, unless it has those that are asked for.

    `group_by` names their column, is `group` where the data has groups of its own, or is a pattern; empty: nothing is
    asked for, and the groups stay as they are. Raises as `groups_by_pattern`, `UngroupedError` if the data is a table,
    and a word is none of its columns, and `UsageError` if the data has other groups.
    """
    layout = source.layout
    if not group_by or layout.of_groups.is_asked or _are_own(source, group_by):
        return source
    if any(layout.found.groups.used()):
        _refuse_words(source, group_by, option)
        raise UsageError(f"The data has groups of its own. Remove {option} or the column `group`.")
    found, groups, notes = _by_pattern(source, group_by, option)
    return _with(source, found.with_groups(groups), notes)


def with_pooled_groups(source: DataSource, pool_by: str, group_by: str, *, splits: bool) -> DataSource:
    """The source with the groups that get one answer each, found as by `with_groups`; of no `pool_by` as it is.

    A split leaves them whole. It leaves wider groups whole, too, if `group_by` asks for these, or the data has some of
    its own which those that get an answer would divide; they are the `groups` then, and the others `pooled_groups`. If
    nothing `splits` the images, there are no wider groups.
    """
    if not pool_by:
        return source
    notes: list[str] = []
    found, of_table = source.layout.found, source.layout.of_groups
    if of_table.is_pooled:
        pooled = found.pooled_groups
    elif pool_by == group_by or _are_own(source, pool_by):
        pooled = found.groups
    else:
        found, pooled, notes = _by_pattern(source, pool_by, "pool_by")
    is_wider = splits and pool_by != group_by and bool(group_by or _is_divided(found.groups, pooled, found.paths))
    if not is_wider:
        return _with(source, found.with_groups(pooled, Names.none(len(found))), notes)
    if not group_by:
        notes = [*notes, f"A split leaves the data's own groups whole, too, which pool_by={pool_by!r} divides."]
    single = pooled.codes < 0  # each is a group by itself, and not the whole wider group
    if single.any():
        names = pooled.to_list()
        for row in np.flatnonzero(single).tolist():
            names[row] = redact(found.paths[row])
        pooled = Names.of(names)
    return _with(source, found.with_groups(found.groups, pooled), notes)


def refuse_divided_groups(source: DataSource, group_by: str) -> None:
    """Raise `UsageError` if the column that is asked for divides a group of the column `group`, and a split would."""
    if group := source.layout.of_groups.divided:
        raise UsageError(
            f"The table has a column `group`, and group_by={group_by!r} divides its group {group!r}: a split would put "
            "its images into several parts. Expected one of them. If they may be divided, rename the column `group`; "
            "if not, rename it and say in a column `split` which part each image is in, or use group_by='group'."
        )


def _are_own(source: DataSource, name: str) -> bool:
    """Whether the groups that the data has are asked for by their name."""
    return name == "group" and any(source.layout.found.groups.used())


def _by_pattern(source: DataSource, pattern: str, option: str) -> tuple[EntryTable, Names, list[str]]:
    """The images sorted by path, and the group of each by a pattern, with notes."""
    _refuse_words(source, pattern, option)
    found = source.layout.found.sorted_by_path()
    groups, notes = groups_by_pattern(found, compile_pattern(pattern, option), option)
    return found, groups, notes


def _refuse_words(source: DataSource, pattern: str, option: str) -> None:
    if (names := source.layout.of_groups.names) and is_word(pattern):
        raise UngroupedError(
            f"The table has no column {pattern!r}. {option} is one of: {join_truncated(names)}; or a regular "
            r"expression that finds the group in a file's path, such as patient(\d+)."
        )


def _with(source: DataSource, found: EntryTable, notes: list[str]) -> DataSource:
    return replace(source, layout=replace(source.layout, found=found, notes=[*source.layout.notes, *notes]))


def _is_divided(groups: Names, pooled: Names, paths: np.ndarray) -> bool:
    """Whether a group has images of several groups that get one answer each."""
    rows = np.flatnonzero(groups.codes >= 0)
    pairs = np.stack([groups.codes[rows], Groups.named(pooled, paths).numbers[rows]])
    return bool(np.unique(pairs, axis=1).shape[1] > len(np.unique(pairs[0])))
