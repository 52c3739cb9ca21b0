from __future__ import annotations

from typing import Any

import pytest
import torch

from regraft.models import depthwise
from regraft.models.depthwise import FastDepthwise


def _gradients(fast: bool, kernel: int, stride: int, *, bias: bool = False, frozen: str = "") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 8, 9, 9, generator=generator).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs.requires_grad_(frozen != "inputs")
    layer.weight.requires_grad_(frozen != "weight")
    with torch.autocast("cpu", torch.bfloat16):
        if fast:
            with FastDepthwise():
                out = layer(inputs)
        else:
            out = layer(inputs)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    return [out, *(tensor.grad for tensor in (inputs, *layer.parameters()) if tensor.grad is not None)]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 1), (5, 1), (5, 2), (7, 1), (9, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradients_are_those_of_the_library(kernel: int, stride: int, bias: bool) -> None:
    plain, fast = (_gradients(fast, kernel, stride, bias=bias) for fast in (False, True))
    assert torch.equal(plain[0], fast[0])
    assert len(plain) == len(fast) == 3 + bias
    for one, other in zip(plain[1:], fast[1:], strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(one.abs().max()))


@pytest.mark.parametrize("frozen", ["inputs", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    plain, fast = (_gradients(fast, 5, 2, frozen=frozen) for fast in (False, True))
    assert len(plain) == len(fast) == 2
    torch.testing.assert_close(plain[1], fast[1], rtol=2e-2, atol=2e-2 * float(plain[1].abs().max()))


def test_only_slow_ones_in_training_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []

    real = depthwise._Depthwise.apply

    def apply(*args: Any) -> Any:
        taken.append(tuple(args[1].shape))
        return real(*args)

    monkeypatch.setattr(depthwise._Depthwise, "apply", apply)
    inputs = torch.randn(2, 8, 9, 9)
    layers = {
        "slow": torch.nn.Conv2d(8, 8, 5, groups=8),
        "small": torch.nn.Conv2d(8, 8, 3, groups=8),
        "dense": torch.nn.Conv2d(8, 8, 5),
    }
    with FastDepthwise():
        for layer in layers.values():
            layer(inputs)  # float32: the library is fast
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                layers["slow"](inputs)
            assert taken == []
            for layer in layers.values():
                layer(inputs)
    assert taken == [(8, 1, 5, 5)]
