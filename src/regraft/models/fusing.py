"""Convolutions that train with their norms and activations in them, on a CPU.

Enters: a `Classifier`, some stages of which train. Leaves: the same outputs and gradients in four fifths of the time
(`benchmarks/gradients.py`). The statistics of a BatchNorm are fixed in training, too, so that it is a scale and a shift
of each channel, which the weights and biases of the convolution before it can carry. They are scaled anew in every
step, and their gradients lead to the norm's own weights; that is a pass over the weights in place of four over the
maps. A clamp, whose gradient can be told from what it gave, is computed in the convolution as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from regraft.models.chains import (
    FUSIBLE,
    after_norm,
    find_chains,
    has_operation,
    is_plain,
    no_activation,
    padding_of,
    some_pixels,
)
from regraft.models.classifier import Classifier, Hidden
from regraft.models.gradients import gradients_of_convolution

#: Largest difference of outputs and of gradients from those of the modules one by one, as a share of the length of all
#: numbers. A clamp passes a gradient or does not, so that rounding before it can make a larger difference in these.
_TOLERANCES = (1e-3, 1e-2)
#: Activations whose gradient can be told from their output.
_CLAMPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


class FusedTraining:
    """A context in which the stages that train run fused, in steps of training and in the predictions between them.

    Where that would change an output or a gradient by more than rounding (a convolution whose output is read elsewhere
    too), or where there is nothing to fuse, it does nothing.

    Args:
        model: With the stages that train; their parameters stay where they are.
        boundary: Index of the first stage that trains.
        precision: Of the arithmetic.
    """

    def __init__(self, model: Classifier, boundary: int, precision: torch.dtype) -> None:
        """Find out what can be fused, on two images of noise."""
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
        parts = (part for stage in model.stages[boundary:] for _, whole in stage.modules for part in whole.modules())
        norms = [part for part in parts if isinstance(part, nn.BatchNorm2d) and part.weight is not None]
        if not has_operation(model.mean.device, precision) or not any(norm.weight.requires_grad for norm in norms):
            return
        was_training, noise = model.training, some_pixels(model)
        model.eval()
        try:
            with torch.no_grad():
                hidden = model.activations(noise, boundary)
            expected = _gradients(model, hidden, boundary)
            self._forwards = _fused_forwards(model, noise)
            try:
                with self:
                    got = _gradients(model, hidden, boundary)
                if not _are_close(got, expected):
                    self._forwards = []
            except RuntimeError:  # the fused operation is PyTorch's own affair: a build may have it for no such layer
                self._forwards = []
        finally:
            model.train(was_training)

    def __len__(self) -> int:
        """Modules that do something else within it."""
        return len(self._forwards)

    def __enter__(self) -> None:
        """Let modules do what was found."""
        for module, forward in self._forwards:
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        """Let them do what they did."""
        for module, _forward in self._forwards:
            del module.forward


def _gradients(model: Classifier, hidden: Hidden, boundary: int) -> list[torch.Tensor]:
    """Of all that trains in the backbone, for a loss of no meaning; and what the head reads."""
    with torch.enable_grad():
        features = model.features_from(hidden, boundary)
        wanted = [p for p in model.backbone.parameters() if p.requires_grad]
        found = torch.autograd.grad(features.square().mean(), wanted, allow_unused=True)
    return [features.detach(), *(torch.zeros(()) if one is None else one for one in found)]


def _are_close(got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether outputs (the first) and gradients (the rest) are the same up to rounding."""
    for part, tolerance in zip((slice(1), slice(1, None)), _TOLERANCES, strict=True):
        pairs = list(zip(got[part], expected[part], strict=True))
        apart = sum(float((one - other).square().sum()) for one, other in pairs)
        if not apart <= tolerance**2 * sum(float(other.square().sum()) for _, other in pairs):
            return False
    return True


def _fused_forwards(model: Classifier, noise: torch.Tensor) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """The forward that each module of the chains that train is to have."""
    modules: dict[str, Any] = dict(model.backbone.named_modules())
    forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
    for chain in find_chains(model, noise, len(model.stages)):
        convolution, norm = modules[chain.convolution], modules.get(chain.norm) if chain.norm else None
        if norm is None or norm.weight is None or not convolution.weight.requires_grad or not is_plain(convolution):
            continue
        rest = after_norm(norm)
        activation = next((part for part in rest if not isinstance(part, nn.Identity)), None)
        if activation is None and chain.activation:
            activation = modules[chain.activation]
        clamp = activation if isinstance(activation, _CLAMPS) and type(activation) in FUSIBLE else None
        forwards.append((convolution, _Chained(convolution, norm, clamp)))
        forwards.append((norm, nn.Sequential(*rest).forward))
        if clamp is not None:
            forwards.append((clamp, nn.Identity().forward))
    return forwards


class _Chained:
    """The forward of a convolution with the norm, and the clamp if there is one, that come after it."""

    def __init__(self, convolution: nn.Conv2d, norm: Any, clamp: nn.Module | None) -> None:
        self.convolution, self.norm, self.clamp = convolution, norm, clamp
        self.name, self.numbers = no_activation(norm) if clamp is None else FUSIBLE[type(clamp)](clamp)

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, C, H, W) to maps, in the precision that autocast asks for."""
        convolution, norm = self.convolution, self.norm
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        weight = convolution.weight * scale[:, None, None, None]
        padding, places = padding_of(convolution, maps.shape[2:])
        how = (padding, list(convolution.stride), list(convolution.dilation), convolution.groups)
        out: torch.Tensor = _Fused.apply(maps, weight, shift, precision, how, self.name, self.numbers)
        return out if places is None else out[:, :, places[0], places[1]]


class _Fused(torch.autograd.Function):
    """A convolution and a clamp in one kernel of oneDNN."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        precision: torch.dtype,
        how: tuple[list[int], list[int], list[int], int],
        name: str,
        numbers: list[float],
    ) -> torch.Tensor:
        inputs, weight = inputs.to(precision), weight.to(precision)
        padding, stride, dilation, groups = how
        out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs, weight, bias, padding, stride, dilation, groups, name, numbers, ""
        )
        ctx.save_for_backward(inputs, weight, *([out] if name != "none" else []))
        ctx.how, ctx.numbers = how, numbers
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight, *out = ctx.saved_tensors
        padding, stride, dilation, groups = ctx.how
        grad = grads[0].to(inputs.dtype)
        if out:
            through = torch.ops.aten.hardtanh_backward if ctx.numbers else torch.ops.aten.threshold_backward
            grad = through(grad, out[0], *(ctx.numbers or [0.0]))
        found = gradients_of_convolution(
            grad, inputs, weight, ctx.needs_input_grad[:3], stride, padding, dilation, groups
        )
        return *found, None, None, None, None
