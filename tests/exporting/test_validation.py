"""Files from elsewhere: each damaged or unsafe one is refused, and nothing is executed or written."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from regraft.errors import ExportError
from regraft.exporting.validation import check_litert, check_onnx, check_openvino

MARK = "regraft-was-here"


class Bomb:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


@pytest.fixture(autouse=True)
def _nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check that no pickle was loaded."""
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


def _external_in_branch(model: onnx.ModelProto) -> None:
    """In the branch of an If, which the graph's list of weights does not contain."""
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


def _large_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40], np.int64), "shape"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["much"]))


def _type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


ONNX: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "text": (b"not a model", "not an ONNX file"),
    "a pickle": (pickle.dumps(Bomb()), "not an ONNX file"),
    "cut off": (onnx_bytes()[:-20], "not an ONNX file"),
    "without a graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    "data above the folder": (onnx_bytes(_external("../../secret")), r"another file \('../../secret'\)"),
    "data at an absolute path": (onnx_bytes(_external("/etc/passwd")), "another file"),
    "data beside it": (onnx_bytes(_external("weights.bin")), "another file"),
    "data elsewhere, in a branch": (onnx_bytes(_external_in_branch), "another file"),
    "an enormous tensor": (onnx_bytes(_dims(2**40, 2**20)), "states"),
    "a tensor of negative size": (onnx_bytes(_dims(-4, 2)), "has the shape"),
    "a tensor that overflows": (onnx_bytes(_dims(2**62, 4)), "states"),
    "memory from a small shape": (onnx_bytes(_large_constant), "values from a shape"),
    "a tensor of unknown type": (onnx_bytes(_type), "unknown data type"),
    "an external operation": (onnx_bytes(_domain), "external code"),
    "a redefined standard operation": (onnx_bytes(_function), "replaces the standard operation"),
}


@pytest.mark.parametrize("case", list(ONNX))
def test_onnx_refuses(case: str, tmp_path: Path) -> None:
    content, message = ONNX[case]
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        check_onnx(tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(onnx_bytes())
    (tmp_path / "model.onnx").symlink_to(tmp_path / "real.onnx")
    with pytest.raises(ExportError, match="a link"):
        check_onnx(tmp_path / "model.onnx")
    for missing in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(ExportError, match="missing"):
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
    "text": ("hello", "not XML"),
    "another document": ("<html></html>", "root is 'html'"),
    "entities": (net(layer(), before=ENTITIES), "entities"),
    "an entity of a file": (net(before='<!doctype x [<!entity f SYSTEM "file:///etc/passwd">]>'), "entities"),
    "a namespace": (net(layer()).replace("<layers>", '<layers xmlns="e">'), "plain UTF-8"),
    "two graphs": (net(layer()).replace("</net>", "<layers></layers></net>"), "not an OpenVINO model"),
    "another encoding": (net(layer()).replace("?>", ' encoding="utf-16"?>'), "plain UTF-8"),
    "an external operation": (net(layer("Run", "extension")), "external code"),
    "weights beyond the end": (net(layer(offset=4096)), "lies outside"),
    "weights before the beginning": (net(layer(offset=-16)), "lies outside"),
    "more values than bytes": (net(layer(shape="1000000, 1000000")), "states"),
    "a negative shape": (net(layer(shape="-2, 2")), "lies outside"),
    "an unknown type": (net(layer(element_type="f31")), "does not state where"),
    "no offset": (net(layer(offset=None)), "does not state where"),
}


@pytest.mark.parametrize("case", list(OPENVINO))
def test_openvino_refuses(case: str, tmp_path: Path) -> None:
    text, message = OPENVINO[case]
    (tmp_path / "model.xml").write_text(text)
    (tmp_path / "model.bin").write_bytes(bytes(64))
    with pytest.raises(ExportError, match=message):
        check_openvino(tmp_path / "model.xml", tmp_path / "model.bin")
    (tmp_path / "model.xml").write_text(net(layer()))
    check_openvino(tmp_path / "model.xml", tmp_path / "model.bin")


@pytest.mark.parametrize("content", [b"hello", bytes(64), b"\x1c\0\0\0TFL2" + bytes(60), b"\xff\0\0\0TFL3" + bytes(60)])
def test_litert_refuses(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ExportError, match="not a LiteRT model"):
        check_litert(tmp_path / "model.tflite")
