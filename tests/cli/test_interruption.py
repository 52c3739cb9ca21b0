"""After Ctrl-C a verb says which command continues its work, and that command does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from terminal import FAST_FLAGS, regraft

from regraft.cli.interruption import print_interrupted
from regraft.errors import Interrupted
from regraft.runs.prediction_parts import parts
from regraft.runs.run import load
from regraft.studies import cross_validation
from regraft.studies.compare import trainer as compare_trainer
from regraft.studies.tune import search
from regraft.training import trainer


def ctrl_c(*_: Any, **__: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["train_head", "finetune"])
def test_a_training_names_the_command_that_continues_it(
    step: str, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my runs" / "a"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, step, ctrl_c)
        done = regraft("train", squares_folder, *FAST_FLAGS, "--out", out)
    assert done.returncode == 130
    assert done.stderr.endswith(f"Interrupted. Continue with: regraft train --resume '{out}'\n")
    # With a head there is a result so far.
    assert ("Test accuracy" in done.stdout) == (step == "finetune")
    assert regraft("train", "--resume", out).returncode == 0
    assert load(out).metrics["training"]["stopped"] is None
    with monkeypatch.context() as patch:
        patch.setattr("regraft.data.scan.open_data", ctrl_c)
        done = regraft("train", squares_folder, "--out", tmp_path / "b")
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")  # nothing has begun
    assert not (tmp_path / "b").exists()


def test_the_demo_is_continued_as_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["regraft", "demo"])
    print_interrupted("demo", {"out": None}, Interrupted(Path("runs/demo-solar-cells")))
    print_interrupted("export", {"out": tmp_path}, KeyboardInterrupt())
    printed = capsys.readouterr().err
    assert printed == "Interrupted. Continue with: regraft train --resume runs/demo-solar-cells\nInterrupted.\n"


def test_a_command_is_repeated_without_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["regraft", "crossval", "s3://me:secret@bucket/photos?token=secret"])
    print_interrupted("crossval", {"out": None}, KeyboardInterrupt())
    assert capsys.readouterr().err == "Interrupted. Continue with: regraft crossval s3://bucket/photos\n"


def test_studies_and_predictions_name_the_command_that_continues_them(
    run: Path, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message_of(*arguments: object) -> str:
        done = regraft(*arguments, cwd=tmp_path)
        assert done.returncode == 130, done.stderr
        return done.stderr.rpartition("Interrupted.")[2].strip()

    monkeypatch.setattr(compare_trainer, "train_in_subprocess", ctrl_c)
    words = ("compare", squares_folder, "--backbones", "efficientnet_lite0", "--with", "ann")
    text = " ".join(map(str, words))
    folder = Path("runs") / f"{squares_folder.name}-compare"
    assert message_of(*words) == f"Continue with: regraft {text} --out {folder}"
    assert message_of(*words, "--out", "c") == f"Continue with: regraft {text} --out c"

    monkeypatch.setattr(search, "run_trial", ctrl_c)
    monkeypatch.setattr(search.Search, "_write", ctrl_c)
    assert message_of("tune", squares_folder, "--out", "t") == "Continue with: regraft tune --resume t"

    monkeypatch.setattr(cross_validation, "scan_with", ctrl_c)
    assert message_of("crossval", squares_folder) == f"Continue with: regraft crossval {squares_folder}"

    monkeypatch.setattr(parts, "predict_images", ctrl_c)
    predict = ("predict", run, squares_folder / "red", "--out", "p")
    assert message_of(*predict) == "Continue with: regraft " + " ".join(map(str, predict))
