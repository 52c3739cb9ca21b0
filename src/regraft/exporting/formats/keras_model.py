"""The exported network as a Keras model, for the TensorFlow formats.

It consists of layers and operations of Keras only, so that any Keras 3 can load it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from regraft.exporting.formats.keras_graph import Operation, Translator, Value, unsupported
from regraft.exporting.formats.keras_layers import LayerOps, check_layers

#: Operations that are kept because Keras has them too; all others are decomposed into PyTorch's core operations.
_NOT_DECOMPOSED = (
    "linear.default", "conv2d.default", "layer_norm.default", "gelu.default", "silu.default", "hardswish.default",
    "hardsigmoid.default", "hardtanh.default", "scaled_dot_product_attention.default", "adaptive_avg_pool2d.default",
    "max_pool2d.default", "avg_pool2d.default", "matmul.default", "softmax.int", "unbind.int", "softplus.default",
)  # fmt: skip
CHANNELS_LAST = (0, 2, 3, 1)


def keras_model(program: torch.export.ExportedProgram, name: str, *, layers_only: bool = False) -> Any:
    """Translate a graph from uint8 (N, S, S, C) to float32 (N, classes) for any N into a `keras.Model` of this name.

    Its input is "images" and its output "probabilities". If `layers_only`, it has no operations beside layers. Raises
    `ExportError` if an operation has no translation.
    """
    table = torch.export.default_decompositions()
    for kept in _NOT_DECOMPOSED:
        overload = operator.attrgetter(kept)(torch.ops.aten)
        table.pop(overload, None)  # type: ignore[no-untyped-call]  # it ships none
    translator = Translator(program.run_decompositions(table), OPERATIONS)
    if layers_only:
        translator.ops = LayerOps(translator.layers)
    model = translator.model(name)
    if layers_only:
        check_layers(model, translator.layers.Layer)
    return model


OPERATIONS: dict[str, Operation] = {}


def _operation(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


@_operation("conv2d.default")
def _conv2d(
    t: Translator, x: Any, weight: torch.Tensor, bias: Any = None, stride: Any = (1, 1), padding: Any = (0, 0),
    dilation: Any = (1, 1), groups: int = 1,
) -> Value:  # fmt: skip
    tensor = t.tensor(x, CHANNELS_LAST)
    filters, depth, *kernel = weight.shape
    strides, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    same = all(s == 1 and 2 * p == d * (k - 1) for s, p, d, k in zip(strides, padding, dilation, kernel, strict=True))
    if not same and any(padding):
        tensor = t.layers.ZeroPadding2D(padding, data_format="channels_last")(tensor)
    options = {"strides": strides, "padding": "same" if same else "valid", "dilation_rate": dilation,
               "use_bias": bias is not None, "data_format": "channels_last"}  # fmt: skip
    if groups == tensor.shape[-1] and depth == 1:
        layer = t.layer(t.layers.DepthwiseConv2D, kernel_size=kernel, depth_multiplier=filters // groups, **options)
        kernels = weight.reshape(groups, filters // groups, *kernel).permute(2, 3, 0, 1)
        return Value(t.apply(layer, tensor, kernels, bias), CHANNELS_LAST)
    parts, outputs = t.ops.split(tensor, groups, axis=-1) if groups > 1 else [tensor], []
    for number, part in enumerate(parts):  # TensorFlow has no grouped convolutions on some processors
        rows = slice(number * filters // groups, (number + 1) * filters // groups)
        layer = t.layer(t.layers.Conv2D, filters=filters // groups, kernel_size=kernel, **options)
        part_bias = None if bias is None else bias[rows]
        outputs.append(t.apply(layer, part, weight[rows].permute(2, 3, 1, 0), part_bias))
    return Value(t.ops.concatenate(outputs, axis=-1) if groups > 1 else outputs[0], CHANNELS_LAST)


@_operation("linear.default")
def _linear(t: Translator, x: Any, weight: Any, bias: Any = None) -> Value:
    value = t.as_value(x)
    if value.position(-1) != len(value.axes) - 1:
        value = Value(t.tensor(value), tuple(range(len(value.axes))))
    layer = t.layer(t.layers.Dense, units=weight.shape[0], use_bias=bias is not None)
    sizes = [-1 if size is None else size for size in value.tensor.shape[:-1]]
    rows = t.ops.reshape(value.tensor, [-1, weight.shape[1]]) if len(sizes) > 1 else value.tensor
    output = t.apply(layer, rows, weight.T, bias)
    return Value(t.ops.reshape(output, [*sizes, weight.shape[0]]) if len(sizes) > 1 else output, value.axes)


@_operation("_native_batch_norm_legit_no_training.default")
def _batch_norm(
    t: Translator, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, _momentum: float, eps: float
) -> Any:
    options, kind = {"axis": x.position(1), "epsilon": eps, "trainable": False}, t.layers.BatchNormalization
    return (Value(_normalized(t, kind, options, x.tensor, weight, bias, mean, variance), x.axes),)


def _normalized(t: Translator, kind: Any, options: Any, tensor: Any, weight: Any, bias: Any, *statistics: Any) -> Any:
    layer = t.layer(kind, scale=weight is not None, center=bias is not None, **options)
    return t.apply(layer, tensor, weight, bias, *statistics)


@_operation("layer_norm.default")
def _layer_norm(t: Translator, x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5,
                _cudnn: bool = True) -> Value:  # fmt: skip
    if len(shape) != 1:
        raise unsupported(f"a normalization over {len(shape)} axes")
    options = {"axis": x.position(-1), "epsilon": eps}
    return Value(_normalized(t, t.layers.LayerNormalization, options, x.tensor, weight, bias), x.axes)


@_operation("native_group_norm.default")
def _group_norm(
    t: Translator, x: Any, weight: Any, bias: Any, _n: Any, _channels: int, _hw: int, groups: int, eps: float
) -> Any:
    options, tensor = {"groups": groups, "axis": -1, "epsilon": eps}, t.tensor(x, CHANNELS_LAST)
    return (Value(_normalized(t, t.layers.GroupNormalization, options, tensor, weight, bias), CHANNELS_LAST),)


def _unary(name: str) -> Operation:
    return lambda t, x: Value(getattr(t.ops, name)(x.tensor), x.axes)


for _name, _keras in {
    "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "hardswish": "hard_silu", "hardsigmoid": "hard_sigmoid",
    "exp": "exp", "log": "log", "log1p": "log1p", "expm1": "expm1", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "neg": "negative", "abs": "absolute",
}.items():  # fmt: skip
    OPERATIONS[f"{_name}.default"] = _unary(_keras)
OPERATIONS |= {
    # TensorFlow's own SiLU cannot be frozen.
    "silu.default": lambda t, x: Value(t.ops.multiply(x.tensor, t.ops.sigmoid(x.tensor)), x.axes),
    "alias.default": lambda t, x: x,
    "clone.default": lambda t, x, **_: x,
    "getitem": lambda t, values, index: values[index],
    "leaky_relu.default": lambda t, x, slope=0.01: Value(t.ops.leaky_relu(x.tensor, slope), x.axes),
    "stack.default": lambda t, values, dim=0: _cat(t, [_unsqueeze(t, t.as_value(v), dim) for v in values], dim),
    "unbind.int": lambda t, x, dim=0: tuple(_select(t, x, dim, number) for number in range(x.size(dim))),
    "index_select.default": lambda t, x, dim, i: Value(t.ops.take(x.tensor, i.numpy(), axis=x.position(dim)), x.axes),
}


@_operation("_to_copy.default")
def _cast(t: Translator, x: Any, dtype: torch.dtype = torch.float32, **_: Any) -> Value:
    return Value(t.ops.cast(x.tensor, str(dtype).removeprefix("torch.")), x.axes)


@_operation("softplus.default")
def _softplus(t: Translator, x: Any, beta: float = 1, threshold: float = 20) -> Value:
    if (beta, threshold) != (1, 20):
        raise unsupported("softplus with another slope or threshold")
    if isinstance(t.ops, LayerOps):
        return Value(t.ops.softplus(x.tensor), x.axes)
    # log(1 + exp(x)), which LiteRT has no operation for, and without an overflow.
    rest = t.ops.log1p(t.ops.exp(t.ops.negative(t.ops.absolute(x.tensor))))
    return Value(t.ops.add(t.ops.relu(x.tensor), rest), x.axes)


@_operation("gelu.default")
def _gelu(t: Translator, x: Any, approximate: str = "none") -> Value:
    if approximate == "tanh" or isinstance(t.ops, LayerOps):
        return Value(t.ops.gelu(x.tensor, approximate=approximate == "tanh"), x.axes)
    # The form that LiteRT's converter recognizes as its own operation. It does not recognize Keras's, and has no erf.
    erf = t.ops.erf(t.ops.multiply(x.tensor, math.sqrt(0.5)))
    return Value(t.ops.multiply(t.ops.multiply(x.tensor, 0.5), t.ops.add(erf, 1.0)), x.axes)


@_operation("hardtanh.default", "clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(t: Translator, x: Any, low: float | None = None, high: float | None = None, **options: Any) -> Value:
    if t.node.target is torch.ops.aten.hardtanh.default:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    elif t.node.target is torch.ops.aten.clamp_max.default:
        low, high = None, low
    low, high = options.get("min", low), options.get("max", high)
    if (low, high) == (0, 6):
        return Value(t.ops.relu6(x.tensor), x.axes)
    tensor = x.tensor if low is None else t.ops.maximum(x.tensor, low)
    return Value(tensor if high is None else t.ops.minimum(tensor, high), x.axes)


def _binary(name: str) -> Operation:
    def combine(t: Translator, a: Any, b: Any, alpha: float = 1) -> Value:
        (left, right), axes = t.align(a, b)
        return Value(getattr(t.ops, name)(left, right if alpha == 1 else right * alpha), axes)

    return combine


for _name, _keras in {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "maximum": "maximum", "minimum": "minimum",
    "gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal",
}.items():  # fmt: skip
    _operation(f"{_name}.Tensor", f"{_name}.Scalar", f"{_name}.default")(_binary(_keras))
_operation("pow.Tensor_Scalar", "pow.Tensor_Tensor")(_binary("power"))


@_operation("elu.default")
def _elu(t: Translator, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if input_scale != 1:
        raise unsupported("an ELU with a scaled input")
    tensor = t.ops.elu(x.tensor, alpha)
    return Value(tensor if scale == 1 else t.ops.multiply(tensor, scale), x.axes)  # SELU is scaled


@_operation("where.self")
def _where(t: Translator, condition: Any, a: Any, b: Any) -> Value:
    tensors, axes = t.align(condition, a, b)
    return Value(t.ops.where(*tensors), axes)


def _reduction(name: str) -> Operation:
    def reduce(t: Translator, x: Any, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
        dims = range(len(x.axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        reduced = {dim % len(x.axes) for dim in dims}
        positions = tuple(x.position(dim) for dim in sorted(reduced))
        tensor = getattr(t.ops, name)(x.tensor, axis=positions, keepdims=keepdim)
        if keepdim:
            return Value(tensor, x.axes)
        kept = sorted(set(x.axes) - reduced)
        return Value(tensor, tuple(kept.index(axis) for axis in x.axes if axis not in reduced))

    return reduce


for _name, _keras in {"mean.dim": "mean", "amax.default": "max", "amin.default": "min",
                      "sum.dim_IntList": "sum"}.items():  # fmt: skip
    OPERATIONS[_name] = _reduction(_keras)


_operation("softmax.int", "_softmax.default")(
    lambda t, x, dim, *_, **__: Value(t.ops.softmax(x.tensor, axis=x.position(dim)), x.axes)
)


@_operation("adaptive_avg_pool2d.default")
def _adaptive_pool(t: Translator, x: Any, size: Any) -> Value:
    height, width = x.size(2), x.size(3)
    size = _pair(size)
    if size == (1, 1):
        return Value(t.ops.mean(x.tensor, axis=(x.position(2), x.position(3)), keepdims=True), x.axes)
    if height % size[0] or width % size[1]:
        raise unsupported(f"a pooling of {height} x {width} to {size[0]} x {size[1]} values")
    window, tensor = (height // size[0], width // size[1]), t.tensor(x, CHANNELS_LAST)
    return Value(t.ops.average_pool(tensor, window, window, data_format="channels_last"), CHANNELS_LAST)


@_operation("max_pool2d.default")
def _max_pool(t: Translator, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil: bool = False) -> Value:  # fmt: skip
    if _pair(dilation) != (1, 1):
        raise unsupported("a dilated pooling")
    before = t.node.args[0]
    target = str(before.target) if isinstance(before, Node) else ""
    low: Any = before.args[1] if isinstance(before, Node) and len(before.args) > 1 else -1
    # After these, padding with 0 changes no maximum, and unlike infinity it can be quantized.
    not_negative = target == "aten.relu.default" or (target == "aten.hardtanh.default" and low >= 0)
    strides = _pair(stride or kernel)
    tensor = _padded(t, x, kernel, strides, _pair(padding), ceil, 0.0 if not_negative else -math.inf)
    return Value(t.ops.max_pool(tensor, _pair(kernel), strides, data_format="channels_last"), CHANNELS_LAST)


@_operation("avg_pool2d.default")
def _avg_pool(t: Translator, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
              count_padding: bool = True, divisor: Any = None) -> Value:  # fmt: skip
    strides = _pair(stride or kernel)
    axes = zip((x.size(2), x.size(3)), _pair(padding), _pair(kernel), strides, strict=True)
    remainders = [(size + 2 * pad - k) % s for size, pad, k, s in axes]
    if divisor is not None or (any(_pair(padding)) and not count_padding) or (ceil and any(remainders)):
        raise unsupported("an average pooling that does not count the padding")
    tensor = _padded(t, x, kernel, strides, _pair(padding), False, 0.0)
    return Value(t.ops.average_pool(tensor, _pair(kernel), strides, data_format="channels_last"), CHANNELS_LAST)


def _padded(t: Translator, x: Any, kernel: Any, stride: Any, padding: tuple[int, int], ceil: bool, value: float) -> Any:
    tensor = t.tensor(x, CHANNELS_LAST)
    margins = []
    for size, pad, k, s in zip(tensor.shape[1:3], padding, _pair(kernel), _pair(stride), strict=True):
        more = -(size + 2 * pad - k) % s if ceil else 0
        if more and (size + 2 * pad - k + more) // s * s >= size + pad:  # a window may not begin in the padding
            more = 0
        margins.append((pad, pad + more))
    if not any(map(any, margins)):
        return tensor
    return t.ops.pad(tensor, [(0, 0), *margins, (0, 0)], constant_values=value)


@_operation("constant_pad_nd.default")
def _pad(t: Translator, x: Any, widths: Sequence[int], value: float = 0) -> Value:
    margins = [(0, 0)] * len(x.axes)
    for number in range(len(widths) // 2):
        margins[x.position(-1 - number)] = (widths[2 * number], widths[2 * number + 1])
    if any(width < 0 for width in widths):
        raise unsupported("a negative padding")
    return Value(t.ops.pad(x.tensor, margins, constant_values=value), x.axes) if any(map(any, margins)) else x


@_operation("permute.default")
def _permute(t: Translator, x: Any, dims: Sequence[int]) -> Value:
    order = [dim % len(x.axes) for dim in dims]
    return Value(x.tensor, tuple(order.index(axis) for axis in x.axes))


@_operation("view.default", "_unsafe_view.default", "reshape.default", "squeeze.dims", "squeeze.dim")
def _view(t: Translator, x: Any, _sizes: Any) -> Value:
    sizes = [size if isinstance(size, int) else -1 for size in t.node.meta["val"].shape]
    return Value(t.ops.reshape(t.tensor(x), sizes), tuple(range(len(sizes))))


@_operation("unsqueeze.default")
def _unsqueeze(t: Translator, x: Any, dim: int) -> Value:
    dim %= len(x.axes) + 1
    return Value(t.ops.expand_dims(x.tensor, 0), (dim, *(axis + (axis >= dim) for axis in x.axes)))


@_operation("expand.default")
def _expand(t: Translator, x: Any, _sizes: Any) -> Value:
    sizes = [size if isinstance(size, int) else None for size in t.node.meta["val"].shape]
    value = t.expand(t.as_value(x), len(sizes))
    tensor = value.tensor + np.zeros([sizes[axis] or 1 for axis in value.axes], np.float32)
    for position, axis in enumerate(value.axes):
        if sizes[axis] is None and tensor.shape[position] == 1:  # as many as there are images
            zeros = t.ops.zeros_like(t.ops.max(t.ops.cast(t.images, "float32"), axis=(1, 2, 3)))
            tensor = t.ops.add(t.ops.reshape(zeros, [-1 if axis == other else 1 for other in value.axes]), tensor)
    return Value(tensor, value.axes)


@_operation("cat.default")
def _cat(t: Translator, values: Sequence[Any], dim: int = 0) -> Value:
    tensors, axes = t.align(*(value for value in values if value is not None))
    return Value(t.ops.concatenate(tensors, axis=axes.index(dim % len(axes))), axes)


@_operation("split_with_sizes.default", "split.Tensor")
def _split(t: Translator, x: Any, sizes: Any, dim: int = 0) -> Any:
    total = x.size(dim)
    sizes = [min(sizes, total - start) for start in range(0, total, sizes)] if isinstance(sizes, int) else list(sizes)
    parts = t.ops.split(x.tensor, np.cumsum(sizes)[:-1].tolist(), axis=x.position(dim))
    return tuple(Value(part, x.axes) for part in parts)


@_operation("select.int")
def _select(t: Translator, x: Any, dim: int, index: int) -> Value:
    position, dim = x.position(dim), dim % len(x.axes)
    tensor = t.ops.take(x.tensor, index % x.tensor.shape[position], axis=position)
    return Value(tensor, tuple(axis - (axis > dim) for axis in x.axes if axis != dim))


@_operation("slice.Tensor")
def _slice(t: Translator, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    position, size = x.position(dim), x.size(dim)
    if size is None:
        raise unsupported("a slice of the batch")
    first, last, step = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return x  # type: ignore[no-any-return]
    if step == 1:
        parts = t.ops.split(x.tensor, [cut for cut in (first, last) if 0 < cut < size], axis=position)
        return Value(parts[1 if first else 0], x.axes)
    return Value(t.ops.take(x.tensor, np.arange(first, last, step), axis=position), x.axes)


@_operation("matmul.default", "bmm.default", "mm.default")
def _matmul(t: Translator, a: Any, b: Any) -> Value:
    tensor = t.ops.matmul(t.tensor(a), t.tensor(b))
    return Value(tensor, tuple(range(len(tensor.shape))))


@_operation("scaled_dot_product_attention.default")
def _attention(
    t: Translator, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    mask = t.node.kwargs.get("attn_mask", t.node.args[3] if len(t.node.args) > 3 else None)
    if is_causal or enable_gqa or (isinstance(mask, Node) and mask.meta["val"].dtype == torch.bool):
        raise unsupported("attention with a causal or boolean mask, or with fewer keys than queries")
    rank = len(k.axes)
    query, key = t.tensor(q), t.tensor(k, (*range(rank - 2), rank - 1, rank - 2))
    scores = t.ops.matmul(query * (scale if scale is not None else query.shape[-1] ** -0.5), key)
    if attn_mask is not None:
        scores = t.ops.add(scores, t.tensor(attn_mask))
    return Value(t.ops.matmul(t.ops.softmax(scores, axis=-1), t.tensor(v)), tuple(range(rank)))


def _pair(value: Any) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return values if len(values) == 2 else (values[0], values[0])
