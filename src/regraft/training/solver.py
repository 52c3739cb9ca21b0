"""The solved head: multinomial logistic regression on cached features.

Enters: features of the training images (all their views) and of the validation images. Leaves: the head's weights, at
the strength that validation likes best. All strengths are solved in one path from strong to weak, each from the one
before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regraft.training.objective import Objective, Scores, score

#: Of the penalty strength / 2 * |W|^2 on standardised features, beside the mean loss; from strong to weak.
STRENGTHS: tuple[float, ...] = tuple(10.0**exponent for exponent in np.arange(1.0, -4.01, -0.5))
_ITERATIONS = 60


@dataclass(frozen=True)
class Solution:
    """The head at one strength.

    Attributes:
        strength: Of the penalty.
        weight: (C, F) for the features as they come.
        bias: (C,).
        train_loss: Of the training rows, without the penalty.
        train_accuracy: Of the training rows, 0..1.
        val: Scores on validation, or None.
        seconds: That this strength took.
    """

    strength: float
    weight: torch.Tensor
    bias: torch.Tensor
    train_loss: float
    train_accuracy: float
    val: Scores | None
    seconds: float


def solve_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Iterator[Solution]:
    """Solve the head for one strength after the other.

    Args:
        features: float32 (N, F).
        labels: int64 (N,).
        objective: The loss; smoothing and class weights hold here too.
        val: Features and labels to score on.
        strengths: Penalties, strong to weak.

    Yields:
        A `Solution` for each strength.

    Source of the method: L-BFGS, Liu and Nocedal 1989, as torch.optim.LBFGS implements it.
    """
    device = features.device
    mean = features.mean(dim=0)
    # A feature that hardly varies must not be blown up.
    deviation = features.std(dim=0, correction=0).clamp_min(1e-3 * float(features.std()) + 1e-12)
    standard = (features - mean) / deviation
    targets = objective.targets(labels.to(device))
    classes = targets.shape[1]
    weight = torch.zeros(classes, features.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(classes, device=device, requires_grad=True)
    for strength in strengths:
        started = time.perf_counter()
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_ITERATIONS,
            tolerance_grad=1e-6,
            tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )

        def closure(solver: torch.optim.LBFGS = solver, strength: float = strength) -> torch.Tensor:
            solver.zero_grad()
            loss = objective(standard @ weight.T + bias, targets) + strength / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
            return loss

        solver.step(closure)  # type: ignore[no-untyped-call]  # torch declares no types for it
        with torch.no_grad():
            plain_weight = weight / deviation
            plain_bias = bias - plain_weight @ mean
            logits = standard @ weight.T + bias
            yield Solution(
                strength=strength,
                weight=plain_weight.clone(),
                bias=plain_bias.clone(),
                train_loss=float(objective(logits, targets)),
                train_accuracy=float((logits.argmax(1) == labels.to(device)).double().mean()),
                val=None if val is None else score(objective, val[0] @ plain_weight.T + plain_bias, val[1]),
                seconds=time.perf_counter() - started,
            )


def strength_by_cross_validation(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    views: int,
    bundles: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """The strength with the least loss over folds of the training images, for data without a validation part.

    Args:
        features: (views * N, F), view after view, so that an image's views share a fold.
        labels: (views * N,).
        objective: The loss.
        views: K.
        bundles: int64 (N,), a number for each image; those with the same number share a fold. Default: each alone.
        folds: At most; never more than bundles.
        seed: Of the folds.
    """
    count = len(labels) // views
    _, first, bundle = np.unique(
        np.arange(count) if bundles is None else bundles, return_index=True, return_inverse=True
    )
    folds = max(2, min(folds, len(first)))
    fold_of = np.empty(len(first), dtype=np.int64)
    # Class by class, so that folds keep the proportions.
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels[:count].cpu().numpy()[first]))
    fold_of[order] = np.arange(len(first)) % folds
    fold = fold_of[bundle]
    of_row = torch.from_numpy(np.tile(fold, views)).to(features.device)
    losses = np.zeros(len(STRENGTHS))
    for number in range(folds):
        inside, outside = of_row != number, of_row == number
        if not inside.any() or not outside.any():  # a single bundle: there is nothing to compare
            return STRENGTHS[len(STRENGTHS) // 2]
        path = solve_path(features[inside], labels[inside], objective, val=(features[outside], labels[outside]))
        losses += [solution.val.loss for solution in path if solution.val is not None]
    return STRENGTHS[int(losses.argmin())]


def best_by_validation(solutions: Sequence[Solution]) -> Solution:
    """The solution with the least validation loss; the loss is smooth where accuracy is coarse."""

    def loss(solution: Solution) -> float:
        return solution.train_loss if solution.val is None else solution.val.loss

    return min(solutions, key=loss)
