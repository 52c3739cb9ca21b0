"""Checks that hold for the documents of every run: each point is there once, and each number is that of a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from markdown_parts import headings, table_rows, texts

import regraft
from regraft.atomic_io import sha256_of
from regraft.report.document import count_places
from regraft.runs.run import Run

#: Sections of Mitchell et al. 2019, numbers of the questions of Gebru et al. 2021, and points of Annex IV.
CARD_SECTIONS = (
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Ethical considerations", "Caveats and recommendations",
)  # fmt: skip
QUESTIONS = [f"{i}.{n}" for i, last in enumerate((4, 16, 12, 4, 6, 7, 8), 1) for n in range(1, last + 1)]
POINTS = [*(f"{i}({letter})" for i in (1, 2) for letter in "abcdefgh"), *map(str, range(3, 10))]


def check_points(documents: dict[str, str]) -> None:
    """Every section, question and point is there exactly once, in its order, and the places to fill are counted."""
    found = {name: headings(text) for name, text in documents.items()}
    sections = [title.removeprefix("## ") for title in found["model-card"] if title.startswith("## ")]
    assert sections == [*CARD_SECTIONS, "How to use it"]
    numbers = [title.split()[1] for title in found["datasheet"] if title.startswith("### ")]
    assert numbers == QUESTIONS
    assert len(QUESTIONS) == 57
    points = [title.split()[1].rstrip(".") for title in found["annex-iv"] if re.match(r"## [3-9]|### ", title)]
    assert points == POINTS
    for text in documents.values():
        marked = [one for one in texts(text) if one.startswith("To be written by a person: ")]
        said = re.search(r"^(\d+) places are for you to fill", text, re.MULTILINE)
        assert said
        assert int(said[1]) == len(marked) == count_places(text)
        assert "\xa0" not in text
        assert "&#39;" not in text


def check_documents(run: Run, folder: Path) -> dict[str, str]:
    """Write the documents of a run into a folder, check them, and return their texts by their names."""
    documents: dict[str, str] = {}
    for name in ("model-card", "datasheet", "annex-iv"):
        file = regraft.write_report(run, template=name, out=folder / f"{name}.md")  # type: ignore[arg-type]
        documents[name] = file.read_text(encoding="utf-8")
        assert str(Path(json.loads((run.path / "source.json").read_text())["data"]).parent) not in documents[name]
    check_points(documents)
    metrics = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    for name in ("model-card", "annex-iv"):
        rows = table_rows(documents[name])
        for row in expected_scores(run, metrics["test"]):
            assert row in rows, (name, row)
    parts, counts = list(metrics["data"]["counts"]), metrics["data"]["counts"]
    for name, text in documents.items():
        rows = table_rows(text)
        for one in run.classes:
            assert (one, *(f"{counts[part].get(one, 0):,}" for part in parts)) in rows, (name, one)
    annex = table_rows(documents["annex-iv"])
    versions = json.loads((run.path / "model.json").read_text(encoding="utf-8"))["versions"]
    assert set(versions.items()) <= set(annex)
    for name in ("config.toml", "split.csv", "model.safetensors"):
        assert (name, sha256_of(run.path / name)) in annex
    assert f"{metrics['model']['parameters']:,} parameters" in documents["annex-iv"]
    assert sha256_of(run.path / "split.csv") in documents["datasheet"]
    files = metrics["data"]["files"]
    for kind, count in files["formats"].items():
        assert f"{kind} ({count:,})" in documents["datasheet"]
    low, middle, high = files["width"]
    assert f"Width: {low} to {high} pixels, median {middle}." in documents["datasheet"]
    assert f"{files['images'] - files['contents']} images are exact copies of others." in documents["datasheet"]
    return documents


def expected_scores(run: Run, test: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the tables of metrics, from the JSON of an evaluation."""

    def share(name: str, value: float, bounds: list[float]) -> tuple[str, str, str]:
        return name, f"{100 * value:.1f} %", f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"

    intervals = test["intervals"]
    if run.task == "regression":
        named = {"Mean absolute error (MAE)": "mae", "Root mean squared error (RMSE)": "rmse"}
        return [
            (name, f"{test[key]:.4g}", " to ".join(f"{bound:.4g}" for bound in intervals[key]))
            for name, key in named.items()
        ]
    if run.task == "multilabel":
        rows = [share("Mean average precision", test["mean_average_precision"], intervals["mean_average_precision"]),
                share("Micro F1", test["micro_f1"], intervals["micro_f1"])]  # fmt: skip
        return [*rows, share("Images with all answers right", test["exact_match"], test["exact_match_interval"])]
    rows = [share("Accuracy", test["accuracy"], test["accuracy_interval"]),
            share("Balanced accuracy", test["balanced_accuracy"], intervals["balanced_accuracy"])]  # fmt: skip
    if tree := test.get("hierarchy"):
        rows.append(share("Hierarchical F1", tree["f1"], tree["intervals"]["f1"]))
    if order := test.get("ordinal"):
        bounds = " to ".join(f"{bound:.3f}" for bound in order["intervals"]["quadratic_kappa"])
        rows.append(("Quadratic weighted kappa", f"{order['quadratic_kappa']:.3f}", bounds))
    return rows
