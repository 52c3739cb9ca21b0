"""Group images by a regular expression that matches their paths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from regraft.data.dataset import Part
from regraft.data.sources.manifest import ImageEntry
from regraft.errors import DataError, UsageError
from regraft.text import pluralize

_EXPECTED = r"Expected a regular expression that finds the group in a file's path, such as patient(\d+)."


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the pattern; raises `UsageError` if it is not a regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"group_by={pattern!r} is not a regular expression: {error}. {_EXPECTED}") from error


def group_by_pattern(found: Sequence[ImageEntry], pattern: re.Pattern[str]) -> tuple[list[ImageEntry], list[str]]:
    """Assign each image the group in its path; returns the images, and notes on missing and divided groups.

    The group is the text of the pattern's named group `group`, else of all its groups joined by `-`, else of the whole
    match. An image without a match, or with an empty one, has no group. Raises `UsageError` if an image has a group
    already, and `DataError` if no path matches.
    """
    if any(f.group for f in found):
        raise UsageError("The data has groups of its own. Remove group_by or the column `group`.")
    grouped = [replace(f, group=_group(f.path, pattern)) for f in found]
    single = [f for f in grouped if f.group is None]
    if len(single) == len(found):
        example = f", such as {found[0].path}" if found else ""
        raise DataError(f"group_by={pattern.pattern!r} does not match the path of any image{example}. {_EXPECTED}")
    notes = []
    if single:
        notes.append(
            f"group_by does not match {pluralize(len(single), 'image')}, which have no group, such as {single[0].path}."
        )
    parts_of: defaultdict[str, set[Part | None]] = defaultdict(set)
    for f in grouped:
        if f.group is not None:
            parts_of[f.group].add(f.part)
    if several := sorted(group for group, parts in parts_of.items() if len(parts) > 1):
        count = pluralize(len(several), "group is", "groups are")
        notes.append(f"{count} in more than one part (a leak), for example {several[0]}.")
    return grouped, notes


def _group(path: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    texts = match.groups() or (match[0],)
    return (match["group"] if "group" in pattern.groupindex else "-".join(filter(None, texts))) or None
