"""The training loss of logits (N, C) for targets (N, C), and the metrics of an epoch.

Targets are class probabilities; where an image has any number of classes, each is the probability of a class by itself.
Numbers are targets (N, 1) in standard deviations from their mean over the training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from regraft.data.labels import ModelTask, Task
from regraft.errors import UsageError
from regraft.evaluation.metrics import confusion_matrix, macro_f1
from regraft.evaluation.multilabel.metrics import indicator_f1
from regraft.evaluation.ordinal import quadratic_kappa
from regraft.models.cumulative import log_probabilities
from regraft.models.head import Activation
from regraft.training.options import ClassWeights, Loss
from regraft.training.task_options import given_weights

#: Validation images below which choices do not rest on their number of errors (docs/decisions/keep-finetuned.md).
SMALL_VALIDATION = 50

#: The asymmetric loss has this focus and margin for images that lack a class.
_FOCUS, _MARGIN = 4, 0.05

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """Loss over target probabilities: `cross_entropy`, or `binary_cross_entropy` summed over the classes.

    `activation` is that of the last layer. Over sigmoids, the binary cross-entropies train one classifier per class
    against the rest. Over a softmax, as in some Keras projects, their mean is taken as Keras does: for two classes that
    is the cross-entropy, for more it also punishes what the wrong classes share.

    If an image has any number of classes (`task` multilabel), the weight of a class is that of its images in the loss
    of this class, and all images have the same. `asymmetric` is the loss of Ridnik et al. (2021, arXiv 2009.14119)
    with a focus of 4 on wrong and 0 on right labels, and a margin of 0.05: images that clearly lack a class count less.

    Numbers (`task` regression) have the squared error, so that the mean loss is the share of the variance that the
    model leaves unexplained; the absolute error; or that of Huber (1964, Annals of Mathematical Statistics 35, 73-101),
    which is the square up to one standard deviation of the targets, and grows linearly from there.

    If the classes have an order (`ordered`), the cross-entropy of the classes' probabilities is the likelihood of the
    cumulative logits (`regraft.models.cumulative`), and a linear head has one weight and C-1 intercepts.

    A `function` of logits and targets, both float32 (N, C), replaces them as the training loss.
    """

    loss: Loss
    label_smoothing: float  # share of the target that is spread over all classes (arXiv 1512.00567)
    class_weights: torch.Tensor  # float32 (C,); an image has the weight of its class
    activation: Activation | None = None  # None: that which belongs to the loss
    function: LossFunction | None = None
    task: Task = "classification"
    ordered: bool = False

    @classmethod
    def of_labels(
        cls,
        labels: np.ndarray,
        classes: Sequence[str],
        class_weights: ClassWeights = "none",
        task: ModelTask | None = None,
    ) -> Objective:
        """The default loss of class indices, int64 (N,), of indicators, (N, C), or where `task` says so of numbers.

        The task also says whether classes have an order.
        """
        weights = weights_of_classes(class_weights, labels, classes)
        if task == "regression":
            return cls("squared_error", 0.0, weights, "linear", task=task)
        if labels.ndim == 2:
            return cls("binary_cross_entropy", 0.0, weights, "sigmoid", task="multilabel")
        return cls("cross_entropy", 0.0, weights, ordered=task == "ordinal")

    @property
    def linear_shapes(self) -> tuple[int, int]:
        """Number of rows of a linear head's weight, and of its biases, which are added to the scores of these rows."""
        classes = len(self.class_weights)
        return (1, classes - 1) if self.ordered else (classes, classes)

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of a linear head, (N, biases), to logits (N, C)."""
        return log_probabilities(outputs, outputs[:, :-1] - outputs[:, 1:]) if self.ordered else outputs

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """One-hot rows without smoothing of class indices (N,), float32 (N, C); probabilities (N, C) as they are."""
        return labels if labels.is_floating_point() else F.one_hot(labels, len(self.class_weights)).float()

    def per_image(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Unweighted loss of each image, (N,)."""
        smoothing = self.label_smoothing
        if self.task == "regression":
            return _of_numbers(logits, targets, self.loss)
        if self.loss == "cross_entropy":
            smooth = targets * (1 - smoothing) + smoothing / targets.shape[1]
            return -(smooth * logits.log_softmax(dim=1)).sum(dim=1)
        smooth = targets * (1 - smoothing) + smoothing / 2
        if self.task == "multilabel":
            weights = self.class_weights.to(device=logits.device, dtype=logits.dtype)
            return _one_by_one(logits, smooth, weights, asymmetric=self.loss == "asymmetric").sum(dim=1)
        if self.activation == "softmax":
            log_probabilities = logits.log_softmax(dim=1)
            # log(1 - p) is the log-probability of all other classes; the bound is Keras's epsilon.
            log_others = torch.log1p(-log_probabilities.exp().clamp_max(1 - 1e-7))
            return -(smooth * log_probabilities + (1 - smooth) * log_others).mean(dim=1)
        return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").sum(dim=1)

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """What a model says by its logits (N, C): probabilities, or the numbers as they are."""
        if self.task == "regression":
            return logits
        return logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=1)

    def plain(self) -> Objective:
        """The loss without smoothing, weights of classes and function, by which models are compared."""
        loss: Loss = "binary_cross_entropy" if self.loss == "asymmetric" else self.loss
        return replace(
            self, loss=loss, label_smoothing=0.0, class_weights=torch.ones_like(self.class_weights), function=None
        )

    def hits(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How right the answer for each image is, 0..1 (N,): its class, or the share of right answers for classes.

        Of numbers it is NaN: there is an error, and no right or wrong.
        """
        if self.task == "regression":
            return logits.new_full((len(logits),), math.nan)
        if self.task == "multilabel":
            return ((logits > 0) == (targets > 0.5)).float().mean(dim=1)
        return (logits.argmax(dim=1) == targets.argmax(dim=1)).float()

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Weighted mean over the images, a scalar."""
        if self.function is not None:
            return self.function(logits, targets)
        weights = self.weights(targets)
        return (self.per_image(logits, targets) * weights).sum() / weights.sum()

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Weight of each image in the mean, (N,); a function weights all images alike."""
        if self.function is not None or self.task != "classification":
            return targets.new_ones(len(targets))
        return targets @ self.class_weights.to(device=targets.device, dtype=targets.dtype)


def units_of(numbers: torch.Tensor) -> tuple[float, float]:
    """Center and scale of the unit in which numbers (N, 1) are trained: their mean, and standard deviation unless 0."""
    return float(numbers.double().mean()), float(numbers.double().std(correction=0)) or 1.0


def _of_numbers(outputs: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Loss of each image, (N,), for outputs and targets (N, 1)."""
    error = (outputs - targets)[:, 0]
    if loss == "squared_error":
        return error.square()
    if loss == "huber":
        return 2 * F.huber_loss(error, torch.zeros_like(error), reduction="none")
    return error.abs()


def _one_by_one(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, *, asymmetric: bool
) -> torch.Tensor:
    """Binary loss of each class (N, C), where its images have a weight (C,)."""
    if not asymmetric:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
    without = (torch.sigmoid(logits) - _MARGIN).clamp_min(0)
    # The focus is a weight, which is not differentiated.
    negative = without.detach() ** _FOCUS * torch.log1p(-without.clamp_max(1 - 1e-7))
    return -(weights * targets * F.logsigmoid(logits) + (1 - targets) * negative)


def class_indices(labels: torch.Tensor) -> torch.Tensor:
    """Class indices (N,) as they are; of target probabilities (N, C) the most probable class, int64 (N,)."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def strata(labels: torch.Tensor, task: Task) -> np.ndarray:
    """Numbers of the kinds of images whose shares a part of them keeps, int64 (N,): classes, or sets of classes.

    Sets that share a rare class have numbers beside each other.
    """
    if task == "classification":
        return class_indices(labels).cpu().numpy()
    has = labels.cpu().numpy() > 0.5
    rarest_first = has[:, np.argsort(has.sum(axis=0), kind="stable")]
    return np.unique(rarest_first, axis=0, return_inverse=True)[1].reshape(-1)


def weights_of_classes(option: ClassWeights, labels: np.ndarray, classes: Sequence[str]) -> torch.Tensor:
    """Class weights, float32 (C,): ones, those given by name or index, or N / (C * n_c), as scikit-learn's `balanced`.

    Labels are class indices, int64 (N,), or indicators, (N, C), where `balanced` gives the images with a class as much
    weight as those without it. A class without a given weight has 1. Raises `UsageError` for a name that is neither a
    class nor the index of one.
    """
    if option == "none":
        return torch.ones(len(classes))
    if option == "balanced" and labels.ndim == 2:
        counts = np.maximum(labels.sum(axis=0), 1)
        return torch.from_numpy(np.maximum(len(labels) - counts, 1) / counts).float()
    if option == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        return torch.from_numpy(len(labels) / (len(classes) * np.maximum(counts, 1))).float()
    named = given_weights(option, classes)
    return torch.tensor([named.get(name, 1.0) for name in classes], dtype=torch.float32)


def check_loss(function: LossFunction, name: str, classes: int) -> None:
    """Try a loss function on two images; `UsageError` unless it returns a differentiable scalar."""
    logits = torch.zeros(2, classes, requires_grad=True)
    targets = F.one_hot(torch.arange(2) % classes, classes).float()
    try:
        loss = function(logits, targets)
    except Exception as error:  # whatever the function raises
        raise UsageError(
            f"The loss {name} failed on logits and targets of shape (2, {classes}), float32: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
        received = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UsageError(
            f"The loss {name} returned {received}; expected a scalar tensor that depends on the logits, such as "
            "torch.nn.functional.cross_entropy(logits, targets)."
        )


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of a model on one part of the data; accuracy and macro-F1 are in 0..1, and NaN of numbers."""

    loss: float  # mean without label smoothing and class weights
    accuracy: float
    macro_f1: float
    count: int
    loss_error: float = 0.0  # standard error of `loss`
    calibrated_losses: tuple[float, ...] = ()  # by image, at the temperature of the least mean; empty: not computed
    quadratic_kappa: float = math.nan  # of classes that have an order

    def value(self, monitor: str) -> float:
        """Value of a monitor by name; larger is better."""
        return {
            "val_loss": -self.loss, "val_accuracy": self.accuracy, "val_macro_f1": self.macro_f1,
            "val_quadratic_kappa": self.quadratic_kappa,
        }[monitor]  # fmt: skip

    def gain_over(self, other: EpochMetrics) -> tuple[float, float]:
        """Mean decrease of the calibrated loss per image relative to `other`, and its standard error."""
        gains = np.asarray(other.calibrated_losses) - np.asarray(self.calibrated_losses)
        return float(gains.mean()), float(gains.std(ddof=min(1, len(gains) - 1)) / len(gains) ** 0.5)

    @property
    def is_small(self) -> bool:
        """Whether there are so few images that choices by these metrics would be luck."""
        return self.count < SMALL_VALIDATION

    def noise(self, monitor: str) -> float:
        """Standard error of a monitor; binomial for accuracy and macro-F1.

        That of the quadratic kappa is as of a correlation, which it is one of (Fleiss and Cohen 1973, Educational and
        Psychological Measurement 33, 613-619).
        """
        if monitor == "val_loss":
            return self.loss_error
        if monitor == "val_quadratic_kappa":
            return float((1 - self.quadratic_kappa**2) / max(1, self.count) ** 0.5)
        share = self.accuracy if monitor == "val_accuracy" else self.macro_f1
        return float((share * (1 - share) / max(1, self.count)) ** 0.5)


def compute_metrics(
    objective: Objective, logits: torch.Tensor, labels: torch.Tensor, *, calibrate: bool = False
) -> EpochMetrics:
    """Compute the metrics of logits (N, C) for class indices (N,), with calibrated losses if `calibrate`.

    For target probabilities (N, C) the most probable class counts as the correct one. If an image has any number of
    classes, these are the indicators (N, C); the accuracy is that of the answers for each class, at a probability of
    0.5. Numbers are (N, 1), and have no accuracy.
    """
    plain = objective.plain()
    logits, labels = logits.float().cpu(), labels.cpu()
    targets = plain.targets(labels)
    losses = plain.per_image(logits, targets).double()
    kappa = math.nan
    if objective.task == "multilabel":
        f1 = indicator_f1(targets.numpy() > 0.5, logits.numpy() > 0)
    elif objective.task == "regression":
        f1 = math.nan
    else:
        labels = class_indices(labels)
        confusion = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
        f1 = macro_f1(confusion)
        kappa = quadratic_kappa(confusion) if objective.ordered else kappa
    return EpochMetrics(
        loss=float(losses.mean()),
        loss_error=float(losses.std(correction=0)) / max(1, len(losses)) ** 0.5,
        accuracy=float(plain.hits(logits, targets).double().mean()),
        macro_f1=f1,
        count=len(labels),
        calibrated_losses=tuple(_calibrated_losses(plain, logits, targets)[0].tolist()) if calibrate else (),
        quadratic_kappa=kappa,
    )


def best_temperature(objective: Objective, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature at which logits (N, C) have the least mean loss for class indices (N,)."""
    plain = objective.plain()
    return _calibrated_losses(plain, logits.float().cpu(), plain.targets(labels.cpu()))[1]


def _calibrated_losses(objective: Objective, logits: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, float]:
    """Losses after temperature scaling on the same images, and the temperature (arXiv 1706.04599).

    Unlike `evaluation.calibration.fit_temperature` it has no prior, because it compares models and must not favor a
    scale of the logits, and it minimizes the training loss, which may be the binary cross-entropy. Numbers have no
    temperature: it is 1.
    """
    if objective.task == "regression":
        return objective.per_image(logits, targets).double().numpy(), 1.0

    def losses(log_temperature: float) -> np.ndarray:
        return objective.per_image(logits / math.exp(log_temperature), targets).double().numpy()

    from scipy.optimize import minimize_scalar  # takes half a second to import

    result = minimize_scalar(lambda value: losses(value).mean(), bounds=(-3, 3), method="bounded")
    return losses(float(result.x)), math.exp(float(result.x))
