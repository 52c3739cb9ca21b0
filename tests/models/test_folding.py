from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.models.classifier import Classifier, build
from regraft.models.folding import folded


def _with_statistics(name: str) -> Classifier:
    """Random weights, and norms that do something."""
    model = build(name, classes=("a", "b"), image_size=64, weights="none")
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator) / 10)
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "regnety_002"])
def test_the_folded_model_computes_the_same(name: str) -> None:
    model = _with_statistics(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fast = folded(model, len(model.stages))
    assert fast is not model
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = model(pixels), fast(pixels)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    convolutions = [part for part in fast.backbone.modules() if isinstance(part, nn.Conv2d)]
    assert sum(part.bias is not None for part in convolutions) > len(convolutions) / 3
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not fast.training


def test_where_there_is_nothing_to_fold_the_model_stays() -> None:
    model = build("vgg16", classes=("a", "b"), image_size=32, weights="none")
    assert folded(model, len(model.stages)) is model


def test_a_convolution_that_is_read_elsewhere_is_not_folded() -> None:
    model = _with_statistics("resnet18")
    # The norm's input is added to its output, so its scale must not move into the convolution.
    norm = model.backbone.bn1
    assert isinstance(norm, nn.Module)
    norm.register_forward_hook(lambda _, inputs, output: output + inputs[0])
    assert folded(model, len(model.stages)) is model
