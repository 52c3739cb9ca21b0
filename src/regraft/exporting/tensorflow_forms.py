"""TensorFlow's formats: LiteRT (formerly TFLite), SavedModel and Keras, all from one Keras model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ExportError, MissingExtraError, UsageError
from regraft.exporting.checks import check_keras, check_litert, check_saved_model
from regraft.exporting.form import EightBits, Format, Metadata, Runtime, first_line, quiet
from regraft.exporting.tensorflow_images import FILTERS, reader

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision

_MODULES: Mapping[str, str] = {"tensorflow": "tensorflow", "keras": "tensorflow"}
#: Kinds of operations that LiteRT's `int8` leaves in float: those of the head, of what it pools, and of normalisation,
#: and so the same kinds elsewhere.
_FLOATING = (
    "CONCATENATION", "DIV", "LOGISTIC", "MAXIMUM", "MEAN", "MUL", "POW", "REDUCE_MAX", "SOFTMAX", "SUB", "SUM",
)  # fmt: skip


def _tensorflow() -> Any:
    """TensorFlow, imported so that it neither talks nor quarrels with PyTorch."""
    import torch._dynamo  # noqa: F401  # it brings an LLVM that ends the process if it comes after TensorFlow's

    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UsageError(f"Keras is told to run on {backend}. Expected KERAS_BACKEND=tensorflow for these formats.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = backend  # whatever the user's keras.json says

    try:
        with quiet():
            import keras  # noqa: F401
            import tensorflow
    except ImportError as error:
        raise MissingExtraError("TensorFlow", "tensorflow") from error
    return tensorflow


def _keras_model(network: DeployedNetwork) -> Any:
    from regraft.exporting.keras_model import keras_model

    if "keras" not in network.made:
        with quiet():
            network.made["keras"] = keras_model(network.exported(), "regraft")
    return network.made["keras"]


def _function(tf: Any, model: Any, side: int) -> Any:
    """A model as a function with named inputs and outputs."""

    def pixels(images: Any) -> dict[str, Any]:
        return {"probabilities": model(images)}

    return tf.function(pixels, input_signature=[tf.TensorSpec((None, side, side, 3), tf.uint8, name="images")])


def _save(tf: Any, network: DeployedNetwork, folder: Path, metadata: Metadata) -> None:
    """As a SavedModel that takes pixels or files."""
    preprocessing = network.model.preprocessing
    module = tf.Module()
    module.model = model = _keras_model(network)
    module.metadata = {key: tf.Variable(value, trainable=False) for key, value in metadata.items()}
    module.pixels = _function(tf, model, preprocessing.size)
    signatures = {"serving_default": module.pixels}
    if preprocessing.interpolation in FILTERS:
        read = reader(preprocessing)

        def files(contents: Any) -> dict[str, Any]:
            return {
                "probabilities": model(tf.map_fn(read, contents, parallel_iterations=1, fn_output_signature=tf.uint8))
            }

        module.files = tf.function(files, input_signature=[tf.TensorSpec((None,), tf.string, name="contents")])
        signatures["encoded"] = module.files
    with quiet():
        tf.saved_model.save(module, str(folder), signatures=signatures)


def _save_frozen(tf: Any, network: DeployedNetwork, folder: Path) -> None:
    """As a SavedModel whose weights are constants, for LiteRT."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    side = network.model.preprocessing.size
    with quiet():
        frozen = convert_variables_to_constants_v2(_function(tf, _keras_model(network), side).get_concrete_function())
        module = tf.Module()
        module.pixels = _function(tf, lambda images: frozen(images)[0], side)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.pixels})


class SavedModel(Format):
    """TensorFlow's SavedModel, which takes pixels, or the bytes of JPEG and PNG files."""

    name = "savedmodel"
    runs_code = True
    files = (
        "model/saved_model.pb", "model/fingerprint.pb", "model/variables/variables.index",
        "model/variables/variables.data-00000-of-00001",
    )  # fmt: skip
    precisions = ("fp32",)
    modules = _MODULES
    needs = "TensorFlow, NumPy and Pillow"
    script = (
        "import tensorflow as tf",
        'loaded = tf.saved_model.load(str(here / "model"))\nmodel = loaded.signatures["serving_default"]',
        'model(images=tf.constant(np.asarray(image)[None]))["probabilities"][0].numpy()',
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """A folder with the graph and the weights."""
        _save(_tensorflow(), network, folder / "model", metadata)

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By TensorFlow, on what it finds; threads are those of the process."""
        check_saved_model(folder / "model")
        tf = _tensorflow()
        try:
            with quiet():
                return _SavedModelRuntime(tf, tf.saved_model.load(str(folder / "model")))
        except Exception as error:  # whatever a damaged folder leads to
            raise ExportError(f"{folder / 'model'} cannot be loaded: {first_line(error)}") from error


class _SavedModelRuntime(Runtime):
    def __init__(self, tf: Any, loaded: Any) -> None:
        self.tf, self.loaded, self.run = tf, loaded, loaded.signatures["serving_default"]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.run(images=self.tf.constant(images))["probabilities"].numpy(), np.float32)

    @property
    def takes_files(self) -> bool:
        """Unless its preprocessing is one that TensorFlow's graph does not have."""
        return "encoded" in self.loaded.signatures

    def encoded(self, contents: list[bytes]) -> np.ndarray:
        """Image files' contents to probabilities, float32 (N, classes)."""
        found = self.loaded.signatures["encoded"](contents=self.tf.constant(contents))["probabilities"]
        return np.asarray(found.numpy(), np.float32)


class Keras(Format):
    """Keras's own format, of its own layers and operations alone."""

    name = "keras"
    runs_code = True
    files = ("model.keras",)
    precisions = ("fp32",)
    modules = _MODULES
    needs = "Keras with a backend, NumPy and Pillow"
    script = (
        "import keras",
        'model = keras.models.load_model(here / "model.keras")',
        "keras.ops.convert_to_numpy(model(np.asarray(image)[None]))[0]",
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """One archive of configuration and weights."""
        _tensorflow()
        model = _keras_model(network)
        with quiet():
            model.save(folder / self.files[0])
        with zipfile.ZipFile(folder / self.files[0], "a") as archive:
            archive.writestr("regraft.json", json.dumps(dict(metadata)))

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By Keras on TensorFlow; threads are those of the process."""
        file = folder / self.files[0]
        check_keras(file)
        tf = _tensorflow()
        import keras

        try:
            with quiet():
                model = keras.models.load_model(file, compile=False, safe_mode=True)
                return _KerasRuntime(_function(tf, model, model.input_shape[1]))
        except Exception as error:  # whatever a damaged archive leads to
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


class _KerasRuntime(Runtime):
    def __init__(self, run: Any) -> None:
        self.run = run

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.run(images)["probabilities"].numpy(), np.float32)


class LiteRT(Format):
    """LiteRT, for phones and small computers."""

    name = "litert"
    files = ("model.tflite",)
    precisions = ("fp32", "fp16", "int8")
    modules: Mapping[str, str] = {**_MODULES, "ai_edge_litert": "litert"}
    needs = "LiteRT (the package ai-edge-litert), NumPy and Pillow"
    script = (
        "from ai_edge_litert.interpreter import Interpreter",
        'model = Interpreter(str(here / "model.tflite")).get_signature_runner()',
        'model(images=np.asarray(image)[None])["probabilities"][0]',
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """One file, which can also be unpacked: class names are in an archive at its end."""
        tf = _tensorflow()
        with tempfile.TemporaryDirectory() as temporary:
            _save_frozen(tf, network, Path(temporary) / "model")

            def converter() -> Any:
                made = tf.lite.TFLiteConverter.from_saved_model(str(Path(temporary) / "model"))
                if precision != "fp32":
                    made.optimizations = [tf.lite.Optimize.DEFAULT]
                if precision == "fp16":
                    made.target_spec.supported_types = [tf.float16]
                if eight_bits is not None:
                    images = eight_bits.images
                    made.representative_dataset = lambda: ({"images": image[None]} for image in images)
                return made

            with quiet():
                content = converter().convert() if eight_bits is None else _quantized(tf, converter(), eight_bits)
        (folder / self.files[0]).write_bytes(content)
        with zipfile.ZipFile(folder / self.files[0], "a") as archive:
            archive.writestr("labels.txt", "\n".join(json.loads(metadata.get("classes", "[]"))))
            archive.writestr("regraft.json", json.dumps(dict(metadata)))

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By LiteRT, on the CPU."""
        file = folder / self.files[0]
        check_litert(file)
        try:
            with quiet():
                from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtraError("LiteRT", "litert") from error
        try:
            with quiet():
                interpreter = Interpreter(model_content=file.read_bytes(), num_threads=threads or os.cpu_count())
                interpreter.allocate_tensors()  # here it tells of itself
                return _LiteRTRuntime(interpreter.get_signature_runner())
        except (ValueError, RuntimeError, KeyError) as error:
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


def _quantized(tf: Any, converter: Any, eight_bits: EightBits) -> bytes:
    """In 8 bits but for the head and the chosen layers."""
    few = [[image[None]] for image in eight_bits.images[:1]]

    def debugger(floating: Sequence[str]) -> Any:
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=list(_FLOATING), denylisted_nodes=list(floating)
        )
        return tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=lambda: iter(few), debug_options=options
        )

    made = debugger(())
    made.run()
    table = io.StringIO()
    made.layer_statistics_dump(table)
    names = {row["tensor_name"] for row in csv.DictReader(io.StringIO(table.getvalue()))}
    layers = "|".join(path.replace(".", "_").lower() for path in eight_bits.floating)
    wanted = rf"/head_|/({layers})(_\d+)?/" if layers else "/head_"
    made = debugger([name for name in names if re.search(wanted, name)])
    return bytes(made.get_nondebug_quantized_model())


class _LiteRTRuntime(Runtime):
    def __init__(self, run: Any) -> None:
        self.run = run

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.array(self.run(images=np.ascontiguousarray(images))["probabilities"], np.float32)
