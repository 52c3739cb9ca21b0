"""OpenVINO's own format."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ExportError, MissingExtraError
from regraft.exporting.checks import check_openvino
from regraft.exporting.form import EightBits, Format, Metadata, Runtime, first_line, quiet
from regraft.exporting.onnx_form import floating_nodes, onnx_proto

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision


class OpenVino(Format):
    """OpenVINO's own format."""

    name = "openvino"
    files = ("model.xml", "model.bin")
    precisions = ("fp32", "fp16", "int8")
    modules: Mapping[str, str] = {"openvino": "openvino"}
    modules_int8: Mapping[str, str] = {"nncf": "int8", "onnx": "int8", "onnxscript": "int8"}
    needs = "OpenVINO, NumPy and Pillow"
    script = (
        "import openvino",
        'model = openvino.Core().compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        "model(np.asarray(image)[None])[0][0]",
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """Graph and weights."""
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        side = network.model.preprocessing.size
        if eight_bits is None:
            with quiet():
                model = openvino.convert_model(network.exported())
        else:
            model = _quantized(network, eight_bits)
        model.reshape([-1, side, side, 3])
        model.inputs[0].get_tensor().set_names({"images"})
        model.outputs[0].get_tensor().set_names({"probabilities"})
        for key, value in metadata.items():
            model.set_rt_info(value, ["regraft", key])
        openvino.save_model(model, folder / self.files[0], compress_to_fp16=precision == "fp16")

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """On the CPU in float32; by itself it would take bfloat16 where the processor has it."""
        check_openvino(folder / self.files[0], folder / self.files[1])
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            return _OpenVinoRuntime(core.compile_model(core.read_model(folder / self.files[0]), "CPU", options))
        except RuntimeError as error:
            raise ExportError(f"{folder / self.files[0]} cannot be loaded: {first_line(error)}") from error


def _quantized(network: DeployedNetwork, eight_bits: EightBits) -> Any:
    """By way of ONNX, whose graph still names the layers; their ranges are found by NNCF."""
    import openvino

    try:
        with quiet():
            import nncf
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    except ImportError as error:
        raise MissingExtraError("NNCF", "int8") from error
    proto = onnx_proto(network)
    kept = set(floating_nodes(proto, eight_bits.floating))
    with tempfile.TemporaryDirectory() as temporary, quiet():
        file = Path(temporary) / "model.onnx"
        file.write_bytes(proto.SerializeToString())
        model = openvino.convert_model(file)
        names = [op.get_friendly_name() for op in model.get_ordered_ops()]
        # The slower correction of means and ranges that cut nothing off: on the demo the answers come closest to the
        # run's (mean difference of a probability 0.021; by NNCF's defaults 0.050).
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in eight_bits.images]),
            subset_size=len(eight_bits.images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(
                names=[name for name in names if name.partition("/")[0] in kept], validate=False
            ),
            fast_bias_correction=False,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )


class _OpenVinoRuntime(Runtime):
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.array(self.model(np.ascontiguousarray(images))[0], np.float32)
