"""Faster gradients of convolutions in bfloat16 on a CPU.

Input: code that trains inside a context. Output: the same gradients up to bfloat16 rounding. oneDNN has no fast
bfloat16 kernel for some of them and runs a plain loop (input gradient of a depthwise 5 x 5 convolution of stride 2:
112 ms instead of 6). These gradients are computed here by fast kernels instead:

- input of a depthwise convolution: a convolution of the output gradient, dilated by the stride, with flipped weights;
- weight of a depthwise convolution above 3 x 3: for small maps products of all pairs of positions, summed by their
  distance; for large maps pieces of 3 x 3;
- 1 x 1 convolution: both gradients are matrix products.

`benchmarks/gradients.py` measures the speed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_Pair = tuple[int, int]
#: Smallest number of channels at which matrix products are faster for a 1 x 1 convolution.
_MIN_CHANNELS = 64
#: Largest number of pairs of positions (10 x 10 maps before and after) at which their products are faster.
_MAX_PAIRS = 10_000


class FastGradients(TorchFunctionMode):
    """A context in which convolutions compute their gradients with the fast kernels."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _needs_gradient(*args[:2]):
            inputs, weight, _, *geometry = args
            if _is_depthwise(inputs, weight, *geometry) or _is_pointwise(weight, *geometry):
                return _Convolution.apply(*args)
        return func(*args, **(kwargs or {}))


def _needs_gradient(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a gradient in bfloat16 on a CPU is needed."""
    return (
        inputs.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and (inputs.requires_grad or weight.requires_grad)
    )


def _is_depthwise(
    inputs: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    return groups == len(weight) == inputs.shape[1] > 1 and all(
        not isinstance(zeros, str) and zeros <= (taps - 1) * spacing
        for zeros, taps, spacing in zip(padding, weight.shape[2:], dilation, strict=False)
    )


def _is_pointwise(weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    plain = groups == 1 and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)
    return plain and weight.shape[2:] == (1, 1) and min(weight.shape[:2]) >= _MIN_CHANNELS


class _Convolution(torch.autograd.Function):
    """conv2d in bfloat16 with fast gradients."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *geometry: Any
    ) -> torch.Tensor:
        half = weight.bfloat16()
        inputs = inputs.bfloat16()
        ctx.save_for_backward(inputs, half)
        ctx.geometry, ctx.dtype = geometry, weight.dtype
        return torch.conv2d(inputs, half, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        gradients = gradients_of_convolution(grads[0], inputs, weight, ctx.needs_input_grad[:3], *ctx.geometry)
        parameter_grads = (None if gradient is None else gradient.to(ctx.dtype) for gradient in gradients[1:])
        return gradients[0], *parameter_grads, None, None, None, None


def gradients_of_convolution(
    grad: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, wanted: Sequence[bool], *geometry: Any
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of the inputs, the weight and the bias of a convolution on a CPU, None where not wanted.

    The output's gradient (n, O, h, w), the inputs (n, I, H, W) and the weight (O, I / groups, kH, kW) have one dtype,
    as have the results, except for a gradient of the weight in float32. `geometry` is stride, padding, dilation and
    groups.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    half, (stride, padding, dilation, groups) = inputs.dtype == torch.bfloat16, geometry
    grad_input, grad_weight, grad_bias = None, None, None
    if half and _is_pointwise(weight, *geometry):
        rows, (count, _, height, width) = _rows(grad), inputs.shape
        if wanted[0]:
            grad_input = (rows @ weight.flatten(1)).view(count, height, width, -1).permute(0, 3, 1, 2)
        if wanted[1]:
            grad_weight = (rows.T @ _rows(inputs)).view(weight.shape)
    elif half and _is_depthwise(inputs, weight, *geometry):
        if wanted[0]:
            grad_input = _input_gradient(inputs.shape, grad, weight, stride, padding, dilation)
        if wanted[1]:
            grad_weight = _weight_gradient(inputs, grad, weight.shape, stride, padding, dilation)
    else:
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, inputs, weight, None, stride, padding, dilation, False, [0, 0], groups, [*wanted[:2], False]
        )
    if wanted[2]:
        grad_bias = grad.sum((0, 2, 3))  # summed in float32 and rounded once
    return grad_input, grad_weight, grad_bias


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps (n, C, H, W) as a matrix (n * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _input_gradient(
    shape: torch.Size, grad: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of inputs of a shape (n, C, H, W).

    It is a transposed convolution: zeros for the positions that the stride skipped are inserted into the output
    gradient, which is then convolved with the flipped weight.
    """
    (count, channels, *size), reach = shape, [(n - 1) * d for n, d in zip(weight.shape[2:], dilation, strict=True)]
    zeros = [whole - before for whole, before in zip(reach, padding, strict=True)]
    # Size at which the convolution gives maps of the size of the inputs.
    height, width = (length + whole - 2 * around for length, whole, around in zip(size, reach, zeros, strict=True))
    if (height, width) != tuple(grad.shape[2:]):
        dilated = grad.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
        rows, columns = ((n - 1) * step + 1 for n, step in zip(grad.shape[2:], stride, strict=True))
        dilated[:, :, : rows : stride[0], : columns : stride[1]] = grad
        grad = dilated
    return torch.conv2d(grad, weight.flip(2, 3), None, 1, zeros, dilation, channels)


def _weight_gradient(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of the weight (C, 1, kH, kW), in bfloat16 or float32."""
    if max(shape[2:]) <= 3:
        return _library_gradient(inputs, grad, shape, stride, padding, dilation)
    before, after = tuple(inputs.shape[2:]), tuple(grad.shape[2:])
    if before[0] * before[1] * after[0] * after[1] > _MAX_PAIRS:
        return _in_pieces(inputs, grad, shape, stride, padding, dilation)
    taps = _taps(before, after, tuple(shape[2:]), tuple(stride), tuple(padding), tuple(dilation))
    count, channels = inputs.shape[:2]
    input_rows = inputs.permute(1, 2, 3, 0).reshape(channels, -1, count)
    grad_rows = grad.permute(1, 0, 2, 3).reshape(channels, count, -1)
    return (torch.bmm(input_rows, grad_rows).view(channels, -1) @ taps).view(shape)


def _library_gradient(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    gradient: torch.Tensor = torch.ops.aten.convolution_backward(
        grad, inputs, inputs.new_empty(shape), None, stride, padding, dilation, False, [0, 0], shape[0],
        [False, True, False],
    )[1]  # fmt: skip
    return gradient


@lru_cache(maxsize=64)
def _taps(before: _Pair, after: _Pair, kernel: _Pair, stride: _Pair, padding: _Pair, dilation: _Pair) -> torch.Tensor:
    """1 where a tap connects an input position to an output position, else 0: bfloat16 (inputs * outputs, taps)."""
    axes = []
    for axis in (0, 1):
        lengths = before[axis], after[axis], kernel[axis]
        position, output, tap = torch.meshgrid(*map(torch.arange, lengths), indexing="ij")
        axes.append(position == output * stride[axis] + tap * dilation[axis] - padding[axis])
    rows, columns = axes
    connects = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return connects.reshape(-1, kernel[0] * kernel[1]).bfloat16()


def _in_pieces(
    inputs: torch.Tensor, grad: torch.Tensor, shape: torch.Size, stride: Any, padding: Any, dilation: Any
) -> torch.Tensor:
    """The gradient of the weight in pieces of 3 x 3 taps, each that of a 3 x 3 kernel on the shifted input."""
    (top, left), channels = padding, shape[0]
    padded = torch.nn.functional.pad(inputs, (left, left, top, top))
    taps = [min(3, length) for length in shape[2:]]
    # Extent of a piece in the padded input along each axis.
    reach = [
        (size - 1) * step + (tap - 1) * spacing + 1
        for size, step, tap, spacing in zip(grad.shape[2:], stride, taps, dilation, strict=True)
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
    """Starts of pieces of three taps that cover `length` taps."""
    return sorted({*range(0, max(1, length - 2), 3), max(0, length - 3)})
