from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from regraft.training import solver
from regraft.training.objective import Objective
from regraft.training.solver import STRENGTHS, Solution, best_by_validation, solve_path, strength_by_cross_validation


def _data(count: int = 200, features: int = 10, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, features))
    values = centres[labels] + rng.normal(scale=1.5, size=(count, features)) * np.linspace(0.1, 5, features)
    return torch.from_numpy(values).float(), torch.from_numpy(labels)


def _objective(classes: int = 3, smoothing: float = 0.0) -> Objective:
    return Objective("cross_entropy", smoothing, torch.ones(classes))


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.01])
def test_agrees_with_scikit_learn(strength: float) -> None:
    features, labels = _data()
    [solution] = solve_path(features, labels, _objective(), strengths=[strength])
    scaler = StandardScaler().fit(features.numpy())
    # torch's standard deviation divides by N - 1
    standard = scaler.transform(features.numpy()) * np.sqrt((len(features) - 1) / len(features))
    peer = LogisticRegression(C=1 / (strength * len(labels)), max_iter=5000, tol=1e-10).fit(standard, labels.numpy())
    ours = (features @ solution.weight.T + solution.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(standard), atol=2e-3)


def test_the_path_goes_from_strong_to_weak() -> None:
    features, labels = _data()
    path = list(solve_path(features, labels, _objective(), val=(features, labels)))
    assert [s.strength for s in path] == list(STRENGTHS)
    losses = [s.train_loss for s in path]
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(losses))
    best = best_by_validation(path)
    assert best.val is not None
    assert best.val.loss == min(s.val.loss for s in path if s.val)


def test_class_weights_and_smoothing_hold() -> None:
    features, labels = _data()
    [plain] = solve_path(features, labels, _objective(), strengths=[0.1])
    weights = torch.tensor([10.0, 1.0, 1.0])
    [weighted] = solve_path(features, labels, Objective("cross_entropy", 0.0, weights), strengths=[0.1])
    [smooth] = solve_path(features, labels, _objective(smoothing=0.3), strengths=[1e-4])
    [sharp] = solve_path(features, labels, _objective(), strengths=[1e-4])

    def chosen(solution: Solution) -> torch.Tensor:
        return (features @ solution.weight.T + solution.bias).argmax(1)

    assert (chosen(weighted) == 0).sum() > (chosen(plain) == 0).sum()
    assert smooth.weight.norm() < sharp.weight.norm()


def test_one_against_the_rest() -> None:
    features, labels = _data()
    [solution] = solve_path(features, labels, Objective("binary_cross_entropy", 0.0, torch.ones(3)), strengths=[0.01])
    assert solution.train_accuracy > 0.8


def test_a_constant_feature_does_no_harm() -> None:
    features, labels = _data()
    features = torch.cat([features, torch.full((len(features), 2), 7.0)], dim=1)
    [solution] = solve_path(features, labels, _objective(), strengths=[0.01])
    assert torch.isfinite(solution.weight).all()
    assert solution.weight[:, -2:].abs().max() < 1e-3


def test_cross_validation_prefers_strong_penalties_for_noise() -> None:
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.normal(size=(60, 200))).float()
    labels = torch.from_numpy(rng.integers(0, 2, 60))
    on_noise = strength_by_cross_validation(noise, labels, _objective(2))
    features, real = _data(300)
    assert on_noise > strength_by_cross_validation(features, real, _objective())


def _strengths_tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many strengths each path that is solved from now on went through."""
    tried: list[int] = []
    plain = solver.solve_path

    def counted(*args: Any, **options: Any) -> Iterator[Solution]:
        tried.append(0)
        for solution in plain(*args, **options):
            tried[-1] += 1
            yield solution

    monkeypatch.setattr(solver, "solve_path", counted)
    return tried


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_validation_ends_where_weaker_penalties_only_cost_time(
    monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(600, 100))).float()
    labels = torch.from_numpy((features[:, 0].numpy() + rng.normal(size=600) > 0).astype(np.int64))
    objective = _objective(2, smoothing)
    tried = _strengths_tried(monkeypatch)
    short = strength_by_cross_validation(features, labels, objective)
    assert len(tried) == 5
    assert len(set(tried)) == 1
    assert tried[0] < len(STRENGTHS)
    monkeypatch.setattr(solver, "_ENOUGH", 601)
    monkeypatch.setattr(solver, "_COARSE", 1e-7)
    assert strength_by_cross_validation(features, labels, objective) == short
    assert tried[5:] == [len(STRENGTHS)] * 5


def test_a_fold_of_few_images_does_not_decide_what_the_others_try(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _data(60)
    tried = _strengths_tried(monkeypatch)
    strength_by_cross_validation(features, labels, _objective())
    assert tried == [len(STRENGTHS)] * 5


def test_fewer_images_than_features_lose_nothing() -> None:
    """The solution by way of the images' own span is that of gradient descent in all features."""
    features, labels = _data(count=30, features=50)
    [solution] = solve_path(features, labels, _objective(), strengths=[0.1])
    scaler = StandardScaler().fit(features.numpy())
    peer = LogisticRegression(C=1 / (0.1 * len(labels)), max_iter=5000, tol=1e-10)
    peer.fit(scaler.transform(features.numpy()), labels.numpy())
    ours = (features @ solution.weight.T + solution.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(scaler.transform(features.numpy())), atol=2e-3)


def test_a_start_changes_the_way_and_not_the_end() -> None:
    features, labels = _data()
    *_, warm = solve_path(features, labels, _objective(), strengths=[1.0, 0.1])
    [cold] = solve_path(features, labels, _objective(), strengths=[0.01])
    [started] = solve_path(features, labels, _objective(), strengths=[0.01], start=warm)
    torch.testing.assert_close(started.weight, cold.weight, atol=5e-3, rtol=0.02)


def test_images_of_one_bundle_share_a_fold() -> None:
    # Ten sources, each in six copies, with random labels: only folds that tear the copies apart see anything to learn.
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(10, 40, generator=generator).repeat(6, 1)
    labels = torch.tensor([0, 1] * 5).repeat(6)
    bundles = np.tile(np.arange(10), 6)
    torn = strength_by_cross_validation(features, labels, _objective(2))
    whole = strength_by_cross_validation(features, labels, _objective(2), bundles=bundles)
    assert whole > torn


def test_two_images_are_enough_for_a_strength() -> None:
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert strength_by_cross_validation(features, torch.tensor([0, 1]), _objective(2)) in STRENGTHS


def test_features_are_used_up_only_where_that_is_said() -> None:
    features, labels = _data()
    before = features.clone()
    (kept,) = solve_path(features, labels, _objective(), strengths=[0.1])
    assert torch.equal(features, before)
    (consumed,) = solve_path(features, labels, _objective(), strengths=[0.1], consume=True)
    assert not torch.equal(features, before)
    assert torch.equal(kept.weight, consumed.weight)
    assert torch.equal(kept.bias, consumed.bias)
