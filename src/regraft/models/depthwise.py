"""Gradients of depthwise convolutions in bfloat16 on a CPU, many times faster.

Enters: a block of code that trains. Leaves: the same gradients. For kernels above 3 x 3 and for strides, the library
under PyTorch has no fast bfloat16 kernel for these gradients and falls back to a plain loop (the input's gradient of a
5 x 5 convolution of stride 2: 112 ms instead of 10). Here the input's gradient is computed in float32 where there are
strides, and the weight's in pieces of 3 x 3, for which there is one; `benchmarks/depthwise.py` measures both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class FastDepthwise(TorchFunctionMode):
    """A context in which depthwise convolutions get their gradients in the faster way."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, or for a convolution that this is about, the same with other gradients."""
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_slow(*args):
            return _Depthwise.apply(*args)
        return func(*args, **(kwargs or {}))


def _is_slow(
    inputs: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    large_or_strided = weight.shape[-1] > 3 or weight.shape[-2] > 3 or max(stride) > 1
    return (
        groups == len(weight) == inputs.shape[1] > 1
        and large_or_strided
        and not isinstance(padding, str)
        and inputs.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and (inputs.requires_grad or weight.requires_grad)
    )


class _Depthwise(torch.autograd.Function):
    """conv2d, whose gradients that would be slow are computed otherwise."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> Any:
        inputs = inputs.bfloat16()
        ctx.save_for_backward(inputs, weight)
        ctx.rest = rest
        return torch.conv2d(inputs, weight, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.rest

        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_input, grad_weight, grad_bias = None, None, None
        if wants_input:
            dtype = torch.float32 if max(stride) > 1 else torch.bfloat16
            values = [tensor.to(dtype, memory_format=torch.channels_last) for tensor in (grad, inputs, weight)]
            grad_input = torch.ops.aten.convolution_backward(
                *values, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
            )[0].to(inputs.dtype)
        if wants_weight:
            grad_weight = _weight_gradient(inputs, grad, weight.shape, stride, padding, dilation).to(weight.dtype)
        if wants_bias:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _weight_gradient(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of the weight (C, 1, H, W), put together from 3 x 3 pieces.

    The gradient at some taps is that of a kernel of these taps alone, over the input shifted by as much, and for
    3 x 3 there is a fast kernel.
    """
    (top, left), channels = padding, shape[0]
    padded = torch.nn.functional.pad(inputs, (left, left, top, top))
    grad = grad.contiguous(memory_format=torch.channels_last)
    taps = [min(3, length) for length in shape[2:]]
    # How far a piece reaches over the padded input, along each axis.
    reach = [
        (size - 1) * step + (tap - 1) * apart + 1
        for size, step, tap, apart in zip(grad.shape[2:], stride, taps, dilation, strict=True)
    ]
    out = torch.empty(shape, dtype=torch.float32)
    for i, j in itertools.product(*(_starts(length) for length in shape[2:])):
        rows, columns = i * dilation[0], j * dilation[1]
        piece = padded[:, :, rows : rows + reach[0], columns : columns + reach[1]]
        out[:, :, i : i + 3, j : j + 3] = torch.ops.aten.convolution_backward(
            grad, piece.contiguous(memory_format=torch.channels_last), inputs.new_empty(channels, 1, *taps), None,
            stride, [0, 0], dilation, False, [0, 0], channels, [False, True, False],
        )[1]  # fmt: skip
    return out


def _starts(length: int) -> list[int]:
    """Where pieces of three taps begin that cover `length` taps."""
    return sorted({*range(0, max(1, length - 2), 3), max(0, length - 3)})
