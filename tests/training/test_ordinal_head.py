"""The solved head of classes that have an order, beside an independent minimization of the same likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from regraft.training.callbacks import NullReporter
from regraft.training.cross_val_predict import cross_val_predict
from regraft.training.linear_head import fit_head, fit_path
from regraft.training.losses import Objective, compute_metrics


def graded(count: int = 240, features: int = 5, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Features whose first column, with logistic noise, decides the class."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, features))
    hidden = 2 * values[:, 0] + rng.logistic(size=count)
    return torch.from_numpy(values).float(), np.digitize(hidden, np.linspace(-2, 2, classes - 1))


def objective_of(labels: np.ndarray, classes: int) -> Objective:
    return Objective.of_labels(labels, [str(i) for i in range(classes)], task="ordinal")


def peer(values: np.ndarray, labels: np.ndarray, classes: int, l2: float) -> tuple[float, np.ndarray]:
    """The least penalized loss on standardized features, and the probabilities there, by a method without gradients."""
    standard = (values - values.mean(axis=0)) / values.std(axis=0)

    def probabilities(point: np.ndarray) -> np.ndarray:
        weight, steps = point[: values.shape[1]], point[values.shape[1] :]
        intercepts = np.cumsum(np.concatenate([steps[:1], -np.exp(steps[1:])]))
        above = expit((standard @ weight)[:, None] + intercepts)
        ends = np.ones((len(values), 1))
        return -np.diff(np.concatenate([ends, above, 0 * ends], axis=1))

    def loss(point: np.ndarray) -> float:
        own = probabilities(point)[np.arange(len(labels)), labels]
        weight = point[: values.shape[1]]
        return float(-np.log(np.maximum(own, 1e-300)).mean() + l2 / 2 * weight @ weight)

    result = minimize(loss, np.zeros(values.shape[1] + classes - 1), method="BFGS", options={"gtol": 1e-7})
    return float(result.fun), probabilities(result.x)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_solution_is_that_of_another_method(classes: int, l2: float) -> None:
    features, labels = graded(classes=classes)
    objective = objective_of(labels, classes)
    (head,) = fit_path(features, torch.from_numpy(labels), objective, l2_values=[l2])
    assert (tuple(head.weight.shape), tuple(head.bias.shape)) == ((1, 5), (classes - 1,))
    found = objective.logits(features @ head.weight.T + head.bias).softmax(dim=1)
    least, expected = peer(features.double().numpy(), labels, classes, l2)
    scaled = head.weight * features.std(dim=0, correction=0)
    assert head.train_loss + l2 / 2 * float(scaled.square().sum()) == pytest.approx(least, abs=1e-5)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-3)


def test_more_features_than_images_are_no_difference() -> None:
    features, labels = graded(60, features=100)
    (head,) = fit_path(features, torch.from_numpy(labels), objective_of(labels, 4), l2_values=[1.0])
    least, _ = peer(features.double().numpy(), labels, 4, 1.0)
    scaled = head.weight * features.std(dim=0, correction=0)
    assert head.train_loss + float(scaled.square().sum()) / 2 == pytest.approx(least, abs=1e-4)


def test_a_class_without_images_between_two_others_has_almost_no_probability() -> None:
    features, labels = graded(classes=3)
    labels = np.where(labels == 1, 2, labels)
    objective = objective_of(labels, 3)
    (head,) = fit_path(features, torch.from_numpy(labels), objective, l2_values=[0.1])
    found = objective.logits(features @ head.weight.T + head.bias).softmax(dim=1)
    assert bool(found.isfinite().all())
    assert float(found[:, 1].max()) < 1e-3


def test_the_strength_is_chosen_and_few_images_of_many_grades_gain_by_their_order() -> None:
    features, labels = graded(80, features=30, classes=6)
    test_features, test_labels = graded(600, features=30, classes=6, seed=1)
    losses = []
    for ordered in (True, False):
        objective = Objective.of_labels(labels, [str(i) for i in range(6)], task="ordinal" if ordered else None)
        head, path = fit_head(features.clone(), torch.from_numpy(labels), objective)
        assert head in path
        logits = objective.logits(test_features @ head.weight.T + head.bias)
        metrics = compute_metrics(objective, logits, torch.from_numpy(test_labels))
        losses.append(metrics.loss)
        assert np.isnan(metrics.quadratic_kappa) != ordered
        if ordered:
            assert metrics.value("val_quadratic_kappa") == metrics.quadratic_kappa > 0.3
            assert 0 < metrics.noise("val_quadratic_kappa") < 0.1
    assert losses[0] < losses[1]


def test_held_out_images_are_predicted_by_heads_with_an_order() -> None:
    features, labels = graded()
    fold = np.arange(len(labels)) % 3
    found = cross_val_predict(features, labels, fold, NullReporter(), classes=4, task="ordinal")
    np.testing.assert_allclose(found.sum(axis=1), 1)
    cumulative = np.log(found[:, ::-1].cumsum(axis=1)[:, :-1] / found.cumsum(axis=1)[:, :-1][:, ::-1])
    for number in range(3):  # one score: the log-odds of all thresholds differ by numbers that images share
        gaps = np.diff(cumulative[fold == number], axis=1)
        np.testing.assert_allclose(gaps, np.broadcast_to(gaps[:1], gaps.shape), rtol=1e-3, atol=1e-3)
