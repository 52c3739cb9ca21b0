"""Exports of a model whose input has five channels: the parity gate, heat maps, and predict.py without regraft."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import regraft

from regraft.data.band_values import Bands
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError
from regraft.exporting.export import ExportResult, export
from regraft.exporting.exported_model import ExportedModel
from regraft.exporting.formats.base import ScriptParts
from regraft.exporting.predict_script import predict_script
from regraft.exporting.verify import verify
from regraft.runs.explain import explain
from regraft.runs.run import Run, load

TIFF = Path(__file__).parents[1] / "fixtures" / "tiff"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("fields") / "fields", np.random.default_rng(0)
    for number, label in enumerate(("dry", "wet")):
        (root / label).mkdir(parents=True)
        for i in range(12):
            values = rng.integers(800, 1200, (20, 24, 5)).astype(np.uint16)
            values[..., 4] += 3000 * number
            np.save(root / label / f"{i:02d}.npy", values)
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("bands") / "run"
    settings = ("--backbone", "cnn", "--set", "training.head_epochs=2", "--finetune-epochs", 0, "--image-size", 32)
    parts = ("--set", "data.val=0.25", "--set", "data.test=0.25")
    done = regraft("train", folder, "--out", out, *settings, *parts)
    assert done.returncode == 0, done.stderr
    return load(out)


FORMATS = ["onnx", "openvino", "litert", "savedmodel"]


@pytest.fixture(scope="module")
def exports(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportResult]:
    """All at once, because they begin with the same graphs."""
    return dict(zip(FORMATS, export(run, FORMATS, out=tmp_path_factory.mktemp("exports")), strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_the_channels(run: Run, folder: Path, name: str, exports: dict[str, ExportResult]) -> None:
    result = exports[name]
    model = ExportedModel(result.path, trust=True)
    assert model.description["input"]["shape"] == ["N", 32, 32, 5]
    file = folder / "wet" / "03.npy"
    pixels = model.preprocessing(file)
    expected = run.predict(file)[0].probabilities
    np.testing.assert_allclose(model.probabilities(pixels[None])[0], expected, atol=1e-4)
    if name == "onnx":
        assert verify(result.path).exceeded_limits == []
        script = [sys.executable, str(result.path / "predict.py"), str(file), str(next(TIFF.glob("*big-endian*")))]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        label = run.predict(file)[0].label
        assert done.stdout.startswith(f"{file} {label} {expected.max():.4f}"), done.stderr
        description = json.loads((result.path / "export.json").read_text())
        description["preprocessing"]["bands"]["ranges"][0] = [5, 5]
        (result.path / "export.json").write_text(json.dumps(description))
        with pytest.raises(ExportError, match="a lower and a higher value"):
            ExportedModel(result.path)


def test_heat_maps_of_an_export(run: Run, folder: Path, tmp_path: Path) -> None:
    (result,) = export(run, "onnx", out=tmp_path, with_maps=True)
    file = folder / "wet" / "03.npy"
    ours, theirs = (explain(model, file)[0] for model in (run, ExportedModel(result.path)))
    assert theirs.image.shape == (20, 24, 3)
    np.testing.assert_allclose(theirs.heat, ours.heat, atol=1e-3)


@pytest.mark.parametrize(
    ("resize", "size"), [("stretch", 24), ("crop", 24), ("pad", 24), ("crop", (40, 16)), ("pad", (16, 40))]
)
def test_script_prepares_every_file_as_regraft_does(
    resize: Any, size: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [*TIFF.glob("*.tif"), folder / "wet" / "00.npy"]
    rgba = np.random.default_rng(0).integers(0, 256, (31, 20, 4), np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "four.png")
    numbers = (4, 1, 2)
    bands = Bands(numbers, ((0.0, 90.0), (5.0, 60.0), (-3.0, 1000.0)), (0.5,) * 3, (0.2,) * 3)
    two = Bands((1, 4), ((0.0, 90.0), (5.0, 60.0)), (0.3, 0.6), (0.2,) * 2)
    parts = ScriptParts("nothing", "import math", "seen = []", "seen.append(np.asarray(image)) or np.ones(1)")
    (tmp_path / "export.json").write_text('{"classes": ["a"]}')
    for one in (bands, two):
        preprocessing = Preprocessing(size=size, resize=resize, mean=one.mean, std=one.std, bands=one)
        files = [*files, tmp_path / "four.png"]
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, files)])
        variables: dict[str, Any] = {"__file__": str(tmp_path / "predict.py"), "__name__": "script"}
        source = predict_script(SimpleNamespace(script=parts), preprocessing)  # type: ignore[arg-type]
        exec(compile(source, "predict.py", "exec"), variables)
        for file, pixels in zip(files, variables["seen"], strict=True):
            assert np.array_equal(pixels, preprocessing(file)), file.name
