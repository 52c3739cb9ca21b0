"""Files that somebody else made: what is no model, or more than one, is refused; nothing is run and nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from regraft.errors import ExportError
from regraft.exporting.checks import (
    check_keras,
    check_litert,
    check_onnx,
    check_openvino,
    check_program,
    check_saved_model,
)  # fmt: skip

MARK = "regraft-was-here"


class Bomb:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


@pytest.fixture(autouse=True)
def _nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Refusing a file runs nothing and writes nothing."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARK).exists()


def onnx_bytes(change: Callable[[onnx.ModelProto], None] = lambda model: None) -> bytes:
    """A small network, changed."""
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    change(model)
    return bytes(model.SerializeToString())


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def _hidden_external(model: onnx.ModelProto) -> None:
    """In the branch of an If, where no list of the graph's weights shows it."""
    inner = numpy_helper.from_array(np.ones(4, np.float32), "inner")
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=inner)], "b", [],
                               [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])])  # fmt: skip
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))


def _dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def _domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil.ops"


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("", "MatMul", ["a", "b"], ["c"], [helper.make_node("Add", ["a", "b"], ["c"])], [])
    )


def _bomb(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40], np.int64), "shape"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["much"]))


def _type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


ONNX: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "text": (b"not a model", "no ONNX file"),
    "a pickle": (pickle.dumps(Bomb()), "no ONNX file"),
    "cut off": (onnx_bytes()[:-20], "no ONNX file"),
    "without a graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    "data above the folder": (onnx_bytes(_external("../../secret")), r"another file \('../../secret'\)"),
    "data at an absolute path": (onnx_bytes(_external("/etc/passwd")), "another file"),
    "data beside it": (onnx_bytes(_external("weights.bin")), "another file"),
    "data elsewhere in a branch": (onnx_bytes(_hidden_external), "another file"),
    "an enormous tensor": (onnx_bytes(_dims(2**40, 2**20)), "says that it has"),
    "a tensor of negative size": (onnx_bytes(_dims(-4, 2)), "has the sizes"),
    "a tensor that overflows": (onnx_bytes(_dims(2**62, 4)), "says that it has"),
    "memory out of nothing": (onnx_bytes(_bomb), "values of nothing"),
    "a tensor of no type": (onnx_bytes(_type), "no known type"),
    "an operation from elsewhere": (onnx_bytes(_domain), "code from elsewhere"),
    "a standard operation of its own": (onnx_bytes(_function), "in the place of a standard operation"),
}


@pytest.mark.parametrize("case", list(ONNX))
def test_onnx_refuses(case: str, tmp_path: Path) -> None:
    content, words = ONNX[case]
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=words):
        check_onnx(tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_links_and_folders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(onnx_bytes())
    (tmp_path / "model.onnx").symlink_to(tmp_path / "real.onnx")
    with pytest.raises(ExportError, match="a link"):
        check_onnx(tmp_path / "model.onnx")
    for missing in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(ExportError, match="not there"):
            check_onnx(missing)
    check_onnx(tmp_path / "real.onnx")


def layer(kind: str = "Const", version: str = "opset1", **data: object) -> str:
    values = {"element_type": "f32", "shape": "2, 2", "offset": "0", "size": "16"} | data
    attributes = " ".join(f'{k}="{v}"' for k, v in values.items() if v is not None)
    return f'<layer id="0" name="w" type="{kind}" version="{version}"><data {attributes}/></layer>'


def net(*layers: str, before: str = "") -> str:
    return f'<?xml version="1.0"?>{before}<net name="m" version="11"><layers>{"".join(layers)}</layers></net>'


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OPENVINO: dict[str, tuple[str, str]] = {
    "text": ("hello", "no XML"),
    "another document": ("<html></html>", "begins with 'html'"),
    "entities": (net(layer(), before=ENTITIES), "entities"),
    "an entity of a file": (net(before='<!doctype x [<!entity f SYSTEM "file:///etc/passwd">]>'), "entities"),
    "another name space": (net(layer()).replace("<layers>", '<layers xmlns="e">'), "plain UTF-8"),
    "two graphs": (net(layer()).replace("</net>", "<layers></layers></net>"), "no OpenVINO model"),
    "another encoding": (net(layer()).replace("?>", ' encoding="utf-16"?>'), "plain UTF-8"),
    "an operation from elsewhere": (net(layer("Run", "extension")), "code from elsewhere"),
    "weights beyond the end": (net(layer(offset=4096)), "lies outside"),
    "weights before the beginning": (net(layer(offset=-16)), "lies outside"),
    "more values than bytes": (net(layer(shape="1000000, 1000000")), "says that it has"),
    "a negative shape": (net(layer(shape="-2, 2")), "lies outside"),
    "an unknown type": (net(layer(element_type="f31")), "does not say where"),
    "no place": (net(layer(offset=None)), "does not say where"),
}


@pytest.mark.parametrize("case", list(OPENVINO))
def test_openvino_refuses(case: str, tmp_path: Path) -> None:
    text, words = OPENVINO[case]
    (tmp_path / "model.xml").write_text(text)
    (tmp_path / "model.bin").write_bytes(bytes(64))
    with pytest.raises(ExportError, match=words):
        check_openvino(tmp_path / "model.xml", tmp_path / "model.bin")
    (tmp_path / "model.xml").write_text(net(layer()))
    check_openvino(tmp_path / "model.xml", tmp_path / "model.bin")


GRAPH = {"graph_module": {"graph": {"nodes": [{"target": "torch.ops.aten.add.Tensor"}]}}}


def program(entries: dict[str, bytes] | None = None, *, compressed: bool = False) -> bytes:
    """An archive with the bare bones of an exported program, and more."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        whole = {
            "archive_format": b"pt2", "models/model.json": json.dumps(GRAPH).encode(),
            "data/sample_inputs/model.pt": b"",
        } | (entries or {})  # fmt: skip
        for name, content in whole.items():
            archive.writestr(name if name.startswith("/") else f"model/{name}", content)
    return file.getvalue()


def _call(target: str) -> dict[str, bytes]:
    return {"models/model.json": json.dumps({"nodes": [{"target": target}]}).encode()}


def _size(expression: str) -> dict[str, bytes]:
    return {"models/model.json": json.dumps({"sizes": [{"as_expr": {"expr_str": expression}}]}).encode()}


PROGRAM: dict[str, tuple[bytes, str]] = {
    "text": (b"hello", "no exported program"),
    "a bare pickle": (pickle.dumps(Bomb()), "no exported program"),
    "a pickle among the inputs": (program({"data/sample_inputs/model.pt": pickle.dumps(Bomb())}), "brings a pickle"),
    "pickled weights": (
        program({"data/weights/model_weights_config.json": b'{"config": {"w": {"use_pickle": true}}}'}), "a pickle"),
    "a library": (program({"data/aotinductor/model/model.so": b"\x7fELF"}), "no part of a model"),
    "an object of its own": (program({"data/custom_objs/obj_0": b"x"}), "no part of a model"),
    "a script": (program({"extra/setup.py": b"import os"}), "no part of a model"),
    "an object to unpickle": (program({"data/constants/opaque_obj_0": pickle.dumps(Bomb())}), "no part of a model"),
    "an object by its config": (
        program({"data/constants/model_constants_config.json": b'{"config": {"c": {"path_name": "opaque_obj_0"}}}'}),
        "brings a pickle"),
    "weights of the old kind": (program({"data/weights/model.pt": pickle.dumps(Bomb())}), "no part of a model"),
    "an archive of the old kind": (program({"serialized_state_dict.pt": pickle.dumps(Bomb())}), "no part of a model"),
    "inputs in other letters": (
        program({"Data/Sample_inputs/model2.pt": pickle.dumps(Bomb())}), "no part of a model"),
    "a graph in other letters": (program({"models/model.JSON": b"{}"}), "name"),
    "a walk to any function": (program(_call("_operator.attrgetter")), "calls"),
    "any file": (program(_call("torch.ops.aten.from_file.default")), "calls"),
    "a path upwards": (program({"../../evil": b"x"}), "an entry of the name"),
    "an absolute path": (program({"/etc/cron.d/evil": b"x"}), "an entry of the name"),
    "a path of Windows": (program({"C:\\evil": b"x"}), "an entry of the name"),
    "a bomb": (program({"data/weights/weight_0": bytes(10_000_000)}, compressed=True), "unpacks to more"),
    "a call to the system": (program(_call("os.system")), "calls 'os.system'"),
    "a call to eval": (program(_call("builtins.eval")), "calls"),
    "an operation of a library": (program(_call("torch.ops.evil.run")), "calls"),
    "a size that is code": (program(_size("__import__('os').system('touch regraft-was-here')")), "would run"),
    "a graph that is no JSON": (program({"models/model.json": b"{"}), "damaged"),
    "no graph": (b"PK\x05\x06" + bytes(18), "no graph"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PROGRAM))
def test_program_refuses(case: str, tmp_path: Path) -> None:
    content, words = PROGRAM[case]
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(ExportError, match=words):
        check_program(tmp_path / "model.pt2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt2"]


def test_program_takes_what_is_plain(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(program(_size("2*Symbol('s77', positive=True, integer=True) + 1")))
    check_program(tmp_path / "model.pt2")


def keras(config: Any = None, entries: dict[str, bytes] | None = None, *, compressed: bool = False) -> bytes:
    """An archive as Keras writes it, changed."""
    held = {"metadata.json": b"{}", "config.json": json.dumps(config or {}).encode(), "model.weights.h5": b"HDF"}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, value in (held | (entries or {})).items():
            archive.writestr(name, value)
    return content.getvalue()


def _layer(name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"config": {"layers": [{"class_name": name, "module": module, "config": config}]}}


KERAS: dict[str, tuple[bytes, str]] = {
    "text": (b"hello", "no Keras model"),
    "a bare pickle": (pickle.dumps(Bomb()), "no Keras model"),
    "a function in it": (keras(_layer("Lambda", function="abc")), "brings code"),
    "a function further in": (keras(_layer("Dense", activation={"class_name": "__lambda__"})), "brings code"),
    "a module of PyTorch, pickled": (keras(_layer("TorchModuleWrapper")), "brings code"),
    "a SavedModel from elsewhere": (keras(_layer("TFSMLayer", filepath="/tmp/evil")), "brings code"),
    "a function of the system": (keras(_layer("system", "os")), "wants code from elsewhere: system of 'os'"),
    "a function of builtins": (keras(_layer("eval", "builtins")), "elsewhere"),
    "a part of Keras that loads files": (keras(_layer("get_file", "keras.utils")), "elsewhere"),
    "a part of Keras further in": (keras(_layer("get_file", "keras.src.utils.file_utils")), "elsewhere"),
    "a package of its own": (keras(_layer("Evil", "keras_evil")), "elsewhere"),
    "a dotted name": (keras(_layer("os.system", None)), "brings code"),
    "a script": (keras(entries={"setup.py": b"import os"}), "no Keras model of layers"),
    "a path upwards": (keras(entries={"../evil": b"x"}), "an entry of the name"),
    "a bomb": (keras(entries={"regraft.json": bytes(10_000_000)}, compressed=True), "unpacks to more"),
    "no JSON": (keras(entries={"config.json": b"{"}), "damaged"),
    "nested without end": (keras(entries={"config.json": b"[" * 200_000}), "damaged"),
}


@pytest.mark.parametrize("case", list(KERAS))
def test_keras_refuses(case: str, tmp_path: Path) -> None:
    content, words = KERAS[case]
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(ExportError, match=words):
        check_keras(tmp_path / "model.keras")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras"]


@pytest.mark.parametrize("content", [b"hello", bytes(64), b"\x1c\0\0\0TFL2" + bytes(60), b"\xff\0\0\0TFL3" + bytes(60)])
def test_litert_refuses(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ExportError, match="no LiteRT model"):
        check_litert(tmp_path / "model.tflite")


def test_saved_model_refuses(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        place = tmp_path / name
        (place / "variables").mkdir(parents=True)
        (place / "saved_model.pb").write_bytes(b"x")
        (place / "variables" / "variables.index").write_bytes(b"x")
        return place

    check_saved_model(folder("plain"))
    (folder("library") / "evil.so").write_bytes(b"x")
    (folder("assets") / "assets").mkdir()
    (tmp_path / "assets" / "assets" / "vocabulary.txt").write_bytes(b"x")
    (folder("extra") / "assets.extra").mkdir()
    (folder("link") / "variables" / "variables.data-00000-of-00001").symlink_to("/etc/passwd")
    folder("linked")
    (tmp_path / "linked folder").symlink_to(tmp_path / "linked")
    for name in ("library", "assets", "extra", "link", "linked folder", "none"):
        with pytest.raises(ExportError):
            check_saved_model(tmp_path / name)
