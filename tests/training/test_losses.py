from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_sample_weight

from regraft.errors import UsageError
from regraft.evaluation.multilabel.metrics import indicator_f1
from regraft.training.losses import EpochMetrics, Objective, check_loss, compute_metrics, weights_of_classes
from regraft.training.options import TrainingOptions
from regraft.training.task_options import monitor_of


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=generator) * 3, torch.randint(0, 4, (12,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> None:
    logits, labels = batch
    objective = Objective("cross_entropy", smoothing, torch.ones(4))
    torch.testing.assert_close(
        objective(logits, objective.targets(labels)),
        F.cross_entropy(logits, labels, label_smoothing=smoothing),
    )


def test_weighted_cross_entropy_is_torchs(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    objective = Objective("cross_entropy", 0.0, weights)
    torch.testing.assert_close(
        objective(logits, objective.targets(labels)), F.cross_entropy(logits, labels, weight=weights)
    )


def test_binary_cross_entropy_is_torchs(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    objective = Objective("binary_cross_entropy", 0.0, torch.ones(4))
    expected = 4 * F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4).float())
    torch.testing.assert_close(objective(logits, objective.targets(labels)), expected)


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    weights = weights_of_classes("balanced", labels, "abc")
    np.testing.assert_allclose(weights[labels].numpy(), compute_sample_weight("balanced", labels), rtol=1e-6)
    assert weights_of_classes("none", labels, "abc").tolist() == [1, 1, 1]


def test_weights_are_given_by_name_or_index() -> None:
    labels = np.array([0, 1, 2])
    weights = weights_of_classes({"0": 2.0, "dog": 3.0}, labels, ("cat", "dog", "fox"))
    assert weights.tolist() == [2, 3, 1]
    assert weights_of_classes({"0": 2.0}, labels, ("1", "0", "2")).tolist() == [1, 2, 1]  # a name before an index
    for wrong in ("dgo", "3"):
        with pytest.raises(UsageError, match=rf"class in training.class_weights '{wrong}'.*index from 0"):
            weights_of_classes({wrong: 2.0}, labels, ("cat", "dog", "fox"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_over_a_softmax_is_kerass(
    batch: tuple[torch.Tensor, torch.Tensor], smoothing: float
) -> None:
    logits, labels = batch
    objective = Objective("binary_cross_entropy", smoothing, torch.ones(4), "softmax")
    targets = F.one_hot(labels, 4).float() * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy(logits.softmax(dim=1), targets)  # the mean over images and classes, as Keras's
    torch.testing.assert_close(objective(logits, objective.targets(labels)), expected)
    two = Objective("binary_cross_entropy", 0.0, torch.ones(2), "softmax")
    of_two = two(logits[:, :2], two.targets(labels % 2))
    torch.testing.assert_close(of_two, F.cross_entropy(logits[:, :2], labels % 2))
    sure = (1000 * logits).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(sure, objective.targets(labels)), sure)
    assert gradient.isfinite().all()


def test_metrics_are_scikit_learns(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    metrics = compute_metrics(Objective("cross_entropy", 0.5, torch.tensor([9.0, 1, 1, 1])), logits, labels)
    predicted = logits.argmax(1)
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert metrics.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert metrics.value("val_loss") == -metrics.loss
    each = F.cross_entropy(logits, labels, reduction="none")
    assert metrics.noise("val_loss") == pytest.approx(float(each.std(correction=0)) / 12**0.5, rel=1e-5)
    assert metrics.noise("val_accuracy") == pytest.approx((metrics.accuracy * (1 - metrics.accuracy) / 12) ** 0.5)


def test_macro_f1_is_scikit_learns_over_the_tested_classes() -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 3, 7):
        logits = torch.from_numpy(rng.normal(size=(20, classes))).float()
        labels = torch.from_numpy(rng.integers(0, max(2, classes - 2), 20))
        ours = compute_metrics(Objective("cross_entropy", 0.0, torch.ones(classes)), logits, labels).macro_f1
        peer = f1_score(labels, logits.argmax(1), labels=labels.unique(), average="macro", zero_division=0)
        assert ours == pytest.approx(peer, abs=1e-6)


def test_calibrated_losses_do_not_depend_on_confidence(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    logits = logits / 3 + 2 * F.one_hot(labels, 4)
    objective = Objective("cross_entropy", 0.0, torch.ones(4))
    one, other = (compute_metrics(objective, scale * logits, labels, calibrate=True) for scale in (1, 4))
    assert compute_metrics(objective, logits, labels).calibrated_losses == ()
    assert other.loss != pytest.approx(one.loss, rel=0.01)
    assert other.calibrated_losses == pytest.approx(one.calibrated_losses, abs=1e-3)
    assert sum(one.calibrated_losses) / 12 <= one.loss + 1e-9


def test_a_gain_compares_the_same_images(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    before = EpochMetrics(1.0, 0.5, 0.5, 3, calibrated_losses=(1.0, 2.0, 3.0))
    after = EpochMetrics(1.0, 0.5, 0.5, 3, calibrated_losses=(0.9, 1.7, 2.9))
    gain, error = after.gain_over(before)
    assert gain == pytest.approx(0.5 / 3)
    assert error == pytest.approx(np.std([0.1, 0.3, 0.1], ddof=1) / 3**0.5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, targets: logits.sum(dim=1), r"returned a tensor of shape \(2,\); expected a scalar"),
        (lambda logits, targets: 0.5, "returned float; expected"),
        (lambda logits, targets: targets.sum(), "depends on the logits"),
        (lambda logits: logits.sum(), "failed on logits .*TypeError"),
    ],
)
def test_a_function_that_is_no_loss_is_refused(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_loss(function, "mine", 3)


def _asymmetric(classes: int) -> Objective:
    return Objective("asymmetric", 0.0, torch.ones(classes), "sigmoid", task="multilabel")


def test_the_gradient_of_the_asymmetric_loss_is_that_of_the_paper() -> None:
    logits = torch.linspace(-6, 6, 50, dtype=torch.float64)[:, None].requires_grad_()
    targets = (torch.arange(50) % 2).double()[:, None]
    (gradient,) = torch.autograd.grad(_asymmetric(1).per_image(logits, targets).sum(), [logits])
    p = logits.detach().sigmoid()
    shifted = (p - 0.05).clamp_min(0)
    without = torch.where(shifted > 0, shifted**4 / (1 - shifted) * p * (1 - p), 0.0)
    assert torch.allclose(gradient, torch.where(targets > 0, p - 1, without))


def test_the_asymmetric_loss_finds_more_of_a_rare_class() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((600, 2)) < [0.04, 0.5]
    features = torch.from_numpy(np.column_stack([truth + rng.normal(0, 0.7, truth.shape), np.ones(600)])).float()
    targets = torch.from_numpy(truth.astype(np.float32))
    found = {}
    for loss in ("binary_cross_entropy", "asymmetric"):
        objective = Objective(loss, 0.0, torch.ones(2), "sigmoid", task="multilabel")  # type: ignore[arg-type]
        weight = torch.zeros(3, 2, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.0)
        for _ in range(150):
            optimizer.zero_grad()
            objective(features @ weight, targets).backward()
            optimizer.step()
        said = (features @ weight).detach().numpy() > 0
        found[loss] = indicator_f1(truth, said), (said & truth)[:, 0].sum() / truth[:, 0].sum()
    assert found["asymmetric"][1] > found["binary_cross_entropy"][1] + 0.2
    assert found["asymmetric"][0] > found["binary_cross_entropy"][0]


def test_the_task_says_what_chooses_the_best_epoch() -> None:
    default, chosen = TrainingOptions(), TrainingOptions(monitor="val_macro_f1")
    assert [monitor_of(default, task) for task in ("classification", "multilabel", "regression")] == [
        "val_accuracy", "val_loss", "val_loss"
    ]  # fmt: skip
    assert [monitor_of(chosen, task) for task in ("classification", "multilabel")] == ["val_macro_f1"] * 2
