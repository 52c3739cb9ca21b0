from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from regraft.evaluation.names import one_line
from regraft.report.model_card import escape_markdown, model_card
from regraft.report.record import RunRecord

Make = Callable[..., RunRecord]
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})


def front(card: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return value


def kinds(card: str) -> list[str]:
    """Every block and inline piece but the text itself."""
    tokens = MARKDOWN.parse(card.split("---\n", 2)[2])
    inline = [child.type for token in tokens for child in token.children or ()]
    return [token.type for token in tokens] + [kind for kind in inline if kind not in ("text", "text_special")]


def texts(card: str) -> list[str]:
    tokens = MARKDOWN.parse(card.split("---\n", 2)[2])
    return ["".join(child.content for child in token.children) for token in tokens if token.children]


def test_the_hub_reads_it(make_record: Make, tmp_path: Path) -> None:
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


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=30))
@example("- - ! %YAML @user www.example.com https://example.com \ufffe\uffff\x7f\x85")
@example("\\|\\`&#124;&amp;<!-- --> ~~x~~ $x$ *a* _b_ [^1] :smile:")
def test_any_text_is_text(text: str) -> None:
    line = one_line(text).strip()
    source = f"| a {escape_markdown(text)} | b |\n|---|---|\n| c {escape_markdown(text)} | d |\n"
    tokens = [t for t in MARKDOWN.parse(source) if t.children is not None]
    shown = ["".join(child.content for child in token.children) for token in tokens]
    if line.isprintable():
        assert [text.strip() for text in shown] == [f"a {line}".strip(), "b", f"c {line}".strip(), "d"]
    assert {child.type for token in tokens for child in token.children} <= {"text", "text_special"}


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_any_name_is_one_scalar_of_yaml(make_record: Make, text: str) -> None:
    value = front(model_card(make_record(("ant", "bee"), name=text)))
    shown = one_line(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    assert value["model-index"][0]["name"] == shown
    assert list(value) == ["library_name", "pipeline_tag", "tags", "model-index"]


def test_it_tells_of_limits_and_use(make_record: Make) -> None:
    record = make_record(("ant", "bee"), each=6)
    card = model_card(record)
    for caution in record.evaluations["test"].cautions():
        assert caution in texts(card)
    assert "30 labels of the held-out images may be wrong" not in card  # there are but 24 images
    assert "24 labels of the held-out images may be wrong" in card
    for words in ("## Intended use", "## Training data", "## Calibration", "regraft.load(", "regraft predict RUN"):
        assert words in card
    assert "/data" not in card  # a card is published, and where the data lies is nobody's business
    assert "95 % interval" in card
    assert "\xa0" not in card


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ("test",)}, "Confidence was not calibrated"),
        ({"parts": ("val",)}, "validation images, on which choices were made"),
        ({"metrics": {}, "history": (), "predictions": None, "evaluations": {}, "suspects": ()}, "was stopped before"),
        ({"counts": {}, "source": "", "hashes": {}, "each": 1}, "How many is not known"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_missing_is_said(make_record: Make, changes: dict[str, Any], words: str) -> None:
    card = model_card(make_record(("ant", "bee"), **changes))
    assert words in card
    assert ("model-index" in front(card)) == (changes.get("metrics") != {})


def test_many_classes_are_cut(make_record: Make) -> None:
    card = model_card(make_record(tuple(f"class {i}" for i in range(200)), each=2))
    assert "and 100 more." in card
    assert "And 100 smaller classes." in card
    assert "And 150 stronger classes." in card
    assert len(card) < 20_000


@pytest.mark.parametrize(("images", "share"), [(500, "0.01"), (60, "0.02"), (9, "0.10")])
def test_the_unknown_are_asked_for_by_a_share_that_validation_can_tell(
    make_record: Make, images: int, share: str
) -> None:
    record = make_record(("ant", "bee"), each=6)
    known = replace(record, description={**record.description, "familiarity": [3, 10, 4, images]})
    assert f"--unknown {share} " in model_card(known)
    assert "--unknown" not in model_card(record)
