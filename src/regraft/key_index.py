"""Row numbers of a table by cache key, in arrays: a dictionary of two million keys would take 400 MB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

#: Bytes of a key.
KEY_BYTES = 16
#: New keys are in a dictionary until they are more than this many and this part of the sorted ones.
_FEW, _PART = 8192, 16

#: Keys of rows: 16 bytes each, or uint8 (n, 16).
Keys = Sequence[bytes] | np.ndarray


def keys_array(keys: Keys) -> np.ndarray:
    """The keys as uint8 (n, 16); raises `ValueError` if they have another length."""
    if not isinstance(keys, np.ndarray):
        if (wrong := next((key for key in keys if len(key) != KEY_BYTES), None)) is not None:
            raise ValueError(f"a key of {len(wrong)} bytes; expected {KEY_BYTES}")
        keys = np.frombuffer(b"".join(keys), np.uint8)
    return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES)


def collect_keys(keys: Iterable[bytes], count: int) -> np.ndarray:
    """`count` keys as uint8 (count, 16); no list of them is made."""
    collected = np.empty(count, f"V{KEY_BYTES}")
    for number, key in enumerate(keys):
        collected[number] = key
    return collected.view(np.uint8).reshape(-1, KEY_BYTES)


class _Sorted(NamedTuple):
    """Keys as two words, sorted by the first and then the second one, and the row of each."""

    first: np.ndarray
    second: np.ndarray
    rows: np.ndarray

    def find(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Positions of keys, int64 (n,); -1 for a miss."""
        places = np.searchsorted(self.first, first)
        wanted = np.flatnonzero(places < len(self.first))
        found = np.full(len(places), -1)
        while len(wanted):  # more than once only if two keys have the same first word
            at = places[wanted]
            same = self.first[at] == first[wanted]
            hit = same & (self.second[at] == second[wanted])
            found[wanted[hit]] = at[hit]
            places[wanted] += 1
            wanted = wanted[same & ~hit]
            wanted = wanted[places[wanted] < len(self.first)]
        return found


class KeyIndex:
    """The row of each key; of a key that was added more than once, the last one. Threads may look up during `add`."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._sorted = _Sorted(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))

    def __contains__(self, key: bytes) -> bool:
        if key in self._recent:
            return True
        return len(self._sorted.rows) > 0 and bool(self.find(keys_array([key]))[0] >= 0)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Rows of keys, uint8 (n, 16): int64 (n,), -1 for a miss."""
        # `add` in another thread moves keys from the recent to the sorted ones, and replaces both.
        recent, in_order = self._recent, self._sorted
        words = keys.view(np.uint64)
        found, places = np.full(len(keys), -1), in_order.find(words[:, 0], words[:, 1])
        found[places >= 0] = in_order.rows[places[places >= 0]]
        if recent:
            for i, key in enumerate(_as_bytes(keys)):
                if (row := recent.get(key)) is not None:
                    found[i] = row
        return found

    def add(self, keys: np.ndarray, start: int) -> None:
        """Add keys, uint8 (n, 16), with the rows from `start` on."""
        rows = np.arange(start, start + len(keys))
        if len(self._recent) + len(keys) <= max(_FEW, len(self._sorted.rows) // _PART):
            self._recent.update(zip(_as_bytes(keys), rows.tolist(), strict=True))
            return
        recent = keys_array(list(self._recent))
        words = np.concatenate([recent, keys]).view(np.uint64)
        rows = np.concatenate([np.fromiter(self._recent.values(), np.int64, len(recent)), rows])
        old = self._sorted
        first = np.concatenate([old.first, words[:, 0]])
        second = np.concatenate([old.second, words[:, 1]])
        rows = np.concatenate([old.rows, rows])
        order = np.lexsort((second, first))  # stable: of the same keys, the last one is the one added last
        first, second = first[order], second[order]
        is_last = np.append((first[1:] != first[:-1]) | (second[1:] != second[:-1]), True)[: len(first)]
        self._sorted = _Sorted(first[is_last], second[is_last], rows[order[is_last]])
        self._recent = {}

    def remove(self, keys: np.ndarray) -> None:
        """Forget keys, uint8 (n, 16)."""
        for key in _as_bytes(keys):
            self._recent.pop(key, None)
        words, rows = keys.view(np.uint64), self._sorted.rows.copy()
        places = self._sorted.find(words[:, 0], words[:, 1])
        rows[places[places >= 0]] = -1
        self._sorted = self._sorted._replace(rows=rows)


def _as_bytes(keys: np.ndarray) -> list[bytes]:
    joined = keys.tobytes()
    return [joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES)]
