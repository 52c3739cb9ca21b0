"""One answer for each group of images: the rows that the head is fitted on, and what the network says of a group.

Input: the split of a data set whose groups get one answer each. Output: the mean features of each group, its label, and
the mean of its images' logits. The head is linear, so the logits of the mean features are the mean of the logits; of
classes with an order they are those of the mean of the cumulative logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from regraft.data.dataset import Split
from regraft.data.pooled_answers import pool_ordered
from regraft.data.pooling import Groups, check_groups, groups_of
from regraft.training.activations import Activations, CachedTensor
from regraft.training.losses import Objective

#: Rows that are read at once.
_ROWS = 8192


@dataclass(frozen=True, eq=False)
class PooledGroups:
    """The groups of the training and the validation images."""

    train: Groups
    val: Groups

    @classmethod
    def of(cls, split: Split) -> PooledGroups | None:
        """Those of a split; None where each image gets an answer. Raises `DataError` as `check_groups`."""
        check_groups(split.dataset)
        train, val = groups_of(split.train), groups_of(split.val)
        return None if train is None or val is None else cls(train, val)


def mean_rows(values: torch.Tensor, groups: Groups) -> torch.Tensor:
    """The mean over the images of each group, float32 (G, ...), of rows (N, ...)."""
    return _mean([(slice(0, len(values)), values)], groups)


def logits_of_groups(logits: torch.Tensor, groups: Groups, objective: Objective) -> torch.Tensor:
    """Logits of each group, float32 (G, C), which those of its mean features are, of logits (N, C) of their images."""
    if objective.ordered:  # whose logits are log-probabilities, and not linear in the features
        return torch.from_numpy(pool_ordered(logits.cpu().numpy(), groups)).to(logits.device, torch.float32)
    return mean_rows(logits, groups)


def means_of(inputs: Activations, labels: torch.Tensor, groups: Groups) -> tuple[Activations, torch.Tensor]:
    """Inputs of the head for each group, the mean of those of its images in each view, and its label."""
    count = len(groups.numbers)
    chunks = [slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]
    means = [_mean(((rows, inputs.rows.take(view, rows)) for rows in chunks), groups) for view in range(inputs.views)]
    pooled = Activations(inputs.boundary, CachedTensor(torch.stack(means)))
    return pooled, labels[torch.from_numpy(groups.firsts)]


def _mean(chunks: Iterable[tuple[slice, torch.Tensor]], groups: Groups) -> torch.Tensor:
    """The mean of the rows of each group, which come in chunks of images, in order."""
    sums: torch.Tensor | None = None
    for rows, values in chunks:
        sums = torch.zeros(len(groups), *values.shape[1:], device=values.device) if sums is None else sums
        sums.index_add_(0, torch.from_numpy(groups.numbers[rows]).to(values.device), values.float())
    assert sums is not None
    return sums / torch.from_numpy(groups.sizes).to(sums.device).reshape(-1, *[1] * (sums.ndim - 1))


def accuracy_of_groups(logits: torch.Tensor, labels: torch.Tensor, groups: Groups, objective: Objective) -> float:
    """Share of right groups (`Objective.hits`), 0..1, of logits (N, C) and labels of their images."""
    firsts = torch.from_numpy(groups.firsts)
    hits = objective.hits(logits_of_groups(logits, groups, objective), objective.targets(labels[firsts]))
    return float(hits.double().mean())
