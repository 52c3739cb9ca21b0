"""The layer of cumulative logits: probabilities of the proportional odds model, in any size of score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.cumulative import CumulativeLayer, log_probabilities


def layer_of(classes: int, features: int = 3) -> CumulativeLayer:
    torch.manual_seed(classes)
    layer = CumulativeLayer(features, classes)
    layer.set_linear(torch.randn(1, features), torch.linspace(2, -1, classes - 1))
    return layer


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_differences_of_sigmoids(classes: int) -> None:
    layer, features = layer_of(classes), torch.randn(20, 3)
    score = (features @ layer.weight.T).detach().double().numpy()
    above = expit(score + layer.intercepts.detach().double().numpy())
    expected = -np.diff(np.concatenate([np.ones((20, 1)), above, np.zeros((20, 1))], axis=1))
    logs = layer(features)
    np.testing.assert_allclose(logs.exp().detach().numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(logs.softmax(dim=1).detach().numpy(), expected, atol=2e-6)


def test_logarithms_stay_finite_and_exact_far_from_the_thresholds() -> None:
    cumulative = torch.tensor([[300.0, 299.0], [-300.0, -300.5], [90.0, -90.0]])
    logs = log_probabilities(cumulative, cumulative[:, :-1] - cumulative[:, 1:])
    assert bool(logs.isfinite().all())
    # sigmoid(-300) (1 - exp(-1)) of the class in the middle
    assert float(logs[0, 1]) == pytest.approx(-299 + np.log(-np.expm1(-1)), rel=1e-5)
    assert float(logs[1, 0]) == pytest.approx(0, abs=1e-6)


def test_what_was_solved_is_kept_and_intercepts_fall() -> None:
    layer, given = layer_of(5), torch.tensor([3.0, 1.0, 0.999, -4.0])
    layer.set_linear(torch.ones(1, 3), given)
    torch.testing.assert_close(layer.intercepts.detach(), given, atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=50)
    for _ in range(5):  # far too large steps
        optimizer.zero_grad()
        (-layer(torch.randn(8, 3))[:, 2].mean()).backward()
        optimizer.step()
    assert bool((layer.intercepts.diff() <= 0).all())
    assert bool(layer(torch.randn(8, 3)).isfinite().all())


def test_a_new_layer_gives_all_classes_the_same_probability_at_a_score_of_0() -> None:
    torch.testing.assert_close(CumulativeLayer(4, 5)(torch.zeros(1, 4)).exp(), torch.full((1, 5), 0.2))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_layer_of_exports_is_the_same_function(classes: int) -> None:
    layer, features = layer_of(classes), 20 * torch.randn(30, 3)
    constant = layer.constant()
    torch.testing.assert_close(constant(features), layer(features), atol=1e-4, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in constant.parameters())


def test_a_model_with_an_order_is_described_and_built_again() -> None:
    model = build("efficientnet_lite0", classes=("low", "mid", "high"), task="ordinal", image_size=32, weights="none")
    assert (model.ordered, model.task) == (True, "classification")
    again = Classifier.from_config(model.get_config(), model.weights)
    again.load_state_dict(model.state_dict(), strict=True)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(pixels), again(pixels))
    probabilities = model.head.answer(model(pixels))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64))
    with pytest.raises(UsageError, match="several backbones"):
        build("efficientnet_lite0@32,resnet18@64", classes=("a", "b"), task="ordinal", weights="none")
