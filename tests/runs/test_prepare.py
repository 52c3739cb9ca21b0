"""What is decided about the images before a training travels with the model, to every prediction and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.config import load_config
from regraft.data.decode import decode_image
from regraft.data.preprocessing import Preprocessing
from regraft.exporting.export import export
from regraft.runs.run import load
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter


class Messages(NullReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        self.texts.append(text)


def write_thermal(root: Path) -> Path:
    """Images of a thermal camera: values around 30,000, a dead pixel, and much warmer ones in test."""
    rng = np.random.default_rng(0)
    for part, base in (("train", 30000), ("val", 30000), ("test", 40000)):
        for label, step in (("cold", 0), ("warm", 400)):
            (root / part / label).mkdir(parents=True)
            for i in range(6):
                values = base + rng.normal(0, 60, (32, 40))
                values[8:24, 8:24] += step
                values[0, 0] = 65535
                suffix = ("png", "tif")[i % 2]
                Image.fromarray(values.astype(np.uint16)).save(root / part / label / f"{i}.{suffix}")
    return root


def test_images_of_sixteen_bits_are_scaled_as_the_training_images(tmp_path: Path) -> None:
    data = write_thermal(tmp_path / "thermal")
    settings: dict[str, Any] = {
        "model.backbone": "test_efficientnet", "model.weights": "none", "model.image_size": 32,
        "training.finetune_epochs": 0,
    }  # fmt: skip
    reporter = Messages()
    run = train_from(data, load_config(overrides=settings), tmp_path / "run", reporter=reporter)
    (black, white), floats = load(run.path).classifier.preprocessing.value_range
    assert 29600 < black < 30000 < white < 30800, "neither the dead pixel nor the test images decide"
    assert floats == (0, 0)
    said = f"Images of more than 8 bits (integers): {black:,.6g} and less becomes black, {white:,.6g} and more white."
    assert said in reporter.texts
    file = data / "train" / "warm" / "0.png"
    assert run.classifier.preprocessing(file).std() > 30
    assert decode_image(file).std() < 5, "without the range, the picture would have a few levels"

    (result,) = export(run, "onnx")
    description = json.loads((result.path / "export.json").read_text())
    assert Preprocessing.from_json(description["preprocessing"]) == run.classifier.preprocessing
    assert f"upright_rgb(file, {run.classifier.preprocessing.value_range})" in (result.path / "predict.py").read_text()
