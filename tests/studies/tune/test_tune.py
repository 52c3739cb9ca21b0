"""A search tries the base first, never looks at the test, and resumes to the same trials after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import Config, load_config
from regraft.errors import MissingExtraError, RunError, UsageError
from regraft.runs.train import train_from
from regraft.studies.tune import tune as tune_module


def test_the_first_trial_is_the_base_and_the_winner_is_no_worse(tuned: regraft.TuneResult, fixed: list[str]) -> None:
    first = tuned.trials[0]
    assert [record.number for record in tuned.trials] == [0, 1, 2, 3]
    assert first.params["model.head"] == "linear"
    assert first.params["training.finetune_lr"] == pytest.approx(5e-4)
    assert tuned.base == tuned.finalists[0].record
    assert tuned.base.number == 0
    assert tuned.best.record.rank <= tuned.base.rank < float("inf")
    assert not {name for record in tuned.trials for name in record.params} & set(fixed)
    for finalist in tuned.finalists:
        assert finalist.config.training.finetune_from == "last"
        assert finalist.config.training.finetune_epochs == 4


def test_files_hold_the_result(tuned: regraft.TuneResult) -> None:
    assert tuned.run is not None
    value = json.loads((tuned.path / "tune.json").read_text())
    assert [trial["number"] for trial in value["trials"]] == [0, 1, 2, 3]
    assert value["test"] == tuned.run.metrics["test"]
    assert value["importance"] is None  # too few trials
    rows = list(csv.DictReader((tuned.path / "trials.csv").read_text().splitlines()))
    assert len(rows) == 4 + len(tuned.finalists)
    assert float(rows[0]["loss"]) == tuned.trials[0].loss
    assert (tuned.path / "plots" / "history.png").stat().st_size > 10_000
    assert not list((tuned.path / "finalists").glob("*.safetensors"))


def test_the_best_configuration_gives_the_same_numbers(
    tuned: regraft.TuneResult, squares_folder: Path, tmp_path: Path
) -> None:
    config = load_config(tuned.path / "best.toml")
    assert config == tuned.config
    again = train_from(squares_folder, config, tmp_path / "again")
    assert tuned.run is not None
    for run in (again, tuned.run):
        kept = [row for row in run.history if row["kept"]]
        assert kept[-1]["val_accuracy"] == pytest.approx(tuned.best.record.accuracy)
        assert kept[-1]["val_macro_f1"] == pytest.approx(tuned.best.record.macro_f1)
    assert np.array_equal(again.predictions.probabilities, tuned.run.predictions.probabilities)


def test_a_finished_search_is_not_trained_again(tuned: regraft.TuneResult) -> None:
    assert tuned.run is not None
    before = (tuned.run.path / "model.safetensors").stat().st_mtime_ns
    again = regraft.tune(out=tuned.path, trials=4, finalists=1)
    assert again.trials == tuned.trials
    assert again.finalists == tuned.finalists
    assert again.run is not None
    assert again.run.path == tuned.run.path
    assert (again.run.path / "model.safetensors").stat().st_mtime_ns == before


def test_a_search_with_different_settings_is_refused(
    tuned: regraft.TuneResult, squares_folder: Path, base: Config, fixed: list[str]
) -> None:
    with pytest.raises(RunError, match=r"started with different settings: the base configuration differ"):
        regraft.tune(squares_folder, config=Config(), fixed=fixed, out=tuned.path)
    with pytest.raises(RunError, match="the metric"):
        regraft.tune(squares_folder, config=base, fixed=fixed, out=tuned.path, metric="accuracy")
    extra = squares_folder / "red" / "more.png"
    extra.write_bytes((squares_folder / "red" / "00.png").read_bytes() + b" ")
    try:
        with pytest.raises(RunError, match="the images, their labels or their parts"):
            regraft.tune(out=tuned.path, trials=5)
    finally:
        extra.unlink()


def test_the_command_prints_the_result(tuned: regraft.TuneResult) -> None:
    arguments = ["tune", "--resume", str(tuned.path), "--trials", "4", "--finalists", "1"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    for words in ("4 trials", "Test accuracy", "is optimistic", "best.toml", "in full", "needs 12 complete trials"):
        assert words in printed.output
    value = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(value.stdout)["folder"] == str(tuned.path)
    assert CliRunner().invoke(app, ["tune"]).exit_code
    assert CliRunner().invoke(app, ["tune", "x", "--resume", "y"]).exit_code


def test_wrong_arguments_and_folders_are_refused(tmp_path: Path, squares_folder: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.tune(squares_folder, out=tmp_path)
    with pytest.raises(UsageError, match="contains no search"):
        regraft.tune(out=tmp_path / "none")
    with pytest.raises(UsageError, match="expected at least 1 trial"):
        regraft.tune(squares_folder, trials=0)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(RunError, match="of an earlier version, which cannot be resumed"):
        regraft.tune(out=tmp_path)


def test_a_missing_optuna_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, squares_folder: Path
) -> None:
    monkeypatch.setattr(tune_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[tune\]'"):
        regraft.tune(squares_folder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_search_ends_with_the_same_trials(
    tuned: regraft.TuneResult, squares_folder: Path, base: Config, settings: list[str], tmp_path: Path
) -> None:
    out, config = tmp_path / "search", tmp_path / "base.toml"
    config.write_text(base.to_toml())
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "regraft.cli", "tune", squares_folder, "--config", config, *options, "--out", out]
    command += ["--trials", "4", "--finalists", "1", "--no-train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end and not (out / "tune.json").exists():
            time.sleep(0.02)
        process.kill()
    with (out / "trials.log").open("ab") as file:
        file.write(b'{"op_code":4,"half a li')  # what a kill leaves of a line
    (out / "trials.log.lock").touch()
    again = regraft.tune(out=out, trials=4, finalists=1, train=False)
    assert [record.params for record in again.trials] == [record.params for record in tuned.trials]
    for one, other in zip(again.trials, tuned.trials, strict=True):
        assert (one.state, one.value) == (other.state, pytest.approx(other.value))
    assert again.run is None
