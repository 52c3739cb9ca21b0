"""List the layers of a `Classifier` in the order of the forward pass, like Keras's `summary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.models.classifier import Classifier
from regraft.models.stages import Stage
from regraft.text import pluralize


@dataclass(frozen=True)
class Layer:
    """One row of the summary."""

    number: int | None  # among the backbone's layers, as in `finetune_from = 100`; None in the head
    stage: str  # `head` in the head
    name: str  # as in the state dict
    kind: str  # class of the module
    shape: tuple[int, ...]  # of the output for one image
    parameters: int
    trainable: bool


@dataclass(frozen=True)
class Summary:
    """The layers of a model, and what of it trains; `print` shows a table.

    Attributes:
        title: Backbone, classes and input size.
        layers: Layers in the order of the forward pass.
        megabytes: Size of the weights in 10^6 bytes.
    """

    title: str
    layers: tuple[Layer, ...]
    megabytes: float

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that train above the freeze boundary."""
        return sum(layer.parameters for layer in self.layers if layer.trainable)

    def __str__(self) -> str:
        rows = [("stage", "layer", "kind", "output", "parameters", "")]
        for layer in self.layers:
            state = "" if not layer.parameters else "trainable" if layer.trainable else "frozen"
            shape = " x ".join(map(str, layer.shape))
            rows.append((layer.stage, layer.name, layer.kind, shape, f"{layer.parameters:,}", state))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        total, trainable = self.parameters, self.trainable_parameters
        return (
            f"{self.title}\n\n" + "\n".join(table) + f"\n\nTotal parameters      {total:>13,}   "
            f"({self.megabytes:.1f} MB)\nTrainable parameters  {trainable:>13,}\n"
            f"Frozen parameters     {total - trainable:>13,}"
        )

    __repr__ = __str__


def stages_of(model: Classifier) -> list[tuple[str, str, Stage]]:
    """The stages of the backbone, or of each of several: the name to show, the prefix of its layers, and the stage."""
    if not model.members:
        return [(stage.name, "", stage) for stage in model.stages]
    return [
        (f"{member.spec.name} {stage.name}", f"members.{index}.backbone.", stage)
        for index, member in enumerate(model.members)
        for stage in member.stages
    ]


def summary_of(model: Classifier) -> Summary:
    """Summarize a model; it runs once and does not change."""
    height, width = model.preprocessing.shape
    channels = "" if model.preprocessing.channels == 3 else f" of {pluralize(model.preprocessing.channels, 'channel')}"
    title = f"{model.spec.name}, {len(model.classes)} classes, input {height} x {width} pixels{channels}"
    return Summary(title, tuple(summarize(model)), model.megabytes())


def summarize(model: Classifier) -> list[Layer]:
    """List the layers with output shapes and parameters; the model runs once and does not change."""
    backbone = [
        (shown, prefix + name, module) for shown, prefix, stage in stages_of(model) for name, module in stage.layers()
    ]
    leaves = [(name, module) for name, module in model.head.named_modules() if not list(module.children())]
    head = [("head", f"head.{name}", module) for name, module in leaves]
    shapes = dict[int, tuple[int, ...]]()

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            shapes[id(module)] = tuple(output.shape[1:])

    handles = [module.register_forward_hook(record) for _, _, module in backbone + head]
    try:
        with torch.inference_mode():
            model(torch.full((1, *model.preprocessing.input_shape), 128, dtype=torch.uint8, device=model.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    rows = [
        Layer(None, shown, prefix + name, "Parameter", tuple(p.shape), p.numel(), p.requires_grad)
        for shown, prefix, stage in stages_of(model)
        for name, p in stage.parameters_outside_modules
    ]
    for i, (stage_name, name, module) in enumerate(backbone + head):
        own = list(module.parameters(recurse=False))
        number, shape = i if i < len(backbone) else None, shapes.get(id(module), ())
        count, trainable = sum(p.numel() for p in own), any(p.requires_grad for p in own)
        rows.append(Layer(number, stage_name, name, type(module).__name__, shape, count, trainable))
    return rows
