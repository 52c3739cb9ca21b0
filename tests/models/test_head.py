from __future__ import annotations

from typing import get_args

import pytest
import torch

from regraft.models.head import Head
from regraft.models.options import HiddenActivation


def test_mlp_head_is_dense_relu_dropout_dense() -> None:
    head = Head(10, 3, widths=(8, 4), dropout=0.5)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"]
    assert head(torch.zeros(2, 10)).shape == (2, 3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_a_distribution(activation: str) -> None:
    head = Head(4, 3, activation=activation)  # type: ignore[arg-type]  # a str of the parameters above
    for scale in (0.0, 1.0, 1000.0):
        probabilities = head.probabilities(scale * torch.randn(5, 3))
        assert probabilities.dtype == torch.float64
        assert (probabilities >= 0).all()
    torch.testing.assert_close(head.probabilities(torch.randn(5, 3)).sum(1), torch.ones(5, dtype=torch.float64))


def test_one_vs_rest_scores_are_divided_by_their_sum() -> None:
    head = Head(4, 2, activation="sigmoid")
    logits = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    scores = logits.double().sigmoid()
    torch.testing.assert_close(head.probabilities(logits), scores / scores.sum(1, keepdim=True))


def test_dropout_before_a_linear_layer() -> None:
    head = Head(10, 3, dropout=0.5)
    assert [type(layer).__name__ for layer in head.layers] == ["Dropout"]


def test_hidden_activations_are_pytorchs() -> None:
    inputs = torch.linspace(-3, 3, 7)
    for name in get_args(HiddenActivation):
        layer = Head(4, 2, widths=(3,), hidden_activation=name).layers[1]
        options = {"negative_slope": 0.2} if name == "leaky_relu" else {}
        torch.testing.assert_close(layer(inputs), getattr(torch.nn.functional, name)(inputs, **options))
