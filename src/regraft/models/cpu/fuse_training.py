"""Train convolutions with their norms and activations inside them, on a CPU.

Input: a `Classifier` with trainable stages. Output: the same outputs and gradients in four fifths of the time
(`benchmarks/gradients.py`). The statistics of a BatchNorm are fixed during training too, so it scales and shifts each
channel, and the weights and bias of the convolution before it can contain it. They are rescaled in every step, and
their gradients lead to the norm's own parameters: one pass over the weights instead of four over the maps. A clamp,
whose gradient follows from its output, is also computed inside the convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from regraft.models.classifier import Classifier
from regraft.models.cpu import patterns
from regraft.models.cpu.conv_backward import gradients_of_convolution
from regraft.models.staged import StageOutput

#: Largest relative differences, in the norm of all values, of outputs and of gradients from the unfused modules. The
#: gradients' is larger, because rounding changes whether a clamp passes a gradient.
_TOLERANCES = (1e-3, 1e-2)
#: Activations whose gradient follows from their output.
_CLAMPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)

Forward = Callable[..., Any]


class FusedTraining:
    """A context in which trainable stages run fused, in training steps and in the predictions between them.

    It does nothing if fusing would change an output or a gradient by more than rounding (because another module reads a
    convolution's output too, or training from scratch changes the statistics), or if there is nothing to fuse. The
    parameters stay the same objects.
    """

    def __init__(self, model: Classifier, boundary: int, precision: torch.dtype) -> None:
        self._forwards: list[tuple[nn.Module, Forward]] = []
        modules = (m for stage in model.stages[boundary:] for _, module in stage.modules for m in module.modules())
        norms = [module for module in modules if isinstance(module, nn.BatchNorm2d) and module.weight is not None]
        has_kernel = patterns.has_fused_kernel(model.mean.device, precision)
        if not has_kernel or model.is_from_scratch or not any(norm.weight.requires_grad for norm in norms):
            return
        was_training, pixels = model.training, patterns.sample_pixels(model)
        model.eval()
        try:
            with torch.no_grad():
                inputs = model.activations(pixels, boundary)
            expected = _outputs_and_gradients(model, inputs, boundary)
            self._forwards = _fused_forwards(model, pixels)
            try:
                with self:
                    is_close = _are_close(_outputs_and_gradients(model, inputs, boundary), expected)
            except RuntimeError:  # a build of PyTorch may lack the kernel for such a layer
                is_close = False
            if not is_close:
                self._forwards = []
        finally:
            model.train(was_training)

    def __len__(self) -> int:
        return len(self._forwards)

    def __enter__(self) -> None:
        for module, forward in self._forwards:
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        for module, _forward in self._forwards:
            del module.forward


def _outputs_and_gradients(model: Classifier, inputs: StageOutput, boundary: int) -> list[torch.Tensor]:
    """Features, then the gradients of all trainable parameters of the backbone for an arbitrary loss."""
    with torch.enable_grad():
        features = model.forward_tail(inputs, boundary)
        parameters = [p for p in model.backbone.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(features.square().mean(), parameters, allow_unused=True)
    return [features.detach(), *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]


def _are_close(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether outputs (the first) and gradients (the others) are equal up to rounding."""
    for part, tolerance in zip((slice(1), slice(1, None)), _TOLERANCES, strict=True):
        pairs = list(zip(actual[part], expected[part], strict=True))
        error = sum(float((one - other).square().sum()) for one, other in pairs)
        if not error <= tolerance**2 * sum(float(other.square().sum()) for _, other in pairs):
            return False
    return True


def _fused_forwards(model: Classifier, pixels: torch.Tensor) -> list[tuple[nn.Module, Forward]]:
    """The new forward of each module in a trainable chain."""
    modules: dict[str, Any] = dict(model.backbone.named_modules())
    forwards: list[tuple[nn.Module, Forward]] = []
    for chain in patterns.find_chains(model, pixels, len(model.stages)):
        convolution, norm = modules[chain.convolution], modules[chain.norm] if chain.norm else None
        can_fuse = convolution.weight.requires_grad and patterns.has_known_padding(convolution)
        if norm is None or norm.weight is None or not can_fuse:
            continue
        activation = patterns.find_activation(chain, modules)
        clamp = activation if isinstance(activation, _CLAMPS) else None
        forwards.append((convolution, _FusedForward(convolution, norm, clamp)))
        forwards.append((norm, nn.Sequential(*patterns.modules_after_norm(norm)).forward))
        if clamp is not None:
            forwards.append((clamp, nn.Identity().forward))
    return forwards


class _FusedForward:
    """The forward of a convolution with the norm after it, and the clamp after that, if any."""

    def __init__(self, convolution: nn.Conv2d, norm: Any, clamp: nn.Module | None) -> None:
        self.convolution, self.norm, self.activation = convolution, norm, patterns.kernel_activation(clamp)

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        convolution, norm = self.convolution, self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if convolution.bias is not None:
            shift = shift + convolution.bias * scale
        weight = convolution.weight * scale[:, None, None, None]
        padding, kept = patterns.padding_of(convolution, maps.shape[2:])
        geometry = (padding, list(convolution.stride), list(convolution.dilation), convolution.groups)
        precision = patterns.autocast_precision(maps)
        out: torch.Tensor = _FusedConvolution.apply(maps, weight, shift, precision, geometry, *self.activation)
        return out if kept is None else out[:, :, kept[0], kept[1]]


class _FusedConvolution(torch.autograd.Function):
    """A convolution and a clamp in one oneDNN kernel."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *settings: Any
    ) -> torch.Tensor:
        precision, geometry, name, parameters = settings
        inputs, weight = inputs.to(precision), weight.to(precision)
        kernel = torch.ops.mkldnn._convolution_pointwise
        out: torch.Tensor = kernel(inputs, weight, bias, *geometry, name, parameters, "")
        ctx.save_for_backward(inputs, weight, *([out] if name != "none" else []))
        ctx.geometry, ctx.parameters = geometry, parameters
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight, *out = ctx.saved_tensors
        padding, stride, dilation, groups = ctx.geometry
        grad = grads[0].to(inputs.dtype)
        if out:
            clamp_backward = torch.ops.aten.hardtanh_backward if ctx.parameters else torch.ops.aten.threshold_backward
            grad = clamp_backward(grad, out[0], *(ctx.parameters or [0.0]))
        wanted = ctx.needs_input_grad[:3]
        gradients = gradients_of_convolution(grad, inputs, weight, wanted, stride, padding, dilation, groups)
        return *gradients, None, None, None, None
