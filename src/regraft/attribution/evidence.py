"""Grad-CAM without gradients, for models whose logits are a linear function of their last maps.

Such a model has one weight for each class and channel, so a graph without gradients can return the evidence for every
class at every position, and Grad-CAM of any class follows from it and the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from regraft.attribution.cam import default_stage, maps_of_stage, to_heat_maps
from regraft.data.labels import Task
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.models.head import Activation
from regraft.models.inference import Predictor
from regraft.models.torch_defaults import torch_defaults

#: Number of classes whose gradients are computed in one pass.
_CLASSES = 16


@dataclass(frozen=True)
class Evidence:
    """What a model that carries its evidence returns for N images.

    Attributes:
        probabilities: float64 (N, classes).
        logits: float32 (N, classes).
        maps: Evidence for each class at each position, float32 (N, classes, H, W): the maps weighted by the mean
            gradient of the logit. With average pooling the mean over the positions is what they add to the logit.
    """

    probabilities: np.ndarray
    logits: np.ndarray
    maps: np.ndarray


class EvidencePredictor(Predictor, Protocol):
    """A model in another runtime than PyTorch, perhaps with maps."""

    def check_maps(self) -> dict[str, Any]:
        """Return `stage`, its name, `grid`, its rows and columns, and the head's `activation`; UsageError if none."""

    def evidence(self, images: np.ndarray) -> Evidence:
        """Images, uint8 (N, S, S, C), to the evidence."""


@torch_defaults()
def evidence_weights(model: Classifier) -> tuple[int, torch.Tensor]:
    """Return the index of the last spatial stage, and weights, float32 (classes, channels), of its maps.

    They are the gradients of the logits, summed over the positions, so Grad-CAM has the same weights up to a factor.
    Raises UsageError if the model has no such stage, or if the weights depend on the image: behind a hidden layer, an
    activation, a normalization or attention.
    """
    if model.members:
        raise UsageError("Several backbones have maps of their own, which an export does not return. The run has them.")
    try:
        stage = default_stage(model, "gradcam")
    except UsageError as error:
        raise UsageError(f"{model.spec.name} has no stage with spatial axes, which maps need.") from error
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, *model.preprocessing.input_shape), generator=generator, dtype=torch.uint8)
    weights, others = (_summed_gradients(model, image[None].to(model.mean.device), stage) for image in noise)
    if not torch.allclose(weights, others, rtol=1e-3, atol=1e-5 * float(weights.abs().max())):
        raise UsageError(
            f"The logits of this model are no linear function of the maps of its stage {model.stages[stage].name}, so "
            "its heat maps need gradients, which an export does not have. `regraft explain RUN` explains the run."
        )
    return stage, weights


def gradcam_from_evidence(
    evidence: Evidence,
    targets: np.ndarray,
    *,
    activation: Activation,
    shape: tuple[int, int],
    task: Task = "classification",
) -> torch.Tensor:
    """Grad-CAM of a class, int64 (N,), for each of N images, as `explain_pixels`: float32 (N, H, W) in [0, 1]."""
    coefficients = np.eye(evidence.logits.shape[1])[targets]  # the logit is the log-odds of one of several labels
    if task == "classification":
        coefficients = _log_odds_gradient(evidence.logits.astype(np.float64), targets, activation)
    maps = np.einsum("nk,nkhw->nhw", coefficients, evidence.maps.astype(np.float64))
    return to_heat_maps(torch.from_numpy(maps.astype(np.float32)), shape)


def _log_odds_gradient(logits: np.ndarray, targets: np.ndarray, activation: Activation) -> np.ndarray:
    """Gradient (N, classes) of the log-odds of each image's class, which `explain_pixels` explains, by the logits."""
    chosen = np.arange(logits.shape[1]) == targets[:, None]
    scores = logits if activation == "softmax" else -np.logaddexp(0.0, -logits)  # log sigmoid
    others = np.where(chosen, -np.inf, scores)
    shares = np.exp(others - others.max(axis=1, keepdims=True))
    gradient: np.ndarray = np.where(chosen, 1.0, -shares / shares.sum(axis=1, keepdims=True))
    return gradient if activation == "softmax" else gradient * np.exp(-np.logaddexp(0.0, logits))  # sigmoid(-x)


def _summed_gradients(model: Classifier, pixels: torch.Tensor, stage: int) -> torch.Tensor:
    to_maps = maps_of_stage(model, stage)
    with torch.no_grad():
        below = model.activations(pixels, stage)
        output = model.stages[stage].forward(below.values)
    rows = []
    for classes in torch.split(torch.arange(len(model.classes), device=pixels.device), _CLASSES):
        with torch.enable_grad():
            values = output.expand(len(classes), *output.shape[1:]).clone().requires_grad_()
            inputs = model.append_taps(stage, values, below.taps.expand(len(classes), -1))
            logits = model.forward_from(inputs, stage + 1)
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), values)
        rows.append(to_maps(gradient).sum(dim=(2, 3)))
    return torch.cat(rows)
