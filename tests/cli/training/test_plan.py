"""`regraft plan`."""

from __future__ import annotations

import json
from pathlib import Path

from terminal import regraft


def test_speeds_are_measured_saved_and_used_again(squares_folder: Path, tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    tiny = ("--set", "model.weights=none", "--image-size", "32", "--finetune-from", "last")
    first = regraft("plan", squares_folder, *tiny, "--save-rates", rates, "--json")
    assert first.returncode == 0, first.stderr
    measured = json.loads(first.stdout)
    assert measured["rates"] == json.loads(rates.read_text())
    assert sum(measured["images"].values()) == 36
    used = ("plan", squares_folder, *tiny, "--rates", rates, "--images", "1000000", "--processes", "4")
    done = regraft(*used, "--cpus", "8", "--json")
    plan = json.loads(done.stdout)
    assert plan["rates"] == measured["rates"]
    assert abs(sum(plan["images"].values()) - 1_000_000) < 3
    assert plan["bottleneck"] == max(plan["seconds"], key=plan["seconds"].get)
    assert plan["step_bytes"] > 0
    alone = regraft("plan", squares_folder, *tiny, "--epochs", "0", "--save-rates", rates)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(rates.read_text())["tail"] > 0, "rates of a head alone are for other plans, too"


def test_the_table_names_the_bottleneck_and_what_is_not_known(squares_folder: Path, tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    values = {"device": "cuda", "precision": "bfloat16", "backbone": "efficientnet_lite0", "image_size": 160,
              "boundary": "blocks.5.0", "cpus": 8, "decode": 500, "prefix": 4000, "features": 9000, "tail": 1000,
              "predict": 3000, "head": 1e11, "image_bytes": 1e5}  # fmt: skip
    rates.write_text(json.dumps(values))
    tiny = ("--set", "model.weights=none", "--finetune-from", "last")
    words = ("plan", squares_folder, *tiny, "--rates", rates, "--images", "100000000")
    done = regraft(*words, "--processes", "64", "--disk-gb", "10")
    assert done.returncode == 0, done.stderr
    assert "64 processes, 512 CPUs, 64 GPUs." in done.stdout
    assert "<- bottleneck" in done.stdout
    assert "no rate is known: reading from storage and sending between processes" in done.stdout
    assert "so these layers run in every step" in done.stdout
    assert "measured at 160 pixels" not in done.stdout
    assert "measured at 160 pixels" in regraft(*words, "--image-size", "64").stdout
    assert regraft(*words, "--set", "training.memory_gb=100000").returncode == 0, "the plan is for other machines"
    unread = tmp_path / "no such folder"  # these are refused before the data is read
    for flags, message in (
        (("--gpus", "3"), "processes and 3 GPUs"),
        (("--processes", "9", "--gpus", "9", "--cpus", "8"), "9 processes on 8"),
        (("--save-rates", tmp_path / "again.json"), "Leave one out"),
    ):  # fmt: skip
        refused = regraft(words[0], unread, *words[2:], *flags)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
    refused = regraft(*words, "--set", "training.budget=30")
    assert (refused.returncode, "has no effect on a plan" in refused.stderr) == (2, True)
