from __future__ import annotations

from pathlib import Path

import pytest

from regraft.cli.output import seconds_of
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.models.classifier import build, smaller_sizes
from regraft.pipeline.planning import _fitting_size
from regraft.pipeline.train import train_from
from regraft.training.options import TrainingOptions
from regraft.training.plan import Plan, Rates, make_plan


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


def test_a_short_time_takes_smaller_images_before_less_training() -> None:
    model = build(classes=("a", "b"), image_size=224)
    rates = Rates(decode=1000, prefix=100, features=400, tail=60, last=120, predict=60)
    sizes = {}
    for seconds in (30, 100, 140, 1000):

        def planned(rates: Rates, seconds: float = seconds) -> Plan:
            return make_plan(model, {"train": 1000, "test": 200}, TrainingOptions(), rates, seconds=seconds)

        sizes[seconds] = _fitting_size(model, rates, planned)
    assert sizes == {30: 128, 100: 160, 140: 224, 1000: 224}
    fixed = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none")
    assert smaller_sizes(fixed.spec, 224) == []


def test_the_size_that_a_budget_chose_is_written_down(squares_folder: Path, tmp_path: Path) -> None:
    settings = ["training.finetune_epochs=5", "training.budget=1000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.pipeline.planning._fitting_size", lambda *_: 96)
        run = train_from(squares_folder, load_config(None, settings), tmp_path / "run")
    assert load_config(run.path / "config.toml").model.image_size == 96
    assert run.classifier.preprocessing.size == 96
