"""What is decided about the images before a training travels with the model, to every prediction and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.attribution.methods import Method
from regraft.config import load_config
from regraft.data.decode import decode_image
from regraft.data.preprocessing import Preprocessing
from regraft.errors import UsageError
from regraft.exporting.export import export
from regraft.models.classifier import build
from regraft.runs.explain import explain
from regraft.runs.run import Run, load
from regraft.runs.train import train_from
from regraft.studies.attribution_audit import audit_attribution
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


@pytest.fixture(scope="module")
def rectangular(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run with an input of 48 x 32 pixels."""
    settings = {**fast_settings, "model.backbone": "cnn", "model.weights": "none", "model.image_size": "48x32"}
    return train_from(squares_folder, load_config(overrides=settings), tmp_path_factory.mktemp("rectangles") / "run")


def test_an_input_that_is_no_square_works_as_any_other(rectangular: Run, squares_folder: Path) -> None:
    run, file = rectangular, squares_folder / "red" / "01.png"
    assert (run.classifier.preprocessing.shape, run.metrics["model"]["image_size"]) == ((48, 32), "48x32")
    assert 'image_size = "48x32"' in (run.path / "config.toml").read_text()
    (prediction,) = run.predict([file], tta="crops")
    assert prediction.error is None
    methods: tuple[Method, ...] = ("gradcam", "scorecam", "integrated-gradients")
    for method in methods:
        (explanation,) = explain(run, [file], method=method)
        assert explanation.heat.shape == (1, *decode_image(file).shape[:2])
        assert explanation.heat.max() > 0
    audit = audit_attribution(run)
    assert len(audit.images) == len(run.predictions.part("test"))
    assert audit.maps.shape == (3, 48, 32)
    assert "48x32 pixels" in (run.path / "MODEL_CARD.md").read_text()
    again = build(run.path, classes=run.classes)
    assert again.preprocessing.shape == (48, 32)
    assert "48 x 32" in str(run.classifier.summary())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cnn,test_efficientnet"])
def test_backbones_that_take_squares_alone_say_so(name: str) -> None:
    with pytest.raises(UsageError, match=r"image_size = 64x32, but .* takes squares alone"):
        build(name, classes=("a", "b"), weights="none", image_size="64x32")
