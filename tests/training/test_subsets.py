from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from regraft.training.progress import Silence
from regraft.training.subsets import LEAST, judge_by_parts, nested_parts

SHARES = (0.125, 0.25, 0.5, 1.0)


def test_parts_are_nested_and_divide_no_bundle() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        owner = rng.integers(0, 3, 60)
        bundles = rng.integers(0, 60, 150)
        labels = owner[bundles]
        parts = nested_parts(labels, bundles, SHARES, rng)
        assert parts[-1].all()
        for small, large in pairwise(parts):
            assert (large | ~small).all()
        for bundle in np.unique(bundles):
            assert len(np.unique(parts[:, bundles == bundle], axis=1).T) == 1
        for label in np.unique(labels):
            own = labels == label
            biggest = np.bincount(bundles[own]).max()
            for share, part in zip(SHARES, parts, strict=True):
                asked = max(LEAST, round(share * own.sum()))
                assert min(asked, own.sum()) <= part[own].sum() < asked + biggest


def blobs(count: int = 90) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return torch.from_numpy((rng.normal(size=(count, 12)) + 1.2 * np.eye(3, 12)[labels]).astype(np.float32)), labels


def test_heads_on_more_images_are_better_and_never_see_what_they_judge() -> None:
    features, labels = blobs()
    bundles, fold = np.arange(90), np.arange(90) // 3 % 5

    def judged(names: np.ndarray):
        return judge_by_parts(features, names, bundles, [fold], SHARES, Silence(), classes=3, halves=True, seed=4)

    before = torch.get_num_threads()
    found = judged(labels)
    assert torch.get_num_threads() == before
    assert found.predicted.shape == (1, 4, 90)
    assert found.halved is not None
    assert found.halved.shape == (3, 90)
    assert np.allclose(found.counts[:, 0], [3, 6, 12, 24])
    assert found.half_counts is not None
    assert np.allclose(found.half_counts, 12)
    shares = (found.predicted[0] == labels).mean(axis=1)
    assert shares[-1] > shares[0]
    again = judged(labels)
    assert np.array_equal(found.predicted, again.predicted)
    assert np.array_equal(found.halved, again.halved)


def test_the_largest_part_without_halves() -> None:
    features, labels = blobs()
    found = judge_by_parts(
        features, labels, np.arange(90), [np.arange(90) // 3 % 5], (0.5, 1.0), Silence(), classes=3, halves=False
    )
    assert found.halved is None
    assert found.half_counts is None
    assert found.solved > 10
