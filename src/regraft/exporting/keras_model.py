"""The exported network as a Keras model, for TensorFlow's formats.

Enters: PyTorch's graph of a network. Leaves: a Keras model of Keras's own layers and operations alone, which computes
the same; it is read by any Keras 3 without code of ours.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from regraft.exporting.keras_graph import Operation, Translation, Value, unsupported

#: Kept whole, since Keras has them too; all else is taken apart into PyTorch's core operations.
_WHOLE = (
    "linear.default", "conv2d.default", "layer_norm.default", "gelu.default", "silu.default", "hardswish.default",
    "hardsigmoid.default", "hardtanh.default", "scaled_dot_product_attention.default", "adaptive_avg_pool2d.default",
    "max_pool2d.default", "avg_pool2d.default", "matmul.default", "softmax.int", "unbind.int",
)  # fmt: skip
CHANNELS_LAST = (0, 2, 3, 1)


def keras_model(program: torch.export.ExportedProgram, name: str) -> Any:
    """Translate a graph.

    Args:
        program: Of one input, uint8 (N, S, S, 3), and one output, float32 (N, classes), for any N.
        name: Of the Keras model.

    Returns:
        A `keras.Model` with the input "images" and the output "probabilities".

    Raises:
        ExportError: It has an operation, or a form of one, that is not translated.
    """
    table = torch.export.default_decompositions()
    for kept in _WHOLE:
        overload = operator.attrgetter(kept)(torch.ops.aten)
        table.pop(overload, None)  # type: ignore[no-untyped-call]  # it ships none
    return Translation(program.run_decompositions(table), OPERATIONS).model(name)


OPERATIONS: dict[str, Operation] = {}


def _operation(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        for name in names:
            OPERATIONS[name] = function
        return function

    return register


# Layers with weights


@_operation("conv2d.default")
def _conv2d(
    t: Translation, x: Any, weight: torch.Tensor, bias: Any = None, stride: Any = (1, 1), padding: Any = (0, 0),
    dilation: Any = (1, 1), groups: int = 1,
) -> Value:  # fmt: skip
    tensor = t.laid(x, CHANNELS_LAST)
    out, each, *kernel = weight.shape
    strides, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    same = all(s == 1 and 2 * p == d * (k - 1) for s, p, d, k in zip(strides, padding, dilation, kernel, strict=True))
    if not same and any(padding):
        tensor = t.layers.ZeroPadding2D(padding, data_format="channels_last")(tensor)
    options = {"strides": strides, "padding": "same" if same else "valid", "dilation_rate": dilation,
               "use_bias": bias is not None, "data_format": "channels_last"}  # fmt: skip
    biases = [] if bias is None else [bias]
    if groups == tensor.shape[-1] and each == 1:
        layer = t.layer(t.layers.DepthwiseConv2D, kernel_size=kernel, depth_multiplier=out // groups, **options)
        kernels = weight.reshape(groups, out // groups, *kernel).permute(2, 3, 0, 1)
        return Value(t.filled(layer, tensor, kernels, *biases), CHANNELS_LAST)
    parts, pieces = t.ops.split(tensor, groups, axis=-1) if groups > 1 else [tensor], []
    for number, part in enumerate(parts):  # TensorFlow has no convolution in groups on every processor
        rows = slice(number * out // groups, (number + 1) * out // groups)
        layer = t.layer(t.layers.Conv2D, filters=out // groups, kernel_size=kernel, **options)
        pieces.append(t.filled(layer, part, weight[rows].permute(2, 3, 1, 0), *(bias[rows] for bias in biases)))
    return Value(t.ops.concatenate(pieces, axis=-1) if groups > 1 else pieces[0], CHANNELS_LAST)


@_operation("linear.default")
def _linear(t: Translation, x: Any, weight: Any, bias: Any = None) -> Value:
    value = t.value(x)
    if value.where(-1) != len(value.axes) - 1:
        value = Value(t.laid(value), tuple(range(len(value.axes))))
    layer = t.layer(t.layers.Dense, units=weight.shape[0], use_bias=bias is not None)
    sizes = [-1 if size is None else size for size in value.tensor.shape[:-1]]
    rows = t.ops.reshape(value.tensor, [-1, weight.shape[1]]) if len(sizes) > 1 else value.tensor
    found = t.filled(layer, rows, weight.T, *([] if bias is None else [bias]))
    return Value(t.ops.reshape(found, [*sizes, weight.shape[0]]) if len(sizes) > 1 else found, value.axes)


@_operation("_native_batch_norm_legit_no_training.default")
def _batch_norm(
    t: Translation, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, _momentum: float, eps: float
) -> Any:
    weights = [value for value in (weight, bias, mean, variance) if value is not None]
    layer = t.layer(
        t.layers.BatchNormalization, axis=x.where(1), epsilon=eps,
        scale=weight is not None, center=bias is not None, trainable=False,
    )  # fmt: skip
    return (Value(t.filled(layer, x.tensor, *weights), x.axes),)


@_operation("layer_norm.default")
def _layer_norm(t: Translation, x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5,
                _cudnn: bool = True) -> Value:  # fmt: skip
    if len(shape) != 1:
        raise unsupported(f"a normalisation of {len(shape)} axes")
    weights = [value for value in (weight, bias) if value is not None]
    layer = t.layer(
        t.layers.LayerNormalization, axis=x.where(-1), epsilon=eps,
        scale=weight is not None, center=bias is not None,
    )  # fmt: skip
    return Value(t.filled(layer, x.tensor, *weights), x.axes)


@_operation("native_group_norm.default")
def _group_norm(
    t: Translation, x: Any, weight: Any, bias: Any, _images: Any, channels: int, _places: int, groups: int, eps: float
) -> Any:
    layer = t.layer(
        t.layers.GroupNormalization, groups=groups, axis=-1, epsilon=eps, scale=weight is not None,
        center=bias is not None,
    )  # fmt: skip
    weights = [value for value in (weight, bias) if value is not None]
    return (Value(t.filled(layer, t.laid(x, CHANNELS_LAST), *weights), CHANNELS_LAST),)


# One value after another


def _each(function: Callable[[Translation, Any], Any]) -> Operation:
    return lambda t, x, *_, **__: Value(function(t, x.tensor), x.axes)


for _name, _function in {
    "relu.default": lambda t, x: t.ops.relu(x),
    "sigmoid.default": lambda t, x: t.ops.sigmoid(x),
    "tanh.default": lambda t, x: t.ops.tanh(x),
    "silu.default": lambda t, x: t.ops.multiply(x, t.ops.sigmoid(x)),  # TensorFlow's own cannot be frozen
    "hardswish.default": lambda t, x: t.ops.hard_silu(x),
    "hardsigmoid.default": lambda t, x: t.ops.hard_sigmoid(x),
    "exp.default": lambda t, x: t.ops.exp(x),
    "log.default": lambda t, x: t.ops.log(x),
    "log1p.default": lambda t, x: t.ops.log1p(x),
    "expm1.default": lambda t, x: t.ops.expm1(x),
    "sqrt.default": lambda t, x: t.ops.sqrt(x),
    "rsqrt.default": lambda t, x: t.ops.rsqrt(x),
    "neg.default": lambda t, x: t.ops.negative(x),
    "abs.default": lambda t, x: t.ops.absolute(x),
    "alias.default": lambda t, x: x,
    "clone.default": lambda t, x: x,
}.items():
    OPERATIONS[_name] = _each(_function)


@_operation("_to_copy.default")
def _cast(t: Translation, x: Any, dtype: torch.dtype = torch.float32, **_: Any) -> Value:
    return Value(t.ops.cast(x.tensor, str(dtype).removeprefix("torch.")), x.axes)


@_operation("gelu.default")
def _gelu(t: Translation, x: Any, approximate: str = "none") -> Value:
    if approximate == "tanh":
        return Value(t.ops.gelu(x.tensor, approximate=True), x.axes)
    # In the form that LiteRT's converter knows for its own operation; Keras's is another, and it has no erf.
    error = t.ops.erf(t.ops.multiply(x.tensor, math.sqrt(0.5)))
    return Value(t.ops.multiply(t.ops.multiply(x.tensor, 0.5), t.ops.add(error, 1.0)), x.axes)


@_operation("hardtanh.default", "clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(t: Translation, x: Any, low: float | None = None, high: float | None = None, **options: Any) -> Value:
    if t.node.target is torch.ops.aten.hardtanh.default:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    elif t.node.target is torch.ops.aten.clamp_max.default:
        low, high = None, low
    low, high = options.get("min", low), options.get("max", high)
    if (low, high) == (0, 6):
        return Value(t.ops.relu6(x.tensor), x.axes)
    tensor = x.tensor if low is None else t.ops.maximum(x.tensor, low)
    return Value(tensor if high is None else t.ops.minimum(tensor, high), x.axes)


def _both(name: str) -> Operation:
    def combine(t: Translation, a: Any, b: Any, alpha: float = 1) -> Value:
        (left, right), axes = t.alike(a, b)
        return Value(getattr(t.ops, name)(left, right if alpha == 1 else right * alpha), axes)

    return combine


for _name, _keras in {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "maximum": "maximum",
                      "minimum": "minimum"}.items():  # fmt: skip
    for _overload in ("Tensor", "Scalar", "default"):
        OPERATIONS[f"{_name}.{_overload}"] = _both(_keras)
for _name, _keras in {"gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal"}.items():
    OPERATIONS[f"{_name}.Scalar"] = OPERATIONS[f"{_name}.Tensor"] = _both(_keras)
for _overload in ("Tensor_Scalar", "Tensor_Tensor"):
    OPERATIONS[f"pow.{_overload}"] = _both("power")


@_operation("elu.default")
def _elu(t: Translation, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if (scale, input_scale) != (1, 1):
        raise unsupported("a scaled ELU")
    return Value(t.ops.elu(x.tensor, alpha), x.axes)


@_operation("leaky_relu.default")
def _leaky_relu(t: Translation, x: Any, slope: float = 0.01) -> Value:
    return Value(t.ops.leaky_relu(x.tensor, slope), x.axes)


@_operation("where.self")
def _where(t: Translation, condition: Any, a: Any, b: Any) -> Value:
    tensors, axes = t.alike(condition, a, b)
    return Value(t.ops.where(*tensors), axes)


# Over axes


def _over(name: str) -> Operation:
    def reduce(t: Translation, x: Any, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
        dims = range(len(x.axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        gone = {dim % len(x.axes) for dim in dims}
        tensor = getattr(t.ops, name)(x.tensor, axis=tuple(x.where(dim) for dim in sorted(gone)), keepdims=keepdim)
        if keepdim:
            return Value(tensor, x.axes)
        left = sorted(set(x.axes) - gone)
        return Value(tensor, tuple(left.index(axis) for axis in x.axes if axis not in gone))

    return reduce


for _name, _keras in {
    "mean.dim": "mean",
    "amax.default": "max",
    "amin.default": "min",
    "sum.dim_IntList": "sum",
}.items():
    OPERATIONS[_name] = _over(_keras)


@_operation("softmax.int", "_softmax.default")
def _softmax(t: Translation, x: Any, dim: int, *_: Any, **__: Any) -> Value:
    return Value(t.ops.softmax(x.tensor, axis=x.where(dim)), x.axes)


@_operation("adaptive_avg_pool2d.default")
def _adaptive_pool(t: Translation, x: Any, size: Any) -> Value:
    high, wide = (x.tensor.shape[x.where(axis)] for axis in (2, 3))
    size = _pair(size)
    if size == (1, 1):
        return Value(t.ops.mean(x.tensor, axis=(x.where(2), x.where(3)), keepdims=True), x.axes)
    if high % size[0] or wide % size[1]:
        raise unsupported(f"a pooling of {high} x {wide} to {size[0]} x {size[1]} values")
    cell = (high // size[0], wide // size[1])
    return Value(t.ops.average_pool(t.laid(x, CHANNELS_LAST), cell, cell, data_format="channels_last"), CHANNELS_LAST)


@_operation("max_pool2d.default")
def _max_pool(t: Translation, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil: bool = False) -> Value:  # fmt: skip
    if _pair(dilation) != (1, 1):
        raise unsupported("a dilated pooling")
    before = t.node.args[0]
    target = str(before.target) if isinstance(before, Node) else ""
    low: Any = before.args[1] if isinstance(before, Node) and len(before.args) > 1 else -1
    rectified = target == "aten.relu.default" or (
        target == "aten.hardtanh.default" and low >= 0
    )  # 0 changes no maximum then, and unlike infinity it can be quantized
    tensor = _padded(t, x, kernel, stride or kernel, _pair(padding), ceil, 0.0 if rectified else -math.inf)
    return Value(
        t.ops.max_pool(tensor, _pair(kernel), _pair(stride or kernel), data_format="channels_last"), CHANNELS_LAST
    )


@_operation("avg_pool2d.default")
def _avg_pool(t: Translation, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
              count_padding: bool = True, divisor: Any = None) -> Value:  # fmt: skip
    over = [
        (size + 2 * pad - k) % s
        for size, pad, k, s in zip(
            (x.tensor.shape[x.where(2)], x.tensor.shape[x.where(3)]), _pair(padding), _pair(kernel),
            _pair(stride or kernel), strict=True,
        )
    ]  # fmt: skip
    if divisor is not None or (any(_pair(padding)) and not count_padding) or (ceil and any(over)):
        raise unsupported("an average that leaves out the padding")
    tensor = _padded(t, x, kernel, stride or kernel, _pair(padding), False, 0.0)
    return Value(
        t.ops.average_pool(tensor, _pair(kernel), _pair(stride or kernel), data_format="channels_last"), CHANNELS_LAST
    )


def _padded(
    t: Translation, x: Any, kernel: Any, stride: Any, padding: tuple[int, int], ceil: bool, value: float
) -> Any:
    tensor = t.laid(x, CHANNELS_LAST)
    ends = []
    for size, pad, k, s in zip(tensor.shape[1:3], padding, _pair(kernel), _pair(stride), strict=True):
        more = -(size + 2 * pad - k) % s if ceil else 0
        if more and (size + 2 * pad - k + more) // s * s >= size + pad:  # a window may not begin in the padding
            more = 0
        ends.append((pad, pad + more))
    return t.ops.pad(tensor, [(0, 0), *ends, (0, 0)], constant_values=value) if any(map(any, ends)) else tensor


@_operation("constant_pad_nd.default")
def _pad(t: Translation, x: Any, widths: Sequence[int], value: float = 0) -> Value:
    ends = [(0, 0)] * len(x.axes)
    for number in range(len(widths) // 2):
        ends[x.where(-1 - number)] = (widths[2 * number], widths[2 * number + 1])
    if any(end < 0 for both in ends for end in both):
        raise unsupported("a negative padding")
    return Value(t.ops.pad(x.tensor, ends, constant_values=value), x.axes) if any(map(any, ends)) else x


# Shapes


@_operation("permute.default")
def _permute(t: Translation, x: Any, dims: Sequence[int]) -> Value:
    order = [dim % len(x.axes) for dim in dims]
    return Value(x.tensor, tuple(order.index(axis) for axis in x.axes))


@_operation("view.default", "_unsafe_view.default", "reshape.default")
def _view(t: Translation, x: Any, _sizes: Any) -> Value:
    sizes = [size if isinstance(size, int) else -1 for size in t.node.meta["val"].shape]
    return Value(t.ops.reshape(t.laid(x), sizes), tuple(range(len(sizes))))


@_operation("squeeze.dims", "squeeze.dim")
def _squeeze(t: Translation, x: Any, dims: Any) -> Value:
    return _view(t, x, None)  # type: ignore[no-any-return]


@_operation("unsqueeze.default")
def _unsqueeze(t: Translation, x: Any, dim: int) -> Value:
    dim %= len(x.axes) + 1
    return Value(t.ops.expand_dims(x.tensor, 0), (dim, *(axis + (axis >= dim) for axis in x.axes)))


@_operation("expand.default")
def _expand(t: Translation, x: Any, _sizes: Any) -> Value:
    sizes = [size if isinstance(size, int) else None for size in t.node.meta["val"].shape]
    value = t.lifted(t.value(x), len(sizes))
    found = value.tensor + np.zeros([sizes[axis] or 1 for axis in value.axes], np.float32)
    for place, axis in enumerate(value.axes):
        if sizes[axis] is None and found.shape[place] == 1:  # as many as there are images
            none = t.ops.zeros_like(t.ops.max(t.ops.cast(t.images, "float32"), axis=(1, 2, 3)))
            found = t.ops.add(t.ops.reshape(none, [-1 if axis == other else 1 for other in value.axes]), found)
    return Value(found, value.axes)


@_operation("cat.default")
def _cat(t: Translation, values: Sequence[Any], dim: int = 0) -> Value:
    tensors, axes = t.alike(*(value for value in values if value is not None))
    return Value(t.ops.concatenate(tensors, axis=axes.index(dim % len(axes))), axes)


@_operation("stack.default")
def _stack(t: Translation, values: Sequence[Any], dim: int = 0) -> Value:
    return _cat(t, [_unsqueeze(t, t.value(value), dim) for value in values], dim)  # type: ignore[no-any-return]


@_operation("split_with_sizes.default", "split.Tensor")
def _split(t: Translation, x: Any, sizes: Any, dim: int = 0) -> Any:
    place = x.where(dim)
    whole = x.tensor.shape[place]
    sizes = [min(sizes, whole - first) for first in range(0, whole, sizes)] if isinstance(sizes, int) else list(sizes)
    ends = np.cumsum(sizes)[:-1].tolist()
    return tuple(Value(part, x.axes) for part in t.ops.split(x.tensor, ends, axis=place))


@_operation("unbind.int")
def _unbind(t: Translation, x: Any, dim: int = 0) -> Any:
    return tuple(_select(t, x, dim, number) for number in range(x.tensor.shape[x.where(dim)]))


@_operation("select.int")
def _select(t: Translation, x: Any, dim: int, index: int) -> Value:
    place, dim = x.where(dim), dim % len(x.axes)
    tensor = t.ops.take(x.tensor, index % x.tensor.shape[place], axis=place)
    return Value(tensor, tuple(axis - (axis > dim) for axis in x.axes if axis != dim))


@_operation("slice.Tensor")
def _slice(t: Translation, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    place = x.where(dim)
    size = x.tensor.shape[place]
    if size is None:
        raise unsupported("a part of the batch")
    first, last, step = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return x  # type: ignore[no-any-return]
    if step == 1:
        pieces = t.ops.split(x.tensor, [cut for cut in (first, last) if 0 < cut < size], axis=place)
        return Value(pieces[1 if first else 0], x.axes)
    return Value(t.ops.take(x.tensor, np.arange(first, last, step), axis=place), x.axes)


@_operation("index_select.default")
def _index_select(t: Translation, x: Any, dim: int, index: torch.Tensor) -> Value:
    return Value(t.ops.take(x.tensor, index.numpy(), axis=x.where(dim)), x.axes)


@_operation("getitem")
def _item(t: Translation, values: Sequence[Any], index: int) -> Any:
    return values[index]


# Products


@_operation("matmul.default", "bmm.default", "mm.default")
def _matmul(t: Translation, a: Any, b: Any) -> Value:
    tensor = t.ops.matmul(t.laid(a), t.laid(b))
    return Value(tensor, tuple(range(len(tensor.shape))))


@_operation("scaled_dot_product_attention.default")
def _attention(
    t: Translation, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    given = t.node.kwargs.get("attn_mask", t.node.args[3] if len(t.node.args) > 3 else None)
    if is_causal or enable_gqa or (isinstance(given, Node) and given.meta["val"].dtype == torch.bool):
        raise unsupported("attention with a causal or boolean mask, or with fewer keys than queries")
    rank = len(k.axes)
    query, keys = t.laid(q), t.laid(k, (*range(rank - 2), rank - 1, rank - 2))
    scores = t.ops.matmul(query * (scale if scale is not None else query.shape[-1] ** -0.5), keys)
    if attn_mask is not None:
        scores = t.ops.add(scores, t.laid(attn_mask))
    return Value(t.ops.matmul(t.ops.softmax(scores, axis=-1), t.laid(v)), tuple(range(rank)))


def _pair(value: Any) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return values if len(values) == 2 else (values[0], values[0])
