"""Mix what a teacher says with the labels: the targets that a smaller model learns (Hinton et al., arXiv 1503.02531).

Input: the teacher's probabilities and the labels. Output: probabilities for the ordinary loss. Of several labels an
image, each is a question by itself: probabilities are those of sigmoids, and the loss is the binary cross-entropy.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from regraft.option_errors import usage_errors

_TEACHER = "a run whose probabilities the model learns beside the labels; empty: none"
_SOFT_SHARE = "share of the teacher's probabilities in the target of a labeled image; the rest is its label"
_TEACH_VIEWS = (
    "let the teacher see each augmented view that the student sees, where both have inputs of the same size and there "
    "is no budget; else the plain image"
)
_BASELINE = (
    "what `regraft distill` compares the student with: train (the same model, trained on the labels alone), none, or a "
    "run of such a model"
)
#: Bound of probabilities of several labels, so that their logits are finite.
_NEAREST = 1e-12
_TEMPERATURE = "temperature of the teacher's probabilities: above 1 they say more about the less probable classes"


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DistillationOptions:
    """The teacher, and how its probabilities become targets."""

    teacher: Annotated[str, Field(description=_TEACHER)] = ""
    soft_share: Annotated[float, Field(ge=0, le=1, description=_SOFT_SHARE)] = 0.9
    temperature: Annotated[float, Field(gt=0, le=20, description=_TEMPERATURE)] = 2.0
    teach_views: Annotated[bool, Field(description=_TEACH_VIEWS)] = True
    baseline: Annotated[str, Field(min_length=1, description=_BASELINE)] = "train"


def soften(probabilities: np.ndarray, temperature: float, *, several: bool = False) -> np.ndarray:
    """Probabilities (..., classes) at a temperature, float64: p ** (1 / temperature), normalized to the sum 1.

    Of `several` labels an image, each by itself: the sigmoid of its logit divided by the temperature.
    """
    if several:
        inside = np.clip(probabilities.astype(np.float64), _NEAREST, 1 - _NEAREST)
        odds: np.ndarray = ((1 - inside) / inside) ** (1 / temperature)
        return np.asarray(1 / (1 + odds))
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    softened: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return softened


def mix_with_labels(
    probabilities: np.ndarray, labels: np.ndarray, soft_share: float, label_smoothing: float = 0.0
) -> np.ndarray:
    """Targets (..., N, classes): `soft_share` of the probabilities, and the rest on the label, int64 (N,), smoothed.

    Of several labels an image, labels are indicators, (N, classes), which are not smoothed.
    """
    hard = 1 - soft_share
    if labels.ndim == 2:
        return np.asarray(soft_share * probabilities + hard * labels)
    targets: np.ndarray = soft_share * probabilities + hard * label_smoothing / probabilities.shape[-1]
    targets[..., np.arange(len(labels)), labels] += hard * (1 - label_smoothing)
    return targets
