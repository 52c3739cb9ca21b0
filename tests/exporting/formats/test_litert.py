"""LiteRT on a transformer, in float and in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from regraft.exporting.formats import FORMATS
from regraft.exporting.formats.base import ExportJob, QuantizationSpec
from regraft.exporting.inference_module import InferenceModule
from regraft.models.classifier import build


def test_transformer_in_float_and_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("test_vit", classes=tuple(f"c{i:03}" for i in range(300)), weights="none", image_size=32)
    module, size = InferenceModule(model), model.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    expected = module(torch.from_numpy(pixels)).numpy()
    sizes, predictions = [], []
    for precision, quantization in (("fp32", None), ("int8", QuantizationSpec(pixels))):
        FORMATS["litert"].write(tmp_path, ExportJob(module, precision, quantization=quantization))  # type: ignore[arg-type]
        sizes.append((tmp_path / "model.tflite").stat().st_size)
        predictions.append(FORMATS["litert"].open(tmp_path)(pixels))
    assert np.abs(predictions[0] - expected).max() < 1e-5
    head = 4 * sum(p.numel() for p in model.head.parameters())
    assert sizes[1] - head < 0.5 * (sizes[0] - head)
    assert np.abs(predictions[1].sum(axis=1) - 1).max() < 1e-3  # also for many classes
