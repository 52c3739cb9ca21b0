from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from regraft.models.cpu import conv_backward
from regraft.models.cpu.conv_backward import FastGradients


def _gradients(
    layer: torch.nn.Conv2d, size: tuple[int, int], *, fast: bool, frozen: str = ""
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output in bfloat16, and all gradients by name."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, layer.in_channels, *size, generator=generator).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter.grad = None
    inputs.requires_grad_(frozen != "inputs")
    layer.weight.requires_grad_(frozen != "weight")
    with torch.autocast("cpu", torch.bfloat16), FastGradients() if fast else nullcontext():
        out = layer(inputs)
    out.float().square().sum().backward()
    leaves = {"inputs": inputs, **dict(layer.named_parameters())}
    return out, {name: tensor.grad for name, tensor in leaves.items() if tensor.grad is not None}


def _compare(layer: torch.nn.Conv2d, size: tuple[int, int], frozen: str = "") -> set[str]:
    """Compare with PyTorch's gradients; return the names of those that exist."""
    (plain, expected), (fast, got) = (_gradients(layer, size, fast=fast, frozen=frozen) for fast in (False, True))
    assert fast.dtype == torch.bfloat16
    assert torch.equal(plain, fast)
    assert expected.keys() == got.keys()
    for name, one in expected.items():
        assert one.dtype == got[name].dtype
        assert one.shape == got[name].shape
        torch.testing.assert_close(one, got[name], rtol=2e-2, atol=2e-2 * float(one.abs().max()))
    return set(got)


# 9 x 9 maps are small enough for products of all positions; 13 x 11 maps are not, and are not square.
@pytest.mark.parametrize("size", [(9, 9), (13, 11)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (4, 1, 2, 1), (5, 1, 2, 1), (5, 2, 2, 1), (5, 2, 0, 1), (7, 1, 3, 1),
        (9, 2, 4, 1), (3, 1, 2, 2), (5, 2, 4, 2), (5, 3, 1, 1), ((3, 5), (2, 1), (1, 2), 1), (3, 1, 3, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_depthwise_output_and_gradients_agree_with_pytorch(
    kernel: Any, stride: Any, padding: Any, dilation: int, size: tuple[int, int], bias: bool
) -> None:
    layer = torch.nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups=8, bias=bias)
    assert _compare(layer, size) == {"inputs", "weight", *(["bias"] if bias else [])}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_pointwise_output_and_gradients_agree_with_pytorch(size: tuple[int, int], bias: bool) -> None:
    assert _compare(torch.nn.Conv2d(64, 96, 1, bias=bias), size) == {"inputs", "weight", *(["bias"] if bias else [])}


@pytest.mark.parametrize("frozen", ["inputs", "weight"])
@pytest.mark.parametrize("layer", [torch.nn.Conv2d(8, 8, 5, 2, 2, groups=8), torch.nn.Conv2d(64, 64, 1)])
def test_frozen_tensors_get_no_gradient(layer: torch.nn.Conv2d, frozen: str) -> None:
    assert _compare(layer, (9, 9), frozen) == {"inputs", "weight", "bias"} - {frozen}


def test_only_slow_convolutions_in_training_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[tuple[int, ...]] = []
    original = conv_backward._Convolution.apply

    def apply(*args: Any) -> Any:
        replaced.append(tuple(args[1].shape))
        return original(*args)

    monkeypatch.setattr(conv_backward._Convolution, "apply", apply)
    inputs = torch.randn(2, 64, 9, 9)
    layers = [
        torch.nn.Conv2d(64, 64, 5, groups=64),
        torch.nn.Conv2d(64, 64, 1),
        torch.nn.Conv2d(64, 64, 3),
        torch.nn.Conv2d(64, 64, 3, groups=2),
        torch.nn.Conv2d(64, 64, 1, stride=2),
        torch.nn.Conv2d(64, 8, 1),
    ]
    with FastGradients():
        for layer in layers:
            layer(inputs)  # float32 is fast already
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                layers[0](inputs)
            assert replaced == []
            for layer in layers:
                layer(inputs)
    assert replaced == [(64, 1, 5, 5), (64, 64, 1, 1)]
