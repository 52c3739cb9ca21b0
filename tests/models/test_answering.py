"""Answers come from a folded copy of the model, which gives the model's answers and follows its weights."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from regraft.models import answering
from regraft.models.answering import AnsweringNetwork
from regraft.models.classifier import Classifier, build
from regraft.models.inference import predict_batch

Maker = Callable[..., Classifier]


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[Classifier]:
    """The models that were folded."""
    folded, fold = list[Classifier](), answering.fold_inference

    def counted(model: Classifier, boundary: int) -> Classifier:
        folded.append(model)
        return fold(model, boundary)

    monkeypatch.setattr(answering, "fold_inference", counted)
    return folded


def own_answers(model: Classifier, pixels: torch.Tensor) -> np.ndarray:
    """The probabilities by the model's own layers."""
    with torch.inference_mode():
        return model.head.answer(model(pixels)).numpy()


def assert_follows(model: Classifier, pixels: torch.Tensor) -> None:
    got, expected = predict_batch(model, pixels)[0], own_answers(model, pixels)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenetv3_small_100", "convnext_atto"])
def test_answers_are_those_of_the_model(with_statistics: Maker, name: str, pixels: torch.Tensor) -> None:
    model = with_statistics(name, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert_follows(model, pixels)
    assert (AnsweringNetwork.of(model).network is model) == (name == "convnext_atto")  # it has nothing to fold
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_an_image_has_the_same_bits_in_every_batch(with_statistics: Maker, pixels: torch.Tensor) -> None:
    model = with_statistics("mobilenet_v2", 32)
    together = predict_batch(model, pixels)[0]
    alone = [predict_batch(model, image[None])[0][0] for image in pixels]
    assert np.array_equal(together, np.stack(alone))
    network = AnsweringNetwork(AnsweringNetwork.of(model).network, runs_pairs=True)
    with torch.inference_mode():
        assert network.features(pixels[:1]).shape == (1, model.features)


def change_in_place(model: Classifier) -> None:
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)


def change_statistics(model: Classifier) -> None:
    norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    assert norm.running_mean is not None
    norm.running_mean.add_(0.5)


def load_others(model: Classifier) -> None:
    other = copy.deepcopy(model)
    change_in_place(other)
    model.load_state_dict(other.state_dict())


def replace_data(model: Classifier) -> None:
    parameter = next(model.backbone.parameters())
    parameter.data = parameter.data * 1.5


def replace_layer(model: Classifier) -> None:
    norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    parent = next(part for part in model.modules() if norm in part.children())
    name = next(name for name, part in parent.named_children() if part is norm)
    setattr(parent, name, nn.BatchNorm2d(norm.num_features).eval())


def take_a_step(model: Classifier) -> None:
    model.freeze(0)
    model.train()
    optimizer = torch.optim.SGD([p for _, p in model.trainable_parameters()], lr=0.1)
    model(torch.full((2, 3, 32, 32), 100.0)).square().sum().backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    "change", [change_in_place, change_statistics, load_others, replace_data, replace_layer, take_a_step]
)
def test_answers_follow_the_weights(
    with_statistics: Maker, pixels: torch.Tensor, change: Callable[[Classifier], None], folds: list[Classifier]
) -> None:
    model = with_statistics("resnet18", 32)
    before = predict_batch(model, pixels)[0]
    change(model)
    assert_follows(model, pixels)
    assert not np.array_equal(before, predict_batch(model, pixels)[0])
    assert len(folds) == 2


def test_a_new_head_needs_no_new_copy(with_statistics: Maker, pixels: torch.Tensor, folds: list[Classifier]) -> None:
    model = with_statistics("resnet18", 32)
    predict_batch(model, pixels)
    with torch.no_grad():
        model.head.classifier.weight.mul_(-2)
    model.head.temperature = 3.0
    assert_follows(model, pixels)
    assert folds == [model]


def test_hooks_see_the_layers_of_the_model(with_statistics: Maker, pixels: torch.Tensor) -> None:
    model = with_statistics("resnet18", 32)
    predict_batch(model, pixels)
    seen = list[nn.Module]()
    norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    with norm.register_forward_hook(lambda layer, *_: seen.append(layer)):
        predict_batch(model, pixels)
    assert seen == [norm]
    predict_batch(model, pixels)
    assert len(seen) == 1


def test_weights_whose_changes_are_not_counted_run_as_they_are(with_statistics: Maker, pixels: torch.Tensor) -> None:
    model = with_statistics("resnet18", 32)
    with torch.inference_mode():
        model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    assert AnsweringNetwork.of(model).network is model
    assert_follows(model, pixels)


def test_a_copy_ends_with_its_model(with_statistics: Maker, pixels: torch.Tensor) -> None:
    model = with_statistics("resnet18", 32)
    predict_batch(model, pixels)
    ended = [weakref.ref(model), weakref.ref(AnsweringNetwork.of(model).network)]
    del model
    gc.collect()
    assert [reference() for reference in ended] == [None, None]


def test_threads_share_one_copy(with_statistics: Maker, pixels: torch.Tensor, folds: list[Classifier]) -> None:
    model, found = with_statistics("resnet18", 32), list[np.ndarray]()
    threads = [threading.Thread(target=lambda: found.append(predict_batch(model, pixels)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, found[0]) for one in found)
    assert len(found) == 3
    assert len(folds) == 1


def test_several_backbones_are_folded(pixels: torch.Tensor) -> None:
    model = build("resnet18,mobilenet_v2", classes=("a", "b"), image_size=32, weights="none")
    assert AnsweringNetwork.of(model).network is not model
    assert_follows(model, pixels)
