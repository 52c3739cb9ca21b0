"""The groups of a run whose model gives one answer for several pictures of one thing: `groups.csv`, and their numbers.

Input: the split of a training. Output: a row for each group, and how many pictures the groups of each part have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regraft.atomic_io import write_csv
from regraft.data.dataset import Split
from regraft.data.decode import ImageSource
from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.pooling import groups_of
from regraft.data.sources.grouping import with_groups
from regraft.data.sources.groups import compile_pattern, groups_by_pattern
from regraft.data.sources.open import open_images
from regraft.data.sources.table import SUFFIXES
from regraft.spreadsheets import read_records

GROUPS = "groups.csv"
_COLUMNS = ("group", "pictures", "part", "label", "first")


def write_groups(path: Path, split: Split) -> None:
    """Write a row for each group: its name, number of pictures, part, label, and the path of the first picture."""
    rows = []
    for part in split:
        if (groups := groups_of(split[part])) is None:
            return
        samples = split[part].samples
        for name, size, first in zip(groups.names, groups.sizes.tolist(), groups.firsts.tolist(), strict=True):
            rows.append((name, size, part, samples[first].label, samples[first].path))
    write_csv(path / GROUPS, _COLUMNS, rows)


def describe_groups(split: Split) -> dict[str, Any]:
    """What the groups are (`by`), and of each part their number, the least and most pictures, and a sentence."""
    described: dict[str, Any] = {"by": split.dataset.pool_by}
    for part in split:
        if (groups := groups_of(split[part])) is not None and len(groups):
            low, high = int(groups.sizes.min()), int(groups.sizes.max())
            described[part] = {"count": len(groups), "least": low, "most": high, "text": groups.describe()}
    return described


def first_pictures(path: Path) -> dict[str, str]:
    """The path of the first picture of each group of a run, by the group's name; {} where each image has an answer."""
    return {row["group"]: row["first"] for row in _rows(path)}


def is_table(path: Path) -> bool:
    """Whether a path is that of a table of images."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def images_of_table(path: Path, pool_by: str) -> tuple[list[ImageSource], list[str | None], list[str]]:
    """The images that a table lists, the group of each, and notes; `pool_by` as in `scan`. Raises as `scan` does."""
    source = with_groups(open_images(path, group_by=pool_by), pool_by, "pool_by")
    found = source.layout.found
    images = [source.storage.source(name) for name in found.paths.tolist()]
    return images, found.groups.to_list(), source.layout.notes


def groups_of_files(files: Sequence[Any], pool_by: str) -> tuple[list[str | None], list[str]]:
    """The group of each file, found in its path, and notes. Raises as `groups_by_pattern`."""
    entries = EntryTable(ImageEntry(str(file), "") for file in files)
    groups, notes = groups_by_pattern(entries, compile_pattern(pool_by, "pool_by"), "pool_by")
    return groups.to_list(), notes


def _rows(path: Path) -> list[dict[str, str]]:
    file = path / GROUPS
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as text:
        return list(read_records(text))
