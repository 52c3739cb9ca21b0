"""Several backbones: each is fine-tuned alone, then the head over all is fitted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.config import load_config
from regraft.errors import BudgetError, TrainingError, UsageError
from regraft.models.classifier import Classifier
from regraft.runs.budget import fit_into_budget
from regraft.runs.members import MEMBERS, TrainedMember, heads_to_average
from regraft.runs.report import write_report
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.training.budget import Plan, make_plan
from regraft.training.callbacks import NullReporter
from regraft.training.refit import LinearWeights

BACKBONES = "efficientnet_lite0@32,mobilenetv2@32"


class Messages(NullReporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.details: set[str] = set()

    def on_message(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Keep whose progress it is."""
        self.details.add(detail.partition(")")[0])


@pytest.fixture(scope="module")
def settings(fast_settings: dict[str, Any]) -> dict[str, Any]:
    return {**fast_settings, "model.backbone": BACKBONES, "model.image_size": 0}


@pytest.fixture(scope="module")
def run(squares_folder: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("several") / "run"
    reporter = Messages()
    run = train_from(squares_folder, load_config(overrides=settings), out, reporter=reporter)
    assert any("mobilenetv2 (2 of 2): Plan:" in text for text in reporter.texts)
    assert {"efficientnet_lite0 (1 of 2", "mobilenetv2 (2 of 2"} <= reporter.details
    return run


def test_each_backbone_is_fine_tuned_alone(run: Run) -> None:
    metrics = run.metrics
    assert list(metrics["members"]) == ["efficientnet_lite0", "mobilenetv2"]
    for member in metrics["members"].values():
        assert member["model"]["finetuned_from"]
        of_run = {part: counts for part, counts in metrics["data"]["counts"].items() if part != "test"}
        assert member["data"]["counts"] == of_run  # the test images are for the whole model
    assert metrics["model"]["trained"] == "upper stages"
    assert "of mobilenetv2" in metrics["model"]["finetuned_from"]
    assert metrics["model"]["trainable_parameters"] < metrics["model"]["parameters"]
    assert metrics["time"]["train_seconds"] >= metrics["time"]["steps"]["members"] > 0
    assert metrics["head"]["chosen"] in ("joint", "averaged")
    notes = " ".join(metrics["training"]["notes"])
    assert "mobilenetv2 alone: val accuracy" in notes
    assert "averaged heads of the backbones" in notes


def test_the_backbones_are_those_that_were_trained(run: Run) -> None:
    fresh = load_config(overrides={"model.backbone": BACKBONES}).model.backbone
    original = Classifier.from_config(run.classifier.get_config(), run.classifier.weights)
    assert run.classifier.spec.name == fresh
    for one, other in zip(run.classifier.members, original.members, strict=True):
        assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_of_a_backbones_run_only_its_description_stays(run: Run) -> None:
    kept = {file.name for folder in (run.path / MEMBERS).iterdir() for file in folder.iterdir()}
    assert kept == {"config.toml", "metrics.json", "history.csv", "head_path.csv"}
    assert not (run.path / "checkpoints").exists()


def test_the_run_is_like_any_other(run: Run, squares_folder: Path) -> None:
    again = Run(run.path)
    image = next((squares_folder / "red").glob("0*.png"))
    (prediction,) = again.predict(image)
    assert prediction.probabilities.sum() == pytest.approx(1)
    assert prediction.ood_p_value is not None
    page = write_report(again).read_text(encoding="utf-8")
    assert "mobilenetv2 alone: val accuracy" in page
    assert "fine-tuning of each backbone" in page
    predictions = again.predictions.part("test")
    assert np.isclose(again.metrics["test"]["accuracy"], (predictions.predicted == predictions.labels).mean())


def _results(run: Path) -> tuple[bytes, Mapping[str, Any]]:
    metrics = json.loads((run / "metrics.json").read_text())
    return (run / "model.safetensors").read_bytes(), metrics["head"]


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_run_resumes_to_the_same_result(
    run: Run, squares_folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    epochs = 0

    def kill(epoch: int, metrics: Mapping[str, Any]) -> None:
        nonlocal epochs
        epochs += 1
        if epochs == 2:  # the first backbone is done, and the head of the second is fitted
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        train_from(squares_folder, load_config(overrides=settings), out, callbacks=[kill])
    members = out / MEMBERS
    finished = (members / "efficientnet_lite0" / "metrics.json").stat().st_mtime_ns
    assert (members / "mobilenetv2" / "checkpoints").is_dir()
    resumed = resume(out)
    assert (members / "efficientnet_lite0" / "metrics.json").stat().st_mtime_ns == finished
    assert _results(resumed.path) == _results(run.path)


def test_a_budget_is_divided(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[float]] = []

    def fit(*arguments: Any, full_in: Sequence[float] = (), **options: Any) -> Any:
        tried.extend([list(full_in)] if full_in else [])
        return fit_into_budget(*arguments, full_in=full_in, **options)

    monkeypatch.setattr("regraft.runs.members.fit_into_budget", fit)
    names = "efficientnet_lite0,mobilenetv2,efficientnet_lite1"
    config = load_config(
        overrides={
            **settings, "model.backbone": names, "training.budget": 300.0, "training.finetune_epochs": 1
        }
    )  # fmt: skip
    run = train_from(squares_folder, config, tmp_path / "run")
    first, second, third = tried
    left = first[-1]
    assert first == [left / 3, left / 2, left]  # among three, two and one, whichever is enough
    assert [len(second), len(third)] == [2, 1]
    assert left > second[-1] > third[-1]
    shares = [load_config(run.path / MEMBERS / name / "config.toml").training.budget for name in run.metrics["members"]]
    assert 0 < shares[0] <= 100
    assert shares[0] < shares[1] < shares[2] < 300  # what those before left


def test_a_resumed_run_keeps_to_its_budget(squares_folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    def kill(epoch: int, metrics: Mapping[str, Any]) -> None:
        raise Killed

    config = load_config(overrides={**settings, "training.budget": 300.0, "training.finetune_epochs": 1})
    with pytest.raises(Killed):
        train_from(squares_folder, config, tmp_path / "run", callbacks=[kill])
    resumed = resume(tmp_path / "run")
    shares = [
        load_config(resumed.path / MEMBERS / n / "config.toml").training.budget for n in resumed.metrics["members"]
    ]
    assert 0 < shares[0] <= 150
    assert shares[0] < shares[1] < 300  # what the first left, its time before it was killed included


def test_a_backbone_whose_training_fails_is_kept_with_a_note(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    failed: list[int] = []

    def fail_once(epoch: int, metrics: Mapping[str, Any]) -> None:
        if not failed:
            failed.append(epoch)
            raise TrainingError("The loss is not a number.")

    run = train_from(squares_folder, load_config(overrides=settings), tmp_path / "run", callbacks=[fail_once])
    assert run.metrics["members"]["efficientnet_lite0"]["training"]["stopped"] == "The loss is not a number."
    assert run.metrics["members"]["mobilenetv2"]["training"]["stopped"] is None
    (note,) = (note for note in run.metrics["training"]["notes"] if "ended early" in note)
    assert note.startswith("efficientnet_lite0 alone: ")
    assert note.endswith("The loss is not a number.")
    assert run.metrics["training"]["stopped"] is None


def test_a_backbone_without_time_gets_a_head_alone(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(one: Classifier, *arguments: Any, **options: Any) -> Any:
        if one.spec.name == "mobilenetv2":
            raise BudgetError("too short")
        return fit_into_budget(one, *arguments, **options)

    monkeypatch.setattr("regraft.runs.members.fit_into_budget", fit)
    reporter = Messages()
    config = load_config(overrides={**settings, "training.budget": 300.0, "training.finetune_epochs": 1})
    run = train_from(squares_folder, config, tmp_path / "run", reporter=reporter)
    assert any("no time is left to fine-tune it" in text for text in reporter.texts)
    assert run.metrics["members"]["efficientnet_lite0"]["model"]["finetuned_from"]
    assert run.metrics["members"]["mobilenetv2"]["model"]["trained"] == "head"


def test_a_short_budget_fine_tunes_one_backbone_well(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*arguments: Any, seconds: float | None = None, **options: Any) -> Plan:
        found = make_plan(*arguments, seconds=seconds, **options)
        # Of the time one backbone needs two thirds, which half of it is too short for.
        return replace(found, dropped=seconds is not None and seconds < 200)

    monkeypatch.setattr("regraft.runs.budget.make_plan", plan)
    config = load_config(overrides={**settings, "training.budget": 300.0, "training.finetune_epochs": 1})
    left: Iterator[float] = iter([290.0, 100.0])
    monkeypatch.setattr("regraft.runs.members._read_budget", lambda path: next(left))
    run = train_from(squares_folder, config, tmp_path / "run")
    first, second = run.metrics["members"].values()
    assert first["model"]["finetuned_from"]
    assert second["model"]["trained"] == "head"
    assert load_config(run.path / MEMBERS / "efficientnet_lite0" / "config.toml").training.budget == 290


def test_a_budget_without_time_for_the_head_is_refused(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.runs.budget.seconds_of_head", lambda *_: 400.0)
    config = load_config(overrides={**settings, "training.budget": 300.0, "training.finetune_epochs": 1})
    with pytest.raises(BudgetError, match="the head over 2 backbones alone takes about 400 s"):
        train_from(squares_folder, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # Nobody asked for that of a preset.
    monkeypatch.setattr("regraft.runs.budget.default_budget", lambda *_: 300.0)
    config = config.model_copy(update={"training": replace(config.training, budget=0.0)})
    reporter = Messages()
    run = train_from(squares_folder, config, tmp_path / "run", reporter=reporter)
    assert any("On this machine one backbone alone takes longer: at most 4" in text for text in reporter.texts)
    assert run.metrics["model"]["trained"] == "upper stages"


def test_with_few_validation_images_the_first_is_fine_tuned(
    squares_folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    reporter = Messages()
    few = {"run.finetune_all_min_val": 50, "training.keep_finetuned": "always", "training.finetune_epochs": 1}
    run = train_from(squares_folder, load_config(overrides={**settings, **few}), tmp_path / "run", reporter=reporter)
    assert any(text.startswith("efficientnet_lite0 is fine-tuned alone") for text in reporter.texts)
    first, second = run.metrics["members"].values()
    assert first["model"]["finetuned_from"]
    assert second["model"]["trained"] == "head"
    assert run.metrics["head"]["chosen"] == "averaged"
    assert run.metrics["model"]["finetuned_from"].endswith("of efficientnet_lite0")


def test_fine_tuned_heads_have_half_of_the_weight() -> None:
    def member(slope: float, boundary: str | None) -> TrainedMember:
        head = LinearWeights(torch.full((2, 1), slope), torch.zeros(2))
        return TrainedMember("one", head, {"model": {"finetuned_from": boundary}})

    def shares(*members: TrainedMember, validation: int = 20) -> list[float]:
        return [float(head.weight[0, 0]) / len(members) for head in heads_to_average(members, validation)]

    tuned, frozen = member(1.0, "blocks.3.0"), member(1.0, None)
    assert shares(tuned, frozen, frozen) == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    assert shares(tuned, tuned, frozen) == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert shares(tuned, tuned, tuned) == pytest.approx([1 / 3] * 3)
    assert shares(tuned, frozen, frozen, validation=50) == pytest.approx([1 / 3] * 3)  # which say how much each counts
    assert not heads_to_average([frozen, frozen], 20)  # of which one head on all features may be better


def test_the_head_alone(squares_folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    run = train_from(
        squares_folder, load_config(overrides={**settings, "training.finetune_epochs": 0}), tmp_path / "run"
    )
    assert "members" not in run.metrics
    assert not (run.path / MEMBERS).exists()
    assert run.metrics["model"]["trained"] == "head"
    with pytest.raises(UsageError, match="several backbones, each of which was fine-tuned alone"):
        resume(run.path, finetune_epochs=3)
