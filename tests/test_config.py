from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from regraft.config import Config, defaults_with_comments, load_config
from regraft.errors import ConfigError


def test_the_printed_defaults_are_the_defaults() -> None:
    text = defaults_with_comments()
    assert Config.model_validate(tomllib.loads(text)) == Config()
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[i - 1].startswith("# "), line


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["training.finetune_epochs=3", "model.head_widths=[8, 4]", "training.finetune_from=100"])
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml") == config


def test_settings_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[training]\nfinetune_epochs = 4\noptimizer = "sgd"\n')
    config = load_config(
        file, ["training.finetune_epochs=10", "model.backbone=vgg16", 'training.finetune_from="block5_conv1"']
    )
    assert config.training.finetune_epochs == 10
    assert config.training.optimizer == "sgd"
    assert config.model.backbone == "vgg16"
    assert config.training.finetune_from == "block5_conv1"


def test_all_faults_are_reported_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[training]\nfinetune_epoch = 4\noptimizer = "adamax"\nbatch_size = 0\n'
        "[modell]\nx = 1\n[augmentation]\nflip = 2\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["finetune_epochs=3", "training.monitor=accuracy"])
    message = str(caught.value)
    for part in (
        "training.finetune_epoch: no such setting; did you mean training.finetune_epochs",
        "training.optimizer = 'adamax'",
        "'adamw', 'adam', 'rmsprop' or 'sgd'",
        "training.batch_size = 0",
        "modell: no such setting",
        "augmentation.flip = 2",
        "--set finetune_epochs=3: expected section.key=value; did you mean training.finetune_epochs",
        "training.monitor = 'accuracy'",
        "`regraft config`",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ("x = ", "cannot be read as TOML"), ("\xff", "one of")]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "my.toml"
    if content == "\xff":
        file.write_bytes(b"\xff\xfe")
        message = "cannot be read as TOML"
    elif content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_a_section_that_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("training = 3\n")
    with pytest.raises(ConfigError, match="training"):
        load_config(file, ["training.seed=1"])
