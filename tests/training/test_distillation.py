"""Targets from a teacher's probabilities and the labels."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import UsageError
from regraft.training.distillation import DistillationOptions, mix_with_labels, soften

_PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(4), size=30)


def test_softening_is_that_of_logits() -> None:
    logits = np.random.default_rng(1).normal(size=(20, 5)) * 3
    powers = np.exp(logits)
    softened = np.exp(logits / 2.5)
    assert np.allclose(
        soften(powers / powers.sum(axis=1, keepdims=True), 2.5), softened / softened.sum(axis=1, keepdims=True)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_softened_probabilities_keep_their_order(temperature: float) -> None:
    softened = soften(_PROBABILITIES, temperature)
    assert np.allclose(softened.sum(axis=1), 1)
    assert (np.argsort(softened, axis=1) == np.argsort(_PROBABILITIES, axis=1)).all()
    confidence, before = softened.max(axis=1), _PROBABILITIES.max(axis=1)
    assert (confidence <= before + 1e-12).all() if temperature >= 1 else (confidence >= before - 1e-12).all()


def test_a_certain_teacher_and_no_image_have_targets() -> None:
    assert np.allclose(soften(np.eye(3), 1.0), np.eye(3), atol=1e-9)
    assert soften(np.empty((0, 3)), 2.0).shape == (0, 3)


def test_the_label_has_the_rest() -> None:
    labels = _PROBABILITIES.argmin(axis=1)
    assert np.array_equal(mix_with_labels(_PROBABILITIES, labels, 1.0), _PROBABILITIES)
    assert np.array_equal(mix_with_labels(_PROBABILITIES, labels, 0.0), np.eye(4)[labels])
    half = mix_with_labels(_PROBABILITIES, labels, 0.5)
    assert np.allclose(half, (_PROBABILITIES + np.eye(4)[labels]) / 2)
    assert np.allclose(mix_with_labels(_PROBABILITIES, labels, 0.0, 0.1), 0.9 * np.eye(4)[labels] + 0.025)


@pytest.mark.parametrize("wrong", [{"soft_share": 1.1}, {"temperature": 0.0}, {"teachers": "a"}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        DistillationOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_each_of_several_labels_is_softened_by_itself(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(size=(20, 5)) * 3
    softened = soften(1 / (1 + np.exp(-logits)), temperature, several=True)
    assert np.allclose(softened, 1 / (1 + np.exp(-logits / temperature)))
    certain = soften(np.array([[0.0, 1.0]], np.float32), 2.0, several=True)
    assert np.isfinite(certain).all()
    assert certain[0, 0] < 1e-5
    assert certain[0, 1] > 1 - 1e-5


def test_the_labels_have_the_rest_of_each_class() -> None:
    indicators = (np.random.default_rng(2).random((30, 4)) < 0.4).astype(np.float32)
    assert np.allclose(mix_with_labels(_PROBABILITIES, indicators, 0.25), 0.25 * _PROBABILITIES + 0.75 * indicators)
    assert np.array_equal(mix_with_labels(_PROBABILITIES, indicators, 0.0, 0.1), indicators)
