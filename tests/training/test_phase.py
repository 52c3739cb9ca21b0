from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from regraft.data.dataset import Split
from regraft.models.classifier import Classifier, build
from regraft.training.phase import Phase, lr_factor, make_optimizer
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]


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


def _compile_by(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Give torch's compiler a backend that needs no C++; returns what was compiled."""
    compiled: list[Any] = []
    compile_with = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda what: compiled.append(what) or compile_with(what, backend=backend))
    return compiled


@pytest.mark.parametrize("start", ["last", "all"])
def test_compiled_steps_train_the_same(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    fast = fast | {"finetune_epochs": 1}
    plain = train(make_model(), squares_split, finetune_from=start, precision="off", **fast)
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = _compile_by(counting, monkeypatch)
    result = train(make_model(), squares_split, finetune_from=start, precision="off", compile=True, **fast)
    assert len(compiled) == 1
    assert graphs
    losses = [[row.train_loss for row in run.history if row.phase == "finetune"] for run in (plain, result)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_where_nothing_compiles_the_head_is_kept(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler\nand a long trace")

    _compile_by(fails, monkeypatch)
    result = train(make_model(), squares_split, compile=True, **fast)
    assert result.error is not None
    assert "no compiler). Train with training.compile = false." in result.error
    assert result.history == []

    def refuses(what: Any) -> Any:
        raise RuntimeError("Dynamo is not supported on Python 9.9+")

    monkeypatch.setattr(torch, "compile", refuses)
    result = train(make_model(), squares_split, compile=True, **fast)
    assert result.error is not None
    assert "not supported on Python 9.9+). Train with training.compile = false." in result.error
