"""The operations of `keras.ops` as Keras layers, for HDF5 files, which hold layers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regraft.errors import ExportError

_ACTIVATIONS = ("relu", "relu6", "sigmoid", "tanh", "hard_silu", "hard_sigmoid", "exponential", "softplus")


class LayerOps:
    """Has the names of `keras.ops`; an operation without a layer raises `ExportError`."""

    def __init__(self, layers: Any) -> None:
        self._layers = layers

    def __getattr__(self, name: str) -> Any:
        if name in _ACTIVATIONS:
            return lambda tensor: self._layers.Activation(name)(tensor)
        raise _no_layer(f"the operation {name}")

    def cast(self, tensor: Any, dtype: str) -> Any:
        """Return floats; Rescaling converts the pixels."""
        return tensor if tensor.dtype == dtype else self._layers.Rescaling(1.0, dtype=dtype)(tensor)

    def add(self, a: Any, b: Any) -> Any:
        """Add two tensors, or numbers to a tensor."""
        a, b = (b, a) if _is_constant(a) else (a, b)
        return self._rescaled(a, 1.0, b) if _is_constant(b) else self._layers.Add()([a, b])

    def subtract(self, a: Any, b: Any) -> Any:
        """Subtract a tensor or numbers from a tensor."""
        return self._rescaled(a, 1.0, -b) if _is_constant(b) else self._layers.Subtract()([a, b])

    def multiply(self, a: Any, b: Any) -> Any:
        """Multiply two tensors, or a tensor by numbers."""
        a, b = (b, a) if _is_constant(a) else (a, b)
        return self._rescaled(a, b, 0.0) if _is_constant(b) else self._layers.Multiply()([a, b])

    def negative(self, tensor: Any) -> Any:
        """Multiply a tensor by -1."""
        return self._rescaled(tensor, -1.0, 0.0)

    def divide(self, a: Any, b: Any) -> Any:
        """Divide a tensor by numbers."""
        if not _is_constant(b) or _is_constant(a):
            raise _no_layer("a division by what it computes")
        return self._rescaled(a, 1.0 / b, 0.0)

    def _rescaled(self, tensor: Any, scale: Any, offset: Any) -> Any:
        """Multiply and add numbers, one for all or one for each value of the last axis."""
        values = []
        for value in (scale, offset):
            array = np.asarray(value, np.float64)
            if array.size not in (1, array.shape[-1] if array.ndim else 1):
                raise _no_layer(f"arithmetic with constants of the shape {array.shape}")
            values.append(float(array.reshape(-1)[0]) if array.size == 1 else array.reshape(-1).tolist())
        return self._layers.Rescaling(*values)(tensor)

    def mean(self, tensor: Any, axis: Sequence[int], keepdims: bool = False) -> Any:
        """Average over height and width."""
        return self._pooled("GlobalAveragePooling2D", tensor, axis, keepdims)

    def max(self, tensor: Any, axis: Sequence[int], keepdims: bool = False) -> Any:
        """Maximum over height and width."""
        return self._pooled("GlobalMaxPooling2D", tensor, axis, keepdims)

    def _pooled(self, layer: str, tensor: Any, axis: Sequence[int], keepdims: bool) -> Any:
        if len(tensor.shape) != 4 or tuple(axis) != (1, 2):
            raise _no_layer(f"a reduction over the axes {tuple(axis)}")
        return getattr(self._layers, layer)(data_format="channels_last", keepdims=keepdims)(tensor)

    def max_pool(self, tensor: Any, window: Any, strides: Any, data_format: str) -> Any:
        """Maxima of windows."""
        return self._layers.MaxPooling2D(window, strides, data_format=data_format)(tensor)

    def average_pool(self, tensor: Any, window: Any, strides: Any, data_format: str) -> Any:
        """Means of windows."""
        return self._layers.AveragePooling2D(window, strides, data_format=data_format)(tensor)

    def pad(self, tensor: Any, margins: Sequence[tuple[int, int]], constant_values: float = 0.0) -> Any:
        """Pad height and width with zeros."""
        if len(margins) != 4 or any(margins[0]) or any(margins[3]) or constant_values:
            raise _no_layer("a padding with other values than 0")
        return self._layers.ZeroPadding2D(tuple(margins[1:3]), data_format="channels_last")(tensor)

    def elu(self, tensor: Any, alpha: float) -> Any:
        """Exponential linear unit."""
        return self._layers.ELU(alpha)(tensor)

    def leaky_relu(self, tensor: Any, negative_slope: float) -> Any:
        """ReLU with a slope below zero."""
        return self._layers.LeakyReLU(negative_slope)(tensor)

    def gelu(self, tensor: Any, approximate: bool) -> Any:
        """Gaussian error linear unit."""
        if approximate:
            raise _no_layer("an approximate GELU")
        return self._layers.Activation("gelu")(tensor)

    def transpose(self, tensor: Any, order: Sequence[int]) -> Any:
        """Permute all axes but the first."""
        if order[0] != 0:
            raise _no_layer("a permutation of the images' axis")
        return self._layers.Permute(tuple(order[1:]))(tensor)

    def reshape(self, tensor: Any, sizes: Sequence[int]) -> Any:
        """Reshape all axes but the first."""
        if sizes[0] != -1 or -1 in sizes[1:]:
            raise _no_layer("a shape without the number of images")
        return self._layers.Reshape(tuple(sizes[1:]))(tensor)

    def concatenate(self, tensors: Sequence[Any], axis: int) -> Any:
        """Concatenate tensors along an axis."""
        return self._layers.Concatenate(axis=axis)(list(tensors))

    def softmax(self, tensor: Any, axis: int) -> Any:
        """Softmax along an axis."""
        return self._layers.Softmax(axis=axis)(tensor)


def check_layers(model: Any, layer: type) -> None:
    """Raise `ExportError` if a `keras.Model` has operations that are not layers, from operators between tensors."""
    others = [operation.__class__.__name__ for operation in model.operations if not isinstance(operation, layer)]
    if others:
        raise _no_layer(f"the operation {others[0]}")


def _is_constant(value: Any) -> bool:
    return isinstance(value, (int, float, np.ndarray))


def _no_layer(what: str) -> ExportError:
    return ExportError(f"The network has {what}, and Keras's HDF5 has no layer for it. Export to keras instead.")
