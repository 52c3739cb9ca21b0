"""The last layer of a head for classes that have an order: one score for each image, and a threshold between classes.

In the proportional odds model (McCullagh 1980, JRSS B 42, 109-142) the log-odds that the class of an image is above the
k-th one are `score + intercept_k`, with intercepts that fall with k: the cumulative logits. What leaves the layer are
the logarithms of the classes' probabilities, of which a softmax makes these probabilities again, so all that reads
logits of classes can read them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

#: The least difference of two intercepts; a class between them has at most a quarter of it as probability.
LEAST_GAP = 1e-3


def log_probabilities(cumulative: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
    """Cumulative logits c (N, C-1), which fall along a row by `gaps` (C-2,) or (N, C-2), to log-probabilities (N, C).

    A class between two thresholds has the probability sigmoid(c_k-1) - sigmoid(c_k), which is
    sigmoid(c_k-1) sigmoid(-c_k) (1 - exp(-gap)): three factors whose logarithms never overflow.
    """
    above, below = -functional.softplus(-cumulative), -functional.softplus(cumulative)
    return functional.pad(above, (1, 0)) + functional.pad(below, (0, 1)) + functional.pad(_log_shares(gaps), (1, 1))


def even_intercepts(classes: int) -> torch.Tensor:
    """Intercepts, (C-1,), with which all classes have the same probability at a score of 0."""
    return torch.logit(torch.arange(classes - 1, 0, -1) / classes)


def _log_shares(gaps: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(-gap)), exact also for small gaps."""
    return torch.log(-torch.expm1(-gaps.clamp_min(LEAST_GAP)))


class CumulativeLayer(nn.Module):
    """A linear layer to one score, and C-1 falling intercepts: features (N, F) to log-probabilities (N, C).

    The first intercept is `bias`, and `raw_gaps` are the differences of each to the next before a softplus, so that
    they stay positive while the layer trains.
    """

    def __init__(self, features: int, classes: int) -> None:
        """Draw the weight as `nn.Linear` does; with a score of 0 all classes have the same probability."""
        super().__init__()
        self.in_features, self.out_features = features, classes
        self.weight = nn.Parameter(nn.Linear(features, 1).weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(1))
        self.raw_gaps = nn.Parameter(torch.zeros(classes - 2))
        self.set_linear(self.weight.detach(), even_intercepts(classes))

    @torch.no_grad()
    def set_linear(self, weight: torch.Tensor, intercepts: torch.Tensor) -> None:
        """Take a weight (1, F), and intercepts (C-1,) that fall."""
        self.weight.copy_(weight)
        self.bias.copy_(intercepts[:1])
        gaps = (intercepts[:-1] - intercepts[1:]).clamp_min(LEAST_GAP).double()
        self.raw_gaps.copy_(torch.log(torch.expm1(gaps)))

    @property
    def gaps(self) -> torch.Tensor:
        """Differences of each intercept to the next, (C-2,)."""
        return functional.softplus(self.raw_gaps)

    @property
    def intercepts(self) -> torch.Tensor:
        """Falling intercepts, (C-1,)."""
        return torch.cat([self.bias, self.bias - self.gaps.cumsum(0)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to log-probabilities (N, C)."""
        return log_probabilities(functional.linear(features, self.weight) + self.intercepts, self.gaps)

    def constant(self) -> ConstantCumulativeLayer:
        """The same function without anything to train, in operations that every export format has."""
        return ConstantCumulativeLayer(self)


class ConstantCumulativeLayer(nn.Module):
    """`CumulativeLayer.forward` with its intercepts computed, and matrices in the place of padding."""

    def __init__(self, layer: CumulativeLayer) -> None:
        super().__init__()
        with torch.no_grad():
            intercepts, gaps = layer.intercepts, layer.gaps
            steps = len(intercepts)
            self.score = nn.Linear(layer.weight.shape[1], steps)
            self.score.weight.copy_(layer.weight.expand(steps, -1))
            self.score.bias.copy_(intercepts)
            self.above, self.below = nn.Linear(steps, steps + 1), nn.Linear(steps, steps + 1, bias=False)
            self.above.weight.copy_(-torch.eye(steps + 1)[:, 1:])
            self.below.weight.copy_(-torch.eye(steps + 1)[:, :-1])
            self.above.bias.copy_(functional.pad(_log_shares(gaps), (1, 1)))
        self.requires_grad_(False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to log-probabilities (N, C)."""
        cumulative = self.score(features)
        logs: torch.Tensor = self.above(functional.softplus(-cumulative)) + self.below(functional.softplus(cumulative))
        return logs
