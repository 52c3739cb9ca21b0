"""Disjoint sets of numbers (union-find)."""

from __future__ import annotations


class UnionFind:
    """The numbers 0 to count - 1, joined into disjoint sets; the smallest number represents its set.

    It costs less than `scipy.sparse.csgraph`, whose import takes longer than most splits.
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
