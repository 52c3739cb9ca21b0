from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from regraft.studies.learning_curve.subsets import SubsetPredictions, nested_subsets, predict_by_subsets
from regraft.training.callbacks import NullReporter

SHARES = (0.125, 0.25, 0.5, 1.0)


def test_subsets_are_nested_and_divide_no_group() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        label_of_group = rng.integers(0, 3, 60)
        groups = rng.integers(0, 60, 150)
        labels = label_of_group[groups]
        subsets = nested_subsets(labels, groups, SHARES, rng)
        assert subsets[-1].all()
        for small, large in pairwise(subsets):
            assert (large | ~small).all()
        for group in np.unique(groups):
            assert len(np.unique(subsets[:, groups == group], axis=1).T) == 1
        for label in np.unique(labels):
            own = labels == label
            biggest = np.bincount(groups[own]).max()
            for share, subset in zip(SHARES, subsets, strict=True):
                asked = max(2, round(share * own.sum()))
                assert min(asked, own.sum()) <= subset[own].sum() < asked + biggest


def blobs(count: int = 90) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return torch.from_numpy((rng.normal(size=(count, 12)) + 1.2 * np.eye(3, 12)[labels]).astype(np.float32)), labels


def test_heads_on_more_images_are_better_and_never_see_what_they_predict() -> None:
    features, labels = blobs()
    groups, fold = np.arange(90), np.arange(90) // 3 % 5

    def predict(names: np.ndarray, *, halves: bool = True) -> SubsetPredictions:
        return predict_by_subsets(
            features, names, groups, [fold], SHARES, NullReporter(), classes=3, halves=halves, seed=4
        )

    before = torch.get_num_threads()
    result = predict(labels)
    assert torch.get_num_threads() == before
    assert result.predicted.shape == (1, 4, 90)
    assert result.halved is not None
    assert result.halved.shape == (3, 90)
    assert np.allclose(result.counts[:, 0], [3, 6, 12, 24])
    assert np.allclose(result.half_counts, 12)
    accuracy = (result.predicted[0] == labels).mean(axis=1)
    assert accuracy[-1] > accuracy[0]
    other = labels.copy()
    other[fold == 0] = (other[fold == 0] + 1) % 3  # labels of the test images must not change their predictions
    again = predict(other, halves=False)
    assert again.halved is None
    assert np.array_equal(result.predicted[0, 0, fold == 0], again.predicted[0, 0, fold == 0])
    assert not np.array_equal(result.predicted, again.predicted)
