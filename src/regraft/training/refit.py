"""Fit the chosen linear head once more, on the training and validation images together.

Input: the rows of both, and the parts of the head at the L2 strengths that were chosen. Output: one linear head. The
validation images have done their work by then; scikit-learn's searches end the same way (`refit=True`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regraft.training.activations import Activations
from regraft.training.feature_rows import FeatureRows, TensorRows
from regraft.training.linear_head import fit_path
from regraft.training.losses import Objective


@dataclass(frozen=True, eq=False)
class LinearWeights:
    """Weights (C, F) and biases (C,) of a linear head."""

    weight: torch.Tensor
    bias: torch.Tensor

    def to(self, device: torch.device) -> LinearWeights:
        """Copy both to a device."""
        return LinearWeights(self.weight.to(device), self.bias.to(device))

    def scaled(self, slope: float, offset: float = 0.0) -> LinearWeights:
        """The head whose logits are slope * z + offset."""
        return LinearWeights(slope * self.weight, slope * self.bias + offset)


@dataclass(frozen=True)
class HeadPart:
    """A head on some of the features, at an L2 strength; the logits of all parts, times `scale`, are added."""

    columns: slice
    l2: float
    scale: float = 1.0


def added(heads: Sequence[LinearWeights]) -> LinearWeights:
    """One head on the features of all heads side by side, whose logits are the sum of theirs."""
    return LinearWeights(
        torch.cat([head.weight for head in heads], dim=1), torch.stack([head.bias for head in heads]).sum(dim=0)
    )


def stacked_rows(
    train: Activations, val: Activations, targets: torch.Tensor, val_labels: torch.Tensor, weights: torch.Tensor | None
) -> tuple[TensorRows, torch.Tensor, torch.Tensor | None] | None:
    """Copies of the head's inputs of training images in K views, then of validation images, as often; None on disk.

    With their targets, and weights if the training images have some: labels become probabilities if the others are.
    """
    values, more = train.rows.values, val.rows.values
    if not (isinstance(values, torch.Tensor) and isinstance(more, torch.Tensor)):
        return None
    if targets.is_floating_point() and not val_labels.is_floating_point():
        val_labels = torch.nn.functional.one_hot(val_labels, targets.shape[1]).to(targets.dtype)
    rows = TensorRows(torch.cat([values, more[:1].expand(len(values), -1, -1)], dim=1))
    weights = None if weights is None else torch.cat([weights, weights.new_ones(len(val_labels))])
    return rows, torch.cat([targets, val_labels]), weights


def refit(
    rows: FeatureRows,
    targets: torch.Tensor,
    objective: Objective,
    parts: Sequence[HeadPart],
    *,
    weights: torch.Tensor | None = None,
) -> LinearWeights:
    """Fit each part of the head on all rows, and add them up; targets and `weights` are as in `HeadLoss`."""
    fitted = []
    for part in parts:
        (head,) = fit_path(rows.columns(part.columns), targets, objective, weights=weights, l2_values=[part.l2])
        fitted.append(LinearWeights(head.weight, head.bias).scaled(part.scale))
    return added(fitted)
