"""`regraft train`."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

from terminal import FAST_FLAGS, csv_rows, regraft

from regraft.config import load_config


def test_flags_override_a_file_and_the_result_is_printed(squares_folder: Path, tmp_path: Path) -> None:
    text = regraft("config").stdout
    assert "finetune_epochs = 10" in text
    (tmp_path / "my.toml").write_text(text.replace("image_size = 0", "image_size = 64"))
    out = tmp_path / "run"
    done = regraft("train", squares_folder, "--out", out, "--config", tmp_path / "my.toml", *FAST_FLAGS)
    assert done.returncode == 0, done.stderr
    for words in (
        "36 images in 3 classes",
        "1 cannot be read",
        "red/broken.png",
        "Test accuracy",
        "95 % interval",
        "Try next",
        "regraft predict",
    ):
        assert words in done.stdout
    config = load_config(out / "config.toml")
    assert (config.model.image_size, config.training.finetune_epochs, config.data.test) == (32, 1, 0.25)


def test_proposed_commands_can_be_typed_whatever_the_names(squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "my runs" / "it's [1]"
    head_only = ["--epochs", "0", "--image-size", "32", "--set", "training.views=1"]
    done = regraft("train", squares_folder, "--out", out, *head_only)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    (resumed,) = (line.partition("continue it: ")[2] for line in lines if "continue it: " in line)
    assert shlex.split(resumed) == ["regraft", "train", "--resume", str(out)]
    (proposed,) = (line for line in lines if line.startswith("regraft evaluate"))
    evaluated = regraft(*shlex.split(proposed)[1:])
    assert evaluated.returncode == 0, evaluated.stderr
    (proposed,) = (line for line in evaluated.stdout.splitlines() if "regraft explain" in line)
    assert shlex.split(proposed)[:3] == ["regraft", "explain", str(out)]
    refused = regraft("train", squares_folder, "--out", out)
    assert refused.returncode == 1
    assert shlex.split(refused.stderr.partition("continue the run: ")[2]) == ["--resume", str(out)]
    empty = tmp_path / "no run"
    empty.mkdir()
    proposed = regraft("predict", empty, squares_folder).stderr.partition("`")[2].partition("`")[0]
    assert shlex.split(proposed) == ["regraft", "train", "DATA", "--out", str(empty)]


def test_json_is_alone_on_standard_output(squares_folder: Path, tmp_path: Path) -> None:
    head_only = ["--epochs", "0", "--image-size", "32", "--set", "training.views=1"]
    done = regraft("train", squares_folder, "--out", tmp_path / "run", "--json", *head_only)
    value = json.loads(done.stdout)
    assert value["run"] == str(tmp_path / "run")
    assert value["model"]["finetuned_from"] is None
    assert 0 <= value["test"]["accuracy"] <= 1
    assert "chosen" in done.stderr  # the path of the head, which is no JSON


def test_unreadable_images_can_be_an_error(squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("train", squares_folder, "--out", tmp_path / "run", "--on-unreadable", "error", *FAST_FLAGS)
    assert done.returncode == 1
    assert "red/broken.png" in done.stderr


def test_folders_of_parts(squares_folder: Path, tmp_path: Path) -> None:
    for part, numbers in (("train", range(8)), ("val", range(8, 10)), ("test", range(10, 12))):
        for label in ("red", "blue"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for i in numbers:
                shutil.copy(squares_folder / label / f"{i:02d}.png", folder)
    done = regraft("train", tmp_path / "data", "--out", tmp_path / "run", "--image-size", 32, "--finetune-epochs", 0)
    assert done.returncode == 0, done.stderr
    assert "24 images in 2 classes: 16 train, 4 val, 4 test." in done.stdout
    assert "head only" in done.stdout


def test_an_archive_and_a_kept_split(squares_folder: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "squares"), "zip", squares_folder)
    fast = ["--image-size", 32, "--finetune-epochs", 0]
    done = regraft("train", archive, "--out", tmp_path / "run", *fast)
    assert done.returncode == 0, done.stderr
    keep = ["--seed", 5, "--keep-split", tmp_path / "run"]
    more = regraft("train", squares_folder, "--out", tmp_path / "again", *fast, *keep)
    assert more.returncode == 0, more.stderr
    parts = [{row["sha256"]: row["part"] for row in csv_rows(tmp_path / run / "split.csv")} for run in ("run", "again")]
    assert parts[0] == parts[1]


def test_a_small_model_is_not_trained_in_several_processes(squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("train", squares_folder, "--into", "efficientnet_lite0", "--processes", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--into works in one process" in done.stderr
