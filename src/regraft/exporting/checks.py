"""Files that somebody else may have made: what a model has no business to do is refused before it is loaded.

Enters: a file. Leaves: nothing, or an `ExportError` that says what is wrong. Nothing is executed, unpacked or written.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from regraft.errors import ExportError, MissingExtraError

#: The largest file that is read, in bytes: as much as an ONNX file can have.
LARGEST = 2**31
_ONNX_DOMAINS = frozenset(("", "ai.onnx"))
_OPENVINO_BITS = {"f64": 64, "i64": 64, "u64": 64, "f32": 32, "i32": 32, "u32": 32, "f16": 16, "bf16": 16, "i16": 16,
                  "u16": 16, "i8": 8, "u8": 8, "boolean": 8, "i4": 4, "u4": 4, "u1": 1}  # fmt: skip
#: The entries of an exported program as `program_form.Program` writes it, below its one folder.
_ENTRIES = re.compile(
    r"archive_(format|version)|\.?data/(version|serialization_id)|version|byteorder|models/model\.json|extra/\w+|"
    r"data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)|data/sample_inputs/model\.pt"
)
#: What its graph may call; what else is named there is looked up by Python.
_TARGETS = re.compile(
    r"torch\.ops\.aten\.((?!from_file|set_)[a-z]\w*|_assert_tensor_metadata)\.\w+|torch\.sym_\w+|model\.[\w.]+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)|"
)
#: Sizes in it; what else is read as an expression would be run.
_EXPRESSION = re.compile(
    r"(Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)|Integer\(-?\d+\)|[su]?\d+|Add|Mul|Pow|Mod|Max|Min|"
    r"FloorDiv|(int_)?oo|[-+*/(), ])+"
)
_KERAS_ENTRIES = frozenset(("metadata.json", "config.json", "model.weights.h5", "regraft.json"))
_KERAS_MODULES = re.compile(
    r"keras|keras\.(layers|initializers|dtype_policies)|keras\.src\.(ops\.(nn|numpy|core|math)|models\.functional)"
)
#: Of Keras's own, what runs code that comes with it, or reads other files.
_KERAS_CODE = frozenset(
    (
        "Lambda",
        "__lambda__",
        "TorchModuleWrapper",
        "TFSMLayer",
        "FlaxLayer",
        "JaxLayer",
        "Map",
        "Scan",
        "While",
        "function",
    )
)
#: The most values that an ONNX graph may make of a constant shape.
_MADE = 2**28
_MAKERS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Reshape": 1}


def check_file(file: Path) -> None:
    """A file like any other, of a size that can be read.

    Raises:
        ExportError: It is not there, is a link or a device, is empty or too large.
    """
    if file.is_symlink() or not file.is_file():
        kind = "a link, which may lead anywhere" if file.is_symlink() else "not there"
        raise ExportError(f"{file} is {kind}. Expected the file itself; copy the whole folder again.")
    size = file.stat().st_size
    if not 0 < size < LARGEST:
        raise ExportError(f"{file} has {size:,} bytes; expected 1 to {LARGEST - 1:,}.")


def check_onnx(file: Path) -> None:
    """One file whose tensors are in it and as large as they say, with operations of the standard only.

    Raises:
        ExportError: It is anything else.
        MissingExtraError: onnx is not installed.
    """
    check_file(file)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError("ONNX", "onnx") from error
    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ExportError(f"{file} is no ONNX file, or damaged: {error}") from error
    if not model.graph.node:
        raise ExportError(f"{file} is no ONNX file: it has no graph.")
    _check_makers(file, model, onnx)
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            _check_tensor(file, message, onnx)
        elif isinstance(message, onnx.NodeProto) and message.domain not in _ONNX_DOMAINS:
            raise ExportError(f"{file} wants code from elsewhere: {message.op_type} of {message.domain!r}.")
        elif isinstance(message, onnx.FunctionProto) and message.domain in _ONNX_DOMAINS:
            raise ExportError(f"{file} puts its own {message.name} in the place of a standard operation.")


def _check_makers(file: Path, model: Any, onnx: Any) -> None:
    """Nothing makes more values of a constant shape than a model of images can need."""
    small = {t.name: t for m in _messages(model) if isinstance(m, onnx.GraphProto) for t in m.initializer}
    for node in (m for m in _messages(model) if isinstance(m, onnx.NodeProto)):
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t"):
            small[node.output[0]] = node.attribute[0].t
    for node in (m for m in _messages(model) if isinstance(m, onnx.NodeProto)):
        place = _MAKERS.get(node.op_type)
        shape = small.get(node.input[place]) if place is not None and len(node.input) > place else None
        if shape is None or shape.data_type != onnx.TensorProto.INT64 or not 0 < np.prod(list(shape.dims)) < 16:
            continue
        _check_tensor(file, shape, onnx)
        count = int(np.prod([abs(int(v)) or 1 for v in onnx.numpy_helper.to_array(shape)], dtype=object))
        if count > _MADE:
            raise ExportError(f"{file} makes {count:,} values of nothing ({node.op_type} {node.name}).")


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all within it."""
    waiting = [message]
    while waiting:
        found = waiting.pop()
        yield found
        for field, value in found.ListFields():
            if field.message_type is None:
                continue
            repeated = value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
            waiting.extend(item for item in repeated if hasattr(item, "ListFields"))


def _check_tensor(file: Path, tensor: Any, onnx: Any) -> None:
    name = tensor.name or "a constant"
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        raise ExportError(f"{file} keeps {name} in another file ({where!r}). Expected one file with all of its data.")
    if any(size < 0 for size in tensor.dims):
        raise ExportError(f"{file}: {name} has the sizes {list(tensor.dims)}.")
    count = int(np.prod(list(tensor.dims), dtype=object)) if tensor.dims else 1
    kind = tensor.data_type
    if kind not in onnx.TensorProto.DataType.values() or kind == onnx.TensorProto.UNDEFINED:
        raise ExportError(f"{file}: {name} is of no known type.")
    if kind == onnx.TensorProto.STRING:
        there, expected = len(tensor.string_data), count
    elif tensor.raw_data:
        width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize
        there, expected = len(tensor.raw_data), count * width
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        there, expected = max(map(len, fields)), count
    if there > 2 * expected or there < expected // 8 or (count and not there):
        raise ExportError(f"{file}: {name} says that it has {count:,} values and has {there:,} of {expected:,} pieces.")
    if count > LARGEST:
        raise ExportError(f"{file}: {name} has {count:,} values.")


def check_openvino(graph: Path, weights: Path) -> None:
    """A graph without entities and with standard operations only, whose constants lie within the file of weights.

    Raises:
        ExportError: It is anything else.
    """
    check_file(graph)
    check_file(weights)
    text = graph.read_bytes()
    if b"\0" in text or re.search(rb"xmlns|encoding\s*=\s*.(?!utf-?8)", text, re.IGNORECASE):
        raise ExportError(f"{graph} is not plain UTF-8 without name spaces, as OpenVINO writes it.")
    if re.search(rb"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ExportError(f"{graph} defines entities, which a model has no use for.")
    try:
        root = ElementTree.fromstring(text)  # it has no entities
    except ElementTree.ParseError as error:
        raise ExportError(f"{graph} is no XML, or damaged: {error}") from error
    if root.tag != "net" or len(root.findall("layers")) != 1:
        raise ExportError(f"{graph} is no OpenVINO model: it begins with {root.tag!r}.")
    size = weights.stat().st_size
    for layer in root.iter("layer"):
        name, version = layer.get("name", ""), layer.get("version", "")
        if not re.fullmatch(r"opset\d+", version):
            raise ExportError(f"{graph}: {name} wants code from elsewhere: {layer.get('type')} of {version!r}.")
        data = layer.find("data")
        if layer.get("type") == "Const":
            values = {} if data is None else data.attrib
            try:
                offset, length = int(values["offset"]), int(values["size"])
                shape = [int(number) for number in values.get("shape", "").split(",") if number.strip()]
                bits = _OPENVINO_BITS[values["element_type"]]
            except (KeyError, ValueError) as error:
                raise ExportError(f"{graph}: the constant {name} does not say where its values are.") from error
            count = int(np.prod(shape, dtype=object)) if shape else 1
            if min(offset, length, count, *shape, 0) < 0 or offset + length > size:
                raise ExportError(f"{graph}: {name} lies outside of {weights.name}, which has {size:,} bytes.")
            if (count * bits + 7) // 8 != length:
                raise ExportError(f"{graph}: {name} says that it has {count:,} values and has {length:,} bytes.")


def check_litert(file: Path) -> None:
    """A file that begins as a LiteRT model does; what it holds is left to LiteRT, which runs its own operations only.

    Raises:
        ExportError: It is anything else.
    """
    check_file(file)
    with file.open("rb") as stream:
        start = stream.read(8)
    size = file.stat().st_size
    if start[4:] != b"TFL3" or not 8 <= int.from_bytes(start[:4], "little") < size:
        raise ExportError(f"{file} is no LiteRT model, or damaged.")


def check_saved_model(folder: Path) -> None:
    """A SavedModel of the files that `tensorflow_forms.SavedModel` writes and no others.

    TensorFlow's graphs can read and write files, so `ExportedModel` asks for trust besides.

    Raises:
        ExportError: It is anything else.
    """
    expected = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}
    if folder.is_symlink() or (folder / "variables").is_symlink() or not folder.is_dir():
        raise ExportError(f"{folder} or its variables is a link, or not there. Copy the whole folder again.")
    for found in sorted(folder.iterdir()):
        if found.name not in expected or (found.name == "assets" and (found.is_symlink() or any(found.iterdir()))):
            raise ExportError(f"{found} is no part of a model.")
    for found in sorted((folder / "variables").iterdir()):
        check_file(found)


def check_keras(file: Path) -> None:
    """A Keras archive of its three entries, made of Keras's own layers and operations.

    Keras has had ways to run what is in such a file, so `ExportedModel` asks for trust besides.

    Raises:
        ExportError: It is anything else.
    """
    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(file, entries)
            names = {entry.filename for entry in entries}
            if not {"config.json", "model.weights.h5"} <= names <= _KERAS_ENTRIES:
                raise ExportError(
                    f"{file} is no Keras model of layers and weights: it holds {', '.join(sorted(names))}."
                )
            waiting = [json.loads(archive.read("config.json"))]
            while waiting:
                found = waiting.pop()
                if isinstance(found, dict):
                    kind, module = found.get("class_name"), found.get("module")
                    if module is not None and not _KERAS_MODULES.fullmatch(str(module)):
                        raise ExportError(f"{file} wants code from elsewhere: {kind} of {str(module)[:80]!r}.")
                    if kind is not None and (not re.fullmatch(r"\w+", str(kind)) or str(kind) in _KERAS_CODE):
                        raise ExportError(f"{file} brings code: {str(kind)[:80]!r}.")
                    waiting.extend(found.values())
                elif isinstance(found, list):
                    waiting.extend(found)
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, RecursionError, NotImplementedError) as error:
        raise ExportError(f"{file} is no Keras model, or damaged: {error}") from error


def check_program(file: Path) -> None:
    """An exported program of PyTorch without pickles, libraries and calls but into ATen.

    PyTorch's reader runs parts of such a file as Python, so this is no proof that it is harmless: `ExportedModel` asks
    for trust besides.

    Raises:
        ExportError: It is anything else.
    """
    check_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(file, entries)
            for entry in entries:
                short = entry.filename.partition("/")[2]
                if not _ENTRIES.fullmatch(short):
                    raise ExportError(f"{file} brings what is no part of a model: {entry.filename}.")
                if short.startswith("data/sample_inputs") and entry.file_size:
                    raise ExportError(f"{file} brings a pickle: {entry.filename}.")
                if short.endswith(".json"):
                    _check_json(file, entry.filename, json.loads(archive.read(entry)))
            names = {entry.filename.partition("/")[2] for entry in entries}
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, RecursionError, NotImplementedError) as error:
        raise ExportError(f"{file} is no exported program, or damaged: {error}") from error
    if "archive_format" not in names or not any(name.startswith("models/") for name in names):
        raise ExportError(f"{file} is no exported program: it has no graph.")


def _check_entries(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    size = file.stat().st_size
    if sum(entry.file_size for entry in entries) > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ExportError(f"{file} unpacks to more than it is; expected an archive that is not compressed.")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename.lower()
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/") or name in seen:
            raise ExportError(f"{file} has an entry of the name {entry.filename!r}.")
        seen.add(name)


def _check_json(file: Path, name: str, value: Any) -> None:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if found.get("use_pickle"):
                raise ExportError(f"{file} brings a pickle, by {name}.")
            path, target, size = (found.get(key) for key in ("path_name", "target", "expr_str"))
            if isinstance(path, str) and not re.fullmatch(r"(weight|tensor)_\d+", path):
                raise ExportError(f"{file} brings a pickle, by {name}: {path[:80]!r}.")
            if isinstance(target, str) and not _TARGETS.fullmatch(target):
                raise ExportError(f"{file} calls {target[:80]!r}.")
            if isinstance(size, str) and not _EXPRESSION.fullmatch(size):
                raise ExportError(f"{file} would run {size[:80]!r}.")
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
