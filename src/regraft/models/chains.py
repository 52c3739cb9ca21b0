"""Which convolution feeds which norm and activation, and what oneDNN can do with them in one kernel.

Enters: a `Classifier` and pixels. Leaves: chains of a convolution, the norm that reads it and the activation that reads
that, which `folding` makes one operation of for inference and `fusing` for training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from regraft.models.classifier import Classifier


@dataclass
class Chain:
    """Names of a convolution, and of the norm and the activation that read what it gave and nothing changed since."""

    convolution: str
    norm: str = ""
    activation: str = ""


#: oneDNN's names of activations, and their numbers.
FUSIBLE: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.Hardtanh: lambda part: ("hardtanh", [part.min_val, part.max_val]),
    nn.Hardswish: lambda _: ("hardswish", []),
    nn.SiLU: lambda _: ("swish", []),
}


def no_activation(_: nn.Module) -> tuple[str, list[float]]:
    """Of none, as in `FUSIBLE`."""
    return "none", []


NORMS = (nn.BatchNorm2d, BatchNormAct2d)  # timm's holds an activation of its own


def some_pixels(model: Classifier) -> torch.Tensor:
    """Two images of noise, (2, 3, S, S), always the same, to see on them what a network does."""
    size = model.preprocessing.size
    noise = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    return noise.to(model.mean.device)


def after_norm(norm: nn.Module) -> list[nn.Module]:
    """What else a norm's module does afterwards: timm's holds an activation."""
    return [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]


def find_chains(model: Classifier, pixels: torch.Tensor, boundary: int) -> list[Chain]:
    """The chains below a boundary, of all convolutions that run once; what runs more often after one is in none."""
    ran: list[str] = []
    part_of: dict[str, Chain] = {}
    #: What an output is of, the output (kept, so that no identity is used twice), and its version when it was made.
    made: dict[int, tuple[Chain, torch.Tensor, int]] = {}
    handles = []

    def before(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ran.append(name)
            chain, tensor, version = made.get(id(inputs[0]), (None, inputs[0], 0))
            if isinstance(module, nn.Conv2d):
                part_of[name] = Chain(name)
            elif chain is not None and tensor._version == version:
                setattr(chain, "norm" if isinstance(module, NORMS) else "activation", name)
                part_of[name] = chain

        return hook

    def after(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            if name in part_of:
                made[id(output)] = (part_of[name], output, output._version)

        return hook

    for name, module in model.backbone.named_modules():
        is_norm = type(module) in NORMS and module.running_mean is not None
        if isinstance(module, nn.Conv2d) or is_norm or type(module) in FUSIBLE:
            handles.append(module.register_forward_pre_hook(before(name)))
        if isinstance(module, nn.Conv2d) or is_norm:
            handles.append(module.register_forward_hook(after(name)))
    try:
        with torch.no_grad():  # tensors of inference mode have no versions
            model.activations(pixels, boundary)
    finally:
        for handle in handles:
            handle.remove()
    chains = list({id(chain): chain for chain in part_of.values()}.values())
    for chain in chains:
        chain.activation = chain.activation if ran.count(chain.activation) == 1 else ""
    return [chain for chain in chains if ran.count(chain.convolution) == 1 and ran.count(chain.norm) <= 1]


def is_plain(convolution: nn.Conv2d) -> bool:
    """Whether `padding_of` can tell its padding."""
    same = type(convolution) is Conv2dSame
    return same or (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def has_operation(device: torch.device, precision: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN's operation of a convolution and what follows, for this processor and precision."""
    if device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision == torch.float32 or (precision == torch.bfloat16 and supported)


def padding_of(convolution: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], tuple[slice, slice] | None]:
    """Zeros on both sides of each axis, and which places of the output are wanted, None for all.

    TensorFlow's padding may have one zero more after the maps than before them, which oneDNN's operation cannot. A
    stride more on both sides gives the same places, with another one before them; that is cheaper than to copy the
    maps into larger ones.
    """
    if not isinstance(convolution, Conv2dSame):
        return [int(zeros) for zeros in convolution.padding], None
    paddings, wanted = [], []
    for axis, length in enumerate(size):
        stride, reach = convolution.stride[axis], (convolution.kernel_size[axis] - 1) * convolution.dilation[axis] + 1
        count = -(-length // stride)
        zeros = max((count - 1) * stride + reach - length, 0)
        paddings.append(zeros // 2 + zeros % 2 * stride)
        wanted.append(slice(zeros % 2, zeros % 2 + count))
    return paddings, None if wanted[0].start == wanted[1].start == 0 else (wanted[0], wanted[1])
