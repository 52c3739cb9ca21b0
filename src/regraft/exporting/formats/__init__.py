"""Export formats by name: each writes an inference module in one format, and loads and runs what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

from regraft.exporting.formats.base import Format, Precision
from regraft.exporting.formats.exported_program import ExportedProgramFormat
from regraft.exporting.formats.litert import LiteRtFormat
from regraft.exporting.formats.onnx import OnnxFormat
from regraft.exporting.formats.openvino import OpenVinoFormat
from regraft.exporting.formats.tensorflow import KerasFormat, KerasH5Format, SavedModelFormat
from regraft.synonyms import canonical

_ALL = (
    OnnxFormat(), OpenVinoFormat(), LiteRtFormat(), SavedModelFormat(), KerasFormat(), KerasH5Format(),
    ExportedProgramFormat(),
)  # fmt: skip
FORMATS: Mapping[str, Format] = {known.name: known for known in _ALL}

_OTHER_NAMES = {
    "tflite": "litert", "tensorflowlite": "litert", "tf": "savedmodel", "tensorflow": "savedmodel",
    "pt2": "exported-program", "torchexport": "exported-program",
}  # fmt: skip
_OTHER_PRECISIONS = {
    "float32": "fp32", "float16": "fp16", "half": "fp16", "mixedfloat16": "fp16", "uint8": "int8", "8bit": "int8"
}  # fmt: skip


def canonical_format(name: str) -> str:
    """The name of a format that is given in any case, or by another common name such as TFLite or .h5."""
    known = canonical(name.removeprefix("."), FORMATS, _OTHER_NAMES)
    return cast(str, known) if known in FORMATS else name


def canonical_precision(name: str) -> Precision:
    """The name of a precision that is given in any case, or as float16."""
    return cast(Precision, canonical(name, get_args(Precision), _OTHER_PRECISIONS))
