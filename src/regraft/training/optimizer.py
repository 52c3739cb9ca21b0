"""The optimizer of a phase, and its learning rate at each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from regraft.models.classifier import Classifier
from regraft.quick_imports import without_compiler
from regraft.training.sharded_tail import is_divided

if TYPE_CHECKING:
    from regraft.training.phase import Phase


def lr_factor(phase: Phase, progress: float) -> float:
    """Learning rate at `progress` (0..1) through the phase, as a share of its highest value.

    Linear warm-up, then half a cosine to zero (arXiv 1608.03983) or constant.
    """
    if progress < phase.warmup:
        return max(progress / phase.warmup, 0.01)
    if phase.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - phase.warmup) / (1 - phase.warmup)))


def make_optimizer(model: Classifier, phase: Phase) -> torch.optim.Optimizer:
    """An optimizer of the trainable parameters, without weight decay on vectors (biases, norms).

    Lower stages have lower learning rates (arXiv 1801.06146).
    """
    parts = [list(model.head.parameters()), *(list(stage.parameters()) for stage in reversed(model.stages))]
    groups = [
        {"params": chosen, "weight_decay": decay, "lr_share": phase.layer_decay**depth}
        for depth, part in enumerate(parts)
        for decay, chosen in (
            (phase.weight_decay, [p for p in part if p.requires_grad and p.ndim > 1]),
            (0.0, [p for p in part if p.requires_grad and p.ndim <= 1]),
        )
        if chosen
    ]
    # A fused optimizer passes over the weights once instead of a dozen times; divided weights have not all of them.
    is_whole = not any(is_divided(p) for p in model.parameters())
    fused = is_whole and model.mean.device.type in ("cpu", "cuda")
    with without_compiler():
        optimizer = _make(groups, phase, fused)
        # Methods that import the compiler when they are first called; `step` does so each time.
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def _make(groups: list[dict[str, Any]], phase: Phase, fused: bool) -> torch.optim.Optimizer:
    if phase.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=phase.lr, fused=fused)
    if phase.optimizer == "adam":
        return torch.optim.Adam(groups, lr=phase.lr, fused=fused)
    if phase.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=phase.lr)
    return torch.optim.SGD(groups, lr=phase.lr, momentum=phase.momentum, nesterov=phase.momentum > 0, fused=fused)
