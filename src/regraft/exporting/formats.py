"""The formats by their names."""

from __future__ import annotations

from collections.abc import Mapping

from regraft.exporting.form import Format
from regraft.exporting.onnx_form import Onnx
from regraft.exporting.openvino_form import OpenVino
from regraft.exporting.program_form import Program
from regraft.exporting.tensorflow_forms import Keras, LiteRT, SavedModel

FORMATS: Mapping[str, Format] = {
    known.name: known for known in (Onnx(), OpenVino(), LiteRT(), SavedModel(), Keras(), Program())
}
