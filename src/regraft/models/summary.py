"""The layers of a model, as people know the table from Keras.

Enters: a `Classifier`. Leaves: one row a layer, in the order that data flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.models.classifier import Classifier


@dataclass(frozen=True)
class Layer:
    """One row of the summary.

    Attributes:
        number: Counted from 0 over the backbone's layers, as `finetune_from = 100` counts them; None in the head.
        stage: Name of the stage that it belongs to; `head` in the head.
        name: In the state dict.
        kind: Class of the module.
        shape: Of its output for one image, without the batch.
        parameters: How many it has.
        trainable: Whether any of them trains.
    """

    number: int | None
    stage: str
    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    trainable: bool


def summarise(model: Classifier) -> list[Layer]:
    """List the layers with shapes and parameters.

    The model is run once on a grey image; nothing of it changes.
    """
    named = [(stage.name, name, module) for stage in model.stages for name, module in stage.layers()]
    inside_head = [
        ("head", f"head.{name}", module)
        for name, module in model.head.named_modules()
        if not any(True for _ in module.children())
    ]
    with _shapes([module for _, _, module in named + inside_head]) as shapes, torch.inference_mode():
        size = model.preprocessing.size
        model(torch.full((1, 3, size, size), 128, dtype=torch.uint8, device=model.mean.device))
    rows = [
        _row(i if i < len(named) else None, stage, name, module, shapes.get(id(module), ()))
        for i, (stage, name, module) in enumerate(named + inside_head)
    ]
    loose = [
        Layer(None, stage.name, name, "Parameter", tuple(p.shape), p.numel(), p.requires_grad)
        for stage in model.stages
        for name, p in stage.loose
    ]
    return loose + rows


def _row(number: int | None, stage: str, name: str, module: nn.Module, shape: tuple[int, ...]) -> Layer:
    own = list(module.parameters(recurse=False))
    return Layer(
        number,
        stage,
        name,
        type(module).__name__,
        shape,
        sum(p.numel() for p in own),
        any(p.requires_grad for p in own),
    )


@contextmanager
def _shapes(modules: list[nn.Module]) -> Iterator[dict[int, tuple[int, ...]]]:
    shapes: dict[int, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            shapes[id(module)] = tuple(output.shape[1:])

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()
