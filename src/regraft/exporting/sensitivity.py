"""Which layers suffer most from 8 bits: each by itself, computed as if it alone had them.

Enters: a `DeployedNetwork` and images. Leaves: names of the backbone's layers, the most sensitive first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from regraft.exporting.network import DeployedNetwork

_LEVELS = 255


def sensitive_layers(
    network: DeployedNetwork, images: np.ndarray, tell: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Order the backbone's convolutions and dense layers by what 8 bits do to the answers.

    The weights of one layer are rounded to 8 bits, symmetric and a channel at a time, and what enters it to 8 bits
    between its least and its most value on these images, as the formats do it.

    Args:
        network: Not changed.
        images: uint8 (N, S, S, 3), some tens.
        tell: Called with how many layers are done, and of how many.

    Returns:
        Names as in PyTorch, beginning with "backbone.".
    """
    layers = {
        name: module
        for name, module in network.model.named_modules()
        if name.startswith("backbone") and isinstance(module, (nn.Conv2d, nn.Linear))
    }
    pixels = torch.from_numpy(images)
    harm = {}
    with torch.inference_mode():
        exact = network(pixels)
        for number, (name, layer) in enumerate(layers.items(), start=1):
            with _in_eight_bits(layer):
                harm[name] = float((network(pixels) - exact).abs().mean().nan_to_num(nan=float("inf")))
            tell(number, len(layers))
    return sorted(harm, key=lambda name: -harm[name])


@contextmanager
def _in_eight_bits(layer: nn.Module) -> Iterator[None]:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / (_LEVELS // 2)
    rounded = (weight / scale).round() * scale
    handle = layer.register_forward_pre_hook(lambda _module, inputs: (_rounded(inputs[0]), *inputs[1:]))
    kept = weight.clone()
    weight.copy_(rounded)
    try:
        yield
    finally:
        handle.remove()
        weight.copy_(kept)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
    step = ((high - low) / _LEVELS).clamp_min(1e-12)
    return ((values - low) / step).round() * step + low
