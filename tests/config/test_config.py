"""Reading settings from a file, texts and typed values."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from regraft.config import RENAMED_SETTINGS, Config, defaults_with_comments, load_config, load_run_config
from regraft.errors import ConfigError


def test_printed_defaults_are_the_defaults() -> None:
    text = defaults_with_comments()
    assert Config.model_validate(tomllib.loads(text)) == Config()
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[i - 1].startswith("# "), line


def test_written_settings_read_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["training.finetune_epochs=3", "model.head_widths=[8, 4]", "training.finetune_from=100"])
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml") == config


def test_class_weights_are_a_table_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[training]\nseed = 1\n[training.class_weights]\ncat = 1\n"old dog" = 3\n')
    config = load_config(file)
    assert config.training.class_weights == {"cat": 1, "old dog": 3}
    file.write_text(config.to_toml())
    assert load_config(file) == config
    assert load_config(None, ["training.class_weights={0 = 1, 1 = 3}"]).training.class_weights == {"0": 1, "1": 3}
    with pytest.raises(ConfigError, match=r"weight of cat is -1; expected a number above 0"):
        load_config(None, ["training.class_weights={cat = -1}"])


def test_a_run_of_the_version_before_has_no_dropout_before_a_linear_head(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[model]\nhead = "linear"\ndropout = 0.2\n')
    assert load_run_config(file).model.dropout == "auto"
    file.write_text(load_config(file).to_toml())
    assert load_run_config(file).model.dropout == 0.2


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


def test_all_errors_are_reported_at_once_with_the_nearest_names(tmp_path: Path) -> None:
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
def test_unreadable_files(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "my.toml"
    if content == "\xff":
        file.write_bytes(b"\xff\xfe")
        message = "cannot be read as TOML"
    elif content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_a_section_must_be_a_table(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("training = 3\n")
    with pytest.raises(ConfigError, match="training"):
        load_config(file, ["training.seed=1"])


def test_paths_of_a_file_move_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[run]\ndata = "../photos"\nout = "s3://bucket/run"\n[model]\nweights = "my.pt"\nbackbone = "resnet50"\n'
    for place in ("first", "second"):
        folder = tmp_path / place / "settings"
        folder.mkdir(parents=True)
        (folder / "my.toml").write_text(text)
        monkeypatch.chdir(tmp_path / place)
        config = load_config(Path("settings/my.toml"))
        assert (config.run.data, config.run.out) == ("photos", "s3://bucket/run")  # as the user would type it
        assert (config.model.weights, config.model.backbone) == ("my.pt", "resnet50")  # from the working directory
        (folder / "my.pt").touch()
        (folder / "resnet50").touch()
        config = load_config(folder / "my.toml", overrides={"run.out": "runs/a"})
        assert (config.run.data, config.run.out) == (str(tmp_path / place / "photos"), "runs/a")
        assert config.model.weights == str(folder / "my.pt")


def test_a_value_that_fits_none_of_several_types_is_reported_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["training.class_weights=balance", "model.dropout=x", "model.head_widths=[4, -1]"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 settings are wrong:"
    assert [line.split(" = ")[0].strip() for line in lines[1:-1]] == [
        "model.head_widths", "model.dropout", "training.class_weights",
    ]  # fmt: skip


def test_image_sizes() -> None:
    for given in ("64x64", "(64, 64)", [64, 64], (64, 64, 3), "64", 64):
        assert load_config(overrides={"model.image_size": given}).model.image_size == 64
    for given in ("64x32", "(64, 32)", [64, 32], (64, 32, 3), "64 x 32"):
        assert load_config(overrides={"model.image_size": given}).model.image_size == "64x32"
    again = load_config(overrides={"model.image_size": "64x32"})
    assert 'image_size = "64x32"' in again.to_toml()
    for wrong in ([64, 64, 4], (3, 64, 64), "64x", "x64", -64, "4096", "64x4096", "large"):
        with pytest.raises(ConfigError, match="image_size"):
            load_config(overrides={"model.image_size": wrong})


def test_typed_values_override_the_file_and_texts(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[training]\nseed = 1\nviews = 2\n")
    overrides = {"training.seed": 3, "training.finetune_from": "a=b", "data.keep_split": None, "tracking.to": ["wandb"]}
    config = load_config(file, ["training.seed=2", "training.batch_size=4"], overrides)
    assert (config.training.seed, config.training.views, config.training.batch_size) == (3, 2, 4)
    assert config.training.finetune_from == "a=b"
    assert config.data.keep_split == ""
    assert config.tracking.to == ("wandb",)
    with pytest.raises(ConfigError, match=r"training\.seed = -1"):
        load_config(overrides={"training.seed": -1})


def test_old_names_are_refused_in_a_file_and_read_in_a_run(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[data]\non_bad = "error"\n[augmentation]\ncolour = 0.1\ncrop = 0.3\n'
        '[training]\nengine = "torch"\naveraging = 0\n[run]\nfinetune_min_val = 20\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for old, new in RENAMED_SETTINGS.items():
        assert f"{old} is now called {new}" in str(caught.value)
    config = load_run_config(file)
    assert config.data.on_unreadable == "error"
    assert (config.augmentation.color_jitter, config.augmentation.random_crop) == (0.1, 0.3)
    assert (config.training.prefix_backend, config.training.ema_epochs) == ("torch", 0)
    assert config.run.finetune_min_images == 20


def test_given_epochs_are_trained_as_many_whatever_the_images_are(tmp_path: Path) -> None:
    assert Config().training.finetune_min_steps > 0
    file = tmp_path / "my.toml"
    file.write_text("[training]\nfinetune_epochs = 5\n")
    for config in (load_config(file), load_config(overrides={"training.finetune_epochs": 5, "run.preset": "best"})):
        assert (config.training.finetune_epochs, config.training.finetune_min_steps) == (5, 0)
    both = {"training.finetune_epochs": 5, "training.finetune_min_steps": 90}
    assert load_config(overrides=both).training.finetune_min_steps == 90
    for preset in ("balanced", "best"):  # a file with all settings
        file.write_text(load_config(overrides={"run.preset": preset}).to_toml())
        assert load_config(file).training.finetune_min_steps > 0
        for config in (
            load_config(file, ["training.finetune_epochs=3"]),
            load_config(file, overrides={"training.finetune_epochs": 3}),
        ):
            assert (config.training.finetune_epochs, config.training.finetune_min_steps) == (3, 0)
            assert config.run.finetune_min_images == 0


def test_runs_of_versions_without_fewest_steps_trained_for_their_epochs(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    lines = [line for line in Config().to_toml().splitlines() if "finetune_min_steps" not in line]
    file.write_text("\n".join(lines))
    assert load_run_config(file).training.finetune_min_steps == 0
