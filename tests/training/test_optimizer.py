"""Learning rates over a phase, and which parameters an optimizer gets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from regraft.models.classifier import build
from regraft.training.optimizer import lr_factor, make_optimizer
from regraft.training.phase import Phase


def _phase(**changes: Any) -> Phase:
    values: dict[str, Any] = {
        "name": "finetune", "epochs": 4, "lr": 0.1, "optimizer": "adamw", "weight_decay": 0.05, "batch_size": 8,
        "schedule": "cosine", "warmup": 0.25, "reduce_on_plateau": 0, "plateau_factor": 10.0, "monitor": "val_accuracy",
    }  # fmt: skip
    return Phase(**{**values, **changes})


def test_a_cosine_schedule_rises_and_falls_to_zero() -> None:
    rates = [lr_factor(_phase(), p) for p in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.05
    assert rates[25] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(later >= earlier for earlier, later in pairwise(rates[:26]))
    assert all(later <= earlier for earlier, later in pairwise(rates[25:]))


def test_a_constant_schedule_stays() -> None:
    assert {lr_factor(_phase(schedule="constant", warmup=0.0), p) for p in (0, 0.5, 1)} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_the_optimizer_gets_the_trainable_parameters_and_decays_no_vectors(name: str) -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    model.freeze(model.resolve("blocks.6"))
    optimizer = make_optimizer(model, _phase(optimizer=name))
    for group in optimizer.param_groups:
        assert len({p.ndim > 1 for p in group["params"]}) == 1
        assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for _, p in model.trainable_parameters()}
