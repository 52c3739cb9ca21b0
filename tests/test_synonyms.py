"""Words of other tools."""

from __future__ import annotations

from typing import Literal

import pytest

from regraft.config import setting_names
from regraft.synonyms import (
    _SAME_SETTINGS,
    advice_on,
    canonical,
    plain,
    setting_names_like,
    settings_like,
    spelled_like,
)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("training.learning_rate", ["training.finetune_lr", "training.head_lr"]),
        ("lr", ["training.finetune_lr", "training.head_lr"]),
        ("epochs", ["training.finetune_epochs", "training.head_epochs"]),
        ("training.patience", ["training.early_stopping"]),
        ("training.class_weight", ["training.class_weights"]),
        ("validation_split", ["data.val"]),
        ("model.imgsz", ["model.image_size"]),
        ("training.bs", ["training.batch_size"]),
        ("model", ["model.backbone"]),
        ("pretrained", ["model.weights"]),
        ("data.rotation", ["augmentation.rotation"]),
        ("horizontal_flip", ["augmentation.flip"]),
        ("data.path", ["run.data"]),
        ("output_dir", ["run.out"]),
        ("callbacks", ["training.early_stopping", "training.reduce_on_plateau", "training.keep_epoch"]),
        ("training.finetune_epoch", ["training.finetune_epochs"]),
    ],
)
def test_words_mean_settings(word: str, meant: list[str]) -> None:
    assert settings_like(word, setting_names())[: len(meant)] == meant


def test_the_table_is_in_order() -> None:
    words = [word for row in _SAME_SETTINGS.values() for word in row.split()]
    assert len(words) == len(set(words))
    assert all(word == plain(word) for word in words)


def test_names_of_settings_alone() -> None:
    assert setting_names_like("finetune_epochs") == ["training.finetune_epochs"]
    assert setting_names_like("epochs") == ["training.finetune_epochs", "training.head_epochs"]
    assert setting_names_like("trials") == []
    assert set().union(*_SAME_SETTINGS) <= set(setting_names())


def test_what_needs_no_setting_is_explained() -> None:
    assert "inside the network" in advice_on("augmentation.rescale")
    assert not any(advice_on(name) for name in setting_names())


def test_values_are_recognized_in_any_case_and_others_stay() -> None:
    known = ("avg", "binary_cross_entropy")
    assert canonical("Binary-Cross Entropy", known) == "binary_cross_entropy"
    assert canonical("mean", known, {"mean": "avg"}) == "avg"
    assert canonical("other", known) == "other"
    assert canonical(3, known) == 3
    assert spelled_like(Literal["adam", "sgd"])("Adam") == "adam"
