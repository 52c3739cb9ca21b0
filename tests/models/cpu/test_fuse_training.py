from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from regraft.models.classifier import Classifier
from regraft.models.cpu import fuse_training
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.staged import StageOutput
from regraft.training.device import autocast

Maker = Callable[..., Classifier]
_CPU = torch.device("cpu")
#: Whether convolutions compute in bf16 on this processor; else only float32 is compared, in which training is then.
_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.fixture
def trained(with_statistics: Callable[..., Classifier]) -> Maker:
    """Make a model of which all stages train."""

    def made(name: str, size: int = 64) -> Classifier:
        model = with_statistics(name, size)
        model.freeze(0)
        model.train()
        return model

    return made


def _step(model: Classifier, precision: torch.dtype, boundary: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Features and gradients, without dropout."""
    size = model.preprocessing.size
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.no_grad():
        hidden = model.activations(pixels, boundary)
    with autocast(_CPU, precision):
        features = model.forward_tail(StageOutput(hidden.values.to(precision), hidden.taps.to(precision)), boundary)
    wanted = [p for p in model.backbone.parameters() if p.requires_grad]
    return features.detach(), list(torch.autograd.grad(features.float().square().mean(), wanted, allow_unused=True))


def _error(got: list[Any], exact: list[Any]) -> float:
    pairs = [(a, b) for a, b in zip(got, exact, strict=True) if b is not None]
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5


# A convolution, its norm and a clamp, if any, are fused. The padding of efficientnet_lite0 is one-sided.
@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        *(("efficientnet_lite0", 64, 131), ("efficientnet_lite0", 75, 131), ("mobilenet_v2", 64, 139)),
        *(("resnet18", 64, 49), ("efficientnet_b0", 64, 98), ("regnety_002", 64, 115)),
    ],
)
def test_outputs_and_gradients_are_equal(trained: Maker, name: str, size: int, count: int) -> None:
    model = trained(name, size)
    fused = FusedTraining(model, 0, torch.float32)
    assert len(fused) == count
    assert model.training
    expected, exact = _step(model, torch.float32)
    with fused:
        got, same = _step(model, torch.float32)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert _error(same, exact) < 1e-2
    if _BF16:
        _, coarse = _step(model, torch.bfloat16)
        with fused:
            _, near = _step(model, torch.bfloat16)
        assert _error(near, exact) < 1.5 * _error(coarse, exact)
    after, _ = _step(model, torch.float32)
    assert torch.equal(after, expected)


def test_predictions_are_fused_too(trained: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("efficientnet_lite0").eval()
    fused = FusedTraining(model, 3, torch.float32)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    shapes: list[torch.Size] = []
    unpatched = fuse_training._FusedForward.__call__

    def record(self: Any, maps: torch.Tensor) -> torch.Tensor:
        shapes.append(maps.shape)
        return unpatched(self, maps)

    monkeypatch.setattr(fuse_training._FusedForward, "__call__", record)
    with torch.inference_mode():
        hidden = model.activations(pixels, 3)
        expected = model.forward_from(hidden, 3)
        assert not shapes
        with fused:
            got = model.forward_from(hidden, 3)
    assert len(shapes) > 10
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_frozen_stages_are_not_fused(trained: Maker) -> None:
    model = trained("mobilenet_v2")
    boundary = len(model.stages) - 2
    model.freeze(boundary)
    fused = FusedTraining(model, boundary, torch.bfloat16 if _BF16 else torch.float32)
    frozen = {id(part) for stage in model.stages[:boundary] for _, whole in stage.modules for part in whole.modules()}
    assert 0 < len(fused) < 30
    assert not any(id(module) in frozen for module, _ in fused._forwards)


def test_a_frozen_model_has_nothing_to_fuse(trained: Maker) -> None:
    model = trained("mobilenet_v2")
    model.freeze(len(model.stages))
    assert len(FusedTraining(model, 0, torch.float32)) == 0


def _reads_before_the_norm(model: Classifier) -> None:
    norm = model.backbone.bn1
    assert isinstance(norm, nn.Module)
    norm.register_forward_hook(lambda _, inputs, output: output + inputs[0])


def _reads_before_the_clamp(model: Classifier) -> None:
    norm, after = model.backbone.bn1, model.backbone.maxpool
    assert isinstance(norm, nn.Module)
    assert isinstance(after, nn.Module)
    norm.register_forward_hook(lambda _, __, output: setattr(model, "seen", output.clone()))
    after.register_forward_hook(lambda _, __, output: output + model.seen.mean())


@pytest.mark.parametrize("change", [_reads_before_the_norm, _reads_before_the_clamp])
def test_a_model_that_would_change_is_not_fused(trained: Maker, change: Any) -> None:
    model = trained("resnet18")
    change(model)
    expected, exact = _step(model, torch.float32)
    fused = FusedTraining(model, 0, torch.float32)
    assert len(fused) == 0
    with fused:
        got, same = _step(model, torch.float32)
    assert torch.equal(got, expected)
    assert _error(same, exact) == 0


@pytest.mark.parametrize(("name", "precision"), [("convnext_atto", torch.bfloat16), ("resnet18", torch.float16)])
def test_no_norm_or_no_kernel_no_fusion(trained: Maker, name: str, precision: torch.dtype) -> None:
    assert len(FusedTraining(trained(name), 0, precision)) == 0


def test_a_build_without_the_kernel_trains_unfused(trained: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", refuse)
    assert len(FusedTraining(trained("mobilenet_v2"), 0, torch.float32)) == 0
