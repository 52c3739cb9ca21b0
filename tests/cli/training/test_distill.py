"""`regraft distill`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from terminal import regraft

from regraft.runs.run import Run
from regraft.training import trainer
from regraft.training.setup import TrainingSetup

SETTINGS = ["--image-size", "32", "--epochs", "1", "--set", "training.views=2", "--set", "training.batch_size=8"]


def test_distill_prints_what_the_student_keeps(squares_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = regraft("distill", squares_run.path, "--into", "efficientnet_lite0", "--out", out, *SETTINGS)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "metrics.json").read_text())["distillation"]["result"]
    assert f"{100 * result['plain']:.1f} % of the same model trained on the labels alone" in done.stdout
    assert "(95 % interval" in done.stdout
    again = regraft("distill", "--resume", out, "--json")  # finished: it only tells the result
    assert json.loads(again.stdout)["distillation"]["result"] == result


@pytest.mark.parametrize("step", ["head", "finetuning", "finetuning of the baseline"])
def test_an_interrupted_distillation_names_the_command_that_continues_it(
    step: str, squares_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    finetune = trainer.finetune

    def ctrl_c(setup: TrainingSetup, *rest: Any) -> None:
        if setup.soft_targets is not None and "baseline" in step:
            return finetune(setup, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train_head" if step == "head" else "finetune", ctrl_c)
    done = regraft("distill", squares_run.path, "--into", "efficientnet_lite0", "--out", out, *SETTINGS)
    assert done.returncode == 130
    assert done.stderr.endswith(f"Interrupted. Continue with: regraft distill --resume {out}\n")
    monkeypatch.undo()
    again = regraft("distill", "--resume", out)
    assert again.returncode == 0, again.stderr
    assert "trained on the labels alone" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Expected RUN, the teacher, or --resume STUDENT"),
        (["RUN"], "Expected --into BACKBONE"),
        (["RUN", "--into", "efficientnet_lite0", "--resume", "x"], "continues with the settings of that run"),
        (["missing", "--into", "efficientnet_lite0"], "missing does not exist"),
    ],
)
def test_what_is_missing_is_said(squares_run: Run, words: list[str], message: str) -> None:
    done = regraft("distill", *(squares_run.path if word == "RUN" else word for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
