"""The solved head of numbers is ridge regression: it agrees with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.models.classifier import build
from regraft.training.linear_head import fit_head, fit_path
from regraft.training.losses import Objective, check_loss, compute_metrics
from regraft.training.options import Loss
from regraft.training.trainer import train


def objective(loss: Loss = "squared_error") -> Objective:
    return Objective(loss, 0.0, torch.ones(1), "linear", task="regression")


def case(count: int, features: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features of different scales, and a standardized number that depends on some of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features)) @ (np.eye(features) + 0.2 * rng.normal(size=(features, features)))
    x = x * rng.uniform(0.1, 10, features) + rng.normal(size=features)
    y = x[:, :3] @ np.array([0.3, -0.5, 0.2]) + rng.normal(size=count)
    return torch.from_numpy(x).float(), torch.from_numpy((y - y.mean()) / y.std()).float()[:, None]


@pytest.mark.parametrize(("count", "features"), [(300, 20), (40, 120)])
def test_the_fitted_head_is_that_of_scikit_learn(count: int, features: int) -> None:
    x, y = case(count, features)
    scaler = StandardScaler().fit(x.numpy())
    for head in fit_path(x.clone(), y, objective(), l2_values=(10.0, 1.0, 0.1, 0.01)):
        # The mean of the squared errors plus l2 / 2 |w|^2 is their sum plus n l2 / 2 |w|^2.
        ridge = Ridge(alpha=count * head.l2 / 2).fit(scaler.transform(x.numpy()), y[:, 0].numpy())
        expected = ridge.predict(scaler.transform(x.numpy()))
        predicted = (x @ head.weight.T + head.bias)[:, 0].numpy()
        assert np.abs(predicted - expected).max() < 1e-5 * np.abs(expected).max() + 1e-5
        assert np.isnan(head.train_accuracy)
        assert head.train_loss == pytest.approx(float(np.mean((expected - y[:, 0].numpy()) ** 2)), rel=1e-4)


def test_validation_chooses_the_strength() -> None:
    x, y = case(400, 60)
    best, path = fit_head(x[:200].clone()[None], y[:200], objective(), val=(x[200:], y[200:]))
    assert best in path
    assert best.val is not None
    assert best.val.loss == min(head.val.loss for head in path if head.val is not None)


def test_few_validation_images_leave_the_strength_to_cross_validation() -> None:
    x, y = case(120, 10)
    best, _ = fit_head(x[:100].clone()[None], y[:100], objective(), val=(x[100:], y[100:]))
    assert np.isfinite(best.train_loss)


def test_the_loss_of_huber_ignores_outliers() -> None:
    x, y = case(300, 5)
    spoiled = y.clone()
    spoiled[::30] = 40.0
    losses: tuple[Loss, ...] = ("squared_error", "huber")
    plain, robust = (next(fit_path(x.clone(), spoiled, objective(loss), l2_values=(0.01,))) for loss in losses)
    errors = [float(((x @ head.weight.T + head.bias) - y).square().mean()) for head in (plain, robust)]
    assert errors[1] < errors[0] / 2


def test_numbers_have_a_loss_and_no_accuracy() -> None:
    outputs, targets = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [2.0]])
    metrics = compute_metrics(objective(), outputs, targets, calibrate=True)
    assert metrics.loss == 0.5
    assert metrics.calibrated_losses == (1.0, 0.0)
    assert np.isnan([metrics.accuracy, metrics.macro_f1]).all()
    assert objective("absolute_error").per_image(outputs, targets).tolist() == [1.0, 0.0]
    assert objective("huber").per_image(3 * targets, targets).tolist() == [2 * 2 - 1, 2 * 4 - 1]


def test_a_loss_function_is_tried_on_numbers() -> None:
    check_loss(torch.nn.functional.mse_loss, "mse", 1)


def test_the_epoch_with_the_lowest_loss_is_kept(numbers_dataset: Dataset) -> None:
    parts = split(numbers_dataset, train=0.5, val=0.25, test=0.25)
    model = build("efficientnet_lite0", classes=parts.classes, task="regression", image_size=32)
    training = train(
        model, parts, head_optimizer="adamw", head_epochs=6, head_lr=1e-2, finetune_epochs=0, keep_epoch="best",
        schedule="constant",
    )  # fmt: skip
    losses = [row.val_loss for row in training.history]
    assert [row.kept for row in training.history].index(True) == int(np.argmin(losses))
