"""Whether a confidence of 0.9 is right nine times in ten, and what makes it so.

Enters: `Predictions`. Leaves: a temperature that is fitted on images nothing was trained on, and how far confidence
and truth are apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.errors import DataError
from regraft.evaluation.metrics import log_loss
from regraft.evaluation.predictions import Predictions

#: Bins of confidence, of equal width.
BINS = 15
#: Temperatures that are possible.
_LOWEST, _HIGHEST = 0.05, 20.0


@dataclass(frozen=True)
class Calibration:
    """How far confidence and truth are apart.

    Attributes:
        ece: Expected calibration error: mean over the images of the distance between confidence and accuracy in their
            bin, 0..1 (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
        brier: Mean over the images of the summed squared distances between probabilities and truth, 0..2 (Brier 1950).
        loss: Mean negative natural logarithm of the true class's probability, in nats.
        confidence: Mean confidence of the images in each bin, length `BINS`; 0 where there are none.
        accuracy: Share of them that are right, likewise.
        count: Images in each bin.
    """

    ece: float
    brier: float
    loss: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_calibration(value: Mapping[str, Any]) -> Calibration:
    """The inverse of `Calibration.to_json`.

    Raises:
        DataError: The values are not what that gives.
    """
    try:
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return Calibration(**plain)
    except (AttributeError, TypeError) as error:
        raise DataError(f"no calibration: {error}; expected what `Calibration.to_json` gives") from error


def measure_calibration(predictions: Predictions) -> Calibration:
    """Compare confidence with truth.

    Raises:
        DataError: There are no predictions.
    """
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to judge confidence by")
    confidence = predictions.confidence
    right = predictions.predicted == predictions.labels
    # A confidence on the edge belongs to the bin below it.
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(number, minlength=BINS)
    known = np.maximum(count, 1)
    mean = np.bincount(number, confidence, BINS) / known
    share = np.bincount(number, right, BINS) / known
    truth = np.zeros_like(predictions.probabilities)
    np.put_along_axis(truth, predictions.labels[:, None], 1.0, axis=1)
    return Calibration(
        ece=float((count * np.abs(mean - share)).sum() / len(predictions)),
        brier=float(((predictions.probabilities - truth) ** 2).sum(axis=1).mean()),
        loss=log_loss(predictions),
        confidence=tuple(mean.tolist()),
        accuracy=tuple(share.tolist()),
        count=tuple(count.tolist()),
    )


def fit_temperature(predictions: Predictions) -> float:
    """The temperature by which the probabilities of these images are least surprised by their labels.

    Probabilities p become p**(1/T), divided by their sum: softmax of the logits divided by T (Guo et al. 2017). One
    image's worth of doubt, a standard normal prior of log T, keeps T finite where every image is right.

    Args:
        predictions: Of images that neither weights nor settings were fitted to, as far as there are such; with
            probabilities at temperature 1.

    Returns:
        T, 0.05 to 20; 1 where there are no predictions. Above 1 the model was too sure.
    """
    from scipy.optimize import minimize_scalar  # takes a third of a second to import

    if not len(predictions):
        return 1.0
    logits = np.log(np.clip(predictions.probabilities, np.finfo(np.float64).tiny, 1.0))
    true = np.take_along_axis(logits, predictions.labels[:, None], axis=1)[:, 0]

    def surprise(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        scaled = logits * scale
        top = scaled.max(axis=1)
        norm = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((norm - true * scale).sum() + log_temperature**2 / 2)

    bounds = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    found = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, float64 (N, C), at a temperature other than the 1 at which they were made."""
    if temperature == 1.0:
        return probabilities
    raised = probabilities ** (1 / temperature)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
