"""Translation of a PyTorch graph into a Keras model, operation by operation.

PyTorch's feature maps are (N, C, H, W) and TensorFlow's kernels want (N, H, W, C). A `Value` therefore records which
axis of PyTorch's tensor each of its axes holds, so that a permutation moves no data, and most networks are translated
without a single transposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from regraft.errors import ExportError

#: Translates one operation: from a `Translator` and the operation's arguments to a `Value`, or several.
Operation = Callable[..., Any]
#: Stands for sizes that are computed from the number of images, which is known only when the model runs.
BATCH_SIZE = object()


def unsupported(what: str) -> ExportError:
    """Return the error for a part of the network that has no translation."""
    text = f"The network has {what}, which cannot be translated to TensorFlow."
    return ExportError(f"{text} Export to onnx, openvino or exported-program instead.")


@dataclass(frozen=True)
class Value:
    """A Keras tensor or constant array; `axes` says which axis of PyTorch's tensor each of its axes holds."""

    tensor: Any
    axes: tuple[int, ...]

    def position(self, axis: int) -> int:
        """Return the position in `tensor` of an axis of PyTorch's tensor."""
        return self.axes.index(axis % len(self.axes))

    def size(self, axis: int) -> Any:
        """Return the size along an axis of PyTorch's tensor; None for the batch."""
        return self.tensor.shape[self.position(axis)]


class Translator:
    """Walks a graph and builds the Keras model.

    `node` is the operation that is being translated, `images` the input of the model.
    """

    node: Node
    images: Any

    def __init__(self, program: torch.export.ExportedProgram, operations: Mapping[str, Operation]) -> None:
        import keras

        self._keras, self.ops, self.layers = keras, keras.ops, keras.layers
        self._program, self._operations = program, operations
        self._values: dict[Node, Any] = {}
        self._layer_names: set[str] = set()

    def model(self, name: str) -> Any:
        """Translate the whole graph into a `keras.Model`."""
        program, signature = self._program, self._program.graph_signature
        constants = program.state_dict | program.constants
        constant_names = (
            signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
        )
        result = None
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in constant_names:
                self._values[node] = constants[constant_names[node.name]].detach()
            elif node.op == "placeholder":
                shape = [int(size) for size in node.meta["val"].shape[1:]]
                self.images = self._keras.Input(shape=shape, dtype="uint8", name="images")
                self._values[node] = Value(self.images, tuple(range(1 + len(shape))))
            elif node.op == "output":
                result = self._values[node.args[0][0]]
            else:
                self._values[node] = self._translate(node)
        assert isinstance(result, Value)
        output = self.layers.Activation("linear", name="probabilities", dtype="float32")(self.tensor(result))
        return self._keras.Model(self.images, output, name=name)

    def _translate(self, node: Node) -> Any:
        """Return a `Value`, several, a PyTorch tensor (a constant), a size, or `BATCH_SIZE`."""
        target = str(getattr(node.target, "__name__", node.target))
        if target in ("_assert_tensor_metadata.default", "_assert_scalar.default"):
            return None
        example = node.meta.get("val")
        if isinstance(example, (int, torch.SymInt)):
            return example if isinstance(example, int) else BATCH_SIZE
        if isinstance(example, torch.Tensor) and 0 in example.shape:
            return None  # an empty tensor, to which others are concatenated
        args = torch.fx.node.map_arg(node.args, self._values.get)
        kwargs = torch.fx.node.map_arg(node.kwargs, self._values.get)
        has_batch = isinstance(example, torch.Tensor) and not all(isinstance(size, int) for size in example.shape)
        if not has_batch and not any(isinstance(value, Value) for value in _flatten((args, tuple(kwargs.values())))):
            return node.target(*args, **kwargs)  # type: ignore[operator]  # all arguments are constants
        operation = self._operations.get(target)
        if operation is None:
            raise unsupported(f"the operation {target}")
        self.node = node
        try:
            value = operation(self, *args, **kwargs)
        except ExportError:
            raise
        except Exception as error:  # Keras has many classes of errors
            raise unsupported(f"a form of the operation {target} ({str(error).splitlines()[0][:200]})") from error
        if isinstance(value, Value) and isinstance(example, torch.Tensor):
            self._check_shape(target, value, example)
        return value

    def _check_shape(self, target: str, value: Value, example: torch.Tensor) -> None:
        actual = tuple(value.size(axis) for axis in range(len(value.axes)))
        expected = tuple(size if isinstance(size, int) else None for size in example.shape)
        if len(actual) != len(expected) or any(
            a is not None and b is not None and a != b for a, b in zip(actual, expected, strict=True)
        ):
            raise ExportError(f"The operation {target} gives the shape {actual} in Keras and {expected} in PyTorch.")

    def tensor(self, value: Any, axes: Sequence[int] | None = None) -> Any:
        """Return the tensor of a value with its axes in the given order; default: PyTorch's."""
        value = self.as_value(value)
        axes = tuple(range(len(value.axes))) if axes is None else tuple(axes)
        if value.axes == axes:
            return value.tensor
        order = [value.axes.index(axis) for axis in axes]
        sizes = value.tensor.shape
        if isinstance(value.tensor, np.ndarray):
            return np.transpose(value.tensor, order)
        large = [position for position in order if sizes[position] != 1]
        if large == sorted(large) and sum(sizes[position] is None for position in order) <= 1:  # no data moves
            return self.ops.reshape(value.tensor, [-1 if sizes[i] is None else sizes[i] for i in order])
        return self.ops.transpose(value.tensor, order)

    def as_value(self, value: Any) -> Value:
        """Return a value; a constant becomes one with an array."""
        if isinstance(value, Value):
            return value
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return Value(array, tuple(range(array.ndim)))

    def align(self, *operands: Any) -> tuple[list[Any], tuple[int, ...]]:
        """Return operands as tensors of one rank and one order of axes, ready to broadcast; numbers stay numbers."""
        if any(operand is BATCH_SIZE for operand in operands):
            raise unsupported("arithmetic with the number of images")
        aligned = [value if isinstance(value, (int, float, bool)) else self.as_value(value) for value in operands]
        values = [value for value in aligned if isinstance(value, Value)]
        rank = max(len(value.axes) for value in values)
        variable = [value for value in values if not isinstance(value.tensor, np.ndarray)]
        axes = max(variable, key=lambda value: len(value.axes)).axes
        if len(axes) < rank:
            axes = tuple(range(rank))
        return [
            self.tensor(self.expand(value, rank), axes) if isinstance(value, Value) else value for value in aligned
        ], axes

    def expand(self, value: Value, rank: int) -> Value:
        """Return the value with axes of size 1 in front, so that it has `rank` axes."""
        tensor, missing = value.tensor, rank - len(value.axes)
        for _ in range(missing):
            tensor = tensor[None] if isinstance(tensor, np.ndarray) else self.ops.expand_dims(tensor, 0)
        return Value(tensor, (*range(missing), *(axis + missing for axis in value.axes)))

    def layer(self, kind: Any, **options: Any) -> Any:
        """Return a new layer, named after the PyTorch module that it comes from."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        path = stack[-1][0] if stack else kind.__name__
        base = path.replace(".", "_").removeprefix("model_").lower() or kind.__name__.lower()
        name, number = base, 1
        while name in self._layer_names:
            number += 1
            name = f"{base}_{number}"
        self._layer_names.add(name)
        return kind(name=name, dtype="float32", **options)

    def apply(self, layer: Any, tensor: Any, *weights: Any) -> Any:
        """Set the weights of a layer, leaving out those that are None, and apply it."""
        layer.build(tensor.shape)
        present = [weight for weight in weights if weight is not None]
        layer.set_weights([w.detach().cpu().numpy() if isinstance(w, torch.Tensor) else w for w in present])
        return layer(tensor)


def _flatten(values: Any) -> list[Any]:
    if isinstance(values, (tuple, list)):
        return [item for value in values for item in _flatten(value)]
    return [values]
