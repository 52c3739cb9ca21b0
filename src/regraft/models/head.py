"""The new classifier on top of a backbone.

Enters: features (N, F). Leaves: logits (N, classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

Activation = Literal["softmax", "sigmoid"]


class Head(nn.Module):
    """Linear, or with hidden layers: (Dense, ReLU, Dropout) for each width, then Dense.

    Args:
        features: F, length of a feature vector.
        classes: Number of logits.
        widths: Of the hidden layers; empty for a linear head.
        dropout: Share of the inputs of the last layer that are dropped in training, 0 <= dropout < 1.
        activation: `softmax`, or `sigmoid` for one-vs-rest.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float = 0.0,
        activation: Activation = "softmax",
    ) -> None:
        """Draw the weights from torch's random state."""
        super().__init__()
        self.features, self.widths, self.activation, self.dropout = (
            features,
            tuple(widths),
            activation,
            dropout,
        )
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        if not widths and dropout:
            layers.append(nn.Dropout(dropout))
        #: Above 1 the probabilities are less sure than the logits; fitted after training, on validation images.
        self.temperature = 1.0
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to logits (N, classes), float32."""
        logits: torch.Tensor = self.classifier(self.layers(features.float()))
        return logits

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) to probabilities at the head's temperature, float64, rows that sum to 1.

        One-vs-rest scores are divided by their sum, as scikit-learn's OneVsRestClassifier does.
        """
        logits = logits.double()
        if self.activation == "softmax":
            return (logits / self.temperature).softmax(dim=1)
        scores = logits.sigmoid() ** (1 / self.temperature)
        return scores / scores.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
