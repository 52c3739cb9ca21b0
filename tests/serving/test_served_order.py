"""A served model whose classes have an order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Server, in_thread

from regraft.config import load_config
from regraft.exporting.export import export
from regraft.runs.train import train_from
from regraft.serving.http.schemas import ModelMetadata, ModelsAnswer, PredictAnswer
from regraft.serving.limits import Limits

GRADES = ("none", "mild", "severe")


@pytest.fixture(scope="module")
def grades(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each grade."""
    colors = {name: (230 - 90 * number,) * 3 for number, name in enumerate(GRADES)}
    return write_squares(tmp_path_factory.mktemp("order") / "grades", colors)


@pytest.fixture(scope="module")
def server(
    grades: Path, run: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]
) -> Iterator[Server]:
    """A run of a small network, an export of it, and a run without an order."""
    settings = {**fast_settings, "data.order": GRADES, "model.backbone": "cnn", "training.finetune_epochs": 0}
    graded = train_from(grades, load_config(overrides=settings), tmp_path_factory.mktemp("orders") / "run")
    (result,) = export(graded, "onnx", out=tmp_path_factory.mktemp("exports"))
    with in_thread(f"graded={graded.path}", f"export={result.path}", f"squares={run}", limits=Limits()) as running:
        yield running


def test_models_say_that_their_classes_have_an_order(server: Server) -> None:
    answer = server.client.get("/models").json()
    ModelsAnswer.model_validate(answer)
    assert [model["ordered"] for model in answer["models"]] == [True, True, False]
    assert answer["models"][0]["classes"] == answer["models"][1]["classes"] == list(GRADES)
    for name, ordered in (("graded", True), ("export", True), ("squares", False)):
        about = server.client.get(f"/v2/models/{name}").json()
        ModelMetadata.model_validate(about)
        assert about["parameters"] == {"task": "classification", "ordered": ordered}


@pytest.mark.parametrize("name", ["graded", "export"])
def test_an_answer_has_a_class(name: str, server: Server, grades: Path) -> None:
    file = next((grades / "severe").glob("*.png"))
    done = server.client.post("/predict", params={"model": name, "top_k": 3}, files={"image": file.read_bytes()})
    PredictAnswer.model_validate(done.json())
    (image,) = done.json()["images"]
    assert {one["label"] for one in image["top"]} == set(GRADES)
    assert sum(one["probability"] for one in image["top"]) == pytest.approx(1)
