"""The JSON of requests is strict; that of answers has a heat map where one was asked for."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from regraft.data.preprocessing import Preprocessing
from regraft.data.taxonomy import Taxonomy
from regraft.models.inference import Prediction
from regraft.models.rejection import RejectionPolicy
from regraft.serving.batching import Answer
from regraft.serving.http.schemas import ImageAnswer, InferRequest, describe
from regraft.serving.service import ServedModel

ENGINE: Any = SimpleNamespace(classes=("dark", "bright"), preprocessing=Preprocessing(size=8))
MODEL = ServedModel("model", "1", ENGINE)


def test_an_answer_has_the_most_likely_classes() -> None:
    prediction = Prediction("", ("dark", "bright"), np.array([0.25, 0.75]))
    value = describe(Answer(prediction), MODEL, "a.png", count=1)
    assert value["name"] == "a.png"
    assert value["top"] == [{"label": "bright", "probability": 0.75}]
    assert len(describe(Answer(prediction), MODEL, None, count=9)["top"]) == 2
    assert "name" not in describe(Answer(prediction), MODEL, None, count=9)
    ImageAnswer.model_validate(value)
    failed = Prediction("", (), np.array([]), error="truncated")
    assert describe(Answer(failed), MODEL, None, count=1) == {"error": "truncated"}


def test_a_heat_map_is_opaque_where_it_is_warm() -> None:
    thumbnail = io.BytesIO()
    Image.new("RGB", (12, 6)).save(thumbnail, "JPEG")
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    answer = Answer(Prediction("", ("dark", "bright"), np.array([0.25, 0.75])), {"bright": heat}, thumbnail.getvalue())
    value = describe(answer, MODEL, None, count=1)["heat_map"]
    assert (value["label"], value["width"], value["height"]) == ("bright", 12, 6)
    assert base64.b64decode(value["image"]) == thumbnail.getvalue()
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(value["heat"]))))
    assert overlay.shape == (6, 12, 4)
    assert overlay[3, 0, 3] == 0
    assert overlay[3, 11, 3] == round(255 * 0.72)
    assert overlay[3, 11, :3].min() > overlay[3, 0, :3].max()


def infer(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AAAA"], **changes}]}


def test_a_whole_number_may_be_written_as_a_float() -> None:
    assert InferRequest.model_validate(infer(shape=[1.0])).inputs[0].shape == [1]


@pytest.mark.parametrize(
    "changes", [{"shape": [1.5]}, {"shape": [0]}, {"shape": [1, 1]}, {"datatype": "FP32"}, {"data": []}, {"extra": 1}]
)
def test_other_inputs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InferRequest.model_validate(infer(**changes))


def test_an_answer_under_a_tree_is_the_node_that_is_sure() -> None:
    tree = Taxonomy.of({"beagle": "dog", "pug": "dog", "cat": None})
    engine: Any = SimpleNamespace(classes=tree.classes, preprocessing=Preprocessing(size=8))
    model = ServedModel("model", "1", engine, RejectionPolicy(min_confidence=0.8))
    prediction = Prediction("", tree.classes, np.array([0.5, 0.1, 0.4]), taxonomy=tree)
    value = describe(Answer(prediction), model, None, count=1)
    assert (value["label"], value["confidence"], value["accepted"]) == ("dog", 0.9, True)
    assert value["top"] == [{"label": "beagle", "probability": 0.5}]
    assert value["levels"] == [{"label": "dog", "probability": 0.9}, {"label": "beagle", "probability": 0.5}]
    ImageAnswer.model_validate(value)
