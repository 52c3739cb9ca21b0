"""LiteRT (formerly TensorFlow Lite), for phones and small computers."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.exporting.formats.base import ExportJob, Format, QuantizationSpec, Runtime, ScriptParts
from regraft.exporting.formats.tensorflow import PACKAGES, convert_to_keras, import_tensorflow, pixel_signature
from regraft.exporting.validation import check_litert
from regraft.silence import quiet

#: Kinds of operations that int8 leaves in float: those of the head, of its pooling, and of normalization. LiteRT
#: excludes by kind, so operations of these kinds in the backbone stay in float too.
_FLOAT_OPS = [
    "CONCATENATION", "DIV", "LOGISTIC", "MAXIMUM", "MEAN", "MUL", "POW", "REDUCE_MAX", "SOFTMAX", "SUB", "SUM",
]  # fmt: skip


class LiteRtFormat(Format):
    """A `.tflite` file, with the class names in an archive at its end."""

    name = "litert"
    files = ("model.tflite",)
    precisions = ("fp32", "fp16", "int8")
    runtime_packages: Mapping[str, str] = {"ai_edge_litert": "litert"}
    export_packages = PACKAGES
    script = ScriptParts(
        requirements="LiteRT (the package ai-edge-litert), NumPy and Pillow",
        imports="from ai_edge_litert.interpreter import Interpreter",
        load='model = Interpreter(str(here / "model.tflite")).get_signature_runner()',
        predict='model(images=np.asarray(image)[None])["probabilities"][0]',
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write one file, which can also be opened as a zip archive."""
        tf = import_tensorflow()
        with tempfile.TemporaryDirectory() as temporary, quiet():
            _save_frozen(tf, job, temporary)
            converter = tf.lite.TFLiteConverter.from_saved_model(temporary)
            if job.precision != "fp32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if job.precision == "fp16":
                converter.target_spec.supported_types = [tf.float16]
            content = _quantize(tf, converter, job.quantization) if job.quantization else converter.convert()
        (folder / self.files[0]).write_bytes(content)
        with zipfile.ZipFile(folder / self.files[0], "a") as archive:
            archive.writestr("labels.txt", "\n".join(json.loads(job.metadata.get("classes", "[]"))))
            archive.writestr("regraft.json", json.dumps(dict(job.metadata)))

    def _check(self, folder: Path) -> None:
        check_litert(folder / self.files[0])

    def _load(self, folder: Path, threads: int) -> Runtime:
        from ai_edge_litert.interpreter import Interpreter

        content = (folder / self.files[0]).read_bytes()
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()  # it prints; without this call it would do so at the first prediction
        run = interpreter.get_signature_runner()
        return Runtime(lambda images: run(images=images)["probabilities"])


def _save_frozen(tf: Any, job: ExportJob, folder: str) -> None:
    # As a SavedModel whose weights are constants, which is what LiteRT's converter gets.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shape = job.module.model.preprocessing.pixel_shape
    function = pixel_signature(tf, convert_to_keras(job), shape).get_concrete_function()
    frozen = convert_variables_to_constants_v2(function)
    saved = tf.Module()
    saved.pixels = pixel_signature(tf, lambda images: frozen(images)[0], shape)
    tf.saved_model.save(saved, folder, signatures={"serving_default": saved.pixels})


def _quantize(tf: Any, converter: Any, quantization: QuantizationSpec) -> bytes:
    converter.representative_dataset = lambda: ({"images": image[None]} for image in quantization.images)

    def debugger(float_nodes: Sequence[str]) -> Any:
        lite, images = tf.lite.experimental, quantization.images[:1]
        options = lite.QuantizationDebugOptions(denylisted_ops=_FLOAT_OPS, denylisted_nodes=list(float_nodes))
        return lite.QuantizationDebugger(
            converter=converter, debug_dataset=lambda: iter([[images]]), debug_options=options
        )

    first = debugger(())  # its statistics list the names of all nodes
    first.run()
    statistics = io.StringIO()
    first.layer_statistics_dump(statistics)
    names = {row["tensor_name"] for row in csv.DictReader(io.StringIO(statistics.getvalue()))}
    layers = "|".join(path.replace(".", "_").lower() for path in quantization.float_layers)
    in_float = rf"/head_|/({layers})(_\d+)?/" if layers else "/head_"
    return bytes(debugger([name for name in names if re.search(in_float, name)]).get_nondebug_quantized_model())
