from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from regraft.data import union_find
from regraft.data.union_find import UnionFind, connected_sets

EDGES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


@given(EDGES)
@settings(max_examples=50, deadline=None)
def test_sets_are_the_connected_components_and_the_smallest_number_represents_each(edges) -> None:
    sets = UnionFind(20)
    for first, second in edges:
        sets.union(first, second)
    rows, columns = ([edge[side] for edge in edges] for side in (0, 1))
    _, labels = connected_components(coo_array(([1] * len(edges), (rows, columns)), shape=(20, 20)), directed=False)
    assert sets.roots() == [labels.tolist().index(label) for label in labels]
    assert all(sets.find(i) == root for i, root in enumerate(sets.roots()))
    for many in (1, 50_000):  # by SciPy, and without
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(union_find, "_MANY", many)
            found = connected_sets(20, np.array(edges, np.int64).reshape(-1, 2))
        assert found.tolist() == sets.roots()
