from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from regraft.models.classifier import build
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.loop import Phase, make_optimizer, rate


def _phase(**changes: Any) -> Phase:
    values: dict[str, Any] = {
        "name": "finetune", "epochs": 4, "lr": 0.1, "optimizer": "adamw", "weight_decay": 0.05, "batch_size": 8,
        "schedule": "cosine", "warmup": 0.25, "reduce_on_plateau": 0, "plateau_factor": 10.0, "monitor": "val_accuracy",
    }  # fmt: skip
    return Phase(**{**values, **changes})


def test_cosine_rises_then_falls_to_zero() -> None:
    rates = [rate(_phase(), p) for p in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.05
    assert rates[25] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(later >= earlier for earlier, later in pairwise(rates[:26]))
    assert all(later <= earlier for earlier, later in pairwise(rates[25:]))


def test_constant_stays() -> None:
    assert {rate(_phase(schedule="constant", warmup=0.0), p) for p in (0, 0.5, 1)} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_only_weights_decay_and_only_what_trains_is_given(name: str) -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    model.freeze(model.resolve("blocks.6"))
    optimizer = make_optimizer(model, _phase(optimizer=name))
    for group in optimizer.param_groups:
        assert len({p.ndim > 1 for p in group["params"]}) == 1
        assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for _, p in model.trainable()}


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_precision("off", cpu) == torch.float32
    assert choose_precision("bf16", cpu) == torch.bfloat16
    assert choose_precision("auto", cpu) in (torch.bfloat16, torch.float32)
