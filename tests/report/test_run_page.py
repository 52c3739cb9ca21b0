import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.evaluation.names import one_line, shorten
from regraft.report.record import FEWER, SHOWN, RunRecord
from regraft.report.run_page import DRAWN, NUMBERS, run_page, write_run_page
from regraft.report.run_pictures import NAMES

VOID = {"img", "link", "meta", "wbr"}
PIXEL = "data:image/jpeg;base64,AAAA"
COMPARISON: Mapping[str, Any] = {
    "models": [
        {"name": "a<b>", "test_accuracy": 0.9, "test_accuracy_interval": [0.8, 0.95], "test_macro_f1": 0.88,
         "train_seconds": 82.4, "parameters": 3_376_386, "predict_ms_1": 12.3, "predict_ms_32": 140.0},
        {"name": "known little of"},
    ],
    "conclusion": ["a<b> is better."],
}  # fmt: skip
Make = Callable[..., RunRecord]


class Page(HTMLParser):
    """Elements with their attributes and the text below them; badly nested ones fail."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[list[str]] = []
        self.open: list[int] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs)
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.texts.append([])
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.texts[index].append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def text(self, tag: str, **attributes: str) -> list[str]:
        return [
            "".join(text).replace("\xa0", " ")
            for (name, found), text in zip(self.elements, self.texts, strict=True)
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def section(self, key: str) -> str:
        (text,) = self.text("section", id=key)
        return text

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(found)) for tag, found in self.elements if tag not in ("bdi", "wbr")]


def page_of(record: RunRecord, thumbs: Mapping[str, str] | None = None) -> Page:
    return Page(run_page(record, {} if thumbs is None else thumbs))


@pytest.fixture(scope="module")
def hostile(make_record: Make, hostile_names: tuple[str, ...]) -> Page:
    record = make_record(
        hostile_names,
        name=hostile_names[0],
        source=hostile_names[1] + "/" + hostile_names[6],
        config="\n".join(hostile_names),
        comparison=COMPARISON,
    )
    return page_of(record, dict.fromkeys(record.pictured(), PIXEL))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), min_size=4, max_size=4, unique=True))
def test_names_change_no_element_and_no_attribute(make_record: Make, names: list[str]) -> None:
    def shape(names: list[str]) -> list[tuple[str, tuple[str, ...]]]:
        record = make_record(tuple(names), name=names[0], source=names[1], config="".join(names).replace("\n", ""))
        return page_of(replace(record, config="x")).shape

    assert shape(names) == shape(list("abcd"))


def test_names_are_shown_as_text(hostile: Page, hostile_names: tuple[str, ...]) -> None:
    for key in ("data", "classes"):
        assert all(shorten(one_line(name), 60) in hostile.section(key) for name in hostile_names if len(name) < 60)
    assert hostile.text("h1") == [hostile_names[0]]
    assert "<script>alert(1)</script>" in hostile.section("summary")
    assert "a<b> is better." in hostile.section("comparison")


def test_nothing_comes_from_elsewhere(hostile: Page) -> None:
    tags = {tag for tag, _ in hostile.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "audio", "use", "foreignobject"}
    ids = [found["id"] for _, found in hostile.elements if "id" in found]
    assert len(set(ids)) == len(ids)
    for tag, found in hostile.elements:
        assert not [key for key in found if key.startswith("on") or key in ("style", "srcset", "action")]
        if "src" in found:
            assert found["src"] == PIXEL
        if "href" in found and tag != "link":
            assert found["href"].startswith("#")
            assert found["href"][1:] in ids
    assert "http-equiv" in hostile.source


def test_people_with_screen_readers_and_keyboards_are_served(hostile: Page) -> None:
    levels = [int(tag[1]) for tag, _ in hostile.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for tag, found in hostile.elements:
        if tag == "svg":
            assert found.get("aria-hidden") == "true" or found["aria-label"]
        if tag == "th":
            assert found["scope"] in ("col", "row")
        if tag == "img":
            assert found["alt"]
        if "scroll" in found.get("class", ""):
            assert found["tabindex"] == "0"
    assert len(hostile.text("caption")) == len(hostile.text("table"))


def test_the_numbers_are_those_of_the_metrics(make_record: Make) -> None:
    record = make_record(("ant", "bee", "cat"), each=40)
    page, test = page_of(record), record.evaluations["test"]
    low, high = test.accuracy_interval
    words = f"an accuracy of {100 * test.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert words in page.section("summary")
    cells = [text for text in page.text("td", class_="hit heat-8")] + [
        text for level in range(8) for text in page.text("td", class_=f"hit heat-{level}")
    ]
    assert sum(map(int, cells)) == int(np.trace(test.confusion))
    assert "test images80" in page.section("data").replace(" ", "") or "4040" in page.section("data").replace(" ", "")
    assert "At temperature 1.25" in page.section("confidence")
    labels = [found["aria-label"] for tag, found in page.elements if tag == "svg" and "aria-label" in found]
    assert labels[0] == "loss over 4 epochs; the model kept has 0.3; at the end train 0.25, val 0.3."
    assert labels[-1].startswith(f"Of all images {100 * (1 - test.accuracy):.1f} % are wrong; of the surer half ")
    assert "regraft train /data/photos --config config.toml" in page.section("reproduce")
    assert 'seed = 0\n[model]\nbackbone = "mobilenetv2"' in page.section("reproduce")
    assert "1" * 64 in page.section("reproduce")


def test_worst_best_and_doubtful_are_what_they_say(make_record: Make) -> None:
    record = make_record(("ant", "bee", "cat"), each=60)
    told = record.told
    assert told is not None
    right = told.predicted == told.labels
    worst, best, doubtful = record.worst(), record.best(), record.doubtful()
    assert not right[worst].any()
    assert right[best].all()
    assert len(worst) == min(SHOWN, int((~right).sum()))
    assert len(best) == len(doubtful) == FEWER
    assert list(told.confidence[worst]) == sorted(told.confidence[~right], reverse=True)[:SHOWN]
    assert told.confidence[doubtful].max() <= np.sort(told.confidence)[FEWER - 1]
    assert {told.labels[i] for i in best[:3]} == {0, 1, 2}


def test_pictures_that_are_gone_are_said_so(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=30)
    wanted = record.pictured()
    page = page_of(record, dict.fromkeys(wanted, PIXEL))
    assert "regraft report RUN --data" not in page.section("pictures")
    page = page_of(record, dict.fromkeys(wanted[1:], PIXEL))
    assert f"1 of the {len(wanted)} images on this page cannot be read" in page.section("pictures")
    assert set(page.text("span", class_="frame none")) == {"not there"}


def test_the_common_folder_of_the_images_is_left_out(make_record: Make) -> None:
    record = make_record(("ant", "bee"))
    assert record.short("set/ant/0.png") == "ant/0.png"
    assert record.short("elsewhere/0.png") == "elsewhere/0.png"
    assert make_record(("ant", "bee"), predictions=None).short("set/ant/0.png") == "set/ant/0.png"


@pytest.mark.parametrize(("classes", "each"), [(NUMBERS, 3), (NUMBERS + 1, 3), (DRAWN, 2), (200, 2)])
def test_many_classes(make_record: Make, classes: int, each: int) -> None:
    record = make_record(tuple(f"class {i}" for i in range(classes)), each)
    page = page_of(record)
    assert len(page.text("table", class_="matrix")) == (classes <= NUMBERS)
    assert len(page.text("svg", class_="heat")) == (NUMBERS < classes <= DRAWN)
    assert ("cannot be read; metrics.json has it" in page.section("confusion")) == (classes > DRAWN)
    assert "The commonest mistakes" in page.section("confusion")
    assert all(f"class {i}" in page.section("classes") for i in range(classes))
    assert len(page.source) < 700_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ("test",)}, "There is no validation part"),
        ({"parts": ("val",)}, "There is no test part"),
        ({"metrics": {}, "history": (), "predictions": None, "evaluations": {}, "suspects": ()}, "was stopped before"),
        ({"predictions": None, "evaluations": {}, "suspects": ()}, "how good it is cannot be said"),
        ({"each": 1}, "Of 2 test images"),
        ({"counts": {}, "config": "", "source": "", "hashes": {}}, "an accuracy of"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_missing_is_said(make_record: Make, changes: dict[str, Any], words: str) -> None:
    page = page_of(make_record(("ant", "bee"), **changes))
    assert words in page.section("summary")
    assert len(page.text("section")) == 9


def test_an_early_stop_is_said(make_record: Make) -> None:
    record = make_record(("ant", "bee"))
    record = replace(record, metrics=record.metrics | {"training": record.metrics["training"] | {"stopped": "<late>"}})
    assert "Training was stopped early: <late>." in page_of(record).section("summary")


def test_epochs_without_validation_and_with_odd_numbers(make_record: Make) -> None:
    rows = [{"phase": "odd<", "train_loss": value, "val_loss": None, "train_accuracy": None, "val_accuracy": None,
             "kept": False} for value in (float("nan"), 1e30, 1e30)]  # fmt: skip
    page = page_of(make_record(("ant", "bee"), history=rows))
    assert "no accuracy was measured" in page.section("training")
    assert "odd<" in page.section("training")
    single = [rows[0] | {"train_loss": 0.0, "train_accuracy": 1.0, "val_accuracy": 1.0, "kept": True}]
    assert "100 %" in page_of(make_record(("ant", "bee"), history=single)).section("training")


def test_a_comparison_is_shown_where_there_is_one(make_record: Make, hostile: Page) -> None:
    row = hostile.section("comparison").replace("\xa0", " ")
    for cell in ("90.0 %", "80.0 to 95.0", "0.880", "82 s", "3,376,386", "12.3 ms", "140.0 ms", "known little of"):
        assert cell in row
    assert not page_of(make_record(("ant", "bee"))).text("section", id="comparison")


def test_suspects_beyond_the_pictures_are_named(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=200)
    many = tuple(replace(record.suspects[0], path=f"set/{i}") for i in range(SHOWN + NAMES + 5))
    text = page_of(replace(record, suspects=many)).section("suspects")
    assert f"{NAMES + 5} more, by name" in text
    assert "and 5 more" in text
    assert "None was found" in page_of(replace(record, suspects=())).section("suspects")


def test_the_same_record_gives_the_same_file(make_record: Make, tmp_path: Path) -> None:
    for name in ("one.html", "other.html"):
        write_run_page(make_record(("ant", "bee")), tmp_path / name, {})
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()
