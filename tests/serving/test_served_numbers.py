"""A served model that gives an image a number."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Server, in_thread

from regraft.config import load_config
from regraft.errors import UsageError
from regraft.exporting.export import export
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.serving.http.schemas import ImageAnswer, InferAnswer, ModelsAnswer
from regraft.serving.limits import Limits
from regraft.serving.serve import ModelSource, load_models


@pytest.fixture(scope="module")
def small_run(numbers_manifest: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run of a small network."""
    settings = {**fast_settings, "data.task": "regression", "model.backbone": "cnn", "training.finetune_epochs": 0}
    return train_from(numbers_manifest, load_config(overrides=settings), tmp_path_factory.mktemp("numbers") / "run")


@pytest.fixture(scope="module")
def exported(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the run."""
    (result,) = export(small_run, "onnx", out=tmp_path_factory.mktemp("exports"))
    return result.path


@pytest.fixture(scope="module")
def server(small_run: Run, exported: Path) -> Iterator[Server]:
    """A run with numbers, and an export of it."""
    with in_thread(f"numbers={small_run.path}", f"export={exported}", limits=Limits()) as running:
        yield running


def test_models_say_that_they_give_numbers(server: Server, small_run: Run) -> None:
    answer = server.client.get("/models").json()
    ModelsAnswer.model_validate(answer)
    numbers, exported = answer["models"]
    assert [model["task"] for model in (numbers, exported)] == ["regression"] * 2
    assert numbers["classes"] == ["brightness"]
    assert numbers["half_width"] == exported["half_width"] == small_run.classifier.half_width
    assert numbers["explains"]
    assert not exported["explains"]
    assert {fact["title"] for fact in numbers["facts"]} >= {"Mean absolute error", "90 % prediction interval"}


@pytest.mark.parametrize("name", ["numbers", "export"])
def test_an_image_gets_its_number_with_an_interval(
    name: str, server: Server, small_run: Run, numbers_manifest: Path
) -> None:
    file = numbers_manifest.parent / "03.png"
    (expected,) = small_run.predict(file)
    done = server.client.post("/predict", params={"model": name}, files={"image": file.read_bytes()})
    assert done.status_code == 200, done.text
    (image,) = done.json()["images"]
    ImageAnswer.model_validate(image)
    assert image["quantity"] == "brightness"
    assert image["value"] == pytest.approx(expected.value, abs=1e-2)
    assert image["interval"] == pytest.approx(expected.interval, abs=1e-2)
    assert "label" not in image
    assert "top" not in image


def test_the_inference_protocol_has_numbers(server: Server, small_run: Run, numbers_manifest: Path) -> None:
    about = server.client.get("/v2/models/numbers").json()
    assert [output["name"] for output in about["outputs"]][:2] == ["value", "interval"]
    files = [numbers_manifest.parent / f"{number:02d}.png" for number in (1, 2)]
    data = [base64.b64encode(file.read_bytes()).decode() for file in files]
    question = {"inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "data": data}]}
    answer = server.client.post("/v2/models/numbers/infer", json=question).json()
    InferAnswer.model_validate(answer)
    outputs = {output["name"]: output for output in answer["outputs"]}
    expected = small_run.predict(files)
    assert outputs["value"]["data"] == pytest.approx([one.value for one in expected], abs=1e-4)
    assert outputs["interval"]["shape"] == [2, 2]
    for name in ("probabilities", "indicators"):
        asked = {**question, "outputs": [{"name": name}]}
        assert server.client.post("/v2/models/numbers/infer", json=asked).status_code == 404


def test_there_is_a_heat_map_of_what_raises_the_number_and_one_of_what_lowers_it(
    server: Server, numbers_manifest: Path
) -> None:
    file = numbers_manifest.parent / "03.png"
    done = server.client.post("/predict", params={"explain": True}, files={"image": file.read_bytes()})
    assert done.status_code == 200, done.text
    (image,) = done.json()["images"]
    ImageAnswer.model_validate(image)
    assert image["heat_map"]["label"] == "higher"
    assert [other["label"] for other in image["heat_map"]["others"]] == ["lower"]
    assert "value" in image
    of_export = {"explain": True, "model": "export"}
    assert server.client.post("/predict", params=of_export, files={"image": file.read_bytes()}).status_code == 422


def test_accuracy_is_for_classes(small_run: Run) -> None:
    with pytest.raises(UsageError, match="--min-accuracy"):
        load_models([ModelSource.parse(small_run)], "same", 0.9, None, trust=False)


def test_a_confidence_is_for_classes(small_run: Run, exported: Path) -> None:
    for model in (small_run, exported):
        with pytest.raises(UsageError, match=r"--min-confidence is for .* gives it a number .*'regression'"):
            load_models([ModelSource.parse(model)], "same", None, None, False, min_confidence=0.9)
