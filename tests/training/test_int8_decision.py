"""Heads that are fitted in 8 bits are as good as those in float, or 8 bits are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.errors import UsageError
from regraft.training.int8_decision import check_int8, decide
from regraft.training.losses import Objective
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import PhasePlan

COUNT, FEATURES = 120, 12


@pytest.fixture
def exact() -> torch.Tensor:
    return torch.randn(COUNT, FEATURES, generator=torch.Generator().manual_seed(0))


def _labels(exact: torch.Tensor, task: str) -> torch.Tensor:
    """What the first three features say, and some noise."""
    noise = 0.3 * torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(1))
    scores = exact[:, :3] + noise
    if task == "classification":
        return scores.argmax(dim=1)
    return (scores > 0).float() if task == "multilabel" else scores[:, :1]


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_little_noise_is_accepted_and_much_is_refused(exact: torch.Tensor, task: str) -> None:
    labels, noise = _labels(exact, task), torch.randn(COUNT, FEATURES, generator=torch.Generator().manual_seed(2))
    classes = ("number",) if task == "regression" else ("a", "b", "c")
    objective = Objective.of_labels(labels.numpy(), classes, task="regression" if task == "regression" else None)
    good = decide(exact, exact + 0.01 * noise, labels, objective)
    assert good.used
    assert good.images == COUNT
    assert good.loss == pytest.approx(good.float_loss, rel=0.02)
    bad = decide(exact, exact[torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))], labels, objective)
    assert not bad.used
    assert bad.float_loss == good.float_loss
    assert bad.loss > 1.2 * bad.float_loss
    if task == "regression":
        assert (bad.to_json()["accuracy"], bad.to_json()["float_accuracy"]) == (None, None)
    else:
        assert bad.accuracy < bad.float_accuracy - 0.1
        assert bad.to_json()["float_accuracy"] == bad.float_accuracy


def test_the_same_features_give_the_same_answers(exact: torch.Tensor) -> None:
    labels = _labels(exact, "classification")
    decision = decide(exact, exact.clone(), labels, Objective.of_labels(labels.numpy(), ("a", "b", "c")))
    assert decision.used
    assert (decision.accuracy, decision.loss, decision.accuracy_error) == (
        decision.float_accuracy, decision.float_loss, 0.0,
    )  # fmt: skip


def test_heads_answer_for_images_in_float(exact: torch.Tensor) -> None:
    """Other values that a head could learn as well, but that say nothing about images in float."""
    labels = _labels(exact, "classification")
    mirrored = decide(exact, -exact, labels, Objective.of_labels(labels.numpy(), ("a", "b", "c")))
    assert not mirrored.used
    assert mirrored.accuracy < 0.5 < 0.7 < mirrored.float_accuracy


def test_a_fold_divides_no_group(exact: torch.Tensor) -> None:
    """Every image twice: a head that has seen the copy would answer from memory."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, COUNT // 2)).repeat(2)
    twice, groups = exact[: COUNT // 2].repeat(2, 1), np.tile(np.arange(COUNT // 2), 2)
    objective = Objective.of_labels(labels.numpy(), ("a", "b", "c"))
    divided, whole = decide(twice, twice, labels, objective), decide(twice, twice, labels, objective, groups=groups)
    assert whole.float_loss > divided.float_loss


def test_int8_is_refused_where_it_has_no_effect() -> None:
    options = TrainingOptions(precision="int8")
    scratch = PhasePlan(0, "conv_stem", True, "none", 5, 1, from_scratch=True)
    frozen = PhasePlan(5, "head", False, "lbfgs", 5, 1)
    with pytest.raises(UsageError, match="int8 is for the frozen layers of tiny, and all of it trains, from scratch"):
        check_int8(options, scratch, "tiny", has_stored=False)
    with pytest.raises(UsageError, match="features stand for images that are gone"):
        check_int8(options, frozen, "tiny", has_stored=True)
    check_int8(options, frozen, "tiny", has_stored=False)
    check_int8(TrainingOptions(precision="fastest"), scratch, "tiny", has_stored=False)
