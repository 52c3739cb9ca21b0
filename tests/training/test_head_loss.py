"""Sums over chunks and shards are those over all rows at once."""

from __future__ import annotations

import torch

from regraft.training.feature_rows import TensorRows, as_rows
from regraft.training.head_loss import HeadLoss, covariance, logits_of, moments
from regraft.training.losses import Objective

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = 3 + 2 * torch.randn(9000, 5, generator=GENERATOR)  # three shards
LABELS = torch.randint(4, (9000,), generator=GENERATOR)
WEIGHT, BIAS = torch.randn(4, 5, generator=GENERATOR), torch.randn(4, generator=GENERATOR)


def test_moments_and_covariance() -> None:
    rows = as_rows(FEATURES)
    assert isinstance(rows, TensorRows)
    assert len(rows.bounds) == 4
    mean, deviation = moments(rows)
    torch.testing.assert_close(mean, FEATURES.mean(dim=0))
    torch.testing.assert_close(deviation, FEATURES.std(dim=0, correction=0))
    expected = (FEATURES.double().T @ FEATURES.double() / len(FEATURES)).float()
    torch.testing.assert_close(covariance(rows), expected, rtol=1e-5, atol=1e-4)  # products in float32


def test_a_constant_feature_keeps_a_deviation_above_zero() -> None:
    values = FEATURES.clone()
    values[:, 2] = 7.0
    assert moments(as_rows(values))[1][2] > 0


def test_loss_gradient_and_accuracy_are_those_of_all_rows() -> None:
    objective = Objective("cross_entropy", 0.1, torch.tensor([1.0, 2.0, 0.5, 1.0]))
    loss = HeadLoss(as_rows(FEATURES), LABELS, objective)
    weight, bias = WEIGHT.clone().requires_grad_(), BIAS.clone().requires_grad_()
    logits = FEATURES @ weight.T + bias
    expected = objective(logits, objective.targets(LABELS))
    by_weight, by_bias = torch.autograd.grad(expected, [weight, bias])
    sums = loss.gradient(WEIGHT, BIAS)
    torch.testing.assert_close(sums.float(), torch.cat([expected.detach()[None], by_weight.flatten(), by_bias]))
    value, accuracy = loss.evaluate(WEIGHT, BIAS)
    assert abs(value - float(expected.detach())) < 1e-6
    assert accuracy == float((logits.argmax(1) == LABELS).double().mean())
    torch.testing.assert_close(logits_of(as_rows(FEATURES), WEIGHT, BIAS), logits.detach())


def test_probabilities_as_targets_and_weights() -> None:
    objective = Objective("cross_entropy", 0.1, torch.tensor([1.0, 2.0, 0.5, 1.0]))
    plain, one_hot = HeadLoss(as_rows(FEATURES), LABELS, objective), objective.targets(LABELS)
    dense = HeadLoss(as_rows(FEATURES), one_hot, objective, torch.full((9000,), 3.0))
    torch.testing.assert_close(dense.gradient(WEIGHT, BIAS), plain.gradient(WEIGHT, BIAS), rtol=1e-5, atol=1e-6)
    assert dense.evaluate(WEIGHT, BIAS)[1] == plain.evaluate(WEIGHT, BIAS)[1]

    soft, weights = torch.rand(9000, 4, generator=GENERATOR).softmax(dim=1), torch.arange(9000) % 3
    weighted = HeadLoss(as_rows(FEATURES), soft, objective, weights.float())
    rows = torch.arange(9000).repeat_interleave(weights)
    repeated = HeadLoss(as_rows(FEATURES[rows]), soft[rows], objective)
    torch.testing.assert_close(weighted.gradient(WEIGHT, BIAS), repeated.gradient(WEIGHT, BIAS), rtol=1e-4, atol=1e-6)
