from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from regraft.data.dataset import Split
from regraft.models.classifier import Classifier
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]


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
