"""Groups of images that get one answer each, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.data.dataset import Dataset
from regraft.data.pooled_answers import pool_answers, pool_p_values
from regraft.data.pooling import Groups, groups_of, per_answer, pooled_by
from regraft.data.strings import Names, string_array
from regraft.errors import DataError, UsageError


def named(*groups: str | None) -> Groups:
    return Groups.named(Names.of(groups), string_array([f"{i}.png" for i in range(len(groups))]))


def dataset(labels: list[str], groups: list[str | None] | None) -> Dataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in labels]
    return Dataset.from_arrays(images, labels, groups=groups)


def test_groups_are_numbered_as_they_occur_and_images_without_one_are_alone() -> None:
    groups = named("b", None, "a", "b", None)
    assert groups.numbers.tolist() == [0, 1, 2, 0, 3]
    assert groups.firsts.tolist() == [0, 1, 2, 4]
    assert groups.names == ("b", "1.png", "a", "4.png")
    assert groups.sizes.tolist() == [2, 1, 1, 1]
    assert groups.describe() == "4 groups of 1 to 2 pictures"
    assert named("a", "a", "a").describe() == "1 group of 3 pictures"
    assert groups.any(np.array([False, False, False, True, True])).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(groups.mean(np.arange(10.0).reshape(5, 2))[0], [3, 4])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_answers_are_those_of_the_mean_logits(temperature: float) -> None:
    logits, groups = np.random.default_rng(1).normal(0, 4, (6, 3)), named("a", "b", "a", None, "b", "a")

    def softmax(values: np.ndarray) -> np.ndarray:
        shares = np.exp(values / temperature)
        return shares / shares.sum(axis=1, keepdims=True)

    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values / temperature))

    means = np.stack([logits[groups.numbers == i].mean(axis=0) for i in range(len(groups))])
    np.testing.assert_allclose(pool_answers(softmax(logits), groups, "classification"), softmax(means), rtol=1e-12)
    np.testing.assert_allclose(pool_answers(sigmoid(logits), groups, "multilabel"), sigmoid(means), rtol=1e-9)
    np.testing.assert_allclose(pool_answers(logits, groups, "regression"), means, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_answers_of_classes_with_an_order_are_those_of_the_mean_score(temperature: float) -> None:
    scores, groups = np.random.default_rng(1).normal(0, 5, (6, 1)), named("a", "b", "a", None, "b", "a")

    def said(scores: np.ndarray) -> np.ndarray:
        above = 1 / (1 + np.exp(-(scores + np.array([2.0, 0.5, -1.0]))))
        tempered = (-np.diff(above, axis=1, prepend=1, append=0)) ** (1 / temperature)
        return tempered / tempered.sum(axis=1, keepdims=True)

    pooled = pool_answers(said(scores), groups, "classification", order_temperature=temperature)
    np.testing.assert_allclose(pooled, said(groups.mean(scores)), rtol=1e-6)
    certain = np.eye(4)[[0, 3, 3, 1, 0, 2]]
    assert np.isfinite(pool_answers(certain, groups, "classification", order_temperature=temperature)).all()


def test_the_order_of_images_does_not_matter_and_certain_answers_stay_finite() -> None:
    answers, groups = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]), named("a", "a", None)
    pooled = pool_answers(answers, groups, "classification")
    np.testing.assert_allclose(pooled, pool_answers(answers[[1, 0, 2]], groups, "classification"))
    np.testing.assert_allclose(pooled.sum(axis=1), 1)
    np.testing.assert_array_equal(pooled[1], answers[2])
    assert np.isfinite(pool_answers(answers, groups, "multilabel")).all()


def test_saturated_answers_of_several_labels_count_as_far_as_their_precision_goes() -> None:
    logits, groups = np.array([[20.0], [-25.0], [-25.0], [20.0], [-20.0], [40.0], [-3.0]]), named(*"aaabbcc")
    answers = 1 / (1 + np.exp(-logits))
    (exact, even, far), (rounded, balanced, _) = (
        pool_answers(given, groups, "multilabel")[:, 0]
        for given in (answers, answers.astype(np.float32).astype(np.float64))
    )
    assert exact == pytest.approx(1 / (1 + np.exp(10)), rel=1e-6)
    assert even == pytest.approx(0.5, abs=1e-6)
    assert far == pytest.approx(1, abs=1e-6)
    assert rounded == pytest.approx(1 / (1 + np.exp(15.94 / 3)), rel=0.01)  # bounded alike on both sides
    assert balanced == pytest.approx(0.5, abs=1e-3)
    kept = pool_answers(answers[[0, 6]].astype(np.float32), named("a", "a"), "multilabel")[0, 0]
    assert kept == pytest.approx(1 / (1 + np.exp(-(15.94 - 3) / 2)), abs=1e-4)


def test_the_p_value_of_a_group_is_at_most_that_of_bonferroni() -> None:
    p_values = pool_p_values(np.array([0.01, 0.5, 0.9, 0.2]), named("a", "a", "b", None))
    np.testing.assert_allclose(p_values, [0.02, 0.9, 0.2])
    null = np.random.default_rng(2).uniform(size=(2000, 4))
    of_groups = pool_p_values(null.ravel(), named(*np.repeat([f"g{i}" for i in range(2000)], 4).tolist()))
    assert np.mean(of_groups <= 0.1) <= 0.12


def test_a_data_set_is_pooled_by_its_groups() -> None:
    plain = dataset(["x", "x", "y"], ["a", "a", None])
    assert groups_of(plain) is None
    assert per_answer(plain) is plain
    pooled = pooled_by(plain, "patient")
    assert [sample.path for sample in per_answer(pooled).samples] == [plain.samples[0].path, plain.samples[2].path]
    with pytest.raises(DataError, match=r"The group 'a' \(patient\) has images with different labels: .*'x' and .*'y'"):
        pooled_by(dataset(["x", "y"], ["a", "a"]), "patient")
    with pytest.raises(UsageError, match="pool_by='patient' needs images with groups"):
        pooled_by(dataset(["x", "y"], None), "patient")
