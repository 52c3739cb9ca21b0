"""OpenVINO's intermediate representation, which OpenVINO runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regraft.exporting.formats.base import ExportJob, Format, QuantizationSpec, Runtime, ScriptParts
from regraft.exporting.formats.onnx import float_nodes, onnx_proto
from regraft.exporting.validation import check_openvino
from regraft.models.quantization import quantize
from regraft.silence import quiet


class OpenVinoFormat(Format):
    """OpenVINO IR, a graph and a file of weights."""

    name = "openvino"
    files = ("model.xml", "model.bin")
    precisions = ("fp32", "fp16", "int8")
    has_maps = True
    runtime_packages: Mapping[str, str] = {"openvino": "openvino"}
    int8_packages: Mapping[str, str] = {"nncf": "int8", "onnx": "int8", "onnxscript": "int8"}
    script = ScriptParts(
        requirements="OpenVINO, NumPy and Pillow",
        imports="import openvino",
        load='model = openvino.Core().compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        predict="model(np.asarray(image)[None])[0][0]",
        predict_all="model(pixels).values()",
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write graph and weights."""
        import openvino

        with quiet():
            if job.quantization is not None:
                model = _quantize(job, job.quantization)
            else:
                model = openvino.convert_model(job.module.exported_program())
        model.reshape([-1, *job.module.model.preprocessing.pixel_shape])
        model.inputs[0].get_tensor().set_names({"images"})
        for output, name in zip(model.outputs, job.module.outputs, strict=True):
            output.get_tensor().set_names({name})
        for key, value in job.metadata.items():
            model.set_rt_info(value, ["regraft", key])
        openvino.save_model(model, folder / self.files[0], compress_to_fp16=job.precision == "fp16")

    def _check(self, folder: Path) -> None:
        check_openvino(folder / self.files[0], folder / self.files[1])

    def _load(self, folder: Path, threads: int) -> Runtime:
        import openvino

        # float32 also where the processor has bfloat16; a pinned thread waits while another program has its CPU.
        options = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": threads}
        core = openvino.Core()
        model = core.compile_model(core.read_model(folder / self.files[0]), "CPU", options)
        names = [output.get_any_name() for output in model.outputs]
        return Runtime(
            lambda images: model(images)[0],
            predict_all=lambda images: dict(zip(names, map(np.array, model(images).values()), strict=True)),
        )


def _quantize(job: ExportJob, quantization: QuantizationSpec) -> Any:
    # From ONNX, whose graph still has the names of the layers.
    import openvino

    proto = onnx_proto(job)
    in_float = set(float_nodes(proto, quantization.float_layers))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        file.write_bytes(proto.SerializeToString())
        model = openvino.convert_model(file)
        names = [op.get_friendly_name() for op in model.get_ordered_ops()]
        ignored = [name for name in names if name.partition("/")[0] in in_float]
        return quantize(model, [image[None] for image in quantization.images], in_float=ignored)
