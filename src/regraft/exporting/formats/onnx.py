"""ONNX, which ONNX Runtime runs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.exporting.formats.base import ExportJob, Format, QuantizationSpec, Runtime, ScriptParts
from regraft.exporting.validation import check_onnx
from regraft.silence import quiet

_WEIGHTED_OPS = frozenset(("Conv", "Gemm", "MatMul"))
_QUANTIZED_OPS = (*sorted(_WEIGHTED_OPS), "Add", "Clip", "MaxPool", "Mul", "Relu")
_CALIBRATION_BATCH = 8


class OnnxFormat(Format):
    """ONNX, one file of opset 18."""

    name = "onnx"
    files = ("model.onnx",)
    precisions = ("fp32", "fp16", "int8")
    has_maps = True
    runtime_packages: Mapping[str, str] = {"onnx": "onnx", "onnxruntime": "onnx"}
    export_packages: Mapping[str, str] = {"onnxscript": "onnx"}
    script = ScriptParts(
        requirements="ONNX Runtime, NumPy and Pillow",
        imports="import onnxruntime",
        load='session = onnxruntime.InferenceSession(here / "model.onnx")',
        predict='session.run(None, {"images": np.asarray(image)[None]})[0][0]',
        predict_all='session.run(["probabilities", "logits", "evidence"], {"images": pixels})',
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write one file with all weights in it."""
        import onnx

        proto = onnx_proto(job)
        if job.precision == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            with quiet():
                proto = convert_float_to_float16(proto, keep_io_types=True)
        elif job.quantization is not None:
            proto = _quantize(proto, job.quantization)
        for node in proto.graph.node:
            del node.metadata_props[:]  # they contain paths of this machine
        onnx.helper.set_model_props(proto, dict(job.metadata))
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.checker.check_model(proto)
        (folder / self.files[0]).write_bytes(proto.SerializeToString())

    def _check(self, folder: Path) -> None:
        check_onnx(folder / self.files[0])

    def _load(self, folder: Path, threads: int) -> Runtime:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see `regraft.resources`
        content = (folder / self.files[0]).read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return Runtime(
            lambda images: session.run(names[:1], {"images": images})[0],
            predict_all=lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True)),
        )


def onnx_proto(job: ExportJob) -> Any:
    """Return a new ONNX graph of the module in float32; the module keeps the conversion for the next call."""
    import onnx
    import torch

    module = job.module
    if "onnx" not in module.conversions:
        with quiet():
            program = torch.onnx.export(
                module.exported_program(), (module.example_input(),), dynamo=True, opset_version=18,
                input_names=["images"], output_names=list(module.outputs), verbose=False,
            )  # fmt: skip
        assert program is not None
        module.conversions["onnx"] = program.model_proto.SerializeToString()
    return onnx.load_model_from_string(module.conversions["onnx"])


def float_nodes(proto: Any, float_layers: Sequence[str]) -> list[str]:
    """Return the names of nodes that stay in float: those outside the backbones, and those of `float_layers`."""
    names = []
    paths = [_scopes(node) for node in proto.graph.node]
    # Between several backbones and the pixels are products that resize, which 8 bits would spoil.
    inside = "backbone.members." if any(s.startswith("backbone.members.") for p in paths for s in p) else "backbone"
    for node, path in zip(proto.graph.node, paths, strict=True):
        layers = {
            name.removeprefix("model.").removesuffix(".weight") for name in node.input if name.endswith(".weight")
        }
        if not any(scope.startswith(inside) for scope in path) or (
            node.op_type in _WEIGHTED_OPS and (layers | set(path)) & set(float_layers)
        ):
            names.append(node.name)
    return names


def _scopes(node: Any) -> list[str]:
    """The modules of PyTorch that a node comes from, from the outermost on."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    return [scope.removeprefix("model.") for scope in re.findall(r"'(model\.[\w.]+)'", scopes)]


def _quantize(proto: Any, quantization: QuantizationSpec) -> Any:
    # The QDQ form: symmetric weights per channel, activations between their minimum and maximum. Weights have 7 bits:
    # sums of two products then fit into 16 bits, in which processors without VNNI add them.
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    starts = iter(range(0, len(quantization.images), _CALIBRATION_BATCH))

    class Images(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(starts, None)
            return None if start is None else {"images": quantization.images[start : start + _CALIBRATION_BATCH]}

    with tempfile.TemporaryDirectory() as temporary, quiet():
        file = str(Path(temporary) / "int8.onnx")
        quantize_static(
            proto, file, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
            nodes_to_exclude=float_nodes(proto, quantization.float_layers), op_types_to_quantize=list(_QUANTIZED_OPS),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        return onnx.load(file)
