"""The head on top of a backbone: from features (N, F) to logits (N, classes), or to a number (N, 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from regraft.data.labels import Task
from regraft.models.attention_pooling import AttentionPooling
from regraft.models.cumulative import CumulativeLayer
from regraft.models.options import HiddenActivation

#: The activation of the last layer. A regression model has none (`linear`): its output is the number.
Activation = Literal["softmax", "sigmoid", "linear"]

#: As Keras has them by name; its leaky ReLU has a slope of 0.2.
_HIDDEN: dict[HiddenActivation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "selu": nn.SELU,
    "silu": nn.SiLU, "leaky_relu": partial(nn.LeakyReLU, 0.2),
}  # fmt: skip


class Head(nn.Module):
    """Dropout and a linear layer, with (Dense, activation, Dropout) before for each width; `sigmoid` is one-vs-rest.

    With `positions` = (P, D), the first P D of the F features are a vector for each position, which attention pools.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float = 0.0,
        activation: Activation = "softmax",
        hidden_activation: HiddenActivation = "relu",
        positions: tuple[int, int] | None = None,
        queries: int = 0,
        task: Task = "classification",
        thresholds: Sequence[float] = (),
        units: tuple[float, float] | None = None,
        half_width: float | None = None,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        #: Whether the classes have an order; the logits are then the logarithms of their probabilities.
        self.ordered = ordered
        self.positions = positions
        self.attention = AttentionPooling(positions[1], queries) if positions else None
        self.features, self.widths, self.dropout = features, tuple(widths), dropout
        self.activation: Activation = activation
        self.task: Task = task
        #: Probability from which on an image is said to have each class, if it may have any number of them.
        self.thresholds = tuple(thresholds) or (0.5,) * (classes if task == "multilabel" else 0)
        #: Center and scale of numbers: an output z is the number `center + scale * z`. None: not trained yet.
        self.units = None if units is None else (float(units[0]), float(units[1]))
        #: Half the width of the prediction interval about each number; None: there is none.
        self.half_width = half_width
        self.hidden_activation: HiddenActivation = hidden_activation
        layers: list[nn.Module] = []
        #: Number of features after the attention.
        self.embedding = features = features - (positions[0] - 1) * positions[1] if positions else features
        for width in widths:
            layers += [nn.Linear(features, width), _HIDDEN[hidden_activation](), nn.Dropout(dropout)]
            features = width
        if not widths and dropout:
            layers.append(nn.Dropout(dropout))
        #: Whether `answer` gives logits instead of probabilities, from which calibration is fitted without rounding.
        self.answers_logits = False
        #: Temperature of the probabilities, fitted to validation images after training; above 1 lowers confidence.
        self.temperature = 1.0
        self.layers = nn.Sequential(*layers)
        self.classifier: nn.Linear | CumulativeLayer
        self.classifier = (CumulativeLayer if ordered else nn.Linear)(features, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to logits (N, classes), float32."""
        return self.classify(self.embed(features))

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to the inputs of the layers, float32 (N, E): pooled by attention, if the head has one."""
        features = features.float()
        if self.attention is None or self.positions is None:
            return features
        tokens = self.positions[0] * self.positions[1]
        pooled = self.attention(features[:, :tokens].reshape(-1, *self.positions))
        return torch.cat([pooled, features[:, tokens:]], dim=1)

    def classify(self, embedded: torch.Tensor) -> torch.Tensor:
        """What `embed` returns, (N, E), to logits (N, classes)."""
        logits: torch.Tensor = self.classifier(self.layers(embedded))
        return logits

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits to what the model says: `probabilities`, float64 (N, classes), or numbers, float64 (N, 1)."""
        if self.answers_logits:
            return logits.double()
        if self.task != "regression":
            return self.probabilities(logits)
        center, scale = self.units or (0.0, 1.0)
        return logits.double() * scale + center

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) to probabilities at the head's temperature, float64, with rows that sum to 1.

        If an image may have any number of classes, each is the probability of that class by itself.
        """
        logits = logits.double()
        if self.task == "multilabel":
            return logits.sigmoid()
        if self.activation == "softmax":
            return (logits / self.temperature).softmax(dim=1)
        scores = logits.sigmoid() ** (1 / self.temperature)  # normalized as in scikit-learn's OneVsRestClassifier
        return scores / scores.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)

    @torch.no_grad()
    def copy_rows(self, classes: Sequence[str], earlier: Head, earlier_classes: Sequence[str]) -> None:
        """Copy the layers below the last from a head of the same shape, and the rows of the classes that both have."""
        self.layers.load_state_dict(earlier.layers.state_dict())
        if self.attention is not None and earlier.attention is not None:
            self.attention.load_state_dict(earlier.attention.state_dict())
        self.units = earlier.units
        for row, name in enumerate(classes):
            if name in earlier_classes:
                before = earlier_classes.index(name)
                self.classifier.weight[row] = earlier.classifier.weight[before]
                self.classifier.bias[row] = earlier.classifier.bias[before]

    @torch.no_grad()
    def set_linear(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Take the weight and the bias of a solved last layer, in the shapes of `Objective.linear_shapes`."""
        if isinstance(self.classifier, CumulativeLayer):
            self.classifier.set_linear(weight, bias)
            return
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)

    @torch.no_grad()
    def rescale(self, slopes: Sequence[float], offsets: Sequence[float]) -> None:
        """Change the last layer so that each logit z becomes slope * z + offset."""
        weight, bias = self.classifier.weight, self.classifier.bias
        slope, offset = (
            torch.tensor(values, dtype=torch.float64, device=weight.device) for values in (slopes, offsets)
        )
        weight.copy_(weight * slope[:, None])
        bias.copy_(bias * slope + offset)

    def use_units(self, center: float, scale: float) -> None:
        """Express outputs in other units, without a change of the numbers that the head answers.

        A head that was not trained yet keeps its weights: it answers nothing in particular.
        """
        if self.units is not None:
            before = self.units
            self.rescale([before[1] / scale], [(before[0] - center) / scale])
        self.units = center, scale

    def has_shape_of(self, other: Head) -> bool:
        """Whether both read the same number of features through layers of the same widths, or through attention."""
        shapes = ((head.features, head.positions, head.widths, head.ordered) for head in (self, other))
        return next(shapes) == next(shapes)
