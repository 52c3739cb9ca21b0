"""TensorFlow's SavedModel and Keras's own format, and what they share with LiteRT."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.errors import UsageError
from regraft.exporting.formats.base import ExportJob, Format, Runtime, ScriptParts
from regraft.exporting.formats.tensorflow_images import FILTERS, file_reader
from regraft.silence import quiet

#: Packages that the formats need, with the extra that installs them.
PACKAGES: Mapping[str, str] = {"tensorflow": "tensorflow", "keras": "tensorflow"}


def import_tensorflow() -> Any:
    """Import TensorFlow without its messages; raises `UsageError` if the environment asks Keras for another backend."""
    import torch._dynamo  # noqa: F401  # its LLVM crashes the process if it is loaded after TensorFlow's

    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UsageError(f"KERAS_BACKEND is {backend!r}. SavedModel, Keras and LiteRT need KERAS_BACKEND=tensorflow.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = backend  # overrides the user's keras.json
    with quiet():
        import keras  # noqa: F401
        import tensorflow
    return tensorflow


def convert_to_keras(job: ExportJob, *, layers_only: bool = False) -> Any:
    """Return the module as a Keras model; the module keeps it for the next call."""
    from regraft.exporting.formats.keras_model import keras_model

    module, key = job.module, "keras layers" if layers_only else "keras"
    if key not in module.conversions:
        with quiet():
            module.conversions[key] = keras_model(module.exported_program(), "regraft", layers_only=layers_only)
    return module.conversions[key]


def pixel_signature(tf: Any, model: Any, shape: tuple[int, int, int]) -> Any:
    """Return a `tf.function` from "images", uint8 (N, H, W, C), to a dict with "probabilities"."""

    def pixels(images: Any) -> dict[str, Any]:
        return {"probabilities": model(images)}

    return tf.function(pixels, input_signature=[tf.TensorSpec((None, *shape), tf.uint8, name="images")])


class SavedModelFormat(Format):
    """A SavedModel with the signatures `serving_default` (pixels) and, for colors, `encoded` (contents of files)."""

    name = "savedmodel"
    files = (
        "model/saved_model.pb", "model/fingerprint.pb", "model/variables/variables.index",
        "model/variables/variables.data-00000-of-00001",
    )  # fmt: skip
    runtime_packages = PACKAGES
    runs_code = True
    script = ScriptParts(
        requirements="TensorFlow, NumPy and Pillow",
        imports="import tensorflow as tf",
        load='loaded = tf.saved_model.load(str(here / "model"))\nmodel = loaded.signatures["serving_default"]',
        predict='model(images=tf.constant(np.asarray(image)[None]))["probabilities"][0].numpy()',
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write a folder of graph and variables."""
        tf = import_tensorflow()
        preprocessing = job.module.model.preprocessing
        saved = tf.Module()
        saved.model = model = convert_to_keras(job)
        saved.metadata = {key: tf.Variable(value, trainable=False) for key, value in job.metadata.items()}
        saved.pixels = pixel_signature(tf, model, preprocessing.pixel_shape)
        signatures = {"serving_default": saved.pixels}
        if preprocessing.interpolation in FILTERS and preprocessing.bands is None:
            read = file_reader(preprocessing)

            def files(contents: Any) -> dict[str, Any]:
                images = tf.map_fn(read, contents, parallel_iterations=1, fn_output_signature=tf.uint8)
                return {"probabilities": model(images)}

            saved.files = tf.function(files, input_signature=[tf.TensorSpec((None,), tf.string, name="contents")])
            signatures["encoded"] = saved.files
        with quiet():
            tf.saved_model.save(saved, str(folder / "model"), signatures=signatures)

    def _load(self, folder: Path, threads: int) -> Runtime:
        tf = import_tensorflow()
        loaded = tf.saved_model.load(str(folder / "model"))

        def predict(images: Any) -> Any:
            return loaded.signatures["serving_default"](images=tf.constant(images))["probabilities"].numpy()

        def predict_files(contents: list[bytes]) -> Any:
            return loaded.signatures["encoded"](contents=tf.constant(contents))["probabilities"].numpy()

        return Runtime(predict, predict_files if "encoded" in loaded.signatures else None)


class KerasFormat(Format):
    """A `.keras` archive."""

    name = "keras"
    files = ("model.keras",)
    runtime_packages = PACKAGES
    runs_code = True
    script = ScriptParts(
        requirements="Keras with a backend, NumPy and Pillow",
        imports="import keras",
        load='model = keras.models.load_model(here / "model.keras")',
        predict="keras.ops.convert_to_numpy(model(np.asarray(image)[None]))[0]",
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write one archive of configuration and weights."""
        import_tensorflow()
        model = convert_to_keras(job)
        with quiet():
            model.save(folder / self.files[0])
        with zipfile.ZipFile(folder / self.files[0], "a") as archive:
            archive.writestr("regraft.json", json.dumps(dict(job.metadata)))

    def _load(self, folder: Path, threads: int) -> Runtime:
        tf = import_tensorflow()
        import keras

        model = keras.models.load_model(folder / self.files[0], compile=False, safe_mode=True)
        run = pixel_signature(tf, model, model.input_shape[1:])
        return Runtime(lambda images: run(images)["probabilities"].numpy())


class KerasH5Format(KerasFormat):
    """Keras's older file, HDF5, for scripts that expect `best_model.h5`."""

    name = "h5"
    files = ("model.h5",)
    script = KerasFormat.script._replace(load='model = keras.models.load_model(here / "model.h5", compile=False)')

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write one file of configuration and weights."""
        import_tensorflow()
        model = convert_to_keras(job, layers_only=True)
        with quiet():
            model.save(folder / self.files[0])
        import h5py

        with h5py.File(folder / self.files[0], "a") as file:
            file.attrs["regraft"] = json.dumps(dict(job.metadata))
