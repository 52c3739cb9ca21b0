"""`regraft summary`."""

from __future__ import annotations

import json
from pathlib import Path

from terminal import regraft


def test_summary_of_run_and_backbone(run: Path) -> None:
    done = regraft("summary", run)
    for words in (
        "conv_stem",
        "blocks.6.0",
        "head",
        "Total parameters",
        "Trainable parameters",
        "frozen",
        "trainable",
    ):
        assert words in done.stdout
    stages = regraft("summary", "vgg16", "--stages", "--finetune-from", "block5_conv1")
    assert "block5_conv1" in stages.stdout
    rows = json.loads(regraft("summary", "mobilenetv2", "--json").stdout)
    assert sum(row["parameters"] for row in rows) == 2_223_872 + 2 * 2561


def test_summary_before_training(squares_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[model]\nbackbone = "vgg16"\nimage_size = 32\nweights = "wheel"\n[training]\nfinetune_epochs = 3\n'
    )
    done = regraft("summary", "--config", file, squares_folder)
    assert done.returncode == 0, done.stderr
    for words in (
        "vgg16, 3 classes",
        "block5_conv1",
        "trainable",
        "The head is fitted by L-BFGS. Fine-tuning trains from",
    ):
        assert words in done.stdout, words
    for arguments, words in (([], "Expected a RUN"), (["--config", file], "Expected DATA")):
        done = regraft("summary", *arguments)
        assert (done.returncode, words in done.stderr) == (2, True)
