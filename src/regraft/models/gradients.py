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
from collections.abc import Callable, Sequence
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
            inputs, weight, _, *how = args
            if _is_depthwise(inputs, weight, *how) or _is_pointwise(weight, *how):
                return _Convolution.apply(*args)
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
    inputs: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    return groups == len(weight) == inputs.shape[1] > 1 and all(
        not isinstance(zeros, str) and zeros <= (taps - 1) * apart
        for zeros, taps, apart in zip(padding, weight.shape[2:], dilation, strict=False)
    )


def _is_pointwise(weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    plain = groups == 1 and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)
    return plain and weight.shape[2:] == (1, 1) and min(weight.shape[:2]) >= _WIDE


class _Convolution(torch.autograd.Function):
    """conv2d in bfloat16, with gradients that are computed here."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *how: Any
    ) -> torch.Tensor:
        half = weight.bfloat16()
        inputs = inputs.bfloat16()
        ctx.save_for_backward(inputs, half)
        ctx.how, ctx.dtype = how, weight.dtype
        return torch.conv2d(inputs, half, bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        found = gradients_of_convolution(grads[0], inputs, weight, ctx.needs_input_grad[:3], *ctx.how)
        return found[0], *(None if one is None else one.to(ctx.dtype) for one in found[1:]), None, None, None, None


def gradients_of_convolution(
    grad: torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    wanted: Sequence[bool],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Of the inputs, the weight and the bias of a convolution on a CPU; None for those that are not wanted.

    Args:
        grad: Of the output, (n, O, h, w), in the dtype of the inputs.
        inputs: (n, I, H, W).
        weight: (O, I / groups, kH, kW), in the same dtype.
        wanted: Which of the three.
        stride: Along both axes, as all that follow.
        padding: Zeros before and after.
        dilation: Distance of neighbouring taps.
        groups: Of channels that are read apart.

    Returns:
        The first and the third in the dtype of the inputs, the second in that or float32.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    half, how = inputs.dtype == torch.bfloat16, (stride, padding, dilation, groups)
    of_inputs, of_weight, of_bias = None, None, None
    if half and _is_pointwise(weight, *how):
        rows, (count, _, height, width) = _rows(grad), inputs.shape
        if wanted[0]:
            of_inputs = (rows @ weight.flatten(1)).view(count, height, width, -1).permute(0, 3, 1, 2)
        if wanted[1]:
            of_weight = (rows.T @ _rows(inputs)).view(weight.shape)
    elif half and _is_depthwise(inputs, weight, *how):
        if wanted[0]:
            of_inputs = _input_gradient(inputs.shape, grad, weight, stride, padding, dilation)
        if wanted[1]:
            of_weight = _weight_gradient(inputs, grad, weight.shape, stride, padding, dilation)
    else:
        of_inputs, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, inputs, weight, None, stride, padding, dilation, False, [0, 0], groups, [*wanted[:2], False]
        )
    if wanted[2]:
        of_bias = grad.sum((0, 2, 3))  # added up in float32, and rounded once
    return of_inputs, of_weight, of_bias


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps (n, C, H, W) as a matrix (n * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


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
