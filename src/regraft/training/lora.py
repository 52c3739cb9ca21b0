"""Low-rank adapters (LoRA, Hu et al. 2022, arXiv 2106.09685) of a transformer's linear layers, by the library peft.

Input: a `Classifier` before its training. Output: the same with adapters, which alone train; merged into the weights,
it is an ordinary model again. An adapter starts as zero, so the model's outputs do not change when it is attached.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier

_NAME = "default"  # peft's name of the only adapter of a layer


def check_lora(model: Classifier, boundary: int) -> None:
    """Raise `MissingExtraError` without peft, and `UsageError` if no attention is above the boundary."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("training.finetune_method = lora", "lora")
    if not any(".attn" in name for name in _linear_layers(model, boundary)):
        raise UsageError(
            "training.finetune_method = lora adapts the linear layers of a transformer, and "
            f"{model.spec.name} has no attention from {model.stages[boundary].name} on. Use finetune_method = full."
        )


def attach(model: Classifier, boundary: int, *, rank: int, alpha: float, seed: int) -> None:
    """Give the linear layers from `boundary` on adapters of this rank, scaled by alpha / rank, and freeze the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that peft imports
        from peft import LoraConfig, inject_adapter_in_model

        layers = _linear_layers(model, boundary)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]  # it divides
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model.backbone, adapter_name=_NAME)
    model.freeze(boundary)


def adapter_parameters(model: Classifier, boundary: int, rank: int) -> int:
    """Number of parameters that `attach` would add: two matrices for each layer, from its inputs and to its outputs."""
    layers = (model.backbone.get_submodule(name) for name in _linear_layers(model, boundary))
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers if isinstance(layer, nn.Linear))


@contextmanager
def merged(model: Classifier) -> Iterator[None]:
    """A context in which the adapters, if there are any, are part of the weights, and the model is an ordinary one."""
    adapters = _adapters(model)
    originals = [layer.get_base_layer().weight.data for _, _, layer in adapters]
    _merge(adapters)
    try:
        yield
    finally:
        for (parent, name, layer), weight in zip(adapters, originals, strict=True):
            layer.get_base_layer().weight.data = weight  # the very bits from before
            setattr(parent, name, layer)


@contextmanager
def merged_finally(model: Classifier) -> Iterator[None]:
    """A context which the model leaves as an ordinary one, with the adapters of this moment in its weights."""
    try:
        yield
    finally:
        if adapters := _adapters(model):
            _merge(adapters)
            model.freeze(model.boundary)


@torch.no_grad()
def _merge(adapters: list[tuple[nn.Module, str, Any]]) -> None:
    for parent, name, layer in adapters:
        base = layer.get_base_layer()
        base.weight.data = base.weight.data + layer.get_delta_weight(_NAME)
        setattr(parent, name, base)


def _adapters(model: Classifier) -> list[tuple[nn.Module, str, Any]]:
    """Parent, name and layer of each adapter."""
    return [
        (parent, name, layer)
        for parent in model.backbone.modules()
        for name, layer in parent.named_children()
        if hasattr(layer, "lora_A")
    ]


def _linear_layers(model: Classifier, boundary: int) -> list[str]:
    """Names of the linear layers from a boundary on that are called as modules, in the order of the network.

    Some networks read a layer's weight instead (EVA with a bias for the queries), which would pass by an adapter.
    """
    called: set[nn.Module] = set()
    stages = model.stages[boundary:]
    wholes = {module for stage in stages for _, module in stage.modules}  # a stage keeps the module that it calls
    layers = {
        layer: name
        for name, layer in model.backbone.named_modules()
        if isinstance(layer, nn.Linear) and layer not in wholes
    }
    handles = [layer.register_forward_hook(lambda layer, *_: called.add(layer)) for layer in layers]
    try:
        with torch.no_grad():
            inputs = model.activations(
                torch.zeros(1, *model.preprocessing.input_shape, device=model.mean.device), boundary
            )
            called.clear()
            model.forward_tail(inputs, boundary)
    finally:
        for handle in handles:
            handle.remove()
    return [name for layer, name in layers.items() if layer in called]
