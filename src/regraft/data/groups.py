"""Groups by the names of files: what a pattern finds in a path.

Enters: images and a regular expression. Leaves: the same images with groups, and what a person should know.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from regraft.data.dataset import Part
from regraft.data.layout import Found
from regraft.errors import DataError, UsageError, counted

_EXPECTED = r"Expected a regular expression that finds the group in a file's path, such as patient(\d+)."


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern.

    Raises:
        UsageError: It is no regular expression.
    """
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"group_by={pattern!r} is no regular expression: {error}. {_EXPECTED}") from error


def group_by_pattern(found: Sequence[Found], pattern: re.Pattern[str]) -> tuple[list[Found], list[str]]:
    """Give each image the group that its path tells.

    A group's name is the text of the pattern's group `group`; else of all its groups, joined by `-`; else all that it
    matches. Where that is empty, or nothing matches, an image is alone.

    Args:
        found: Images without groups.
        pattern: Searched for in each path.

    Returns:
        The images, and notes: how many are alone, and which groups are in several parts.

    Raises:
        UsageError: An image has a group already.
        DataError: No path matches.
    """
    if any(f.group for f in found):
        raise UsageError(
            f"group_by={pattern.pattern!r}, but the data has groups of its own. Leave out one of them: group_by, or "
            "the column `group`."
        )
    grouped = [replace(f, group=_group(f.path, pattern)) for f in found]
    alone = [f for f in grouped if f.group is None]
    if len(alone) == len(found):
        example = f", such as {found[0].path}" if found else ""
        raise DataError(f"group_by={pattern.pattern!r} is in no image's path{example}. {_EXPECTED}")
    notes = []
    if alone:
        notes.append(f"{counted(len(alone), 'image')} without what group_by looks for: alone, such as {alone[0].path}.")
    parts_of: defaultdict[str, set[Part | None]] = defaultdict(set)
    for f in grouped:
        if f.group is not None:
            parts_of[f.group].add(f.part)
    several = sorted(group for group, parts in parts_of.items() if len(parts) > 1)
    if several:
        count = counted(len(several), "group is", "groups are")
        notes.append(f"{count} in more than one part (a leak), for example {several[0]}.")
    return grouped, notes


def _group(path: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    if "group" in pattern.groupindex:
        return match["group"] or None
    if pattern.groups:
        return "-".join(text for text in match.groups() if text) or None
    return match[0] or None
