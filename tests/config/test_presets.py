"""Presets are settings that others override."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.config import Config, load_config
from regraft.config.presets import PRESETS, default_budget, preset_settings
from regraft.errors import ConfigError, UsageError
from regraft.runs.run import Run


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_same_as_a_file_of_its_settings(preset: str) -> None:
    settings = preset_settings(preset)
    chosen = load_config(overrides={"run.preset": preset})
    listed = load_config(overrides=settings)
    assert chosen.model_copy(update={"run": listed.run}) == listed
    sentence = chosen.describe_preset()
    for key, value in settings.items():
        assert key.partition(".")[2] in sentence
        assert str(value).removesuffix(".0") in sentence
    assert len(sentence) < 350


def test_given_settings_override_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[run]\npreset = "Keras"\n[training]\nschedule = "cosine"\n')
    config = load_config(file, ["training.optimizer=sgd"], {"augmentation.flip": 0.5})
    assert (config.training.schedule, config.training.optimizer, config.augmentation.flip) == ("cosine", "sgd", 0.5)
    assert (config.training.label_smoothing, config.augmentation.color_jitter) == (0, 0)
    others = "augmentation.flip = 0.5, training.optimizer = sgd, training.schedule = cosine"
    assert config.describe_preset().endswith(f"Given instead of the preset's: {others}.")
    file.write_text(config.to_toml())
    assert load_config(file) == config
    assert not Config().describe_preset()


@pytest.mark.parametrize("epochs", [3, 10, 12])
def test_given_epochs_are_trained_with_few_images(epochs: int, tmp_path: Path) -> None:
    assert load_config(overrides={"run.preset": "best"}).run.finetune_min_images == 135
    asked = load_config(overrides={"run.preset": "best", "training.finetune_epochs": epochs})
    assert (asked.training.finetune_epochs, asked.run.finetune_min_images) == (epochs, 0)
    assert "finetune_min_images" not in asked.describe_preset()
    file = tmp_path / "best.toml"
    file.write_text(load_config(overrides={"run.preset": "best"}).to_toml())
    assert load_config(file).run.finetune_min_images == 135
    both = {"run.preset": "best", "training.finetune_epochs": epochs, "run.finetune_min_images": 20}
    assert load_config(overrides=both).run.finetune_min_images == 20


@pytest.mark.parametrize("asked", [{"run.preset": "best"}, {"model.backbone": "Auto"}])
def test_a_run_to_start_from_leaves_no_backbone_to_choose(asked: dict[str, str], squares_run: Run) -> None:
    with pytest.raises(UsageError, match=r"starts with the backbone of that run, and (preset = best|backbone = auto)"):
        load_config(overrides={"run.from_run": str(squares_run.path), **asked})


def test_the_default_preset_is_balanced_and_changes_nothing() -> None:
    assert load_config(overrides={"run.preset": "balanced"}) == load_config() == Config()
    assert load_config(overrides={"run.preset": "none"}) == Config()  # its name in earlier runs


def test_a_name_that_was_chosen_in_place_of_auto_is_not_given() -> None:
    best = load_config(overrides={"run.preset": "best"})
    assert best.model.backbone == "auto"
    chosen = best.model_copy(update={"model": load_config(overrides={"model.backbone": "mobilenetv2"}).model})
    assert "Given instead" not in chosen.describe_preset()


def test_best_has_three_minutes_for_a_thousand_images_on_two_cores() -> None:
    assert default_budget("best", 1000, 2) == pytest.approx(180)
    assert default_budget("best", 4000, 4) == pytest.approx(360)
    assert default_budget("best", 50, 2) == default_budget("best", 10, 64) == 150
    assert {default_budget(preset, 1000, 2) for preset in PRESETS if preset != "best"} == {0}


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.preset = 'kears'"):
        load_config(overrides={"run.preset": "kears"})
