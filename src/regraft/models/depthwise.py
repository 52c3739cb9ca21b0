"""Gradients of depthwise convolutions in bfloat16 on a CPU, many times faster.

Enters: a block of code that trains. Leaves: the same gradients. For kernels above 3 x 3 and for strides, the library
under PyTorch has no bfloat16 kernel for these gradients and falls back to a plain loop (the input's gradient of a
5 x 5 convolution of stride 2: 112 ms instead of 10). Here they are computed in float32, from the same bfloat16 values;
`benchmarks/depthwise.py` measures both.
"""

from __future__ import annotations

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
    """conv2d, whose gradients that would be slow are computed in float32."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> Any:
        inputs = inputs.bfloat16()
        ctx.save_for_backward(inputs, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.rest = rest
        return torch.conv2d(inputs, weight, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.rest

        def gradients(dtype: torch.dtype, mask: list[bool]) -> Any:
            values = [tensor.to(dtype, memory_format=torch.channels_last) for tensor in (grad, inputs, weight)]
            return torch.ops.aten.convolution_backward(
                *values, ctx.bias_sizes,
                stride, padding, dilation, False, [0, 0], groups, mask,
            )  # fmt: skip

        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        strided, large = max(stride) > 1, max(weight.shape[-2:]) > 3
        grad_input, grad_weight, grad_bias = None, None, None
        if wants_input:
            grad_input = gradients(torch.float32 if strided else torch.bfloat16, [True, False, False])[0]
            grad_input = grad_input.to(inputs.dtype)
        if wants_weight or wants_bias:
            dtype = torch.float32 if large else torch.bfloat16
            _, grad_weight, grad_bias = gradients(dtype, [False, wants_weight, wants_bias])
            grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
            grad_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None, None
