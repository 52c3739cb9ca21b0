"""What cross-validation answers: each image, or each group of images.

Input: a data set. Output: the name of each answer, and tables of suspected labels that name them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regraft.data.dataset import Dataset
from regraft.data.pooling import groups_of
from regraft.text import pluralize


@dataclass(frozen=True, eq=False)
class Answered:
    """The images that are predicted, or the groups of images.

    Attributes:
        names: Path of each image, or name of each group.
        text: How many there are, such as `99 images` or `42 groups of 2 to 4 pictures`.
        first_images: Path of the first image of each group, by its name; None where images are predicted.
    """

    names: tuple[str, ...]
    text: str
    first_images: dict[str, str] | None = None

    @property
    def unit(self) -> str:
        """What is counted: `images` or `groups`."""
        return "images" if self.first_images is None else "groups"

    @classmethod
    def of(cls, dataset: Dataset) -> Answered:
        """What of a data set gets an answer."""
        paths, groups = dataset.table.paths, groups_of(dataset)
        if groups is None:
            return cls(tuple(paths.tolist()), pluralize(len(paths), "image"))
        firsts = dict(zip(groups.names, paths[groups.firsts].tolist(), strict=True))
        return cls(groups.names, groups.describe(), firsts)

    def table(
        self, columns: Sequence[str], suspects: Sequence[Sequence[Any]]
    ) -> tuple[tuple[str, ...], list[list[Any]]]:
        """Columns and rows of suspects, whose first value is a name: of a path, or of a group with its first image."""
        if (firsts := self.first_images) is None:
            return tuple(columns), [list(row) for row in suspects]
        return ("group", *columns[1:], "first"), [[*row, firsts[row[0]]] for row in suspects]

    def to_json(self, columns: Sequence[str], suspects: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Plain JSON values: `label_errors`, and what the `groups` are, where these are predicted."""
        named, rows = self.table(columns, suspects)
        errors = [dict(zip(named, row, strict=True)) for row in rows]
        return {"label_errors": errors} | ({} if self.first_images is None else {"groups": self.text})
