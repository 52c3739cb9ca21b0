"""The samples of a data set in columns: two million take 400 MB, and as Python objects they would take 3 GB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, cast, overload

import numpy as np

from regraft.data.image_stats import ImageStats, stats_of
from regraft.data.strings import Names, string_array

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

#: Rows that become objects at once; the samples of a smaller table are kept.
_BLOCK = 4096
_HEX = frozenset("0123456789abcdef")
#: The statistics of samples that were made by hand, whose numbers have double precision.
_GIVEN_STATS = np.dtype([
    ("bytes", "i8"), ("width", "i8"), ("height", "i8"), ("format", "S32"), ("mode", "S32"), ("orientation", "i8"),
    ("frames", "i8"), ("largest", "f8"), ("brightness", "f8"), ("contrast", "f8"), ("sharpness", "f8"), ("low", "f8"),
    ("high", "f8"),
])  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One labeled image.

    Attributes:
        path: Path relative to the data set's root, with forward slashes; a made-up name for an array.
        label: Class name.
        sha256: SHA-256 of the file's bytes, or of an array's pixels; equal values mean exact duplicates.
        part: `train`, `val` or `test` if the data comes in parts, else None.
        group: Name of the group, such as a patient; a split keeps the samples of a group in one part. None: no group.
        size: Width and height of the decoded image in pixels.
        image_stats: Format, size and brightness of the image; None for an array.
        near_duplicate_group: Name that samples of nearly the same picture share; a split keeps them in one part. None:
            the picture is unique.
        pooled_group: Name of the pictures within `group` that get one answer (`Dataset.pool_by`), such as a lesion of
            the patient. None: all of the group get one.
    """

    path: str
    label: str
    sha256: str
    part: Part | None = None
    group: str | None = None
    size: tuple[int, int] | None = None
    image_stats: ImageStats | None = field(default=None, repr=False)
    near_duplicate_group: str | None = None
    pooled_group: str | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of N samples.

    Attributes:
        paths: Strings (N,).
        labels: Class names.
        hashes: SHA-256, uint8 (N, 32); or strings (N,), for samples made by hand.
        parts: Index in `PARTS`, or -1 for none, int8 (N,).
        groups: Names of groups.
        sizes: Width and height, int32 (N, 2); 0 if unknown.
        stats: A record with the fields of `ImageStats` (N,); 0 bytes if there are none.
        near_duplicates: Names of groups of near duplicates.
        pooled_groups: Names of the groups that get one answer each; all None: they are those of `groups`.
    """

    paths: np.ndarray
    labels: Names
    hashes: np.ndarray
    parts: np.ndarray
    groups: Names
    sizes: np.ndarray
    stats: np.ndarray
    near_duplicates: Names
    pooled_groups: Names

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        """The columns of samples."""
        stats = np.zeros(len(samples), _GIVEN_STATS)
        sizes = np.zeros((len(samples), 2), np.int32)
        for i, sample in enumerate(samples):
            sizes[i] = sample.size or (0, 0)
            if (given := sample.image_stats) is not None:
                values = (getattr(given, name) for name in _GIVEN_STATS.names or ())
                stats[i] = tuple(v.encode(errors="replace") if isinstance(v, str) else v for v in values)
        parts = [-1 if sample.part is None else PARTS.index(sample.part) for sample in samples]
        return cls(
            string_array([sample.path for sample in samples]),
            Names.of(sample.label for sample in samples),
            _hash_column([sample.sha256 for sample in samples]),
            np.array(parts, np.int8),
            Names.of(sample.group for sample in samples),
            sizes,
            stats,
            Names.of(sample.near_duplicate_group for sample in samples),
            Names.of(sample.pooled_group for sample in samples),
        )

    @cached_property
    def contents(self) -> np.ndarray:
        """Number of the SHA-256 of each sample in the order of all, int32 (N,); copies have the same number."""
        if self.hashes.ndim == 1:
            return np.unique(self.hashes, return_inverse=True)[1].astype(np.int32)
        words = self.hashes.view(">u8")
        order = np.lexsort(words.T[::-1])
        is_new = np.zeros(len(order), np.int32)
        for start in range(1, len(order), _BLOCK):  # in blocks, since the sorted hashes need not be in memory
            block = words[order[start - 1 : start + _BLOCK]]
            is_new[start : start + _BLOCK] = (block[1:] != block[:-1]).any(axis=1)
        numbers = np.empty(len(order), np.int32)
        numbers[order] = np.cumsum(is_new, dtype=np.int32)
        return numbers


class SampleTable(Sequence[Sample]):
    """Samples in columns, as a sequence that makes a `Sample` when it is asked for one.

    A selection of rows shares the columns. A table of samples that were made by hand returns these objects.
    """

    def __init__(
        self, columns: Columns | None = None, rows: np.ndarray | None = None, given: tuple[Sample, ...] | None = None
    ) -> None:
        self._columns, self._rows, self._given = columns, rows, given
        self._made: tuple[Sample, ...] | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleTable:
        """These samples as a table."""
        return samples if isinstance(samples, SampleTable) else cls(given=tuple(samples))

    def __len__(self) -> int:
        if self._given is not None:
            return len(self._given)
        return len(self._all.paths) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, chosen: int) -> Sample: ...
    @overload
    def __getitem__(self, chosen: slice) -> SampleTable: ...
    def __getitem__(self, chosen: int | slice) -> Sample | SampleTable:
        if isinstance(chosen, slice):
            return self.take(np.arange(len(self))[chosen])
        if (objects := self._objects) is not None:
            return objects[chosen]
        row = range(len(self))[chosen]
        return self._make(slice(row, row + 1))[0]

    def __iter__(self) -> Iterator[Sample]:
        if (objects := self._objects) is not None:
            yield from objects
            return
        for start in range(0, len(self), _BLOCK):
            yield from self._make(slice(start, start + _BLOCK))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (SampleTable, tuple)):
            return NotImplemented
        return self is other or (len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True)))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"SampleTable({len(self)} samples)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the selected rows alone: another process has no use for the others."""
        if self._given is not None:
            return SampleTable, (None, None, self._given)
        columns = Columns(*(self._column(column.name) for column in fields(Columns)))
        return SampleTable, (columns,)

    def take(self, rows: np.ndarray) -> SampleTable:
        """The samples with these numbers, int (n,), or for which this is true, bool (N,)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        given = None if self._given is None else tuple(self._given[i] for i in rows.tolist())
        if self._columns is None:
            return SampleTable(given=given)
        small = np.int32 if len(self._columns.paths) < 2**31 else np.int64
        return SampleTable(self._columns, (rows if self._rows is None else self._rows[rows]).astype(small), given)

    def with_parts(self, parts: np.ndarray) -> SampleTable:
        """The same samples in other parts: an index in `PARTS` or -1 for each, (N,)."""
        if self._given is not None:
            names = (*PARTS, None)
            return SampleTable(
                given=tuple(replace(s, part=names[p]) for s, p in zip(self._given, parts.tolist(), strict=True))
            )
        column = np.full(len(self._all.paths), -1, np.int8)
        column[slice(None) if self._rows is None else self._rows] = parts
        return SampleTable(replace(self._all, parts=column), self._rows)

    def with_labels(self, labels: Names) -> SampleTable:
        """The same samples with other labels, one for each."""
        if self._given is not None:
            texts = (text or "" for text in labels.to_list())
            return SampleTable(given=tuple(replace(s, label=text) for s, text in zip(self._given, texts, strict=True)))
        codes = np.full(len(self._all.paths), -1, np.int32)
        codes[slice(None) if self._rows is None else self._rows] = labels.codes
        return SampleTable(replace(self._all, labels=Names(codes, labels.names)), self._rows)

    def with_near_duplicates(self, groups: Names) -> SampleTable:
        """The same samples of a scan in other groups of near duplicates."""
        assert self._given is None
        assert self._rows is None
        return SampleTable(replace(self._all, near_duplicates=groups))

    @property
    def paths(self) -> np.ndarray:
        """Path of each sample, strings (N,)."""
        return cast(np.ndarray, self._column("paths"))

    @property
    def labels(self) -> Names:
        """Class name of each sample."""
        return cast(Names, self._column("labels"))

    @property
    def hashes(self) -> np.ndarray:
        """SHA-256 of each sample, uint8 (N, 32), or strings (N,) if they were made by hand."""
        return cast(np.ndarray, self._column("hashes"))

    @property
    def contents(self) -> np.ndarray:
        """A number for each content, int32 (N,), which increases with its SHA-256."""
        return cast(np.ndarray, self._column("contents"))

    @property
    def parts(self) -> np.ndarray:
        """Part of each sample, int8 (N,): an index in `PARTS`, or -1 for none."""
        return cast(np.ndarray, self._column("parts"))

    @property
    def groups(self) -> Names:
        """Group of each sample."""
        return cast(Names, self._column("groups"))

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each image in pixels, int32 (N, 2); 0 if unknown."""
        return cast(np.ndarray, self._column("sizes"))

    @property
    def shorter_sides(self) -> np.ndarray:
        """The shorter side of each image in pixels, int32 (N,); 0 if unknown."""
        return np.asarray(self.sizes.min(axis=1, initial=2**31 - 1))

    @property
    def stats(self) -> np.ndarray:
        """A record with the fields of `ImageStats` for each sample, (N,); 0 bytes if it has none."""
        return cast(np.ndarray, self._column("stats"))

    @property
    def near_duplicates(self) -> Names:
        """Group of near duplicates of each sample."""
        return cast(Names, self._column("near_duplicates"))

    @property
    def pooled_groups(self) -> Names:
        """Group of each sample that gets one answer, if it is another one."""
        return cast(Names, self._column("pooled_groups"))

    @property
    def pictures(self) -> np.ndarray:
        """A number for each picture, int64 (N,): copies and near duplicates have the same."""
        groups = self.near_duplicates.codes.astype(np.int64)
        return np.where(groups < 0, self.contents, groups + len(self._all.paths))

    def sha256s(self) -> Iterator[str]:
        """SHA-256 of each sample in hexadecimal, of which only a few are in memory at a time."""
        for start in range(0, len(self), _BLOCK):
            yield from _hex(self._column("hashes", slice(start, start + _BLOCK)))

    def parts_present(self) -> set[Part]:
        """The parts that samples have."""
        return {PARTS[index] for index in np.unique(self.parts).tolist() if index >= 0}

    @property
    def _all(self) -> Columns:
        if self._columns is None:
            assert self._given is not None
            self._columns = Columns.of(self._given)
        return self._columns

    def _column(self, name: str, rows: slice = slice(None)) -> Any:
        column = getattr(self._all, name)
        return column[rows] if self._rows is None else column[self._rows[rows]]

    @property
    def _objects(self) -> tuple[Sample, ...] | None:
        if self._given is None and self._made is None and len(self) <= _BLOCK:
            self._made = tuple(self._make(slice(None)))
        return self._made if self._given is None else self._given

    def _make(self, rows: slice) -> list[Sample]:
        stats = self._column("stats", rows)
        columns = (
            self._column("paths", rows).tolist(),
            self._column("labels", rows).to_list(),
            _hex(self._column("hashes", rows)),
            self._column("parts", rows).tolist(),
            self._column("groups", rows).to_list(),
            map(tuple, self._column("sizes", rows).tolist()),
            stats_of(stats),
            self._column("near_duplicates", rows).to_list(),
            self._column("pooled_groups", rows).to_list(),
        )
        return [
            Sample(
                path,
                label,
                sha256,
                None if part < 0 else PARTS[part],
                group,
                size,
                stats if stats.bytes else None,
                near,
                pooled,
            )
            for path, label, sha256, part, group, size, stats, near, pooled in zip(*columns, strict=True)
        ]


def _hash_column(hashes: list[str]) -> np.ndarray:
    if all(len(sha256) == 64 and _HEX.issuperset(sha256) for sha256 in hashes):
        return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
    return string_array(hashes)


def _hex(hashes: np.ndarray) -> list[str]:
    if hashes.ndim == 1:
        return list(hashes.tolist())
    text = hashes.tobytes().hex()
    return [text[i : i + 64] for i in range(0, len(text), 64)]
