"""Gradients of convolutions in bfloat16 on a CPU, in less time.

Enters: a block of code that trains. Leaves: the same gradients, up to bfloat16's rounding. The library under PyTorch
has no fast bfloat16 kernel for some of them, and falls back to a plain loop (the input's gradient of a depthwise 5 x 5
convolution of stride 2: 112 ms instead of 6). What is computed here instead, each by a kernel that is fast:

- depthwise, the input's: a convolution of the output's gradient, spread out by the stride, with the turned weights;
- depthwise, the weight's, above 3 x 3: products of all places of a small map with each other, which are then summed by
  their distance; of a large map, pieces of 3 x 3;
- 1 x 1: both gradients are products of matrices.

`benchmarks/gradients.py` measures it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Channels below which a 1 x 1 convolution's own gradients are as fast.
_WIDE = 64
#: So many pairs of places a map may have at most (10 x 10 before and after), for their products to be the faster way.
_PAIRS = 10_000


class FastGradients(TorchFunctionMode):
    """A context in which convolutions get their gradients in the faster way."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, or for a convolution that this is about, the same with other gradients."""
        if func is torch.conv2d and not kwargs and len(args) == 7 and _trains(*args[:2]):
            if _is_depthwise(*args):
                return _Depthwise.apply(*args)
            if _is_pointwise(*args):
                return _Pointwise.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def _trains(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether gradients will be wanted, in bfloat16 on a CPU."""
    return (
        inputs.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and (inputs.requires_grad or weight.requires_grad)
    )


def _is_depthwise(
    inputs: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    within = not isinstance(padding, str) and all(
        zeros <= (taps - 1) * apart for zeros, taps, apart in zip(padding, weight.shape[2:], dilation, strict=True)
    )
    return groups == len(weight) == inputs.shape[1] > 1 and within


def _is_pointwise(
    inputs: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    plain = groups == 1 and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)
    return plain and weight.shape[2:] == (1, 1) and min(weight.shape[:2]) >= _WIDE


class _Pointwise(torch.autograd.Function):
    """conv2d of 1 x 1, whose gradients are products of matrices."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        inputs, half = inputs.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(inputs, half)
        ctx.dtype = weight.dtype
        return torch.conv2d(inputs, half, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad
        grad, matrix = _rows(grads[0]), weight.flatten(1)
        grad_input, grad_weight, grad_bias = None, None, None
        if wants_input:
            count, _, height, width = inputs.shape
            grad_input = (grad @ matrix).view(count, height, width, -1).permute(0, 3, 1, 2)
        if wants_weight:
            grad_weight = (grad.T @ _rows(inputs)).view(weight.shape).to(ctx.dtype)
        if wants_bias:
            grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.dtype)
        return grad_input, grad_weight, grad_bias


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps (n, C, H, W) as a matrix (n * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


class _Depthwise(torch.autograd.Function):
    """conv2d of each channel by itself, whose gradients that would be slow are computed otherwise."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> Any:
        inputs = inputs.bfloat16()
        ctx.save_for_backward(inputs, weight)
        ctx.rest = rest
        return torch.conv2d(inputs, weight, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, _ = ctx.rest
        grad = grads[0].contiguous(memory_format=torch.channels_last)

        wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_input, grad_weight, grad_bias = None, None, None
        if wants_input:
            grad_input = _input_gradient(inputs.shape, grad, weight.to(grad.dtype), stride, padding, dilation)
        if wants_weight:
            grad_weight = _weight_gradient(inputs, grad, weight.shape, stride, padding, dilation).to(weight.dtype)
        if wants_bias:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _input_gradient(
    shape: torch.Size, grad: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of inputs of a shape (n, C, H, W).

    What one output's gradient reaches are the inputs that it was made of. So the gradient is convolved with the weight
    turned by half a circle, after as many zeros were put between its values as the stride left out places.
    """
    (count, channels, *size), reach = shape, [(n - 1) * d for n, d in zip(weight.shape[2:], dilation, strict=True)]
    zeros = [whole - before for whole, before in zip(reach, padding, strict=True)]
    # For the convolution to give maps of the size of the inputs.
    height, width = (length + whole - 2 * around for length, whole, around in zip(size, reach, zeros, strict=True))
    if (height, width) != tuple(grad.shape[2:]):
        spread = grad.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
        rows, columns = ((n - 1) * step + 1 for n, step in zip(grad.shape[2:], stride, strict=True))
        spread[:, :, : rows : stride[0], : columns : stride[1]] = grad
        grad = spread
    return torch.conv2d(grad, weight.flip(2, 3), None, 1, zeros, dilation, channels)


def _weight_gradient(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of the weight (C, 1, kH, kW), in bfloat16 or float32."""
    if max(shape[2:]) <= 3:
        return _library_gradient(inputs, grad, shape, stride, padding, dilation)
    before, after = tuple(inputs.shape[2:]), tuple(grad.shape[2:])
    if before[0] * before[1] * after[0] * after[1] > _PAIRS:
        return _in_pieces(inputs, grad, shape, stride, padding, dilation)
    taps = _taps(before, after, tuple(shape[2:]), tuple(stride), tuple(padding), tuple(dilation))
    count, channels = inputs.shape[:2]
    of_inputs = inputs.permute(1, 2, 3, 0).reshape(channels, -1, count)
    of_outputs = grad.permute(1, 0, 2, 3).reshape(channels, count, -1)
    return (torch.bmm(of_inputs, of_outputs).view(channels, -1) @ taps).view(shape)


def _library_gradient(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    gradient: torch.Tensor = torch.ops.aten.convolution_backward(
        grad, inputs, inputs.new_empty(shape), None, stride, padding, dilation, False, [0, 0], shape[0],
        [False, True, False],
    )[1]  # fmt: skip
    return gradient


@lru_cache(maxsize=64)
def _taps(
    before: tuple[int, int],
    after: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> torch.Tensor:
    """Which tap leads from an input to an output: bfloat16 (inputs * outputs, taps), 1 or 0."""
    axes = []
    for axis in (0, 1):
        place, output, tap = torch.meshgrid(
            *map(torch.arange, (before[axis], after[axis], kernel[axis])), indexing="ij"
        )
        axes.append(place == output * stride[axis] + tap * dilation[axis] - padding[axis])
    rows, columns = axes
    leads = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return leads.reshape(-1, kernel[0] * kernel[1]).bfloat16()


def _in_pieces(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of the weight, put together from 3 x 3 pieces.

    The gradient at some taps is that of a kernel of these taps alone, over the input shifted by as much.
    """
    (top, left), channels = padding, shape[0]
    padded = torch.nn.functional.pad(inputs, (left, left, top, top))
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
        out[:, :, i : i + 3, j : j + 3] = _library_gradient(
            piece.contiguous(memory_format=torch.channels_last),
            *(grad, torch.Size((channels, 1, *taps)), stride, (0, 0), dilation),
        )
    return out


def _starts(length: int) -> list[int]:
    """Where pieces of three taps begin that cover `length` taps."""
    return sorted({*range(0, max(1, length - 2), 3), max(0, length - 3)})
