from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from regraft.models.classifier import Classifier
from regraft.models.cpu.patterns import find_chains, has_known_padding, kernel_activation, padding_of, sample_pixels


def test_chains_of_a_resnet(with_statistics: Callable[..., Classifier]) -> None:
    model = with_statistics("resnet18")
    chains = {chain.convolution: chain for chain in find_chains(model, sample_pixels(model), len(model.stages))}
    assert (chains["conv1"].norm, chains["conv1"].activation) == ("bn1", "act1")
    assert chains["layer1.0.conv1"].activation == "layer1.0.act1"
    assert (chains["layer1.0.conv2"].norm, chains["layer1.0.conv2"].activation) == ("layer1.0.bn2", "")  # a sum follows


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (15, 7)])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (2, 3, 1), (3, 2, 2)])
def test_symmetric_padding_gives_the_outputs_of_tensorflows(
    size: tuple[int, int], kernel: int, stride: int, dilation: int
) -> None:
    convolution = Conv2dSame(4, 4, kernel, stride=stride, dilation=dilation)
    assert has_known_padding(convolution)
    maps = torch.randn(1, 4, *size)
    padding, kept = padding_of(convolution, size)
    out = torch.conv2d(maps, convolution.weight, convolution.bias, stride, padding, dilation)
    torch.testing.assert_close(out if kept is None else out[:, :, kept[0], kept[1]], convolution(maps))


def test_parameters_of_fused_activations() -> None:
    assert kernel_activation(nn.ReLU6()) == ("hardtanh", [0.0, 6.0])
    assert kernel_activation(nn.Hardtanh(-2.0, 3.0)) == ("hardtanh", [-2.0, 3.0])
    assert kernel_activation(None) == ("none", [])
