from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.data.dataset import Split
from regraft.errors import RunError
from regraft.models.classifier import Classifier
from regraft.training.callbacks import Epoch, NullReporter
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]
#: Options, and the numbers of finished epochs after which the training is killed; 0: during the first of fine-tuning.
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "linear head": ({}, (0, 1)),
    "no prefix": ({"finetune_from": "all"}, (0,)),
    "sgd": ({"head_optimizer": "sgd", "head_epochs": 3, "optimizer": "sgd", "reduce_on_plateau": 1}, (2, 4)),
    "head only": ({"finetune_epochs": 0, "head_optimizer": "adamw", "head_epochs": 4}, (3,)),
    "early stopping": ({"finetune_epochs": 6, "early_stopping": 1, "optimizer": "rmsprop", "ema_epochs": 0}, (1,)),
    # Dense kernels, whose optimizer state has another memory format than a file.
    "dense kernels": ({"finetune_from": "all", "finetune_epochs": 3, "keep_finetuned": "always"}, (2,)),
    "new views at every step": ({"feature_cache": "none", "keep_finetuned": "always"}, (0, 1)),
    # A step that changes nothing, so that the head alone is kept.
    "head fitted again": ({"refit": True, "finetune_lr": 1e-12, "keep_finetuned": "if_clear"}, (0, 1)),
    "learning rate search": ({"finetune_lr": 0, "keep_finetuned": "always"}, (1,)),
    "frozen layers in 8 bits": ({"precision": "int8"}, (1,)),
}


class _Stop(Exception):
    """Stands for a kill."""


class _Killer(NullReporter):
    """Stops a training after some epochs."""

    def __init__(self, after: int) -> None:
        self.epochs, self.after = 0, after

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        if name == "finetune" and self.after == 0:
            raise _Stop

    def on_epoch_end(self, row: Epoch) -> None:
        self.epochs += 1
        if self.epochs == self.after:
            raise _Stop


def _without_times(row: Epoch) -> dict[str, Any]:
    return {name: value for name, value in row.to_row().items() if name not in ("seconds", "images_per_second")}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_resumes_to_the_same_numbers(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, fast: dict[str, Any], name: str
) -> None:
    changes, kills = CASES[name]
    options = {**fast, **changes}
    whole = make_model()
    expected = train(whole, squares_split, **options)
    for after in kills:
        file = tmp_path / f"{after}.safetensors"
        with pytest.raises(_Stop):
            train(make_model(), squares_split, checkpoint=file, reporter=_Killer(after), **options)
        model = make_model()
        result = train(model, squares_split, checkpoint=file, **options)
        assert [_without_times(row) for row in result.history] == [_without_times(row) for row in expected.history]
        assert [(fit.l2, fit.val_loss, fit.chosen) for fit in result.head_path] == [
            (fit.l2, fit.val_loss, fit.chosen) for fit in expected.head_path
        ]
        assert (result.refitted is None) == (expected.refitted is None) == (name != "head fitted again")
        if result.refitted is not None and expected.refitted is not None:
            assert torch.equal(result.refitted.weight, expected.refitted.weight)
            assert torch.equal(result.refitted.bias, expected.refitted.bias)
        assert (result.notes, result.train_accuracy) == (expected.notes, expected.train_accuracy)
        assert result.int8 == expected.int8
        assert bool(result.int8) == (name == "frozen layers in 8 bits")
        ours, theirs = model.state_dict(), whole.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_checkpoint_of_another_training_is_refused(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, fast: dict[str, Any]
) -> None:
    file = tmp_path / "last.safetensors"
    train(make_model(), squares_split, checkpoint=file, **fast)
    for change in ({"finetune_from": "blocks.4.0"}, {"finetune_lr": 1e-3}):
        with pytest.raises(RunError, match="belongs to a training with another model, other options"):
            train(make_model(), squares_split, checkpoint=file, **fast, **change)
    file.write_bytes(b"no safetensors")
    with pytest.raises(RunError, match="is damaged"):
        train(make_model(), squares_split, checkpoint=file, **fast)
