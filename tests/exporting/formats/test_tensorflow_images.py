"""Reading of image files in TensorFlow's graph: the pixels are those of Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.preprocessing import Preprocessing
from regraft.exporting.formats.tensorflow import import_tensorflow
from regraft.exporting.formats.tensorflow_images import file_reader


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_tensorflow_reads_files_as_pillow_does(resize: Any, interpolation: str) -> None:
    tf = import_tensorflow()
    preprocessing = Preprocessing(size=32, resize=resize, interpolation=interpolation)
    read = tf.function(file_reader(preprocessing), input_signature=[tf.TensorSpec((), tf.string)])
    rng = np.random.default_rng(0)
    for width, height, kind in ((50, 37, "PNG"), (20, 61, "PNG"), (32, 32, "PNG"), (60, 45, "JPEG"), (300, 200, "PNG")):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(content, kind, quality=90)
        difference = read(content.getvalue()).numpy() - preprocessing(content.getvalue()).astype(int)
        if width >= height:
            assert not difference.any()
        assert np.abs(difference).mean() < 1  # Pillow may resize tall images vertically first; noise is the worst case
