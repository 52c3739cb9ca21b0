"""Norms folded into the convolutions before them, and activations computed in them, for inference.

Enters: a `Classifier` in inference mode. Leaves: a copy that computes the same in half the time on a CPU
(`benchmarks/engines.py`): a BatchNorm whose statistics are fixed is a scale and a shift of each channel, which the
weights and biases of the convolution before it can carry; and oneDNN's convolutions apply an activation to what they
have just computed, before it leaves the processor's cache.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from regraft.models.chains import (
    FUSIBLE,
    Chain,
    after_norm,
    find_chains,
    has_operation,
    is_plain,
    no_activation,
    padding_of,
    some_pixels,
)
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
    noise = some_pixels(model)
    was_training = model.training
    model.eval()
    try:
        chains = find_chains(model, noise, boundary)
        fuse &= has_operation(model.mean.device, torch.float32)
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


def _shortened(model: Classifier, chains: list[Chain], *, fuse: bool) -> Classifier | None:
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
            rest = after_norm(norm)
            norm.forward = nn.Sequential(*rest).forward  # of this one module alone
            activation = next((part for part in rest if not isinstance(part, nn.Identity)), activation)
            changed = True
        activation = activation if type(activation) in FUSIBLE else None
        if fuse and (activation or chain.norm) and is_plain(convolution):
            convolution.forward = _InOneKernel(convolution, activation or nn.Identity())
            if activation:
                activation.forward = nn.Identity().forward
            changed = True
    fast.to(memory_format=torch.channels_last)  # the fold gives weights in the default format
    return fast if changed else None


class _InOneKernel:
    """The forward of a convolution and of the activation behind it, if there is one, in one kernel of oneDNN.

    PyTorch's own compiler calls the same operation. The bias, in which a folded norm is, stays in float32.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        self.convolution, self.apart = convolution, (convolution.forward, activation.forward)
        self.name, self.numbers = FUSIBLE.get(type(activation), no_activation)(activation)
        self.weights: dict[torch.dtype, torch.Tensor] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (n, C, H, W) to maps, in the precision that autocast asks for."""
        convolution = self.convolution
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else pixels.dtype
        if not has_operation(pixels.device, precision):
            convolve, activate = self.apart
            unfused: torch.Tensor = activate(convolve(pixels))
            return unfused
        if precision not in self.weights:
            self.weights[precision] = convolution.weight.detach().to(precision)
        padding, places = padding_of(convolution, pixels.shape[2:])
        maps: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(
                pixels.to(precision),
                self.weights[precision],
                convolution.bias,
                padding,
                convolution.stride,
                convolution.dilation,
            ),
            *(convolution.groups, self.name, self.numbers, ""),
        )
        return (
            maps if places is None else maps[:, :, places[0], places[1]].contiguous(memory_format=torch.channels_last)
        )
