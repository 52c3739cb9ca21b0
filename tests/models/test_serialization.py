from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.errors import RegraftError, RunError
from regraft.models import serialization
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier


@pytest.fixture
def model() -> Classifier:
    return build("mobilenetv2", classes=("ä", "b\n$"), weights="none", image_size=32)


def _pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_files_of_a_model(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"model.safetensors", "model.json", "class_names.json"}
    assert json.loads((tmp_path / "class_names.json").read_text("utf-8")) == ["ä", "b\n$"]
    description = json.loads((tmp_path / "model.json").read_text("utf-8"))
    assert description["backbone"]["name"] == "mobilenetv2"
    assert description["preprocessing"]["size"] == 32
    assert {"python", "regraft", "torch", "timm"} <= set(description["versions"])
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o077 == (tmp_path / "model.json").stat().st_mode & 0o077


@pytest.mark.parametrize("killed_in", ["write_json", "replace"])
def test_a_kill_while_saving_leaves_a_model(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    """After a kill in either step of the second save, one of the two models can be loaded."""
    save_classifier(model, tmp_path)
    with torch.inference_mode():
        old = model(_pixels())
        model.head.classifier.bias += 1
        new = model(_pixels())

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed_in == "write_json":
            patch.setattr(serialization, "write_json", die)
        else:
            original = Path.replace
            patch.setattr(
                Path,
                "replace",
                lambda self, target: die() if target.name == "model.safetensors" else original(self, target),
            )
        with pytest.raises(KeyboardInterrupt):
            save_classifier(model, tmp_path)
    with torch.inference_mode():
        loaded = load_classifier(tmp_path)(_pixels())
    assert torch.equal(loaded, old if killed_in == "write_json" else new)


def _change(change: dict[str, object], folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**description, **change}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.json").unlink(), "is not a run"),
        (lambda d: (d / "model.json").write_text("{"), "is damaged"),
        (
            lambda d: (d / "model.json").write_text('{"format": 99}'),
            "has format 99; this regraft reads formats up to 2. Update regraft",
        ),
        *(
            (partial(_change, change), "model.json is damaged")
            for change in (
                {"classes": None},
                {"classes": [1, 2]},
                {"head": []},
                {"sha256": {}},
                {"backbone": {}},
                {"boundary": "x"},
                {"preprocessing": {"size": [[]]}},
                {"calibration": {"temperature": -1}},
                {"weights": {"x": 1}},
            )
        ),
        (lambda d: (d / "model.safetensors").unlink(), "is missing"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), "is not the file that"),
    ],
)
def test_damaged_runs_are_refused(
    model: Classifier, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    save_classifier(model, tmp_path)
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        load_classifier(tmp_path)


def _changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.json"
    description = json.loads(file.read_text("utf-8"))
    change(description)
    file.write_text(json.dumps(description), "utf-8")


@pytest.mark.parametrize(
    "name",
    ["hf-hub:stranger/model", "hf_hub:stranger/model", "local-dir:/tmp/model", "https://example.org/model", "../model"],
)
def test_a_run_of_a_stranger_names_no_network_elsewhere(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """timm would fetch these; a run names networks that the package itself has."""
    save_classifier(model, tmp_path)
    _changed(tmp_path, lambda d: d["backbone"].update(name=name, timm_name=name))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(RegraftError, match=r"does not exist|backbone"):
        load_classifier(tmp_path)


def test_a_run_of_a_stranger_does_not_fill_the_memory(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path)
    _changed(tmp_path, lambda d: d["preprocessing"].update(size=10**6))
    with pytest.raises(RunError, match="its images have 1000000 x 1000000 pixels; expected 2048 at most"):
        load_classifier(tmp_path)
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"model\.json is damaged"):
        load_classifier(tmp_path)
