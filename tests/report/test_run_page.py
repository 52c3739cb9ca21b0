from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from page_parser import Page, check_is_accessible, check_is_self_contained

from regraft.report.classification import MAX_DRAWN, MAX_NUMBERS
from regraft.report.plots import svg
from regraft.report.record import SHOWN, ClassificationRecord
from regraft.report.run_page import run_page
from regraft.text import one_line

PIXEL = "data:image/jpeg;base64,AAAA"
COMPARISON: Mapping[str, Any] = {
    "models": [
        {"name": "a<b>", "test_accuracy": 0.9, "test_accuracy_interval": [0.8, 0.95], "test_macro_f1": 0.88,
         "train_seconds": 82.4, "parameters": 3_376_386, "predict_ms_1": 12.3, "predict_ms_32": 140.0},
        {"name": "known little of"},
    ],
    "conclusion": ["a<b> is better."],
}  # fmt: skip
Make = Callable[..., ClassificationRecord]


def page_of(record: ClassificationRecord, thumbnails: Mapping[str, str] | None = None) -> Page:
    return Page(run_page(record, {} if thumbnails is None else thumbnails))


@pytest.fixture(scope="module")
def hostile(make_record: Make, hostile_names: tuple[str, ...]) -> Page:
    record = make_record(
        hostile_names,
        name=hostile_names[0],
        source=hostile_names[1] + "/" + hostile_names[6],
        config="\n".join(hostile_names),
        comparison=COMPARISON,
    )
    return page_of(record, dict.fromkeys(record.image_names(), PIXEL))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), min_size=4, max_size=4, unique=True))
def test_names_change_no_element_and_no_attribute(make_record: Make, names: list[str]) -> None:
    def shape(names: list[str]) -> list[tuple[str, tuple[str, ...]]]:
        record = make_record(tuple(names), name=names[0], source=names[1], config="".join(names).replace("\n", ""))
        return page_of(replace(record, config="x")).shape

    with pytest.MonkeyPatch.context() as patch:  # the charts contain no names
        patch.setattr(svg, "panel", lambda *_, **__: Markup("<svg aria-label='chart'></svg>"))
        assert shape(names) == shape(list("abcd"))


def test_names_are_shown_as_text(hostile: Page, hostile_names: tuple[str, ...]) -> None:
    for key in ("data", "classes"):
        assert all(" ".join(one_line(name).split()) in hostile.section(key) for name in hostile_names if len(name) < 60)
    assert hostile.one("h1").text == hostile_names[0]
    assert "<script>alert(1)</script>" in hostile.section("summary")
    assert "a<b> is better." in hostile.section("comparison")


def test_the_page_is_self_contained_and_accessible(hostile: Page) -> None:
    check_is_self_contained(hostile)
    check_is_accessible(hostile)


def test_a_map_that_is_missing_is_explained(make_record: Make) -> None:
    record = make_record(("ant", "bee", "cat"))
    names = record.predicted_image_names()
    pictures = dict.fromkeys(record.image_names(), PIXEL)
    assert "no map" not in Page(run_page(record, pictures, dict.fromkeys(names, PIXEL))).section("predictions")
    text = Page(run_page(record, pictures, dict.fromkeys(names[1:], PIXEL))).section("predictions")
    assert "no map" in text
    assert "it is zero everywhere" in text


def test_the_numbers_are_those_of_the_metrics(make_record: Make) -> None:
    record = make_record(("ant", "bee", "cat"), each=40)
    page, test = page_of(record), record.evaluations["test"]
    low, high = test.accuracy_interval
    text = f"{100 * test.accuracy:.1f} % accuracy (95 % confidence interval {100 * low:.1f} to {100 * high:.1f})"
    assert text in page.section("summary")
    assert "Majority-class baseline" in page.section("summary")
    assert "Most frequent confusion: “" in page.section("summary")
    assert sum(int(e.text) for e in page.all("td", "hit")) == int(np.trace(test.confusion))
    assert "ant120404040" in page.section("data")
    assert "Reliability diagram, at temperature 1.25" in page.section("calibration")
    labels = [e.attributes["aria-label"] for e in page.all("svg", "chart")]
    assert (
        labels[0]
        == "Loss over 4 epochs; at the end: training 0.25, validation 0.3; kept: training 0.25, validation 0.3."
    )
    assert labels[-1].startswith(
        f"Error rate of all predictions: {100 * (1 - test.accuracy):.1f} %; of the more confident"
    )
    assert "regraft train /data/photos --config config.toml" in page.section("reproduce")
    assert 'seed = 0 [model] backbone = "mobilenetv2"' in page.section("reproduce")
    assert "1" * 64 in page.section("reproduce")


def test_the_path_of_the_head_is_not_drawn_as_epochs(make_record: Make) -> None:
    path = [{"l2": 10.0**-k, "val_loss": 0.5 - 0.1 * k, "val_accuracy": 0.8, "seconds": 0.5} for k in range(3)]
    page = page_of(make_record(("ant", "bee"), head_path=path))
    assert "Head: validation loss by L2 strength" in page.section("training")
    assert "0.01 0.3000 0.8000 0.50" in page.section("training").replace(
        "0.010.30000.80000.50", "0.01 0.3000 0.8000 0.50"
    )
    labels = [e.attributes["aria-label"] for e in page.all("svg", "chart")]
    assert labels[0] == "Validation loss of the head for 3 L2 strengths."
    assert labels[1].startswith("Loss over 4 epochs")


def test_missing_pictures_are_reported(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=30)
    wanted = record.image_names()
    page = page_of(record, dict.fromkeys(wanted, PIXEL))
    assert "regraft report RUN --data" not in page.section("predictions")
    page = page_of(record, dict.fromkeys(wanted[1:], PIXEL))
    assert f"1 of the {len(wanted)} images on this page cannot be read" in page.section("predictions")
    assert {e.text for e in page.all("span", "frame none")} == {"not available"}


@pytest.mark.parametrize(("classes", "each"), [(MAX_NUMBERS, 3), (MAX_NUMBERS + 1, 3), (MAX_DRAWN + 1, 2)])
def test_many_classes(make_record: Make, classes: int, each: int) -> None:
    record = make_record(tuple(f"class {i}" for i in range(classes)), each)
    page = page_of(record)
    check_is_self_contained(page)
    assert len(page.all("table", "matrix")) == (classes <= MAX_NUMBERS)
    labels = [e.attributes["aria-label"] for e in page.all("svg", "chart")]
    assert any("on the diagonal" in label for label in labels) == (MAX_NUMBERS < classes <= MAX_DRAWN)
    assert ("too large for this page" in page.section("confusion")) == (classes > MAX_DRAWN)
    assert "Most frequent confusions" in page.section("confusion")
    assert all(f"class {i}" in page.section("classes") for i in range(classes))
    assert len(page.source) < 700_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ("test",)}, "The run has no validation images"),
        ({"parts": ("val",)}, "The run has no test images"),
        ({"metrics": {}, "history": (), "predictions": None, "evaluations": {}, "suspects": ()}, "was stopped before"),
        ({"predictions": None, "evaluations": {}, "suspects": ()}, "predictions.csv is missing"),
        ({"parts": ()}, "the accuracy of the model is unknown"),
        ({"each": 1}, "of 2 test images"),
        ({"counts": {}, "config": "", "source": "", "hashes": {}}, "% accuracy"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_the_summary_says_what_is_missing(make_record: Make, changes: dict[str, Any], words: str) -> None:
    page = page_of(make_record(("ant", "bee"), **changes))
    assert words in page.section("summary")
    assert len(page.all("section")) == 9


def test_the_summary_reports_an_early_stop(make_record: Make) -> None:
    record = make_record(("ant", "bee"))
    record = replace(record, metrics=record.metrics | {"training": record.metrics["training"] | {"stopped": "<late>"}})
    assert "Training was stopped early: <late>." in page_of(record).section("summary")


@pytest.mark.parametrize("used", [True, False])
def test_the_environment_says_what_passed_in_8_bits(make_record: Make, used: bool) -> None:
    record = make_record(("ant", "bee"))
    training = record.metrics["training"] | {"int8": {"used": used}}
    page = run_page(replace(record, metrics=record.metrics | {"training": training}), {})
    assert ("int8 for training images in the frozen layers" in page) == used


def test_epochs_without_validation_and_with_odd_numbers(make_record: Make) -> None:
    rows = [{"phase": "odd<", "train_loss": value, "val_loss": None, "train_accuracy": None, "val_accuracy": None,
             "kept": False} for value in (float("nan"), 1e30, 1e30)]  # fmt: skip
    page = page_of(make_record(("ant", "bee"), history=rows))
    assert "no accuracy was measured" in page.section("training")
    assert "odd<" in page.section("training")
    single = [rows[0] | {"train_loss": 0.0, "train_accuracy": 1.0, "val_accuracy": 1.0, "kept": True, "val_loss": 0.0}]
    assert "100.0 %" in page_of(make_record(("ant", "bee"), history=single)).section("training")


def test_a_comparison_is_shown_if_there_is_one(make_record: Make, hostile: Page) -> None:
    row = hostile.section("comparison")
    for cell in ("90.0 %", "80.0 to 95.0", "0.880", "82 s", "3.4 M", "12.3 ms", "140.0 ms", "known little of"):
        assert cell in row
    assert len(page_of(make_record(("ant", "bee"))).all("section")) == 9


def test_suspects_beyond_the_pictures_are_named(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=200)
    many = tuple(replace(record.suspects[0], path=f"set/{i}") for i in range(SHOWN + 200 + 5))
    text = page_of(replace(record, suspects=many)).section("label_errors")
    assert "205 more, by name" in text
    assert "and 5 more" in text
    assert "No likely label error" in page_of(replace(record, suspects=())).section("label_errors")


def test_the_same_record_gives_the_same_page(make_record: Make) -> None:
    assert run_page(make_record(("ant", "bee")), {}) == run_page(make_record(("ant", "bee")), {})
