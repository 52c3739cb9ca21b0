"""Decide by cross-validation whether a head that is fitted on features in 8 bits is as good as one in float.

Input: features of the same training images in both. Output: an `Int8Decision`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.errors import UsageError
from regraft.training.callbacks import known
from regraft.training.linear_head import L2_VALUES, held_out_path, stratified_folds
from regraft.training.losses import Objective, compute_metrics, strata
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import PhasePlan

_FOLDS = 5
#: Largest loss of accuracy, and relative rise of the loss of numbers, whatever the standard error is.
_MAX_ACCURACY_LOSS, _MAX_LOSS_RISE = 0.01, 0.02


@dataclass(frozen=True)
class Int8Decision:
    """What cross-validation on training images measured.

    Attributes:
        used: Whether the training images pass the prefix in 8 bits.
        images: Number of images that were compared.
        accuracy: Accuracy on images in float of heads that were fitted on others in 8 bits, 0..1; of several labels
            the share of right answers, and of numbers NaN.
        float_accuracy: That of heads that were fitted in float.
        accuracy_error: Standard error of the difference.
        loss: Loss per image at the best temperature, in 8 bits.
        float_loss: That in float.
    """

    used: bool
    images: int
    accuracy: float
    float_accuracy: float
    accuracy_error: float
    loss: float
    float_loss: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the accuracies of numbers are None."""
        return asdict(self) | {name: known(getattr(self, name)) for name in ("accuracy", "float_accuracy")}


def decide(
    exact: torch.Tensor,
    quantized: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Int8Decision:
    """Compare heads that are fitted in float and in 8 bits by cross-validation, both on images in float.

    They are used if the accuracy is lower by at most one standard error of the difference, and by at most one point;
    of numbers, if the loss is higher by at most 2 %. Features are float32 (N, F), labels those of the objective, and
    `groups`, int64 (N,), are sets that no fold divides.
    """
    fold = stratified_folds(strata(labels, objective.task), _FOLDS, groups=groups, seed=seed)
    logits = [_out_of_fold(fitted, exact, labels, fold, objective) for fitted in (exact, quantized)]
    before, after = (compute_metrics(objective, said, labels, calibrate=True) for said in logits)
    plain, now = (float(np.mean(metrics.calibrated_losses)) for metrics in (before, after))
    targets = objective.targets(labels)
    hits = [objective.hits(said, targets).double() for said in logits]
    error = float((hits[1] - hits[0]).square().sum().sqrt()) / len(labels)
    if objective.task == "regression":
        used = now <= (1 + _MAX_LOSS_RISE) * plain
    else:
        used = after.accuracy >= before.accuracy - min(error, _MAX_ACCURACY_LOSS)
    return Int8Decision(used, len(labels), after.accuracy, before.accuracy, error, now, plain)


def _out_of_fold(
    fitted: torch.Tensor, exact: torch.Tensor, labels: torch.Tensor, fold: np.ndarray, objective: Objective
) -> torch.Tensor:
    """Logits of every image in float, (N, C), by a head fitted without its fold, at the best L2 strength."""
    path: list[torch.Tensor] = []
    losses: list[float] = []
    for number in np.unique(fold):
        outside = torch.from_numpy(fold == number)
        features = torch.where(outside[:, None], exact, fitted)
        # The first fold decides how weak the penalties become.
        least, values = max(1, len(path)), L2_VALUES[: len(path) or None]
        heads = list(held_out_path(features, labels, outside, objective, l2_values=values, least=least, coarse=True))
        path = path or [torch.zeros(len(labels), heads[0][0].shape[1]) for _ in heads]
        losses = losses or [0.0] * len(heads)
        for place, (logits, loss) in enumerate(heads):
            path[place][outside] = logits
            losses[place] += loss
    return path[int(np.argmin(losses))]


def check_int8(options: TrainingOptions, phases: PhasePlan, backbone: str, *, has_stored: bool) -> None:
    """Raise `UsageError` where int8 is asked for and would have no effect, or could not be decided."""
    if options.precision == "int8" and (why := hindrance(phases, has_stored=has_stored)):
        raise UsageError(f"training.precision = int8 is for the frozen layers of {backbone}, and {why}. Use auto.")


def hindrance(phases: PhasePlan, *, has_stored: bool) -> str:
    """Why no training image of such a training can pass frozen layers in 8 bits; "" if it can."""
    if phases.from_scratch:
        return "all of it trains, from scratch"
    if distributed.is_distributed():
        return "several processes train, which may round differently"
    return "features stand for images that are gone" if has_stored else ""
