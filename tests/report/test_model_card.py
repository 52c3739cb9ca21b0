from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_parts import kinds, table_rows, texts

from regraft.evaluation.subgroups import Subgroup, Subgroups
from regraft.report.model_card import model_card
from regraft.report.record import ClassificationRecord
from regraft.text import one_line

Make = Callable[..., ClassificationRecord]


def front(card: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return value


def test_the_hub_can_read_the_card(make_record: Make, tmp_path: Path) -> None:
    record = make_record(("ant", "bee"), each=50, name="my: run # 1")
    (tmp_path / "README.md").write_text(model_card(record), encoding="utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("regraft", "image-classification", None)
    assert data.tags == ["image-classification", "transfer-learning", "regraft", "mobilenetv2"]
    assert data.model_name == "my: run # 1"
    found = {result.metric_type: result.metric_value for result in data.eval_results or ()}
    test = record.evaluations["test"]
    assert found["accuracy"] == pytest.approx(test.accuracy, abs=1e-6)
    assert found["f1"] == pytest.approx(test.macro_f1, abs=1e-6)
    assert {r.dataset_split for r in data.eval_results or ()} == {"test"}


def test_names_change_nothing_but_text(make_record: Make, hostile_names: tuple[str, ...]) -> None:
    card = model_card(make_record(hostile_names, name=hostile_names[5], source="/data/" + hostile_names[5]))
    plain = make_record(tuple("abcdefghijkl"), name="x", source="/data/x")
    assert kinds(card) == kinds(model_card(plain))
    cells = texts(card)
    for name in hostile_names:
        if len(name) < 60:
            assert one_line(name).strip() in cells
    value = front(card)
    assert value["model-index"][0]["name"] == hostile_names[5]
    assert value["model-index"][0]["results"][0]["dataset"]["name"] == hostile_names[5]
    assert "<script" not in card


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_any_name_is_one_scalar_of_yaml(make_record: Make, text: str) -> None:
    value = front(model_card(make_record(("ant", "bee"), name=text)))
    shown = one_line(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    assert value["model-index"][0]["name"] == shown
    assert list(value) == ["library_name", "pipeline_tag", "tags", "model-index"]


def test_the_card_contains_limitations_and_usage(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=6)
    card = model_card(record)
    for caution in record.evaluations["test"].cautions():
        assert caution in texts(card)
    assert "24 of the validation and test images may have a wrong label" in card
    for words in ("## Intended use", "## Training data", "## Calibration", "regraft.load(", "regraft predict RUN"):
        assert words in card
    assert "/data" not in card  # a published card names no folder of the data
    assert "95 % confidence interval" in card
    assert "\xa0" not in card


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ("test",)}, "The confidence is not calibrated"),
        ({"parts": ("val",)}, "validation images, which also chose the epoch"),
        ({"metrics": {}, "history": (), "predictions": None, "evaluations": {}, "suspects": ()}, "was stopped before"),
        ({"counts": {}, "source": "", "hashes": {}, "each": 1}, "The number of images is unknown"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_the_card_says_what_is_missing(make_record: Make, changes: dict[str, Any], words: str) -> None:
    card = model_card(make_record(("ant", "bee"), **changes))
    assert words in card
    assert ("model-index" in front(card)) == (changes.get("metrics") != {})


def test_many_classes_are_cut(make_record: Make) -> None:
    card = model_card(make_record(tuple(f"class {i}" for i in range(200)), each=2))
    assert "and 100 more." in card
    assert "And 100 smaller classes." in card
    assert "And 150 classes with a higher F1." in card
    assert len(card) < 20_000


@pytest.mark.parametrize(("images", "share"), [(500, "0.01"), (60, "0.02"), (9, "0.10")])
def test_the_ood_rate_is_one_that_validation_can_resolve(make_record: Make, images: int, share: str) -> None:
    record = make_record(("ant", "bee"), each=6)
    known = replace(record, description={**record.description, "ood": {"calibration_images": images}})
    assert f"--ood-rate {share} " in model_card(known)
    assert "--ood-rate" not in model_card(record)


def test_the_card_has_the_subgroups(make_record: Make, hostile_names: tuple[str, ...]) -> None:
    def record(by: str, values: tuple[str, ...]) -> ClassificationRecord:
        scores = {"accuracy": (0.9, (0.8, 0.95)), "macro F1": (0.875, (0.7, 0.9))}
        groups = [Subgroup(value, 30, scores, -0.05, (-0.1, 0.02), 0.03, 0.06) for value in values]
        plain = make_record(("ant", "bee"), each=50)
        measured = replace(plain.evaluations["test"], subgroups=(Subgroups(by, "accuracy", "test", tuple(groups)),))
        return replace(plain, evaluations={**plain.evaluations, "test": measured})

    card = model_card(record("camera", ("one", "two")))
    assert "The model was measured by camera" in card
    assert "By camera, the worst of 2 subgroups is “one”: accuracy 90.0 % (95 % interval 80.0 to 95.0)" in card
    rows = table_rows(card)
    assert ("camera", "images", "accuracy", "macro F1", "difference from the others", "p") in rows
    assert ("two", "30", "90.0 % (80.0 to 95.0)", "87.5 % (70.0 to 90.0)", "-5.0 points", "0.06") in rows
    for hostile in hostile_names:
        assert kinds(model_card(record(hostile, (hostile, "two")))) == kinds(card)


def test_names_in_sentences_about_an_earlier_run_are_no_markup(make_record: Make) -> None:
    def card(name: str) -> str:
        classes = [{"name": name, "p": 0.01, "better": 9, "worse": 0, "before": 0.5, "after": 0.9, "count": 9}]
        comparison = {"part": "test", "count": 9, "before": 0.5, "after": 0.9, "interval": [0.1, 0.5], "better": 9,
                      "worse": 0, "p": 0.01, "classes": classes, "as_new_class": 0, "relabeled": 0}  # fmt: skip
        record = make_record(("ant", "bee"), each=50)
        earlier = {"run": f"/runs/{name}", "changes": f"{name} stays.", "comparison": comparison}
        return model_card(replace(record, metrics={**record.metrics, "earlier_run": earlier}))

    plain = card("x")
    assert "Significantly better than before: x." in texts(plain)
    for name in ("<script>alert(1)<script>", "**bold** [a](b)", "![a](https:x)", "*a*"):
        assert kinds(card(name)) == kinds(plain)
