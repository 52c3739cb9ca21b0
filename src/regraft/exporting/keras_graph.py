"""A graph of PyTorch, walked with Keras's tensors.

Enters: PyTorch's graph, and what translates each operation. Leaves: a Keras model.

PyTorch's maps are (N, C, H, W) and TensorFlow's kernels want (N, H, W, C). Here a tensor knows which of PyTorch's axes
each of its axes holds, so that a permutation moves nothing, and most networks are translated without one transposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from regraft.errors import ExportError

#: Translates one operation: from a `Translation` and the operation's arguments to a `Value`, or several.
Operation = Callable[..., Any]
#: The number of images, and what is computed of it, which is known only when the model runs.
IMAGES = object()


def unsupported(what: str) -> ExportError:
    """The error for what has no translation."""
    return ExportError(
        f"The network has {what}, which is not known for TensorFlow's formats. onnx, openvino and exported-program can "
        "hold it."
    )


@dataclass(frozen=True)
class Value:
    """A tensor of Keras; `axes[i]`: the axis of PyTorch's tensor that its i-th axis holds."""

    tensor: Any
    axes: tuple[int, ...]

    def where(self, axis: int) -> int:
        """Its axis that holds an axis of PyTorch's tensor."""
        return self.axes.index(axis % len(self.axes))


class Translation:
    """What is known of a graph so far.

    Attributes:
        ops: `keras.ops`.
        layers: `keras.layers`.
        node: The operation that is translated now.
        images: The input.
    """

    node: Node

    def __init__(self, program: torch.export.ExportedProgram, operations: Mapping[str, Operation]) -> None:
        """Begin with nothing known."""
        import keras

        self.keras, self.ops, self.layers = keras, keras.ops, keras.layers
        self.program, self.operations = program, operations
        self.known: dict[Node, Any] = {}
        self.names: set[str] = set()
        self.images: Any = None

    def model(self, name: str) -> Any:
        """Of the whole graph."""
        program = self.program
        constants = program.state_dict | program.constants
        signature = program.graph_signature
        held = (
            signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
        )
        result = None
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in held:
                self.known[node] = constants[held[node.name]].detach()
            elif node.op == "placeholder":
                shape = [int(size) for size in node.meta["val"].shape[1:]]
                self.images = self.keras.Input(shape=shape, dtype="uint8", name="images")
                self.known[node] = Value(self.images, tuple(range(1 + len(shape))))
            elif node.op == "output":
                result = self.known[node.args[0][0]]
            else:
                self.known[node] = self.call(node)
        assert isinstance(result, Value)
        named = self.layers.Activation("linear", name="probabilities", dtype="float32")(self.laid(result))
        return self.keras.Model(self.images, named, name=name)

    def call(self, node: Node) -> Any:
        """What one operation gives: a `Value`, several, a tensor of PyTorch, or a size (`IMAGES`: of the batch)."""
        target = str(getattr(node.target, "__name__", node.target))
        if target in ("_assert_tensor_metadata.default", "_assert_scalar.default"):
            return None
        if isinstance(size := node.meta.get("val"), (int, torch.SymInt)):
            return size if isinstance(size, int) else IMAGES
        if isinstance(size, torch.Tensor) and 0 in size.shape:
            return None  # what others are concatenated to
        args = torch.fx.node.map_arg(node.args, self.known.get)
        kwargs = torch.fx.node.map_arg(node.kwargs, self.known.get)
        moving = isinstance(size, torch.Tensor) and not all(isinstance(each, int) for each in size.shape)
        if not moving and not any(isinstance(value, Value) for value in _flat((args, tuple(kwargs.values())))):
            return node.target(*args, **kwargs)  # type: ignore[operator]  # of constants alone
        translate = self.operations.get(target)
        if translate is None:
            raise unsupported(f"the operation {target}")
        self.node = node
        try:
            value = translate(self, *args, **kwargs)
        except ExportError:
            raise
        except Exception as error:  # Keras says it in many ways
            raise unsupported(f"a form of the operation {target} ({str(error).splitlines()[0][:200]})") from error
        self.check(node, target, value)
        return value

    def check(self, node: Node, target: str, value: Any) -> None:
        """The sizes are those that PyTorch has."""
        expected = node.meta.get("val")
        if isinstance(value, Value) and isinstance(expected, torch.Tensor):
            found = tuple(value.tensor.shape[value.axes.index(axis)] for axis in range(len(value.axes)))
            wanted = tuple(size if isinstance(size, int) else None for size in expected.shape)
            if len(found) != len(wanted) or any(
                a is not None and b is not None and a != b for a, b in zip(found, wanted, strict=True)
            ):
                raise ExportError(f"The operation {target} gives {found} in Keras and {wanted} in PyTorch.")

    def laid(self, value: Any, axes: Sequence[int] | None = None) -> Any:
        """The tensor, with its axes in an order; default: PyTorch's."""
        value = self.value(value)
        axes = tuple(range(len(value.axes))) if axes is None else tuple(axes)
        if value.axes == axes:
            return value.tensor
        order = [value.axes.index(axis) for axis in axes]
        sizes = value.tensor.shape
        if isinstance(value.tensor, np.ndarray):
            return np.transpose(value.tensor, order)
        large = [place for place in order if sizes[place] != 1]
        if large == sorted(large) and sum(sizes[place] is None for place in order) <= 1:  # nothing moves in memory
            return self.ops.reshape(value.tensor, [-1 if sizes[place] is None else sizes[place] for place in order])
        return self.ops.transpose(value.tensor, order)

    def value(self, value: Any) -> Value:
        """A constant as a value as well."""
        if isinstance(value, Value):
            return value
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return Value(array, tuple(range(array.ndim)))

    def alike(self, *given: Any) -> tuple[list[Any], tuple[int, ...]]:
        """Operands of one rank and one order of axes, as they are broadcast; plain numbers stay."""
        if any(value is IMAGES for value in given):
            raise unsupported("arithmetic with the number of images")
        values = [value if isinstance(value, (int, float, bool)) else self.value(value) for value in given]
        tensors = [value for value in values if isinstance(value, Value)]
        rank = max(len(value.axes) for value in tensors)
        moving = [value for value in tensors if not isinstance(value.tensor, np.ndarray)]
        axes = max(moving, key=lambda value: len(value.axes)).axes
        if len(axes) < rank:
            axes = tuple(range(rank))
        found: list[Any] = []
        for value in values:
            if not isinstance(value, Value):
                found.append(value)
                continue
            found.append(self.laid(self.lifted(value, rank), axes))
        return found, axes

    def lifted(self, value: Value, rank: int) -> Value:
        """With new axes of one value in front, until it has so many."""
        tensor, more = value.tensor, rank - len(value.axes)
        for _ in range(more):
            tensor = tensor[None] if isinstance(tensor, np.ndarray) else self.ops.expand_dims(tensor, 0)
        return Value(tensor, (*range(more), *(axis + more for axis in value.axes)))

    def layer(self, kind: Any, **options: Any) -> Any:
        """A layer, named after the module that it was."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        path = stack[-1][0] if stack else kind.__name__
        base = path.replace(".", "_").removeprefix("model_").lower() or kind.__name__.lower()
        name, number = base, 1
        while name in self.names:
            number += 1
            name = f"{base}_{number}"
        self.names.add(name)
        return kind(name=name, dtype="float32", **options)

    def filled(self, layer: Any, tensor: Any, *weights: Any) -> Any:
        """What a layer with these weights gives."""
        layer.build(tensor.shape)
        layer.set_weights(
            [weight.detach().cpu().numpy() if isinstance(weight, torch.Tensor) else weight for weight in weights]
        )
        return layer(tensor)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (tuple, list)):
        return [item for value in values for item in _flat(value)]
    return [values]
