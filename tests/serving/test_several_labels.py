"""A served model that gives an image any number of labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
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
def labels_run(several_labels: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run of a small network."""
    settings = {**fast_settings, "data.task": "multilabel", "model.backbone": "cnn", "training.finetune_epochs": 0}
    return train_from(several_labels, load_config(overrides=settings), tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture(scope="module")
def labels_server(labels_run: Run, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A run with several labels, an export of it, and a run with one class."""
    (result,) = export(labels_run, "onnx", out=tmp_path_factory.mktemp("exports"))
    with in_thread(f"labels={labels_run.path}", f"export={result.path}", f"one={run}", limits=Limits()) as running:
        yield running


def ask(server: Server, file: Path, **query: Any) -> dict[str, Any]:
    """The answer for an image."""
    done = server.client.post("/predict", params=query, files={"image": file.read_bytes()})
    assert done.status_code == 200, done.text
    (image,) = done.json()["images"]
    return image  # type: ignore[no-any-return]  # JSON


def test_models_have_their_thresholds(labels_server: Server, labels_run: Run) -> None:
    answer = labels_server.client.get("/models").json()
    ModelsAnswer.model_validate(answer)
    labels, exported, one = answer["models"]
    assert [model["task"] for model in answer["models"]] == ["multilabel", "multilabel", "classification"]
    assert labels["thresholds"] == exported["thresholds"] == list(labels_run.classifier.thresholds)
    assert one["thresholds"] == []
    assert labels["min_confidence"] is None
    assert {fact["title"] for fact in labels["facts"]} >= {"Mean average precision", "Macro-F1", "Labels"}


@pytest.mark.parametrize("name", ["labels", "export"])
def test_an_answer_has_the_labels_of_the_image(
    name: str, labels_server: Server, labels_run: Run, several_labels: Path
) -> None:
    files = sorted(several_labels.parent.glob("0*.png"))
    for file, expected in zip(files, labels_run.predict(files), strict=True):
        image = ask(labels_server, file, model=name, top_k=3)
        ImageAnswer.model_validate(image)
        if image.get("out_of_distribution"):
            assert image["labels"] is None
            continue
        assert {row["label"] for row in image["labels"]} == set(expected.labels)
        assert [row["threshold"] for row in image["top"]] == [
            expected.thresholds[expected.classes.index(row["label"])] for row in image["top"]
        ]
        assert "label" not in image


def test_each_label_has_a_heat_map(labels_server: Server, labels_run: Run, several_labels: Path) -> None:
    files = sorted(several_labels.parent.glob("0*.png"))
    file, expected = next(
        pair for pair in zip(files, labels_run.predict(files), strict=True) if len(pair[1].labels) > 1
    )
    heat_map = ask(labels_server, file, explain=True)["heat_map"]
    assert [heat_map["label"], *(other["label"] for other in heat_map["others"])] == list(expected.labels)
    for picture in (heat_map["heat"], *(other["heat"] for other in heat_map["others"])):
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (32, 32)


def test_the_inference_protocol_has_indicators(labels_server: Server, labels_run: Run, several_labels: Path) -> None:
    about = labels_server.client.get("/v2/models/labels").json()
    assert [output["name"] for output in about["outputs"]][:3] == ["probabilities", "label", "indicators"]
    files = sorted(several_labels.parent.glob("0*.png"))
    data = [base64.b64encode(file.read_bytes()).decode() for file in files]
    body = {"inputs": [{"name": "images", "shape": [len(data)], "datatype": "BYTES", "data": data}]}
    answer = labels_server.client.post("/v2/models/labels/infer", json=body).json()
    InferAnswer.model_validate(answer)
    outputs = {output["name"]: output for output in answer["outputs"]}
    expected = labels_run.predict(files)
    assert outputs["indicators"]["datatype"] == "BOOL"
    said = np.array(outputs["indicators"]["data"]).reshape(outputs["indicators"]["shape"])
    assert np.array_equal(said, [[name in one.labels for name in one.classes] for one in expected])
    assert outputs["label"]["data"] == [one.label for one in expected]
    one = labels_server.client.post("/v2/models/one/infer", json=body).json()["outputs"]
    assert "indicators" not in {output["name"] for output in one}
    asked = labels_server.client.post("/v2/models/labels/infer", json={**body, "outputs": [{"name": "label"}]}).json()
    assert [output["name"] for output in asked["outputs"]] == ["label"]


def test_an_accuracy_needs_one_class(labels_run: Run) -> None:
    with pytest.raises(UsageError, match="--min-accuracy is for models that give an image one class"):
        load_models([ModelSource.parse(labels_run)], "same", 0.9, None, False)
    with pytest.raises(UsageError, match=r"--min-confidence is for .* gives it any number of labels .*'multilabel'"):
        load_models([ModelSource.parse(labels_run)], "same", None, None, False, min_confidence=0.9)
