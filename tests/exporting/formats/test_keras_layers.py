"""Networks of layers go into Keras's HDF5; others are refused with the operation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.errors import ExportError
from regraft.exporting.formats.base import ExportJob
from regraft.exporting.formats.tensorflow import KerasH5Format, import_tensorflow
from regraft.exporting.inference_module import InferenceModule
from regraft.models.classifier import build
from regraft.silence import quiet


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "cnn", "test_byobnet"])
def test_an_h5_file_predicts_as_the_model(backbone: str, tmp_path: Path) -> None:
    module = InferenceModule(build(backbone, classes=["a", "b"], weights="none", image_size=32))
    KerasH5Format().write(tmp_path, ExportJob(module))
    import_tensorflow()
    with quiet():
        import keras

        model = keras.models.load_model(tmp_path / "model.h5", compile=False)
        assert all(isinstance(operation, keras.layers.Layer) for operation in model.operations)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        actual = np.asarray(model(pixels))
    assert np.abs(actual - module(torch.from_numpy(pixels)).numpy()).max() < 1e-5


def test_a_transformer_is_refused(tmp_path: Path) -> None:
    module = InferenceModule(build("test_vit", classes=["a", "b"], weights="none", image_size=160))
    with pytest.raises(ExportError, match=r"Keras's HDF5 has no layer for it. Export to keras instead"):
        KerasH5Format().write(tmp_path, ExportJob(module))
