"""Images that are not read yet, in columns: what the data says about each of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from regraft.data.samples import PARTS, Part
from regraft.data.strings import BLOCK, Names, StringBuilder, in_blocks, string_array


@dataclass(frozen=True)
class ImageEntry:
    """An image that is not read yet: its name in the storage, and what the data says about it.

    `pooled_group` is as in `Sample`.
    """

    path: str
    label: str
    part: Part | None = None
    group: str | None = None
    pooled_group: str | None = None


class EntryTable(Sequence[ImageEntry]):
    """Entries in columns, as a sequence that makes an `ImageEntry` when it is asked for one."""

    def __init__(self, entries: Iterable[ImageEntry] = ()) -> None:
        self._paths = StringBuilder()
        self._labels, self._groups, self._pooled = _Coder(), _Coder(), _Coder()
        self._parts = array("b")
        self._frozen: tuple[np.ndarray, Names, np.ndarray, Names, Names] | None = None
        self.extend(entries)

    def append(self, entry: ImageEntry) -> None:
        """Add an entry."""
        self._frozen = None
        self._paths.append(entry.path)
        self._labels.append(entry.label)
        self._groups.append(entry.group)
        self._pooled.append(entry.pooled_group)
        self._parts.append(-1 if entry.part is None else PARTS.index(entry.part))

    def extend(self, entries: Iterable[ImageEntry]) -> None:
        """Add entries."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, chosen: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, chosen: slice) -> list[ImageEntry]: ...
    def __getitem__(self, chosen: int | slice) -> ImageEntry | list[ImageEntry]:
        if isinstance(chosen, slice):
            return list(self._make(np.arange(len(self))[chosen]))
        return next(self._make(np.array([range(len(self))[chosen]])))

    def __iter__(self) -> Iterator[ImageEntry]:
        for start in range(0, len(self), BLOCK):
            yield from self._make(np.arange(start, min(start + BLOCK, len(self))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # entries can be added

    @property
    def paths(self) -> np.ndarray:
        """Name of each image in the storage, strings (N,)."""
        return self._columns[0]

    @property
    def labels(self) -> Names:
        """Class name of each image."""
        return self._columns[1]

    @property
    def parts(self) -> np.ndarray:
        """Part of each image, int8 (N,): an index in `PARTS`, or -1 for none."""
        return self._columns[2]

    @property
    def groups(self) -> Names:
        """Group of each image."""
        return self._columns[3]

    @property
    def pooled_groups(self) -> Names:
        """Group of each image that gets one answer, if it is another one."""
        return self._columns[4]

    def take(self, rows: np.ndarray) -> EntryTable:
        """The entries with these numbers, int (n,)."""
        paths, labels, parts, groups, pooled = self._columns
        return self._replace(paths[rows], labels[rows], parts[rows], groups[rows], pooled[rows])

    def sorted_by_path(self) -> EntryTable:
        """The entries sorted by path, by code point."""
        order = np.argsort(self.paths, kind="stable")
        return self if (np.diff(order) == 1).all() else self.take(order)

    def with_groups(self, groups: Names, pooled: Names | None = None) -> EntryTable:
        """The same images in other groups, and if they are given others that get one answer each."""
        pooled = self.pooled_groups if pooled is None else pooled
        return self._replace(self.paths, self.labels, self.parts, groups, pooled)

    def with_labels(self, labels: Names) -> EntryTable:
        """The same images with other labels."""
        return self._replace(self.paths, labels, self.parts, self.groups, self.pooled_groups)

    def first_rows(self) -> np.ndarray:
        """For each entry, the number of the first one with the same path, int64 (N,)."""
        paths = self.paths
        hashes = np.fromiter(map(hash, in_blocks(paths)), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        first = np.arange(len(self))
        for start, end in _runs(hashes[order]):
            seen: dict[str, int] = {}
            for row in order[start:end].tolist():
                first[row] = seen.setdefault(paths[row], row)
        return first

    @classmethod
    def _replace(cls, paths: np.ndarray, labels: Names, parts: np.ndarray, groups: Names, pooled: Names) -> EntryTable:
        made = cls()
        made._paths = StringBuilder(paths)
        made._labels, made._groups, made._pooled = _Coder(labels), _Coder(groups), _Coder(pooled)
        made._parts = array("b", parts.tobytes())
        return made

    @property
    def _columns(self) -> tuple[np.ndarray, Names, np.ndarray, Names, Names]:
        if self._frozen is None:
            parts = np.array(self._parts, np.int8)
            groups, pooled = self._groups.names(), self._pooled.names()
            self._frozen = self._paths.array(), self._labels.names(), parts, groups, pooled
        return self._frozen

    def _make(self, rows: np.ndarray) -> Iterator[ImageEntry]:
        paths, labels, parts, groups, pooled = self._columns
        names = (labels[rows].to_list(), groups[rows].to_list(), pooled[rows].to_list())
        for path, part, label, group, one in zip(paths[rows].tolist(), parts[rows].tolist(), *names, strict=True):
            yield ImageEntry(path, str(label), None if part < 0 else PARTS[part], group, one)


class _Coder:
    """Collects names by their numbers."""

    def __init__(self, names: Names | None = None) -> None:
        self._numbers: dict[str, int] = {}
        self._codes = array("i")
        if names is not None:
            self._numbers = {name: number for number, name in enumerate(names.names.tolist())}
            self._codes = array("i", names.codes.tobytes())

    def append(self, name: str | None) -> None:
        self._codes.append(-1 if name is None else self._numbers.setdefault(name, len(self._numbers)))

    def names(self) -> Names:
        return Names(np.array(self._codes, np.int32), string_array(list(self._numbers)))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each run of several equal values."""
    equal = np.flatnonzero(values[1:] == values[:-1])
    if len(equal):
        gaps = np.flatnonzero(np.diff(equal) > 1)
        for first, last in zip(equal[[0, *(gaps + 1)]].tolist(), equal[[*gaps, -1]].tolist(), strict=True):
            yield first, last + 2
