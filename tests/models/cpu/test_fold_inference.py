from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from regraft.models.classifier import Classifier, build
from regraft.models.cpu.fold_inference import _FusedForward, fold_inference
from regraft.training.device import autocast

Maker = Callable[..., Classifier]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "regnety_002"])
def test_the_folded_model_computes_the_same(with_statistics: Maker, name: str) -> None:
    model = with_statistics(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fast = fold_inference(model, len(model.stages))
    assert fast is not model
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = model(pixels), fast(pixels)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    convolutions = [part for part in fast.backbone.modules() if isinstance(part, nn.Conv2d)]
    assert sum(part.bias is not None for part in convolutions) > len(convolutions) / 3
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not fast.training


def _fused(model: Classifier) -> int:
    convolutions = [part for part in model.backbone.modules() if isinstance(part, nn.Conv2d)]
    return sum(isinstance(part.forward, _FusedForward) and part.forward.name != "none" for part in convolutions)


# The padding of efficientnet_lite0 is one-sided at 64 pixels and partly at 75; vgg16 has no norms; in resnet18
# some activations follow a sum and cannot be fused.
@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        *(("efficientnet_lite0", 64, 33), ("efficientnet_lite0", 75, 33), ("vgg16", 32, 13)),
        *(("resnet18", 64, 9), ("mobilenet_v2", 64, 35)),
    ],
)
def test_fused_clamps_give_the_same_outputs(with_statistics: Maker, name: str, size: int, count: int) -> None:
    model = with_statistics(name, size)
    end = len(model.stages)
    fast = fold_inference(model, end)
    assert _fused(fast) == count
    pixels = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    unfused = fold_inference(model, end, fuse=False)
    assert _fused(unfused) == 0
    with torch.inference_mode():
        for expected, got in zip(unfused.activations(pixels, end), fast.activations(pixels, end), strict=True):
            assert got.dtype == expected.dtype
            assert (got - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("name", "share"),
    [("efficientnet_b0", 1.3), ("mobilenetv3_large_100", 1.3), ("efficientnet_lite0", 1.0), ("mobilenet_v2", 1.0)],
)
def test_bfloat16_is_as_accurate_when_fused(with_statistics: Maker, name: str, share: float) -> None:
    model = with_statistics(name)
    end = len(model.stages)
    fast = fold_inference(model, end)
    assert _fused(fast) > 30
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = model.activations(pixels, end).values
        torch.testing.assert_close(fast.activations(pixels, end).values, exact, rtol=1e-3, atol=1e-4)
        errors = []
        for network in (model, fast):
            with autocast(torch.device("cpu"), torch.bfloat16):
                errors.append(float((network.activations(pixels, end).values.float() - exact).norm() / exact.norm()))
    assert errors[1] < share * errors[0]


def test_a_precision_without_a_kernel_runs_unfused(with_statistics: Maker) -> None:
    model = with_statistics("mobilenet_v2")
    fast = fold_inference(model, 4).double()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = fast.activations(pixels, 4).values
        torch.testing.assert_close(got, model.activations(pixels, 4).values.double(), rtol=1e-3, atol=1e-4)


def test_weights_are_kept_once(with_statistics: Maker) -> None:
    model = with_statistics("mobilenet_v2")
    fast = fold_inference(model, len(model.stages))
    fused = {name: module.forward for name, module in fast.named_modules() if isinstance(module, nn.Conv2d)}
    packed = [one.packed for one in fused.values() if isinstance(one, _FusedForward)]
    assert len(packed) > 30
    assert all(list(of_one) == [torch.float32] for of_one in packed)
    assert sum(parameter.numel() for parameter in fast.backbone.parameters() if parameter.dim() == 4) == 0


def test_an_activation_whose_input_is_read_elsewhere_is_not_fused(with_statistics: Maker) -> None:
    model = with_statistics("resnet18")
    norm = model.backbone.bn1
    assert isinstance(norm, nn.Module)
    norm.register_forward_hook(lambda _, __, output: setattr(model, "seen", output.clone()))
    stem = model.backbone.maxpool
    assert isinstance(stem, nn.Module)
    stem.register_forward_hook(lambda _, __, output: output + model.seen.mean())
    fast = fold_inference(model, len(model.stages))
    assert fast is not model
    assert _fused(fast) == 0


def test_a_build_without_the_fused_kernel_folds_norms_alone(
    with_statistics: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", refuse)
    model = with_statistics("mobilenet_v2")
    fast = fold_inference(model, len(model.stages))
    assert fast is not model
    assert _fused(fast) == 0


def test_a_model_without_batchnorm_is_returned_unchanged() -> None:
    model = build("convnext_atto", classes=("a", "b"), image_size=32, weights="none")
    assert fold_inference(model, len(model.stages)) is model


def test_a_convolution_that_is_read_elsewhere_is_not_folded(with_statistics: Maker) -> None:
    model = with_statistics("resnet18")
    # The norm's input is added to its output, so its scale must not move into the convolution.
    norm = model.backbone.bn1
    assert isinstance(norm, nn.Module)
    norm.register_forward_hook(lambda _, inputs, output: output + inputs[0])
    assert fold_inference(model, len(model.stages)) is model
