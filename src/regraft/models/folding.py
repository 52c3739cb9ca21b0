"""Norms folded into the convolutions before them, and activations computed in them, for inference.

Enters: a `Classifier` in inference mode. Leaves: a copy that computes the same in half the time on a CPU
(`benchmarks/engines.py`): a BatchNorm whose statistics are fixed is a scale and a shift of each channel, which the
weights and biases of the convolution before it can carry; and oneDNN's convolutions apply an activation to what they
have just computed, before it leaves the processor's cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from regraft.models.classifier import Classifier, Hidden

#: Largest difference from the unfolded model, as a share of the largest activation.
_TOLERANCE = 1e-3


def folded(model: Classifier, boundary: int, *, fuse: bool = True) -> Classifier:
    """A copy whose norms and, on a CPU, activations below a boundary are part of the convolutions before them.

    Which convolution feeds which norm and activation is seen in one pass. Where that changes the activations at the
    boundary by more than rounding (a convolution whose output is read elsewhere too), only the norms are folded; where
    that does too, or there is nothing to fold, the model itself is returned.

    Args:
        model: It is left as it is; the copy is in inference mode.
        boundary: Index of the first stage that is left alone.
        fuse: Whether activations are put into convolutions at all.
    """
    size = model.preprocessing.size
    noise = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    noise = noise.to(model.mean.device)
    was_training = model.training
    model.eval()
    try:
        chains = _chains(model, noise, boundary)
        fuse &= model.mean.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        expected = _exact(model, noise, boundary)
        for activations in (True, False) if fuse else (False,):
            fast = _shortened(model, chains, fuse=activations)
            try:
                if fast is not None and all(map(_is_close, _exact(fast, noise, boundary), expected)):
                    return fast
            except RuntimeError:  # the fused operation is PyTorch's own affair: a build may have it for no such layer
                if not activations:
                    raise
    finally:
        model.train(was_training)
    return model


def _exact(model: Classifier, pixels: torch.Tensor, boundary: int) -> Hidden:
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        return model.activations(pixels, boundary)


def _is_close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return not expected.numel() or bool((got - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@dataclass
class _Chain:
    """Names of a convolution, and of the norm and the activation that read what it gave and nothing changed since."""

    convolution: str
    norm: str = ""
    activation: str = ""


#: oneDNN's names of activations, and their numbers.
_FUSIBLE: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.ReLU: lambda _: ("relu", []),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0]),
    nn.Hardtanh: lambda part: ("hardtanh", [part.min_val, part.max_val]),
    nn.Hardswish: lambda _: ("hardswish", []),
    nn.SiLU: lambda _: ("swish", []),
}
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)  # timm's holds an activation of its own


def _chains(model: Classifier, pixels: torch.Tensor, boundary: int) -> list[_Chain]:
    """Of all convolutions that run once; a norm or an activation that runs more often is in none."""
    ran: list[str] = []
    part_of: dict[str, _Chain] = {}
    #: What an output is of, the output (kept, so that no identity is used twice), and its version when it was made.
    made: dict[int, tuple[_Chain, torch.Tensor, int]] = {}
    handles = []

    def before(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ran.append(name)
            chain, tensor, version = made.get(id(inputs[0]), (None, inputs[0], 0))
            if isinstance(module, nn.Conv2d):
                part_of[name] = _Chain(name)
            elif chain is not None and tensor._version == version:
                setattr(chain, "norm" if isinstance(module, _NORMS) else "activation", name)
                part_of[name] = chain

        return hook

    def after(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            if name in part_of:
                made[id(output)] = (part_of[name], output, output._version)

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
    chains = list({id(chain): chain for chain in part_of.values()}.values())
    for chain in chains:
        chain.activation = chain.activation if ran.count(chain.activation) == 1 else ""
    return [chain for chain in chains if ran.count(chain.convolution) == 1 and ran.count(chain.norm) <= 1]


def _shortened(model: Classifier, chains: list[_Chain], *, fuse: bool) -> Classifier | None:
    """A copy with the norms folded and, where asked, the activations in the convolutions; None if it had neither."""
    fast, changed = copy.deepcopy(model), False
    modules: dict[str, Any] = dict(fast.backbone.named_modules())
    for chain in chains:
        convolution: Any = modules[chain.convolution]
        activation: Any = modules[chain.activation] if chain.activation else None
        if chain.norm:
            norm = modules[chain.norm]
            fused = fuse_conv_bn_eval(convolution, norm)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            # What else the norm's module does stays: timm's holds an activation.
            rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
            norm.forward = nn.Sequential(*rest).forward  # of this one module alone
            activation = next((part for part in rest if not isinstance(part, nn.Identity)), activation)
            changed = True
        if fuse and type(activation) in _FUSIBLE and _is_plain(convolution):
            convolution.forward = _WithActivation(convolution, activation)
            activation.forward = nn.Identity().forward
            changed = True
    fast.to(memory_format=torch.channels_last)  # the fold gives weights in the default format
    return fast if changed else None


def _is_plain(convolution: nn.Conv2d) -> bool:
    same = type(convolution) is Conv2dSame
    return same or (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


class _WithActivation:
    """The forward of a convolution whose output goes through an activation, in one kernel of oneDNN.

    PyTorch's own compiler calls the same operation.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        self.convolution, self.apart = convolution, (convolution.forward, activation.forward)
        self.name, self.numbers = _FUSIBLE[type(activation)](activation)
        self.weights: dict[torch.dtype, list[torch.Tensor | None]] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (n, C, H, W) to maps, in the precision that autocast asks for."""
        convolution = self.convolution
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else pixels.dtype
        if not _has_kernel(precision):
            convolve, activate = self.apart
            unfused: torch.Tensor = activate(convolve(pixels))
            return unfused
        if precision not in self.weights:
            both = (convolution.weight, convolution.bias)
            self.weights[precision] = [None if part is None else part.detach().to(precision) for part in both]
        weight, bias = self.weights[precision]
        padding, places = _padding(convolution, pixels.shape[2:])
        maps: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(pixels.to(precision), weight, bias, padding, convolution.stride, convolution.dilation),
            *(convolution.groups, self.name, self.numbers, ""),
        )
        return (
            maps if places is None else maps[:, :, places[0], places[1]].contiguous(memory_format=torch.channels_last)
        )


def _has_kernel(precision: torch.dtype) -> bool:
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision == torch.float32 or (precision == torch.bfloat16 and supported)


def _padding(convolution: nn.Conv2d, size: Sequence[int]) -> tuple[list[int], tuple[slice, slice] | None]:
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
