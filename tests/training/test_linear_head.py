from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from regraft.training import linear_head
from regraft.training.linear_head import (
    L2_VALUES,
    LinearHead,
    best_by_validation,
    fit_head,
    fit_path,
    l2_by_cross_validation,
)
from regraft.training.losses import Objective


def _data(count: int = 200, features: int = 10, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, features))
    values = centres[labels] + rng.normal(scale=1.5, size=(count, features)) * np.linspace(0.1, 5, features)
    return torch.from_numpy(values).float(), torch.from_numpy(labels)


def _objective(classes: int = 3, smoothing: float = 0.0) -> Objective:
    return Objective("cross_entropy", smoothing, torch.ones(classes))


@pytest.mark.parametrize("l2", [1.0, 0.1, 0.01])
def test_agrees_with_scikit_learn(l2: float) -> None:
    features, labels = _data()
    [head] = fit_path(features, labels, _objective(), l2_values=[l2])
    scaler = StandardScaler().fit(features.numpy())
    # torch's standard deviation divides by N - 1
    standard = scaler.transform(features.numpy()) * np.sqrt((len(features) - 1) / len(features))
    peer = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=5000, tol=1e-10).fit(standard, labels.numpy())
    ours = (features @ head.weight.T + head.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(standard), atol=2e-3)


def test_the_path_goes_from_strong_to_weak_penalties() -> None:
    features, labels = _data()
    path = list(fit_path(features, labels, _objective(), val=(features, labels)))
    assert [s.l2 for s in path] == list(L2_VALUES)
    losses = [s.train_loss for s in path]
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(losses))
    best = best_by_validation(path)
    assert best.val is not None
    assert best.val.loss == min(s.val.loss for s in path if s.val)


def test_class_weights_and_smoothing_have_an_effect() -> None:
    features, labels = _data()
    [plain] = fit_path(features, labels, _objective(), l2_values=[0.1])
    weights = torch.tensor([10.0, 1.0, 1.0])
    [weighted] = fit_path(features, labels, Objective("cross_entropy", 0.0, weights), l2_values=[0.1])
    [smooth] = fit_path(features, labels, _objective(smoothing=0.3), l2_values=[1e-4])
    [sharp] = fit_path(features, labels, _objective(), l2_values=[1e-4])

    def chosen(head: LinearHead) -> torch.Tensor:
        return (features @ head.weight.T + head.bias).argmax(1)

    assert (chosen(weighted) == 0).sum() > (chosen(plain) == 0).sum()
    assert smooth.weight.norm() < sharp.weight.norm()


def test_binary_cross_entropy() -> None:
    features, labels = _data()
    [head] = fit_path(features, labels, Objective("binary_cross_entropy", 0.0, torch.ones(3)), l2_values=[0.01])
    assert head.train_accuracy > 0.8


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = _data()
    features = torch.cat([features, torch.full((len(features), 2), 7.0)], dim=1)
    [head] = fit_path(features, labels, _objective(), l2_values=[0.01])
    assert torch.isfinite(head.weight).all()
    assert head.weight[:, -2:].abs().max() < 1e-3


def test_cross_validation_prefers_strong_penalties_for_noise() -> None:
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.normal(size=(60, 200))).float()
    labels = torch.from_numpy(rng.integers(0, 2, 60))
    on_noise = l2_by_cross_validation(noise, labels, _objective(2))
    features, real = _data(300)
    assert on_noise > l2_by_cross_validation(features, real, _objective())


def _count_fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of heads that each following call of `fit_path` fits."""
    tried: list[int] = []
    plain = linear_head.fit_path

    def counting(*args: Any, **options: Any) -> Iterator[LinearHead]:
        tried.append(0)
        for head in plain(*args, **options):
            tried[-1] += 1
            yield head

    monkeypatch.setattr(linear_head, "fit_path", counting)
    return tried


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_validation_stops_past_the_minimum(monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(600, 100))).float()
    labels = torch.from_numpy((features[:, 0].numpy() + rng.normal(size=600) > 0).astype(np.int64))
    objective = _objective(2, smoothing)
    tried = _count_fits(monkeypatch)
    short = l2_by_cross_validation(features, labels, objective)
    assert len(tried) == 5
    assert len(set(tried)) == 1
    assert tried[0] < len(L2_VALUES)
    monkeypatch.setattr(linear_head, "ENOUGH_IMAGES", 601)
    monkeypatch.setattr(linear_head, "_COARSE", 1e-7)
    assert l2_by_cross_validation(features, labels, objective) == short
    assert tried[5:] == [len(L2_VALUES)] * 5


def test_a_small_fold_does_not_shorten_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _data(60)
    tried = _count_fits(monkeypatch)
    l2_by_cross_validation(features, labels, _objective())
    assert tried == [len(L2_VALUES)] * 5


def test_fewer_images_than_features_agree_with_scikit_learn() -> None:
    features, labels = _data(count=30, features=50)
    [head] = fit_path(features, labels, _objective(), l2_values=[0.1])
    scaler = StandardScaler().fit(features.numpy())
    peer = LogisticRegression(C=1 / (0.1 * len(labels)), max_iter=5000, tol=1e-10)
    peer.fit(scaler.transform(features.numpy()), labels.numpy())
    ours = (features @ head.weight.T + head.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(scaler.transform(features.numpy())), atol=2e-3)


def test_a_warm_start_gives_the_same_head() -> None:
    features, labels = _data()
    *_, warm = fit_path(features, labels, _objective(), l2_values=[1.0, 0.1])
    [cold] = fit_path(features, labels, _objective(), l2_values=[0.01])
    [started] = fit_path(features, labels, _objective(), l2_values=[0.01], start=warm)
    torch.testing.assert_close(started.weight, cold.weight, atol=5e-3, rtol=0.02)


def test_images_of_one_group_share_a_fold() -> None:
    # Ten sources, each in six copies, with random labels: only folds that separate the copies have anything to learn.
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(10, 40, generator=generator).repeat(6, 1)
    labels = torch.tensor([0, 1] * 5).repeat(6)
    groups = np.tile(np.arange(10), 6)
    without_groups = l2_by_cross_validation(features, labels, _objective(2))
    with_groups = l2_by_cross_validation(features, labels, _objective(2), groups=groups)
    assert with_groups > without_groups


def test_two_images_are_enough_for_cross_validation() -> None:
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert l2_by_cross_validation(features, torch.tensor([0, 1]), _objective(2)) in L2_VALUES


def test_features_are_overwritten_only_on_request() -> None:
    features, labels = _data()
    before = features.clone()
    (kept,) = fit_path(features, labels, _objective(), l2_values=[0.1])
    assert torch.equal(features, before)
    (consumed,) = fit_path(features, labels, _objective(), l2_values=[0.1], consume=True)
    assert not torch.equal(features, before)
    assert torch.equal(kept.weight, consumed.weight)
    assert torch.equal(kept.bias, consumed.bias)


@pytest.mark.parametrize(("count", "by_cross_validation"), [(17, True), (100, False)])
def test_the_strength_does_not_rest_on_few_validation_images(count: int, by_cross_validation: bool) -> None:
    features, labels = _data()
    wrong = (labels[:count] + 1) % 3  # by these images the strongest penalty is the best
    chosen = l2_by_cross_validation(features, labels, _objective())
    best, path = fit_head(features[None].clone(), labels, _objective(), val=(features[:count], wrong))
    assert best.l2 == (chosen if by_cross_validation else L2_VALUES[0])
    assert chosen < L2_VALUES[0]
    assert all(head.val is not None and head.val.count == count for head in path)


def test_heads_of_probabilities_are_compared_at_their_best_temperature() -> None:
    """Targets that are only less sharp than the labels lead to the same strength, give or take a step."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(400) % 4
    features = torch.randn(400, 60, generator=generator) + 0.8 * torch.nn.functional.one_hot(labels, 60)
    val = torch.randn(200, 60, generator=generator) + 0.8 * torch.nn.functional.one_hot(labels[:200], 60)
    blurred = 0.4 * torch.nn.functional.one_hot(labels, 4).float() + 0.15
    sharp, _ = fit_head(features[None].clone(), labels, _objective(4), val=(val, labels[:200]))
    soft, path = fit_head(features[None].clone(), blurred, _objective(4), val=(val, labels[:200]))
    by_loss = best_by_validation(path)
    assert by_loss.l2 < soft.l2  # the plain loss would only make the head more confident
    assert soft.val is not None
    assert sharp.val is not None
    assert soft.val.accuracy > sharp.val.accuracy - 0.03
