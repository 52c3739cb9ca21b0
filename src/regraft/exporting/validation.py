"""Checks of model files before they are loaded: a file from elsewhere may neither run code nor read other files.

ONNX, OpenVINO and LiteRT files are checked here. The other formats can run code by design, so `ExportedModel` loads
them only if the caller trusts them. Nothing is executed, unpacked or written here; each check raises `ExportError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from regraft.errors import ExportError

#: Size in bytes from which on a file is refused: that of the largest ONNX file.
MAX_BYTES = 2**31
_ONNX_DOMAINS = frozenset(("", "ai.onnx"))
#: Maximum number of values that an ONNX operation may create from a constant shape.
_MAX_CREATED_VALUES = 2**28
#: ONNX operations that create values, with the position of the input that is their shape.
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Reshape": 1}
_OPENVINO_BITS = {"f64": 64, "i64": 64, "u64": 64, "f32": 32, "i32": 32, "u32": 32, "f16": 16, "bf16": 16, "i16": 16,
                  "u16": 16, "i8": 8, "u8": 8, "boolean": 8, "i4": 4, "u4": 4, "u1": 1}  # fmt: skip


def check_file(file: Path) -> None:
    """Check that this is a regular file with a plausible size: no link, device or folder, not empty or too large."""
    if file.is_symlink() or not file.is_file():
        kind = "a link" if file.is_symlink() else "missing, or not a regular file"
        raise ExportError(f"{file} is {kind}. Copy the whole export again.")
    size = file.stat().st_size
    if not 0 < size < MAX_BYTES:
        raise ExportError(f"{file} has {size:,} bytes; expected 1 to {MAX_BYTES - 1:,}.")


def check_onnx(file: Path) -> None:
    """Check that all tensors are in this file, with the size they state, and that all operations are standard."""
    check_file(file)
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ExportError(f"{file} is not an ONNX file, or damaged: {error}") from error
    if not model.graph.node:
        raise ExportError(f"{file} is not an ONNX file: it has no graph.")
    _check_created_values(file, model, onnx)
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            _check_onnx_tensor(file, message, onnx)
        elif isinstance(message, onnx.NodeProto) and message.domain not in _ONNX_DOMAINS:
            raise ExportError(f"{file} needs external code: {message.op_type} of {message.domain!r}.")
        elif isinstance(message, onnx.FunctionProto) and message.domain in _ONNX_DOMAINS:
            raise ExportError(f"{file} replaces the standard operation {message.name}.")


def _check_created_values(file: Path, model: Any, onnx: Any) -> None:
    constants = {t.name: t for m in _messages(model) if isinstance(m, onnx.GraphProto) for t in m.initializer}
    nodes = [message for message in _messages(model) if isinstance(message, onnx.NodeProto)]
    for node in nodes:
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in nodes:
        position = _SHAPE_INPUTS.get(node.op_type)
        shape = constants.get(node.input[position]) if position is not None and len(node.input) > position else None
        if shape is None or shape.data_type != onnx.TensorProto.INT64 or not 0 < np.prod(list(shape.dims)) < 16:
            continue
        _check_onnx_tensor(file, shape, onnx)
        count = int(np.prod([abs(int(v)) or 1 for v in onnx.numpy_helper.to_array(shape)], dtype=object))
        if count > _MAX_CREATED_VALUES:
            raise ExportError(f"{file} creates {count:,} values from a shape ({node.op_type} {node.name}).")


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages within it."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is None:
                continue
            repeated = value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
            stack.extend(item for item in repeated if hasattr(item, "ListFields"))


def _check_onnx_tensor(file: Path, tensor: Any, onnx: Any) -> None:
    name = f"the tensor {tensor.name!r}" if tensor.name else "a constant"
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        raise ExportError(f"{file} stores {name} in another file ({location!r}). Save the model as one file.")
    if any(size < 0 for size in tensor.dims):
        raise ExportError(f"{file}: {name} has the shape {list(tensor.dims)}.")
    count = int(np.prod(list(tensor.dims), dtype=object)) if tensor.dims else 1
    kind = tensor.data_type
    if kind not in onnx.TensorProto.DataType.values() or kind == onnx.TensorProto.UNDEFINED:
        raise ExportError(f"{file}: {name} has an unknown data type.")
    if kind == onnx.TensorProto.STRING:
        actual, expected = len(tensor.string_data), count
    elif tensor.raw_data:
        actual = len(tensor.raw_data)
        expected = count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        actual, expected = max(map(len, fields)), count
    # Packed types and complex numbers store less or more than one element per value.
    if actual > 2 * expected or actual < expected // 8 or (count and not actual) or count > MAX_BYTES:
        raise ExportError(f"{file}: {name} states {count:,} values and stores {actual:,} of {expected:,} elements.")


def check_openvino(graph: Path, weights: Path) -> None:
    """Check that the XML has no entities, all operations are standard, and all constants lie in the weights' file."""
    check_file(graph)
    check_file(weights)
    text = graph.read_bytes()
    if b"\0" in text or re.search(rb"xmlns|encoding\s*=\s*.(?!utf-?8)", text, re.IGNORECASE):
        raise ExportError(f"{graph} is not plain UTF-8 without namespaces, which OpenVINO writes.")
    if re.search(rb"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ExportError(f"{graph} defines XML entities, which a model does not need.")
    try:
        root = ElementTree.fromstring(text)  # safe: it has no entities
    except ElementTree.ParseError as error:
        raise ExportError(f"{graph} is not XML, or damaged: {error}") from error
    if root.tag != "net" or len(root.findall("layers")) != 1:
        raise ExportError(f"{graph} is not an OpenVINO model: its root is {root.tag!r}.")
    for layer in root.iter("layer"):
        version = layer.get("version", "")
        if not re.fullmatch(r"opset\d+", version):
            raise ExportError(f"{graph} needs external code: {layer.get('type')} of {version!r}.")
        if layer.get("type") == "Const":
            _check_openvino_constant(graph, weights, layer)


def _check_openvino_constant(graph: Path, weights: Path, layer: ElementTree.Element) -> None:
    name, data, size = layer.get("name", ""), layer.find("data"), weights.stat().st_size
    values = {} if data is None else data.attrib
    try:
        offset, length = int(values["offset"]), int(values["size"])
        shape = [int(number) for number in values.get("shape", "").split(",") if number.strip()]
        bits = _OPENVINO_BITS[values["element_type"]]
    except (KeyError, ValueError) as error:
        raise ExportError(f"{graph}: the constant {name} does not state where its values are.") from error
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if min(offset, length, count, *shape, 0) < 0 or offset + length > size:
        raise ExportError(f"{graph}: {name} lies outside {weights.name}, which has {size:,} bytes.")
    if (count * bits + 7) // 8 != length:
        raise ExportError(f"{graph}: {name} states {count:,} values and stores {length:,} bytes.")


def check_litert(file: Path) -> None:
    """Check the header. LiteRT, which runs only its own operations, checks the rest."""
    check_file(file)
    with file.open("rb") as stream:
        header = stream.read(8)
    if header[4:] != b"TFL3" or not 8 <= int.from_bytes(header[:4], "little") < file.stat().st_size:
        raise ExportError(f"{file} is not a LiteRT model, or damaged.")
