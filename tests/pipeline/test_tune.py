"""A search finds the base first, never looks at the test, and goes on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import Config, load_config
from regraft.data.dataset import Dataset, Sample
from regraft.errors import MissingExtraError, RunError, TrainingError, UsageError
from regraft.pipeline import tune as tuning_module
from regraft.pipeline.attempt import Outcome
from regraft.pipeline.search_space import SearchSpace
from regraft.pipeline.study import Study, quiet
from regraft.pipeline.train import train_from
from regraft.pipeline.trials import Record
from regraft.report.tuning import Dot, plot_importance, plot_trials
from regraft.training.objective import Scores
from regraft.training.train import train

SETTINGS = [
    "model.image_size=32",
    "data.val=0.25",
    "data.test=0.2",
    "training.views=1",
    "training.finetune_epochs=4",
    "training.finetune_from=last",
    "training.engine=torch",
    "training.precision=off",
]
FIXED = [setting.partition("=")[0] for setting in SETTINGS]
SMALL = load_config(None, [*SETTINGS, "training.head_epochs=3"])


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """The pictures are so small that threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def found(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> regraft.Tuning:
    """A whole search; whoever opens a test image before the winner is evaluated fails."""
    torch.set_num_threads(1)
    is_over = False
    source, run = Dataset.source, tuning_module._Search._run

    def guarded(self: Dataset, sample: Sample) -> Any:
        assert sample.part != "test" or is_over, f"{sample.path} is a test image"
        return source(self, sample)

    def last(self: Any, best: Any) -> Any:
        nonlocal is_over
        is_over = True
        return run(self, best)

    out = tmp_path_factory.mktemp("tune") / "search"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "source", guarded)
        patch.setattr(tuning_module._Search, "_run", last)
        return regraft.tune(squares_folder, trials=4, finalists=1, config=SMALL, fixed=FIXED, out=out)


def test_the_first_trial_is_the_base_and_the_winner_is_no_worse(found: regraft.Tuning) -> None:
    assert len(found.trials) == 4
    first = found.trials[0]
    assert first.number == 0
    assert first.params["model.head"] == "linear"
    assert first.params["training.finetune_lr"] == pytest.approx(5e-4)
    assert found.finals[0].record.number == 0
    assert found.base == found.finals[0].record
    assert found.base is not None
    assert found.best.record.value is not None
    assert found.base.value is not None
    assert found.best.record.value <= found.base.value
    assert "\n" not in repr(found)
    assert "4 trials" in repr(found)


def test_fixed_settings_are_not_searched(found: regraft.Tuning) -> None:
    assert not {name for record in found.trials for name in record.params} & set(FIXED)
    for final in found.finals:
        assert final.config.training.finetune_from == "last"
        assert final.config.training.finetune_epochs == 4


def test_everything_is_written(found: regraft.Tuning) -> None:
    assert found.run is not None
    value = json.loads((found.path / "tune.json").read_text())
    assert [trial["number"] for trial in value["trials"]] == [0, 1, 2, 3]
    assert value["test"] == found.run.metrics["test"]
    assert value["importance"] is None  # too few
    rows = list(csv.DictReader((found.path / "trials.csv").read_text().splitlines()))
    assert len(rows) == 4 + len(found.finals)
    assert (found.path / "plots" / "history.png").stat().st_size > 10_000
    assert not list((found.path / "finalists").glob("*.safetensors"))


def test_the_best_configuration_gives_the_same_numbers(
    found: regraft.Tuning, squares_folder: Path, tmp_path: Path
) -> None:
    config = load_config(found.path / "best.toml")
    assert config == found.config
    run = train_from(squares_folder, config, tmp_path / "again")
    assert found.run is not None
    for run_found in (run, found.run):
        kept = [row for row in run_found.history if row["kept"]]
        assert kept[-1]["val_accuracy"] == pytest.approx(found.best.record.accuracy)
        assert kept[-1]["val_macro_f1"] == pytest.approx(found.best.record.macro_f1)
    assert np.array_equal(run.predictions.probabilities, found.run.predictions.probabilities)


def test_a_finished_search_is_left_alone_or_goes_on(found: regraft.Tuning, squares_folder: Path) -> None:
    assert found.run is not None
    before = (found.run.path / "model.safetensors").stat().st_mtime_ns
    again = regraft.tune(out=found.path, trials=4, finalists=1)
    assert [r.value for r in again.trials] == [r.value for r in found.trials]
    assert again.run is not None
    assert again.run.path == found.run.path
    assert (again.run.path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"the base configuration differ"):
        regraft.tune(squares_folder, config=Config(), fixed=FIXED, out=found.path)
    with pytest.raises(RunError, match="the metric"):
        regraft.tune(squares_folder, config=SMALL, fixed=FIXED, out=found.path, metric="accuracy")
    extra = squares_folder / "red" / "more.png"
    extra.write_bytes((squares_folder / "red" / "00.png").read_bytes() + b" ")
    try:
        with pytest.raises(RunError, match="the images, their labels or their parts"):
            regraft.tune(out=found.path, trials=5)
    finally:
        extra.unlink()


def test_the_command_prints_what_was_found(found: regraft.Tuning) -> None:
    arguments = ["tune", "--resume", str(found.path), "--trials", "4", "--finalists", "1"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    for words in ("4 trials", "Test accuracy", "is optimistic", "best.toml", "in full", "12 are needed"):
        assert words in told.output
    value = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(value.stdout)["folder"] == str(found.path)
    assert CliRunner().invoke(app, ["tune"]).exit_code
    assert CliRunner().invoke(app, ["tune", "x", "--resume", "y"]).exit_code


def test_nothing_is_overwritten(tmp_path: Path, squares_folder: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.tune(squares_folder, out=tmp_path)
    with pytest.raises(UsageError, match="holds no search"):
        regraft.tune(out=tmp_path / "none")
    with pytest.raises(UsageError, match="expected at least 1 trial"):
        regraft.tune(squares_folder, trials=0)


def test_without_optuna_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, squares_folder: Path
) -> None:
    monkeypatch.setattr(tuning_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[tune\]'"):
        regraft.tune(squares_folder)


def _outcome(config: Config, loss: float) -> Outcome:
    scores = Scores(loss, 0.5, 0.5, 2, 0.0, (loss, loss))
    return Outcome(config, scores, {"decode": 0.0}, False, "torch")


def test_failures_are_named_and_ctrl_c_keeps_what_was_found(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def tried(config: Config, *_: Any, **__: Any) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TrainingError("the loss is nan")
        if calls == 4:
            raise KeyboardInterrupt
        return _outcome(config, 1.0 / calls)

    monkeypatch.setattr(tuning_module, "attempt", tried)
    result = regraft.tune(squares_folder, trials=9, config=SMALL, fixed=FIXED, out=tmp_path / "a")
    assert [record.state for record in result.trials] == ["complete", "failed", "complete"]
    assert result.trials[1].why == "the loss is nan"
    assert result.stopped == "interrupted"
    assert result.run is None
    assert result.best.record.number == 2
    assert load_config(tmp_path / "a" / "best.toml").training.finetune_epochs == 3  # the short trial's own


def test_a_search_of_failures_says_why(squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: Any, **__: Any) -> Outcome:
        raise UsageError("CutMix cuts maps")

    monkeypatch.setattr(tuning_module, "attempt", tried)
    with pytest.raises(RunError, match="CutMix cuts maps"):
        regraft.tune(squares_folder, trials=2, config=SMALL, fixed=FIXED, out=tmp_path / "a")


def test_a_budget_ends_the_search(squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(config: Config, split: Any, store: Any, scratch: Any, watch: Any, *_: Any, **__: Any) -> Outcome:
        watch.work("finetune", 1, 2)
        time.sleep(0.2)
        return _outcome(config, 1.0)

    monkeypatch.setattr(tuning_module, "attempt", tried)
    monkeypatch.setattr(tuning_module._Search, "_deadlines", lambda *_, **__: ((time.monotonic() + 0.5,) * 2, 3))
    result = regraft.tune(
        squares_folder, trials=1000, budget=60, config=SMALL, fixed=FIXED, out=tmp_path / "a", train=False
    )
    assert result.stopped == "time"
    assert 1 <= len(result.trials) < 10


def test_short_of_time_there_is_still_a_result(squares_folder: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    config = load_config(None, [*SETTINGS, "training.finetune_epochs=10000"])
    result = regraft.tune(
        squares_folder, trials=1000, budget=10, config=config, fixed=FIXED, out=tmp_path / "a", started=started
    )
    assert time.monotonic() - started < 45
    assert result.finals == ()
    assert result.run is not None
    assert result.config.training.finetune_epochs == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_search_ends_with_the_same_trials(found: regraft.Tuning, squares_folder: Path, tmp_path: Path) -> None:
    out, base = tmp_path / "search", tmp_path / "base.toml"
    base.write_text(SMALL.to_toml())
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "regraft.cli", "tune", squares_folder, "--config", base, *settings, "--out", out]
    command += ["--trials", "4", "--finalists", "1", "--no-train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        waited = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < waited and not (out / "tune.json").exists():
            time.sleep(0.02)
        process.kill()
    with (out / "trials.log").open("ab") as file:
        file.write(b'{"op_code":4,"half a li')  # as a kill in the midst of writing would leave it
    again = regraft.tune(out=out, trials=4, finalists=1, train=False)
    assert [record.params for record in again.trials] == [record.params for record in found.trials]
    for one, other in zip(again.trials, found.trials, strict=True):
        assert (one.state, one.value) == (other.state, pytest.approx(other.value))
    assert again.run is None


def test_the_journal_forgets_what_was_under_way(tmp_path: Path) -> None:
    with quiet():
        study = Study(tmp_path / "trials.log", 0, {"a": 0.5})
        first = study.ask()
        assert first.suggest_float("a", 0, 1) == 0.5
        study.tell(first, Record(0, first.params, "complete", value=1.0))
        left = study.ask()
        drawn = left.suggest_float("a", 0, 1)
        again = Study(tmp_path / "trials.log", 0, {"a": 0.5})
        assert [record.number for record in again.records] == [0]
        assert again.ask().suggest_float("a", 0, 1) == drawn
        assert again.importance() is None


def test_the_space_holds_the_base_and_only_what_means_something(squares: Dataset) -> None:
    model = regraft.build(classes=squares.classes, weights="none", image_size=32)
    base = load_config(None, ["training.finetune_lr=0", "training.weight_decay=0.9", "training.label_smoothing=0.07"])
    space = SearchSpace(base, [], model)
    assert "training.finetune_lr" not in space.default  # 0 is a search of its own
    assert space.default["training.weight_decay"] == 0.9
    assert space.config(space.default).training.label_smoothing == 0.07
    assert "model.dropout" not in space.default
    short = space.config(space.default, short=True).training
    assert (short.finetune_epochs, short.views) == (3, 3)
    head = space.config({"model.head": "mlp", "model.head_widths": "512 256", "training.finetune_from": "none"})
    assert head.model.head_widths == (512, 256)
    assert head.training.views == 1
    fixed = SearchSpace(Config(), ["augmentation.flip"], model)
    assert fixed.config({"augmentation": "none"}).augmentation.flip == Config().augmentation.flip
    assert fixed.config({"augmentation": "none"}).augmentation.crop == 0
    with pytest.raises(UsageError, match="Every setting"):
        SearchSpace(
            load_config(None, ["training.finetune_epochs=0"]), ["model.head", "training.label_smoothing"], model
        )


def test_training_can_be_left_by_an_exception(squares_split: regraft.Split) -> None:
    class Enough(Exception):
        pass

    class Listener(tuning_module.Silence):
        def epoch(self, row: Any) -> None:
            if row.phase == "finetune":
                raise Enough

    model = regraft.build(classes=squares_split.classes, image_size=32)
    state = torch.random.get_rng_state()
    with pytest.raises(Enough):
        train(model, squares_split, listener=Listener(), finetune_from="last", views=1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_optuna_is_silent_and_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    with quiet():
        Study(tmp_path / "trials.log", 0, {"a": 0.5})
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("metric", ["loss", "accuracy", "macro_f1"])
def test_pictures(tmp_path: Path, metric: Any) -> None:
    dots = [Dot(0, "complete", 0.5), Dot(1, "failed", None), Dot(2, "pruned", None), Dot(3, "complete", 0.4)]
    plot_trials(dots, [], tmp_path / "a.png", metric=metric, best=3)
    plot_trials(dots, [dots[0], dots[3]], tmp_path / "b.png", metric=metric, best=3)
    plot_importance({"training.finetune_lr": 0.7, "model.head": 0.3}, tmp_path / "c.png", trials=14)
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("a.png", "b.png", "c.png"))
