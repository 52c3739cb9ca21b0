"""Many strings in arrays: one buffer instead of a Python object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: Strings that are converted at once.
BLOCK = 8192


def string_array(strings: Sequence[str]) -> np.ndarray:
    """The strings as an array (N,) of NumPy's variable-width strings, or of objects if one has a lone surrogate."""
    try:
        return np.array(strings, np.dtypes.StringDType())
    except UnicodeEncodeError:  # not UTF-8, such as a name that JSON has as \ud800
        array = np.empty(len(strings), object)
        array[:] = strings
        return array


def concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The strings of all arrays, in order."""
    if not arrays:
        return string_array([])
    if len({array.dtype for array in arrays}) > 1:
        return np.concatenate([array.astype(object) for array in arrays])
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def in_blocks(array: np.ndarray) -> Iterator[str]:
    """The strings of an array, of which only a few are Python objects at a time."""
    for start in range(0, len(array), BLOCK):
        yield from array[start : start + BLOCK].tolist()


class StringBuilder:
    """Collects strings into an array."""

    def __init__(self, strings: np.ndarray | None = None) -> None:
        self._pending: list[str] = []
        self._chunks = [] if strings is None else [strings]

    def append(self, string: str) -> None:
        """Add a string."""
        self._pending.append(string)
        if len(self._pending) >= BLOCK:
            self._flush()

    def array(self) -> np.ndarray:
        """All strings so far, (N,)."""
        self._flush()
        self._chunks = [concatenate(self._chunks)]
        return self._chunks[0]

    def _flush(self) -> None:
        if self._pending:
            self._chunks.append(string_array(self._pending))
            self._pending = []


@dataclass(frozen=True, eq=False)
class Names:
    """A name for each of N rows, such as its label, where many rows have the same.

    `codes` are the numbers of the names, int32 (N,), or -1 for no name; `names` are all different, (K,).
    """

    codes: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str | None]) -> Names:
        """The names of rows, numbered as they first occur."""
        numbers: dict[str, int] = {}
        codes = [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names]
        return cls(np.array(codes, np.int32), string_array(list(numbers)))

    @classmethod
    def none(cls, count: int) -> Names:
        """No name for each of `count` rows."""
        return cls(np.full(count, -1, np.int32), string_array([]))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray | slice) -> Names:
        return Names(self.codes[rows], self.names)

    def to_list(self) -> list[str | None]:
        """The name of each row."""
        codes, names = self.codes.tolist(), self.names
        if len(codes) < len(names):  # a few of many names
            return [None if code < 0 else names[code] for code in codes]
        every = [*names.tolist(), None]
        return [every[code] for code in codes]

    def used(self) -> list[str]:
        """The names that a row has, in the order of their numbers."""
        present = np.unique(self.codes)
        return list(self.names[present[present >= 0]].tolist())
