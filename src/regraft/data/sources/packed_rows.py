"""Rows of a table of strings, packed into arrays where there are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from regraft.data.strings import BLOCK, string_array


class RowBuilder:
    """Collects rows, each empty or with a cell for each column; a small table stays a list."""

    def __init__(self) -> None:
        self._pending: list[list[str]] = []
        self._blocks: list[list[np.ndarray]] = []

    def append(self, row: list[str]) -> None:
        """Add a row; all rows that are not empty have the same number of cells."""
        self._pending.append(row)
        if len(self._pending) == BLOCK:
            self._blocks.append(_pack(self._pending))
            self._pending = []

    def rows(self) -> Sequence[list[str]]:
        """All rows."""
        return PackedRows([*self._blocks, _pack(self._pending)]) if self._blocks else self._pending


class PackedRows(Sequence[list[str]]):
    """Rows in blocks of `BLOCK` rows, each a list of columns; a row becomes a list of strings on access."""

    def __init__(self, blocks: Sequence[list[np.ndarray]]) -> None:
        self._blocks = blocks

    def __len__(self) -> int:
        return sum(len(block[0]) for block in self._blocks)

    @overload
    def __getitem__(self, chosen: int) -> list[str]: ...
    @overload
    def __getitem__(self, chosen: slice) -> list[list[str]]: ...
    def __getitem__(self, chosen: int | slice) -> list[str] | list[list[str]]:
        if isinstance(chosen, slice):
            return [self[i] for i in range(len(self))[chosen]]
        block, row = divmod(range(len(self))[chosen], BLOCK)
        is_filled, *columns = self._blocks[block]
        return [column[row] for column in columns] if is_filled[row] else []

    def __iter__(self) -> Iterator[list[str]]:
        for is_filled, *columns in self._blocks:
            cells = (
                zip(*(column.tolist() for column in columns), strict=True) if columns else iter([()] * len(is_filled))
            )
            for filled, row in zip(is_filled.tolist(), cells, strict=True):
                yield list(row) if filled else []


def _pack(rows: Sequence[list[str]]) -> list[np.ndarray]:
    """Whether each row has cells, bool (n,), and the columns, strings (n,)."""
    width = max(map(len, rows), default=0)
    filled = [row or [""] * width for row in rows]
    return [
        np.array([bool(row) for row in rows], bool),
        *(string_array(column) for column in zip(*filled, strict=True)),
    ]
