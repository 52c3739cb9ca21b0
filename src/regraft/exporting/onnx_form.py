"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ExportError, MissingExtraError
from regraft.exporting.checks import check_onnx
from regraft.exporting.form import EightBits, Format, Metadata, Runtime, first_line, quiet

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision


_WEIGHTED = frozenset(("Conv", "Gemm", "MatMul"))
_QUANTIZED = (*sorted(_WEIGHTED), "Add", "Clip", "MaxPool", "Mul", "Relu")


class Onnx(Format):
    """ONNX, run by ONNX Runtime."""

    name = "onnx"
    files = ("model.onnx",)
    precisions = ("fp32", "fp16", "int8")
    modules: Mapping[str, str] = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}
    needs = "ONNX Runtime, NumPy and Pillow"
    script = (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession(here / "model.onnx")',
        'session.run(None, {"images": np.asarray(image)[None]})[0][0]',
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """One file, no external data."""
        proto = onnx_proto(network)
        import onnx

        if precision == "fp16":
            proto = _half(proto)
        elif eight_bits is not None:
            proto = _quantized(proto, eight_bits)
        for node in proto.graph.node:  # they tell of this machine
            del node.metadata_props[:]
        onnx.helper.set_model_props(proto, dict(metadata))
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.checker.check_model(proto)
        (folder / self.files[0]).write_bytes(proto.SerializeToString())

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By ONNX Runtime, on the CPU."""
        file = folder / self.files[0]
        check_onnx(file)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime", "onnx") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            return _OnnxRuntime(
                onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
            )
        except Exception as error:  # onnxruntime has a class of its own for each fault
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


def onnx_proto(network: DeployedNetwork) -> Any:
    """The network as an ONNX graph in float32."""
    try:
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise MissingExtraError("ONNX", "onnx") from error
    import onnx
    import torch

    if "onnx" not in network.made:
        with quiet():
            program = torch.onnx.export(
                network.exported(), (network.example(),), dynamo=True, opset_version=18,
                input_names=["images"], output_names=["probabilities"], verbose=False,
            )  # fmt: skip
        assert program is not None
        network.made["onnx"] = program.model_proto.SerializeToString()
    return onnx.load_model_from_string(network.made["onnx"])


def floating_nodes(proto: Any, floating: Sequence[str]) -> list[str]:
    """Names of the nodes outside of the backbone, and of those that compute the layers `floating` of it."""
    found = []
    for node in proto.graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
        path = [scope.removeprefix("model.") for scope in re.findall(r"'(model\.[\w.]+)'", scopes)]
        layers = {
            name.removeprefix("model.").removesuffix(".weight") for name in node.input if name.endswith(".weight")
        }
        if not any(scope.startswith("backbone") for scope in path) or (
            node.op_type in _WEIGHTED and (layers | set(path)) & set(floating)
        ):
            found.append(node.name)
    return found


def _quantized(proto: Any, eight_bits: EightBits) -> Any:
    """With the backbone's layers in 8 bits (QDQ): symmetric weights a channel, activations by their least and most."""
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "onnx") from error
    import onnx

    class Images(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def __init__(self) -> None:
            self.waiting = iter(range(0, len(eight_bits.images), 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            first = next(self.waiting, None)
            return None if first is None else {"images": eight_bits.images[first : first + 8]}

    kept = floating_nodes(proto, eight_bits.floating)
    with tempfile.TemporaryDirectory() as temporary, quiet():
        file = str(Path(temporary) / "int8.onnx")
        quantize_static(
            proto, file, Images(), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=kept,
            op_types_to_quantize=list(_QUANTIZED), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(file)


def _half(proto: Any) -> Any:
    """The same graph with half the bytes; what goes in and out stays as it is."""
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "onnx") from error
    with quiet():
        return convert_float_to_float16(proto, keep_io_types=True)


class _OnnxRuntime(Runtime):
    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {"images": np.ascontiguousarray(images)})[0], np.float32)
