"""Settings of a training are checked when they are made."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from regraft.errors import ConfigError
from regraft.training.options import TrainingOptions

KERAS_VALUES: dict[str, Any] = {
    "optimizer": "RMSprop", "head_optimizer": "SGD", "loss": "sparse_categorical_crossentropy",
    "precision": "mixed_bfloat16", "monitor": "val_acc", "device": "CPU", "schedule": "Constant",
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_epochs": -1},
        {"batch_size": 0},
        {"views": 257},
        {"label_smoothing": 1.0},
        {"layer_decay": 0.0},
        {"plateau_factor": 1.0},
        {"seed": 2**32},
        {"optimizer": "lbfgs"},
        {"precision": "fp8"},
        {"finetune_epoch": 3},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingOptions(**wrong)


def test_a_boundary_is_a_name_or_a_number() -> None:
    assert [TrainingOptions(finetune_from=value).finetune_from for value in ("auto", "-20", 100)] == [
        "auto",
        "-20",
        100,
    ]


def test_values_of_keras_are_accepted_in_any_case() -> None:
    options = TrainingOptions(**KERAS_VALUES)
    assert (options.optimizer, options.head_optimizer, options.loss) == ("rmsprop", "sgd", "cross_entropy")
    assert (options.precision, options.monitor, options.device) == ("bf16", "val_accuracy", "cpu")
    assert options.schedule == "constant"
    assert TrainingOptions(**dict(KERAS_VALUES, loss="BinaryCrossentropy")).loss == "binary_cross_entropy"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({0: 1, 1: 3}, {"0": 1, "1": 3}),
        ({"cat": 1, "dog": 3.5}, {"cat": 1, "dog": 3.5}),
        ("cat=1,dog=3.5", {"cat": 1, "dog": 3.5}),
        ("{0: 1., 'a:b': 3}", {"0": 1, "a:b": 3}),
        ("Balanced", "balanced"),
        (None, "none"),
    ],
)
def test_class_weights(given: Any, meant: Any) -> None:
    assert TrainingOptions(class_weights=given).class_weights == meant


@pytest.mark.parametrize("wrong", [{"cat": 0}, {"cat": "x"}, "cat=", [1, 3], "equal", {"cat": float("nan")}])
def test_wrong_class_weights_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="class_weights"):
        TrainingOptions(class_weights=wrong)


def test_every_setting_has_a_default_within_its_limits_and_a_description() -> None:
    TrainingOptions(**{field.name: getattr(TrainingOptions(), field.name) for field in fields(TrainingOptions)})
    for name, info in TrainingOptions.__pydantic_fields__.items():  # type: ignore[attr-defined]
        assert info.description, name
