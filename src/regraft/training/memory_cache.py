"""Rows that are kept in memory alone, for as long as one training needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regraft.key_index import KeyIndex, Keys, keys_array

#: Rows of a block; blocks are added as rows come, so that nothing is ever copied to grow.
_BLOCK_ROWS = 1024


class MemoryTable:
    """Rows of one shape and dtype, found by cache key, as those of `regraft.cache.Table`."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._blocks: list[np.ndarray] = []
        self._rows = KeyIndex()
        self._count = 0

    def find(self, keys: Keys) -> np.ndarray:
        """Row numbers of these keys, int64 (N,); -1 for a miss."""
        return self._rows.find(keys_array(keys))

    def append(self, keys: Keys, rows: np.ndarray) -> np.ndarray:
        """Add rows (n, *shape) under their keys; returns their row numbers, int64 (n,)."""
        numbers = np.arange(self._count, self._count + len(keys))
        while len(self._blocks) * _BLOCK_ROWS < self._count + len(keys):
            self._blocks.append(np.empty((_BLOCK_ROWS, *self.shape), self.dtype))
        for block in np.unique(numbers // _BLOCK_ROWS):
            inside = numbers // _BLOCK_ROWS == block
            self._blocks[block][numbers[inside] % _BLOCK_ROWS] = rows[inside]
        self._rows.add(keys_array(keys), self._count)
        self._count += len(keys)
        return numbers

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """A copy of the rows with these numbers, (n, *shape)."""
        rows = np.empty((len(numbers), *self.shape), self.dtype)
        for block in np.unique(numbers // _BLOCK_ROWS):
            inside = numbers // _BLOCK_ROWS == block
            rows[inside] = self._blocks[block][numbers[inside] % _BLOCK_ROWS]
        return rows


class MemoryCache:
    """Tables in memory, by the interface of `regraft.cache.Cache`."""

    def __init__(self) -> None:
        self._tables: dict[str, MemoryTable] = {}

    def table(self, kind: str, key: Mapping[str, Any], shape: Sequence[int], dtype: Any) -> MemoryTable:
        """Open or create the table for a kind of row."""
        return self._tables.setdefault(repr((kind, sorted(key.items()), tuple(shape))), MemoryTable(shape, dtype))
