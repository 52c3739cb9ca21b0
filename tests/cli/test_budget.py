from __future__ import annotations

from pathlib import Path

import pytest

from regraft.cli.train import seconds_of
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.pipeline.train import train_from


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("10m", 600), ("2h", 7200), ("1.5 m", 90), (" 5s ", 5)]
)
def test_a_budget_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "0", "10 d", "1m30s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as 90s, 10m or 2h"):
        seconds_of(text)


def test_a_budget_is_planned_for_and_written_down(squares_folder: Path, tmp_path: Path) -> None:
    settings = ["model.image_size=32", "training.finetune_epochs=10000", "training.budget=120"]
    run = train_from(squares_folder, load_config(None, settings), tmp_path / "run")
    kept = load_config(run.path / "config.toml").training
    assert kept.budget == 120
    assert kept.finetune_epochs < 10000
    assert kept.views in (1, 2, 4, 8)


def test_too_short_a_budget_leaves_nothing_behind(squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is too short"):
        train_from(squares_folder, load_config(None, ["training.budget=0.2"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
