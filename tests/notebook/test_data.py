from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fragments import SCRIPT, html_of, predictions

from regraft.data.dataset import BadFile, Dataset
from regraft.data.dataset import Split as SplitValue
from regraft.data.quality.findings import Finding, Inspection
from regraft.evaluation.metrics import evaluate


def test_a_data_set_and_its_parts(data: Dataset, parts: SplitValue) -> None:
    html = html_of(replace(data, bad=(BadFile(f"{SCRIPT}.png", SCRIPT),), notes=(f"A note of {SCRIPT}.",)))
    assert "<b>24 images in 2 classes</b>" in html
    assert html.count("data:image/jpeg;base64,") == 16
    assert "&lt;script&gt;" in html
    assert "1 unreadable file" in html
    html = html_of(parts)
    assert f"{len(parts.train)} train, {len(parts.val)} val, {len(parts.test)} test" in html
    assert "data:image" not in html


def test_findings(data: Dataset) -> None:
    path = data.samples[0].path
    found = Finding("leak", "error", f"{SCRIPT} leaks.", "Fix it.", ((path, "gone.png"),), (SCRIPT,))
    html = html_of(Inspection(data, (found,), ("Labels were not checked.",)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; leaks." in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert "Labels were not checked." in html
    assert "No problem was found." in html_of(Inspection(data, ()))


def test_an_empty_data_set() -> None:
    assert "0 images in 0 classes" in html_of(Dataset(Path("x"), (), ()))


def test_metrics_and_predictions() -> None:
    html = html_of(evaluate(predictions()))
    assert "75.0\N{NO-BREAK SPACE}%" in html
    assert "95 % confidence interval" in html
    assert "&lt;script&gt;" in html
    html = html_of(predictions())
    assert "3 of 4 predictions correct" in html
    assert "&lt;script&gt;" in html
