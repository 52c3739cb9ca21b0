from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_sample_weight

from regraft.training.objective import Objective, Scores, balanced_weights, score


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


def test_one_against_the_rest_is_torchs(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    objective = Objective("binary_cross_entropy", 0.0, torch.ones(4))
    expected = 4 * F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4).float())
    torch.testing.assert_close(objective(logits, objective.targets(labels)), expected)


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    weights = balanced_weights(labels, 3, balanced=True)
    np.testing.assert_allclose(weights[labels].numpy(), compute_sample_weight("balanced", labels), rtol=1e-6)
    assert balanced_weights(labels, 3, balanced=False).tolist() == [1, 1, 1]


def test_scores_are_scikit_learns(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    scores = score(Objective("cross_entropy", 0.5, torch.tensor([9.0, 1, 1, 1])), logits, labels)
    predicted = logits.argmax(1)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert scores.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert scores.value("val_loss") == -scores.loss
    each = F.cross_entropy(logits, labels, reduction="none")
    assert scores.noise("val_loss") == pytest.approx(float(each.std(correction=0)) / 12**0.5, rel=1e-5)
    assert scores.noise("val_accuracy") == pytest.approx((scores.accuracy * (1 - scores.accuracy) / 12) ** 0.5)


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 3, 7):
        logits = torch.from_numpy(rng.normal(size=(20, classes))).float()
        labels = torch.from_numpy(rng.integers(0, max(2, classes - 2), 20))
        ours = score(Objective("cross_entropy", 0.0, torch.ones(classes)), logits, labels).macro_f1
        assert ours == pytest.approx(f1_score(labels, logits.argmax(1), average="macro", zero_division=0), abs=1e-6)


def test_refined_losses_do_not_depend_on_how_sure_a_model_is(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    logits = logits / 3 + 2 * F.one_hot(labels, 4)
    objective = Objective("cross_entropy", 0.0, torch.ones(4))
    one, other = (score(objective, scale * logits, labels, refine=True) for scale in (1, 4))
    assert score(objective, logits, labels).refined == ()
    assert other.loss != pytest.approx(one.loss, rel=0.01)
    assert other.refined == pytest.approx(one.refined, abs=1e-3)
    assert sum(one.refined) / 12 <= one.loss + 1e-9


def test_a_gain_is_paired(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    before = Scores(1.0, 0.5, 0.5, 3, refined=(1.0, 2.0, 3.0))
    after = Scores(1.0, 0.5, 0.5, 3, refined=(0.9, 1.7, 2.9))
    gain, error = after.gain_over(before)
    assert gain == pytest.approx(0.5 / 3)
    assert error == pytest.approx(np.std([0.1, 0.3, 0.1], ddof=1) / 3**0.5)
