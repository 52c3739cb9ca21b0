"""Fold norms into convolutions and compute activations inside them, for inference in half the time on a CPU.

A BatchNorm with fixed statistics scales and shifts each channel, so the convolution before it can contain it; and
oneDNN's convolutions apply an activation before their output leaves the cache (`benchmarks/prefix_backends.py`).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from regraft.models.cpu import patterns
from regraft.models.several_backbones import SeveralBackbones
from regraft.models.staged import StagedNetwork, StageOutput

#: Largest difference from the original model, as a share of the largest activation.
_TOLERANCE = 1e-3


_Network = TypeVar("_Network", bound=StagedNetwork)


def fold_inference(model: _Network, boundary: int, *, fuse: bool = True) -> _Network:
    """Copy a model with norms and, on a CPU, activations below a boundary folded into the convolutions before them.

    One forward pass shows which convolution feeds which norm and activation. If the result changes the activations at
    the boundary by more than rounding (because another module reads a convolution's output too), only the norms are
    folded (as without `fuse`); if that changes them too, or there is nothing to fold, the model itself is returned. Of
    several backbones each is folded, and checked, for itself.
    """
    if isinstance(model.backbone, SeveralBackbones):
        return _fold_each(model, fuse=fuse) if boundary else model
    pixels = patterns.sample_pixels(model)
    was_training = model.training
    model.eval()
    try:
        chains = patterns.find_chains(model, pixels, boundary)
        fuse &= patterns.has_fused_kernel(model.mean.device, torch.float32)
        expected = _activations(model, pixels, boundary)
        for with_activations in (True, False) if fuse else (False,):
            folded = _fold(model, chains, fuse=with_activations)
            try:
                if folded is not None and all(map(_is_close, _activations(folded, pixels, boundary), expected)):
                    return folded
            except RuntimeError:  # a build of PyTorch may lack the kernel for such a layer
                if not with_activations:
                    raise
    finally:
        model.train(was_training)
    return model


def keeps_activations(folded: StagedNetwork, model: StagedNetwork, boundary: int) -> bool:
    """Whether a folded copy has the model's activations at a lower boundary, too, up to rounding.

    It has others where a norm above the boundary is folded into a convolution below it.
    """
    pixels = patterns.sample_pixels(model)
    return all(map(_is_close, _activations(folded, pixels, boundary), _activations(model, pixels, boundary)))


def _fold_each(model: _Network, *, fuse: bool) -> _Network:
    folded = copy.deepcopy(model)
    assert isinstance(folded.backbone, SeveralBackbones)
    for index, member in enumerate(folded.backbone.networks()):
        folded.backbone.members[index] = fold_inference(member, len(member.stages), fuse=fuse)
    return folded


def _activations(model: StagedNetwork, pixels: torch.Tensor, boundary: int) -> StageOutput:
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        return model.activations(pixels, boundary)


def _is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return not expected.numel() or bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _fold(model: _Network, chains: list[patterns.Chain], *, fuse: bool) -> _Network | None:
    """A copy with folded norms and, if `fuse`, activations inside convolutions; None if there is nothing to fold."""
    folded, changed = copy.deepcopy(model), False
    modules: dict[str, Any] = dict(folded.backbone.named_modules())
    for chain in chains:
        convolution: Any = modules[chain.convolution]
        activation = patterns.find_activation(chain, modules)
        if chain.norm:
            norm = modules[chain.norm]
            fused = fuse_conv_bn_eval(convolution, norm)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            norm.forward = nn.Sequential(*patterns.modules_after_norm(norm)).forward
            changed = True
        if fuse and (activation or chain.norm) and patterns.has_known_padding(convolution):
            convolution.forward = _FusedForward(convolution, activation)
            if activation:
                activation.forward = nn.Identity().forward
            changed = True
    folded.to(memory_format=torch.channels_last)  # folded weights have the default format
    return folded if changed else None


class _FusedForward:
    """A convolution and the activation after it in one oneDNN kernel; the bias, with the norm, stays in float32.

    Weights are kept in the kernel's own order alone; in another one it would reorder them at each call.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        self.convolution = convolution
        self.unfused = convolution.forward, (activation or nn.Identity()).forward
        self.name, self.parameters = patterns.kernel_activation(activation)
        self.packed: dict[torch.dtype, torch.Tensor] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        convolution = self.convolution
        precision = patterns.autocast_precision(inputs)
        if not patterns.has_fused_kernel(inputs.device, precision):
            if (exact := self.packed.pop(torch.float32, None)) is not None:
                convolution.weight = nn.Parameter(exact.to_dense().to(convolution.weight), requires_grad=False)
            convolve, activate = self.unfused
            unfused: torch.Tensor = activate(convolve(inputs))
            return unfused
        padding, kept = patterns.padding_of(convolution, inputs.shape[2:])
        geometry = padding, convolution.stride, convolution.dilation, convolution.groups
        if precision not in self.packed:
            self._pack(precision, *geometry, inputs.shape)
        maps: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs.to(precision), self.packed[precision], convolution.bias, *geometry, self.name, self.parameters, ""
        )
        return maps if kept is None else maps[:, :, kept[0], kept[1]].contiguous(memory_format=torch.channels_last)

    def _pack(self, precision: torch.dtype, *geometry: object) -> None:
        """Reorder the weights for maps of this size; float32 comes first, in `fold_inference`'s comparison."""
        exact = self.packed.get(torch.float32)
        weight = self.convolution.weight.detach() if exact is None else exact.to_dense()
        self.packed[precision] = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            weight.to(precision).to_mkldnn(), *geometry
        )
        if precision == torch.float32:
            self.convolution.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
