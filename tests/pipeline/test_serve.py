"""What is served under which name, by which engine, and when it is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminal import regraft

from regraft.errors import UsageError
from regraft.exporting.exported import ExportedModel
from regraft.models.inference import predict_pixels
from regraft.pipeline import serve as module
from regraft.pipeline.run import load
from regraft.pipeline.serve import _load, _Source, check_extra, serve


@pytest.fixture(scope="module")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an export to ONNX."""
    out = tmp_path_factory.mktemp("serve") / "my squares"
    options = ("--backbone", "cnn", "--image-size", 32, "--finetune-epochs", 0, "--set", "data.val=0.25")
    assert regraft("train", squares_folder, "--out", out, *options).returncode == 0
    done = regraft("export", out, "--to", "onnx")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_names(run: Path, tmp_path: Path) -> None:
    assert _Source.of(run, False).name == "my-squares"
    assert _Source.of(f"cells={run}", False).name == "cells"
    assert _Source.of(load(run), False).path == run
    assert _Source.of(run / "exports" / "onnx", False).name == "my-squares-onnx"
    strange = tmp_path / "a=b"
    strange.symlink_to(run)
    assert _Source.of(strange, False).name == "a-b"
    for wrong in (f"no name={run}", tmp_path / "none", "x="):
        with pytest.raises(UsageError, match="no folder"):
            _Source.of(wrong, False)


def test_a_run_answers_as_itself_by_the_engine_of_the_command(run: Path, images: np.ndarray) -> None:
    model = _load(_Source.of(run, False), "same", None, 0.3, False)
    assert model.engine.name == "torch"
    assert load(run).description["sha256"]["model.safetensors"].startswith(model.version)
    assert model.doubt.strange == 0.3
    told = dict(model.facts)
    assert {"Backbone", "Accuracy", "Learnt from", "Engine", "Not sure", "Unknown"} <= set(told)
    assert "# my squares" in model.card
    model.engine.warm_up(4)
    alone = [predict_pixels(load(run).classifier, image[None])[0] for image in images]
    for one, other in zip(model.engine.predict(images), alone, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert (one.familiarity, one.distance) == (other.familiarity, other.distance)


def test_an_export_answers_as_itself(run: Path, images: np.ndarray) -> None:
    source = _Source.of(run / "exports" / "onnx", False)
    model = _load(source, "same", None, None, False)
    assert (model.engine.name, model.engine.explains, model.doubt.columns) == ("onnx", False, [])
    assert dict(model.facts)["Of the run"] == "my squares"
    export = ExportedModel(source.path)
    for one, image in zip(model.engine.predict(images), images, strict=True):
        assert np.array_equal(one.probabilities, export.probabilities(image[None])[0])
    with pytest.raises(UsageError, match="--sure is for runs"):
        _load(source, "same", 0.9, None, False)


@pytest.mark.parametrize(("faster", "engine"), [(True, "onnx"), (False, "torch")])
def test_the_fastest_is_taken(run: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, engine: str) -> None:
    def rate(model: object) -> float:
        return 100.0 if isinstance(model, ExportedModel) == faster else 10.0

    monkeypatch.setattr(module, "_images_per_second", rate)
    model = _load(_Source.of(run, False), "fastest", None, None, False)
    assert model.engine.name == engine
    assert model.engine.knows_familiarity == (not faster)
    if faster:
        assert "never says" in dict(model.facts)["Unknown"]
        with pytest.raises(UsageError, match="--engine same"):
            _load(_Source.of(run, False), "fastest", None, 0.3, False)


def test_rates_are_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    assert module._images_per_second(load(run).classifier) > 0


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    check_extra()
    monkeypatch.setattr(module, "_NEEDS", ("fastapi", "no_such_module"))
    with pytest.raises(UsageError, match=r"pip install 'regraft\[serve\]'"):
        serve(run)
    monkeypatch.undo()
    for token in ("short", "with a space in it", "ümlaut-token"):
        with pytest.raises(UsageError, match="token"):
            serve(run, token=token)
    with pytest.raises(UsageError, match="0 models"):
        serve([])
