from __future__ import annotations

import numpy as np
import pytest

from regraft.data.quality.descriptor_index import DescriptorIndex


def test_a_query_finds_the_most_similar_images_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of similar pictures do not become millions of candidates."""
    monkeypatch.setattr("regraft.data.quality.descriptor_index._EXHAUSTIVE", 4)
    monkeypatch.setattr("regraft.data.quality.descriptor_index._FOUND", 3)
    rng = np.random.default_rng(0)
    center = rng.normal(size=16)
    descriptors = center + 0.4 * rng.normal(size=(60, 16))
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)
    index = DescriptorIndex(descriptors)
    similarity = descriptors @ descriptors.T
    queries, found, _ = index.search(descriptors)
    assert (similarity >= 0.7).sum(axis=1).max() > 3 * len(index.members)
    for members in index.members:
        expected = [
            {j for j in members if similarity[i, j] >= max(0.7, np.sort(similarity[i, members])[-3:][0])}
            for i in range(60)
        ]
        for i in range(60):
            assert set(found[(queries == i) & np.isin(found, members)]) == expected[i]
