"""An index that finds similar descriptors without comparing all pairs.

Input: descriptors, vectors of norm 1, float32 (N, F). Output: for queries of the same kind, the similar ones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from regraft.resources import one_blas_thread, usable_cpus

#: Smallest cosine of two descriptors that are similar.
_MIN_COSINE = 0.7
#: Up to this number of descriptors all are compared; for more, only those in the nearest cells.
_EXHAUSTIVE = 4096
_PROBES = 16
#: Descriptors of a cell that a query finds at most, the most similar ones.
_FOUND = 8


class DescriptorIndex:
    """Inverted-file index: descriptors are grouped by the nearest of about 2 sqrt(N) centers; a query probes a few."""

    def __init__(self, descriptors: np.ndarray) -> None:
        self.descriptors = descriptors
        cells = 1 if len(descriptors) <= _EXHAUSTIVE else 2 * round(len(descriptors) ** 0.5)
        chosen = np.random.default_rng(0).choice(len(descriptors), cells, replace=False)
        self.centers = descriptors[np.sort(chosen)]
        self.probes = min(cells, _PROBES)
        own = self._nearest(descriptors, 1)[:, 0]
        order = np.argsort(own, kind="stable")
        self.members = np.split(order, np.searchsorted(own[order], np.arange(1, cells)))
        self.compares_all = cells == 1

    def _nearest(self, rows: np.ndarray, count: int) -> np.ndarray:
        """The `count` nearest cells of each row, in any order."""
        nearest = np.empty((len(rows), count), np.int64)
        for start in range(0, len(rows), 2048):
            similarity = rows[start : start + 2048] @ self.centers.T
            nearest[start : start + 2048] = (
                similarity.argmax(axis=1)[:, None]
                if count == 1
                else np.argpartition(similarity, -count, axis=1)[:, -count:]
            )
        return nearest

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Similar pairs: number of the query and of the descriptor, int64 (n,), and their cosine, float32 (n,)."""
        cells = self._nearest(queries, self.probes)
        order = np.argsort(cells, axis=None, kind="stable")
        ends = np.searchsorted(cells.ravel()[order], np.arange(1, len(self.members)))
        by_cell = np.split(order // self.probes, ends)
        with one_blas_thread(), ThreadPoolExecutor(usable_cpus()) as pool:  # the products are small
            found = [*pool.map(partial(self._search_cell, queries), by_cell, self.members)]
        first, second, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
        return first, second, cosine

    def _search_cell(
        self, queries: np.ndarray, numbers: np.ndarray, members: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `search`, for the queries with these numbers and the descriptors of a cell."""
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        descriptors = self.descriptors[members].T
        for start in range(0, len(numbers), 1024):
            chunk = numbers[start : start + 1024]
            similarity = queries[chunk] @ descriptors
            if not self.compares_all:
                _keep_largest(similarity, _FOUND)
            i, j = np.divmod(np.flatnonzero(similarity >= _MIN_COSINE), max(1, len(members)))
            found.append((chunk[i], members[j], similarity[i, j]))
        first, second, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
        return first, second, cosine


def _keep_largest(similarity: np.ndarray, count: int) -> None:
    """Set all but the `count` largest values of each row that has more candidates to -1."""
    many = np.flatnonzero((similarity >= _MIN_COSINE).sum(axis=1) > count)
    if len(many):
        rows = similarity[many]
        others = np.argpartition(rows, -count, axis=1)[:, :-count]
        np.put_along_axis(rows, others, -1, axis=1)
        similarity[many] = rows
