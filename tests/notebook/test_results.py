from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fragments import NAMES, PROBABILITIES, SCRIPT, html_of
from PIL import Image

import regraft
from regraft import notebook
from regraft.data.dataset import Split as SplitValue
from regraft.evaluation.comparison import difference_of
from regraft.exporting.export import ExportResult
from regraft.exporting.parity import compare_predictions
from regraft.models.inference import Prediction
from regraft.notebook_repr import NotebookRepr, ResultList
from regraft.runs.explain import Explanation
from regraft.studies.compare.result import ComparedModel, Comparison, ModelPair


def test_predictions(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(file)
    one = Prediction(str(file), NAMES, PROBABILITIES[0])
    html = html_of(one)
    assert "data:image/jpeg;base64," in html
    assert "90.0\N{NO-BREAK SPACE}%" in html
    assert "&lt;script&gt;" in html
    broken = Prediction(SCRIPT, NAMES, np.empty(0), error=f"no image: {SCRIPT}")
    html = html_of(ResultList([one, broken, Prediction("", NAMES, PROBABILITIES[1])] * 20))
    assert html.count("data:image/jpeg;base64,") == 8
    assert "unreadable" in html
    assert "and 36 more" in html
    assert "None." in html_of(ResultList())


def test_explanations() -> None:
    image, heat = np.zeros((12, 16, 3), np.uint8), np.ones((2, 12, 16), np.float32)
    one = Explanation(f"{SCRIPT}.png", NAMES, PROBABILITIES[0], NAMES, heat, image)
    html = html_of(one)
    assert html.count("data:image/jpeg;base64,") == 3
    assert "attribution for" in html
    assert "unreadable" in html_of(ResultList([one, Explanation("x.png", NAMES, np.empty(0), error="empty file")]))


def test_exports() -> None:
    parity = compare_predictions(["a"] * 4, np.array([0, 1, 1, 1]), PROBABILITIES, PROBABILITIES, "fp32")
    one = ExportResult(Path(SCRIPT), parity, "val", 14.2, (5.0, 4.0), (9.0, 8.0))
    assert "compared with the run on 4 val image files" in html_of(one)
    assert html_of(ResultList([one, one])).count("100.0\N{NO-BREAK SPACE}%") == 2


def test_a_comparison(tmp_path: Path) -> None:
    rows = tuple(
        ComparedModel(
            name=name, run="runs/x", weights="wheel", trained="head only", parameters=10, image_size=224, megabytes=1.0,
            peak_megabytes=1.0, train_seconds=2.0, finetune_epochs=1, predict_ms_1=1.0, predict_ms_32=1.0,
            predict_ms_file=None, train_accuracy=None, val_accuracy=None, test_accuracy=0.9,
            test_accuracy_interval=(0.8, 0.95), test_macro_f1=0.9, test_macro_f1_interval=(0.8, 0.95), test_loss=0.3,
            test_images=40,
        )
        for name in NAMES
    )  # fmt: skip
    pair = ModelPair(*NAMES, difference_of(1, 2, 40), 1.0)
    html = html_of(Comparison(rows, (pair,), (f"{SCRIPT} is best.",), {SCRIPT: SCRIPT}, tmp_path, 1.0))
    assert "could not be trained" in html
    assert "&lt;script&gt;" in html


def test_a_run(parts: SplitValue, tmp_path: Path) -> None:
    model = regraft.build("cnn", classes=parts.classes, image_size=32)
    run = regraft.train(model, parts, out=tmp_path / "run", finetune_epochs=0)
    html = html_of(run)
    assert "test accuracy" in html
    assert "Sample predictions" in html
    assert "report.html" in html
    (run.path / "metrics.json").unlink()
    (run.path / "predictions.csv").unlink()
    assert "Training was stopped before the model was evaluated" in html_of(regraft.load(run.path))


def test_a_result_without_html_is_shown_by_its_repr() -> None:
    assert NotebookRepr()._repr_html_() is None


@pytest.mark.parametrize("name", notebook._RENDERERS)
def test_every_renderer_exists(name: str) -> None:
    module, function = notebook._RENDERERS[name]
    assert callable(getattr(__import__(f"regraft.notebook.{module}", fromlist=[function]), function))
