"""Disjoint sets of numbers (union-find)."""

from __future__ import annotations

import numpy as np

#: From this number of numbers on, SciPy finds the sets.
_MANY = 50_000


class UnionFind:
    """The numbers 0 to count - 1, joined into disjoint sets; the smallest number represents its set.

    For few numbers it costs less than `scipy.sparse.csgraph`, whose import takes longer than most splits.
    """

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, i: int) -> int:
        """The smallest number of the set that contains i."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def union(self, i: int, j: int) -> None:
        """Join the sets of i and j."""
        low, high = sorted((self.find(i), self.find(j)))
        self._parent[high] = low

    def roots(self) -> list[int]:
        """`find` for every number."""
        return [self.find(i) for i in range(len(self._parent))]


def connected_sets(count: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest number of the set of each of the numbers 0 to count - 1, int64 (count,), joined by pairs, (n, 2)."""
    if count < _MANY:
        sets = UnionFind(count)
        for i, j in pairs.tolist():
            sets.union(i, j)
        return np.array(sets.roots(), np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    small = pairs.astype(np.int32) if count < 2**31 else pairs
    graph = coo_array((np.ones(len(pairs), np.int8), (small[:, 0], small[:, 1])), shape=(count, count))
    sets_found, set_of = connected_components(graph, directed=False)
    smallest = np.full(sets_found, count)
    np.minimum.at(smallest, set_of, np.arange(count))
    return np.asarray(smallest[set_of])
