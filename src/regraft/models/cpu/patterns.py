"""Find the convolutions, norms and activations of a network that oneDNN can compute in one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.models.staged import StagedNetwork
from regraft.quick_imports import quick_imports

with quick_imports():
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.norm_act import BatchNormAct2d


@dataclass
class Chain:
    """Names of a convolution, its norm and its activation; "" where absent or where the maps change in between."""

    convolution: str
    norm: str = ""
    activation: str = ""


#: Activations that oneDNN fuses, with its names and parameters.
_FUSIBLE: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.Hardtanh: lambda module: ("hardtanh", [module.min_val, module.max_val]),
    nn.Hardswish: lambda _: ("hardswish", []),
    nn.SiLU: lambda _: ("swish", []),
}
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)  # timm's contains an activation


def sample_pixels(model: StagedNetwork) -> torch.Tensor:
    """Two images of noise, (2, C, H, W), always the same, on which transformed networks are compared."""
    noise = torch.randint(0, 256, (2, *model.preprocessing.input_shape), generator=torch.Generator().manual_seed(0))
    return noise.to(model.mean.device)


def modules_after_norm(norm: nn.Module) -> list[nn.Module]:
    """Modules that a norm contains and runs after itself: timm's contains an activation."""
    return [module for module in (getattr(norm, "drop", None), getattr(norm, "act", None)) if module is not None]


def find_activation(chain: Chain, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The activation of a chain, inside its norm or after it; None if there is none that oneDNN fuses."""
    inside = modules_after_norm(modules[chain.norm]) if chain.norm else []
    activation = next((module for module in inside if not isinstance(module, nn.Identity)), None)
    if activation is None and chain.activation:
        activation = modules[chain.activation]
    return activation if type(activation) in _FUSIBLE else None


def kernel_activation(activation: nn.Module | None) -> tuple[str, list[float]]:
    """OneDNN's name and parameters of an activation; `none` for None."""
    return ("none", []) if activation is None else _FUSIBLE[type(activation)](activation)


def find_chains(model: StagedNetwork, pixels: torch.Tensor, boundary: int) -> list[Chain]:
    """The chains below a boundary whose convolution and norm run once; an activation that runs again is left out."""
    ran: list[str] = []
    chain_of: dict[str, Chain] = {}
    #: By the identity of an output: its chain, the output (kept, so that no identity is reused), and its version.
    outputs: dict[int, tuple[Chain, torch.Tensor, int]] = {}
    handles = []

    def before(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ran.append(name)
            chain, tensor, version = outputs.get(id(inputs[0]), (None, inputs[0], 0))
            if isinstance(module, nn.Conv2d):
                chain_of[name] = Chain(name)
            elif chain is not None and tensor._version == version:
                setattr(chain, "norm" if isinstance(module, _NORMS) else "activation", name)
                chain_of[name] = chain

        return hook

    def after(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            if name in chain_of:
                outputs[id(output)] = (chain_of[name], output, output._version)

        return hook

    for name, module in model.backbone.named_modules():
        is_norm = type(module) in _NORMS and module.running_mean is not None
        if isinstance(module, nn.Conv2d) or is_norm or type(module) in _FUSIBLE:
            handles.append(module.register_forward_pre_hook(before(name)))
        if isinstance(module, nn.Conv2d) or is_norm:
            handles.append(module.register_forward_hook(after(name)))
    try:
        with torch.no_grad():  # tensors of inference mode have no versions
            model.activations(pixels, boundary)
    finally:
        for handle in handles:
            handle.remove()
    chains = list({id(chain): chain for chain in chain_of.values()}.values())
    for chain in chains:
        chain.activation = chain.activation if ran.count(chain.activation) == 1 else ""
    return [chain for chain in chains if ran.count(chain.convolution) == 1 and ran.count(chain.norm) <= 1]


def has_known_padding(convolution: nn.Conv2d) -> bool:
    """Whether `padding_of` supports the convolution."""
    plain = type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros"
    return type(convolution) is Conv2dSame or (plain and not isinstance(convolution.padding, str))


def has_fused_kernel(device: torch.device, precision: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN's fused convolution for this device and precision."""
    if device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision == torch.float32 or (precision == torch.bfloat16 and supported)


def autocast_precision(maps: torch.Tensor) -> torch.dtype:
    """The precision that autocast requests on a CPU, else that of the maps."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype


def padding_of(convolution: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], tuple[slice, slice] | None]:
    """Zeros on both sides of each axis, and the slices of the output to keep; None for all of it.

    TensorFlow's padding may have one zero more after the maps than before, which oneDNN does not support. One more
    stride of zeros on both sides gives the same output after one additional position, which is cheaper than copying
    the maps into larger ones.
    """
    if not isinstance(convolution, Conv2dSame):
        return [int(zeros) for zeros in convolution.padding], None
    paddings, kept = [], []
    for axis, length in enumerate(size):
        stride, extent = convolution.stride[axis], (convolution.kernel_size[axis] - 1) * convolution.dilation[axis] + 1
        count = -(-length // stride)
        zeros = max((count - 1) * stride + extent - length, 0)
        paddings.append(zeros // 2 + zeros % 2 * stride)
        kept.append(slice(zeros % 2, zeros % 2 + count))
    return paddings, None if kept[0].start == kept[1].start == 0 else (kept[0], kept[1])
