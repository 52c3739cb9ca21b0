from __future__ import annotations

import numpy as np

from regraft.evaluation.regression.label_errors import find_number_doubts


def test_far_residuals_are_found_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    targets = rng.uniform(20, 60, 300)
    values = targets + rng.normal(0, 2, 300)
    wrong = targets.copy()
    wrong[[7, 100]] += [30, -50]
    assert find_number_doubts(targets, values) == []
    found = find_number_doubts(wrong, values)
    assert [doubt.index for doubt in found] == [100, 7]
    assert found[0].target == wrong[100]
    assert found[0].error > found[1].error > 20


def test_a_constant_bias_is_no_doubt() -> None:
    targets = np.random.default_rng(1).normal(0, 1, 200)
    assert find_number_doubts(targets, targets * 0.9 + 25) == []


def test_without_images_there_are_none() -> None:
    assert find_number_doubts(np.empty(0), np.empty(0)) == []
