"""The page and the model card of a run whose model gives an image any number of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from page_parser import Page, check_is_accessible, check_is_self_contained

from regraft.data.dataset import Part
from regraft.evaluation.multilabel.calibration import measure_label_calibration
from regraft.evaluation.multilabel.metrics import evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.report.model_card import model_card
from regraft.report.multilabel.record import LabelSuspect, MultilabelRecord
from regraft.report.run_page import key_numbers, run_page
from regraft.report.tasks import summary


def record_of(classes: tuple[str, ...], *, skill: float = 3.0, purpose: str = "f1", **more: Any) -> MultilabelRecord:
    """A run with sixty images in val and in test, whose model tells classes from the rest by its skill."""
    rng = np.random.default_rng(0)
    has = rng.random((120, len(classes))) < 0.35
    probabilities = 1 / (1 + np.exp(-(skill * (has - 0.5) + rng.normal(size=has.shape))))
    parts: tuple[Part, ...] = ("val", "test")
    limits = np.full(len(classes), 0.5)
    limits[0] = 1.1 if purpose != "f1" else 0.5
    predictions = MultilabelPredictions(
        tuple(f"set/{i}.png" for i in range(120)), has, probabilities, classes, ("val",) * 60 + ("test",) * 60, limits
    )
    measured = {part: measure_label_calibration(predictions.part(part)).to_json() for part in parts}
    values: dict[str, Any] = {
        "name": "run",
        "description": {
            "classes": list(classes),
            "backbone": {"name": "mobilenetv2"},
            "head": {"task": "multilabel", "thresholds": limits.tolist()},
        },
        "metrics": {
            "train": {"accuracy": 0.98, "count": 300},
            "val": {"count": 60},
            "test": {"count": 60},
            "calibration": {
                "fitted_on": "val",
                "thresholds_for": purpose,
                **{part: {"before": value, "after": value} for part, value in measured.items()},
            },
        },
        "predictions": predictions,
        "evaluations": {part: evaluate_labels(predictions.part(part)) for part in parts},
        "counts": {part: dict.fromkeys(classes, 20) for part in ("train", *parts)},
        "suspects": (LabelSuspect("set/70.png", (classes[0],), classes[-1], "add", 0.93),),
    }
    return MultilabelRecord(**(values | more))


def text_of(record: MultilabelRecord) -> str:
    return " ".join("".join(sentence) for sentence in summary(record))


def test_the_page_is_accessible_and_complete(hostile_names: tuple[str, ...]) -> None:
    record = record_of(hostile_names)
    html = run_page(record, {})
    page = Page(html)
    check_is_self_contained(page)
    check_is_accessible(page)
    for words in ("Precision and recall", "Classes together", "Lowest", "add ", "average precision", "By chance alone"):
        assert words in html, words
    assert "Confusion matrix" not in html
    assert run_page(record, {}) == html


def test_numbers_count_images_once_and_name_what_the_accuracy_is() -> None:
    names = dict((what, number) for number, what in key_numbers(record_of(("a", "b", "c"))))
    assert names["train images"] == "300"
    assert names["train answers that are right"].startswith("98.0")
    assert any(what.startswith("test mean average precision") for what in names)


def test_a_card_has_what_its_readers_need() -> None:
    record = record_of(("cat", "dog"))
    card = model_card(record)
    assert card.startswith("---\n")
    for words in ("Mean average precision", "any number of labels", "prediction.labels", "300 train", "| cat |"):
        assert words in card, words
    assert "always predicts one of its classes" not in card
    assert "accuracy" not in card.partition("\n---\n")[0]


@pytest.mark.parametrize(
    ("purpose", "words"),
    [
        ("f1", "Each class's threshold is that with its highest F1"),
        ("precision=0.9", "90 % of its answers are right on the validation images"),
    ],
)
def test_thresholds_are_explained(purpose: str, words: str) -> None:
    text = text_of(record_of(("cat", "dog", "hen"), purpose=purpose))
    assert words in text
    assert ("never says “cat”" in text) == (purpose != "f1")


def test_a_model_that_tells_no_class_from_the_rest_is_not_believed() -> None:
    record = record_of(("cat", "dog"), skill=0.0, suspects=())
    assert "does not clearly tell any class" in text_of(record)
    assert "Likely label errors are withheld" in run_page(record, {})
    assert not record_of(("cat", "dog")).at_chance


def test_a_run_that_was_stopped_is_reported_without_metrics() -> None:
    record = record_of(("cat", "dog"), metrics={}, predictions=None, evaluations={}, suspects=())
    assert "Not known" in run_page(record, {})
    assert "Training was stopped" in model_card(record)
