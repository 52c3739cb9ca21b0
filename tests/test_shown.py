"""What results show of themselves in a notebook: well-formed, without scripts, whatever the data is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.config import Config
from regraft.data.audit import Finding, Inspection
from regraft.data.dataset import BadFile, Dataset
from regraft.data.dataset import Split as SplitValue
from regraft.data.preprocessing import Preprocessing
from regraft.evaluation.comparison import difference_of
from regraft.evaluation.learning_curve import ClassCurve, Curve, Range
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions
from regraft.exporting.exported import ExportedModel
from regraft.exporting.parity import compare_answers
from regraft.models.inference import Prediction
from regraft.pipeline import listening
from regraft.pipeline.compare import Comparison, Measured, Pair
from regraft.pipeline.crossval import CrossValidation
from regraft.pipeline.explain import Explanation
from regraft.pipeline.export import Exported
from regraft.pipeline.learning_curve import LearningCurve
from regraft.pipeline.listening import NotebookListener, told
from regraft.pipeline.trials import Final, Record
from regraft.pipeline.tuning import Tuning
from regraft.report.notebook import progress
from regraft.shown import Several
from regraft.training.progress import Epoch, Listener, Silence

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, 'b & "c"\' onload=x')
ROWS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])


class Page(HTMLParser):
    """Badly nested elements, scripts and handlers of events fail."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_of(value: Any) -> str:
    html: str = value._repr_html_()
    Page(html)
    assert html.startswith('<div class="regraft"><style>')
    return html


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 24, 3)).astype(np.uint8) for _ in range(24)]
    return Dataset.from_arrays(images, [NAMES[i % 2] for i in range(24)])


@pytest.fixture(scope="module")
def parts(data: Dataset) -> SplitValue:
    return regraft.split(data, train=0.5, val=0.25, test=0.25)


def predictions() -> Predictions:
    return Predictions.from_arrays([0, 1, 1, 1], ROWS, NAMES, [f"{SCRIPT}/{i}.png" for i in range(4)])


def exported() -> Exported:
    parity = compare_answers(["a"] * 4, np.array([0, 1, 1, 1]), ROWS, ROWS, "fp32")
    return Exported(Path(SCRIPT), parity, "val", 14.2, (5.0, 4.0), (9.0, 8.0))


def curve() -> Curve:
    values = (Range(0.7, 0.6, 0.8), Range(0.8, 0.7, 0.9))
    ahead = (Range(0.82, 0.7, 0.9), Range(0.84, 0.7, 0.9), Range(0.86, 0.7, 0.9))
    return Curve((10, 20), values, (25, 50, 100), ahead, Range(0.02, 0.01, 0.03), "gain")


def test_data(data: Dataset, parts: SplitValue) -> None:
    html = html_of(replace(data, bad=(BadFile(f"{SCRIPT}.png", SCRIPT),), notes=(f"A note of {SCRIPT}.",)))
    assert "<b>24 images in 2 classes</b>" in html
    assert html.count("data:image/jpeg;base64,") == 16
    assert "&lt;script&gt;" in html
    assert "1 file that cannot be read" in html
    html = html_of(parts)
    assert f"{len(parts.train)} train, {len(parts.val)} val, {len(parts.test)} test" in html
    assert "data:image" not in html


def test_findings(data: Dataset) -> None:
    path = data.samples[0].path
    found = Finding("leak", "error", f"{SCRIPT} leaks.", "Mend it.", ((path, "gone.png"),), (SCRIPT,))
    html = html_of(Inspection(data, (found,), ("Labels were not judged.",)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; leaks." in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert "Labels were not judged." in html
    assert "Nothing was found that is wrong." in html_of(Inspection(data, ()))


def test_an_empty_data_set() -> None:
    assert "0 images in 0 classes" in html_of(Dataset(Path("x"), (), ()))


def test_numbers() -> None:
    html = html_of(evaluate(predictions()))
    assert "75.0\N{NO-BREAK SPACE}%" in html
    assert "95 % interval" in html
    assert "&lt;script&gt;" in html
    html = html_of(predictions())
    assert "3 of 4 predictions right" in html
    assert "&lt;script&gt;" in html


def test_answers(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(file)
    one = Prediction(str(file), NAMES, ROWS[0])
    html = html_of(one)
    assert "data:image/jpeg;base64," in html
    assert "90.0\N{NO-BREAK SPACE}%" in html
    assert "&lt;script&gt;" in html
    broken = Prediction(SCRIPT, NAMES, np.empty(0), error=f"no image: {SCRIPT}")
    html = html_of(Several([one, broken, Prediction("", NAMES, ROWS[1])] * 20))
    assert html.count("data:image/jpeg;base64,") == 8
    assert "unreadable" in html
    assert "and 36 more" in html
    assert "None." in html_of(Several())


def test_explanations() -> None:
    image, heat = np.zeros((12, 16, 3), np.uint8), np.ones((2, 12, 16), np.float32)
    one = Explanation(f"{SCRIPT}.png", NAMES, ROWS[0], NAMES, heat, image)
    html = html_of(one)
    assert html.count("data:image/jpeg;base64,") == 3
    assert "evidence for" in html
    assert "unreadable" in html_of(Several([one, Explanation("x.png", NAMES, np.empty(0), error="empty file")]))


def test_exports() -> None:
    one = exported()
    assert "compared with the run on 4 val image files" in html_of(one)
    assert html_of(Several([one, one])).count("100.0\N{NO-BREAK SPACE}%") == 2
    assert "It answers as it must" in html_of(one.parity)
    assert "It does not answer as it must" in html_of(replace(one.parity, agreement=0.5))
    model = ExportedModel.__new__(ExportedModel)  # what is shown needs no runtime
    model.path, model.classes, model.preprocessing = Path(SCRIPT), NAMES, Preprocessing(224)
    model.description = {"format": "onnx", "precision": "fp32"}
    assert "onnx, fp32" in html_of(model)


def test_what_is_made_of_many_trainings(tmp_path: Path) -> None:
    rows = tuple(
        Measured(name, "runs/x", "wheel", 10, 224, 1.0, 1.0, 2.0, 1, 1.0, 1.0, None, None, 0.9, (0.8, 0.95), 0.9,
                 (0.8, 0.95), 40)
        for name in NAMES
    )  # fmt: skip
    pair = Pair(*NAMES, difference_of(1, 2, 40), 1.0)
    html = html_of(Comparison(rows, (pair,), (f"{SCRIPT} is best.",), {SCRIPT: SCRIPT}, tmp_path, 1.0))
    assert "could not be trained" in html
    assert "&lt;script&gt;" in html

    found = evaluate(predictions())
    suspects = ((f"{SCRIPT}.png", NAMES[0], NAMES[1], 0.9),)
    scores = np.array([[0.5, 1.0]])
    html = html_of(CrossValidation(2, 0.75, scores, scores, predictions(), found, suspects, {}))
    assert "1 label that may be wrong" in html

    classes = tuple(ClassCurve(name, 12, curve()) for name in NAMES)
    html = html_of(LearningCurve(25, curve(), curve(), classes, 10, 1, {}))
    assert "Twice as many images: " in html
    assert "worth about 2 points" in html
    assert "data:image/jpeg;base64," in html

    record = Record(1, {}, "complete", value=0.3, loss=0.3, accuracy=0.9)
    final = Final(record, Config())
    changes = {"model.dropout": (0.0, SCRIPT)}
    html = html_of(Tuning(tmp_path, "loss", (record,), (), final, changes, None, {}))
    assert "<code>model.dropout</code>" in html
    assert "&lt;script&gt;" in html


def test_a_run(parts: SplitValue, tmp_path: Path) -> None:
    model = regraft.build("cnn", classes=parts.classes, image_size=32)
    run = regraft.train(model, parts, out=tmp_path / "run", finetune_epochs=0)
    html = html_of(run)
    assert "test accuracy" in html
    assert "Right and wrong predictions" in html
    assert "report.html" in html
    (run.path / "metrics.json").unlink()
    (run.path / "predictions.csv").unlink()
    assert "Training was stopped before this run was evaluated" in html_of(regraft.load(run.path))


def test_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    fake = SimpleNamespace(HTML=lambda html: html, display=lambda *_, **__: handle)
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=fake)
    )
    monkeypatch.setattr(listening, "_PAUSE", 0.0)
    row = Epoch("head", 1, 0.5, 0.8, None, None, None, None, 1.0, 1.0, 100.0)

    @told
    def inner(*, listener: Listener | None = None) -> Listener | None:
        return listener

    @told
    def work(number: int, *, listener: Listener | None = None) -> int:
        assert isinstance(listener, NotebookListener)
        assert isinstance(inner(), Silence)  # one place is enough
        listener.note(SCRIPT)
        listener.work("decode", 1, 4, SCRIPT)
        listener.epoch(row)
        listener.work("decode", 4, 4)
        return number

    assert work(7) == 7
    for html in shown:
        Page(html)
    assert any("<progress" in html and "1 of 4" in html for html in shown)
    assert "<progress" not in shown[-1]
    assert "head 1" in shown[-1]
    own = Silence()
    assert inner(listener=own) is own


def test_nobody_is_told_where_nobody_looks() -> None:
    @told
    def work(*, listener: Listener | None = None) -> Listener | None:
        return listener

    assert isinstance(work(), Silence)


def test_long_histories_are_cut() -> None:
    rows = [Epoch("finetune", n, 0.5, 0.8, 0.4, 0.9, 0.9, 1e-3, None, 1.0, 100.0) for n in range(1, 101)]
    html = progress({}, [str(n) for n in range(100)], rows)
    assert "finetune 100" in html
    assert "finetune 50<" not in html


@pytest.mark.parametrize("name", regraft.__all__)
def test_what_draws_is_where_its_class_says(name: str) -> None:
    value: Callable[..., Any] | None = getattr(regraft, name)
    by = getattr(value, "_shown_by", None)
    if by is not None:
        module, _, function = by.rpartition(".")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
