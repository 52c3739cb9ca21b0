"""Sums over the rows that a linear head is fitted on: moments of the features, and the loss with its derivatives.

Input: rows in chunks, which may be on disk or divided among processes. Output: numbers that are the same for every
division, because each sum passes through `row_sums`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from regraft.training.feature_rows import FeatureRows, TensorRows
from regraft.training.losses import Objective
from regraft.training.row_sums import gather_rows, own_shards, sum_over_shards


def row_count(rows: FeatureRows) -> int:
    """The number of rows of all processes."""
    return int(rows.bounds[-1]) * rows.views


def moments(rows: FeatureRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (F,) and deviation (F,) of the features."""
    count, size = row_count(rows), rows.features

    def partial(shard: int) -> torch.Tensor:
        sums = torch.zeros(2, size, dtype=torch.float64)
        for _, values in rows.chunks(shard):
            if not len(values):  # no image of a subset is in this shard
                continue
            mean = values.mean(dim=0).cpu().double()
            # Before the squares are added, a chunk's mean is taken off: they would lose its deviation.
            square = values.std(dim=0, correction=0).cpu().double().square() + mean.square()
            sums += len(values) * torch.stack([mean, square])
        return sums.flatten()

    mean, square = (sum_over_shards(partial, len(rows.bounds) - 1, 2 * size) / count).view(2, size)
    variance = (square - mean.square()).clamp_min(0)
    overall = (variance + (mean - mean.mean()).square()).sum() * count / max(1, count * size - 1)
    # The lower bound keeps nearly constant features from being blown up.
    deviation = variance.sqrt().float().clamp_min(1e-3 * float(overall.sqrt()) + 1e-12)
    return mean.float().to(rows.device), deviation.to(rows.device)


def covariance(rows: FeatureRows) -> torch.Tensor:
    """Second moments (F, F) of standardized rows."""
    size = rows.features

    def partial(shard: int) -> torch.Tensor:
        total = torch.zeros(size, size, dtype=torch.float64)
        for _, values in rows.chunks(shard):
            total += (values.T @ values).cpu()
        return total.flatten()

    total = sum_over_shards(partial, len(rows.bounds) - 1, size * size)
    return (total / row_count(rows)).float().view(size, size).to(rows.device)


def logits_of(rows: FeatureRows, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits of all images, float32 (N, C); of classes with an order what `Objective.logits` takes, (N, C-1)."""

    def of_shard(shard: int) -> torch.Tensor:
        return torch.cat([values @ weight.T + bias for _, values in rows.chunks(shard)])

    return gather_rows(of_shard, rows.bounds, len(bias), rows.device)


class HeadLoss:
    """The mean loss of standardized rows, as a function of weight (C, F) and bias (C,), summed chunk by chunk.

    Those of classes with an order are (1, F) and (C-1,), the falling intercepts (`Objective.linear_shapes`).

    `labels` are class indices, int64 (N,), or class probabilities, float32 (N, C), and `weights` those of the images in
    the mean beside the weights of their classes, float32 (N,); None: all have the same.
    """

    def __init__(
        self, rows: FeatureRows, labels: torch.Tensor, objective: Objective, weights: torch.Tensor | None = None
    ) -> None:
        self.rows, self.objective = rows, objective
        self.labels = labels.to(rows.device)
        self.weights = None if weights is None else weights.to(rows.device)
        self.shards, self.count = len(rows.bounds) - 1, row_count(rows)
        self.class_weights = objective.class_weights.to(rows.device, torch.float32)
        # What is in memory is divided into chunks only once.
        self._kept = {s: list(self._chunks(s)) for s in own_shards(self.shards)} if isinstance(rows, TensorRows) else {}
        views = rows.views

        def sum_of_weights(shard: int) -> torch.Tensor:
            images = slice(int(rows.bounds[shard]), int(rows.bounds[shard + 1]))
            if self.labels.ndim == 1 and self.weights is None:
                return self.class_weights[self.labels[images].repeat(views)].sum().view(1)
            return views * self._targets(images)[1].sum().view(1)

        self.total_weight = float(sum_over_shards(sum_of_weights, self.shards, 1))

    def _targets(self, images: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Target probabilities (n, C) and weights (n,) of some images."""
        targets = self.labels[images] if self.labels.ndim == 2 else self.objective.targets(self.labels[images])
        weights = self.objective.weights(targets)
        return targets, weights if self.weights is None else weights * self.weights[images]

    def _chunks(self, shard: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rows, targets and weights of each chunk of a shard."""
        for images, values in self.rows.chunks(shard):
            yield values, *self._targets(images)

    def chunks(self, shard: int) -> Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rows, targets and weights of each chunk of a shard, which are kept if the rows are in memory."""
        return self._kept[shard] if self._kept else self._chunks(shard)

    def _of_chunk(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (self.objective.per_image(logits, targets) * weights).sum() / self.total_weight

    def gradient(self, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The loss, and its derivatives by all weights and biases, float64 (1 + C F + C,) on the CPU."""
        inputs = [weight.detach().requires_grad_(), bias.detach().requires_grad_()]
        size = 1 + weight.numel() + bias.numel()

        def partial(shard: int) -> torch.Tensor:
            total = torch.zeros(size, dtype=torch.float64)
            for values, targets, weights in self.chunks(shard):
                logits = self.objective.logits(values @ inputs[0].T + inputs[1])
                value = self._of_chunk(logits, targets, weights)
                gradients = torch.autograd.grad(value, inputs)
                total += torch.cat([value.detach().view(1), *(g.flatten() for g in gradients)]).cpu()
            return total

        return sum_over_shards(partial, self.shards, size)

    def evaluate(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
        """Mean loss, and accuracy in 0..1."""

        def partial(shard: int) -> torch.Tensor:
            total = torch.zeros(2, dtype=torch.float64)
            for values, targets, weights in self.chunks(shard):
                logits = self.objective.logits(values @ weight.T + bias)
                correct = self.objective.hits(logits, targets).double().sum()
                total += torch.stack([self._of_chunk(logits, targets, weights).double(), correct]).cpu()
            return total

        value, correct = sum_over_shards(partial, self.shards, 2).tolist()
        return value, correct / self.count
