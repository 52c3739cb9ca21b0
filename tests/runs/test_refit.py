"""`training.refit`: the head learns from the validation images, too, and is judged by those that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.runs.resume import resume
from regraft.runs.train import train_from

SETTINGS: dict[str, Any] = {
    "model.backbone": "mobilenetv3", "model.weights": "none", "model.image_size": 32, "training.finetune_epochs": 0,
    "training.views": 1, "training.seed": 3, "data.val": 0.3, "data.test": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[regraft.Run, regraft.Run]:
    """A run without and a run with it."""
    runs = [
        train_from(
            squares_folder,
            load_config(overrides=SETTINGS | {"training.refit": refit}),
            tmp_path_factory.mktemp("refit") / "run",
        )
        for refit in (False, True)
    ]
    return runs[0], runs[1]


def test_validation_is_that_of_the_head_before_and_the_test_that_of_the_model(
    pair: tuple[regraft.Run, regraft.Run], squares_folder: Path
) -> None:
    plain, refitted = (run.predictions for run in pair)
    assert plain.ids == refitted.ids
    val = np.array(plain.parts) == "val"
    np.testing.assert_allclose(refitted.probabilities[val], plain.probabilities[val], atol=1e-6)
    assert np.abs(refitted.probabilities[~val] - plain.probabilities[~val]).max() > 1e-3
    test = [name for name, part in zip(refitted.ids, refitted.parts, strict=True) if part == "test"]
    said = [answer.probabilities for answer in pair[1].predict([squares_folder / name for name in test])]
    np.testing.assert_allclose(said, refitted.part("test").probabilities, atol=1e-5)


def test_it_is_said_and_no_more_epochs_can_be_judged(pair: tuple[regraft.Run, regraft.Run]) -> None:
    plain, refitted = (run.metrics["training"] for run in pair)
    assert (plain["refitted"], refitted["refitted"]) == (False, True)
    assert any("training and validation images together" in note for note in refitted["notes"])
    with pytest.raises(UsageError, match=r"training\.refit"):
        resume(pair[1].path, finetune_epochs=2)
