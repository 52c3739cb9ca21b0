"""Group images by a regular expression that matches their paths.

`option` is the one that has the pattern, for messages.
"""

from __future__ import annotations

import re

import numpy as np

from regraft.data.entries import EntryTable
from regraft.data.strings import Names, in_blocks
from regraft.errors import DataError, UsageError
from regraft.text import pluralize

_EXPECTED = (
    r"Expected a regular expression that finds the group in a file's path, such as patient(\d+), or the name of a "
    "column in a table of images."
)


#: What a text has that means more than itself in a pattern.
_SIGNS = frozenset(r"\.^$*+?{}[]|()")


class UngroupedError(DataError):
    """The groups that are asked for are not in the data."""


def is_word(pattern: str) -> bool:
    """Whether a pattern matches one text alone, which is itself, as a word or the name of a column does."""
    return not _SIGNS.intersection(pattern)


def compile_pattern(pattern: str, option: str = "group_by") -> re.Pattern[str]:
    """Compile the pattern; raises `UsageError` if it is not a regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{option}={pattern!r} is not a regular expression: {error}. {_EXPECTED}") from error


def groups_by_pattern(found: EntryTable, pattern: re.Pattern[str], option: str = "group_by") -> tuple[Names, list[str]]:
    """The group of each image by its path, and notes on missing and divided groups.

    The group is the text of the pattern's named group `group`, else of all its groups joined by `-`, else of the whole
    match. An image without a match, or with an empty one, has no group. Raises `UngroupedError` if no path matches, or
    a word, which is no pattern, is in several.
    """
    groups = Names.of(group_of(path, pattern) for path in in_blocks(found.paths))
    single = np.flatnonzero(groups.codes < 0)
    if len(single) == len(found):
        example = f", such as {found[0].path}" if found else ""
        raise UngroupedError(f"{option}={pattern.pattern!r} does not match the path of any image{example}. {_EXPECTED}")
    if is_word(pattern.pattern) and (matched := len(found) - len(single)) > 1:
        raise UngroupedError(
            f"{option}={pattern.pattern!r} is in the paths of {pluralize(matched, 'image')}, which would be one group, "
            f"since a word matches only itself. {_EXPECTED}"
        )
    notes = []
    if len(found) > 1 and len(groups.used()) == 1 and not len(single):
        notes.append(f"{option} finds one group, {groups.used()[0]}, which all {len(found):,} images are of.")
    if len(single):
        example = found.paths[single[0]]
        notes.append(
            f"{option} does not match {pluralize(len(single), 'image')}, which have no group, such as {example}."
        )
    grouped = np.flatnonzero(groups.codes >= 0)
    pairs = np.unique(np.stack([groups.codes[grouped], found.parts[grouped].astype(np.int32)], axis=1), axis=0)
    codes, parts = np.unique(pairs[:, 0], return_counts=True)
    if several := sorted(groups.names[codes[parts > 1]].tolist()):
        count = pluralize(len(several), "group is", "groups are")
        notes.append(f"{count} in more than one part (a leak), for example {several[0]}.")
    return groups, notes


def group_of(path: str, pattern: re.Pattern[str]) -> str | None:
    """The group in a path; None if the pattern does not match, or matches an empty text."""
    match = pattern.search(path)
    if match is None:
        return None
    texts = match.groups() or (match[0],)
    return (match["group"] if "group" in pattern.groupindex else "-".join(filter(None, texts))) or None
