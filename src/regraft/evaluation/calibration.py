"""Measure the calibration of `Predictions`, and fit a temperature to images outside the training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.metrics import lists_to_tuples, log_loss, tuples_to_lists
from regraft.evaluation.predictions import Predictions
from regraft.text import pluralize

#: Number of confidence bins of equal width, and of images below which the calibration error is not reported.
BINS, MIN_IMAGES = 15, 20
#: Number of simulations of a calibrated model, and largest number of values in memory at once.
_DRAWS, _CHUNK_VALUES = 1000, 4_000_000
#: Lowest and highest temperature.
_RANGE = 0.05, 20.0


@dataclass(frozen=True)
class Calibration:
    """Agreement of confidence and accuracy; tuples describe the images of each of the `BINS` bins, 0 in empty ones.

    A calibrated model has a calibration error, too, because each bin has few images. `chance` and `chance_interval` are
    the mean and the central 95 % of the errors of a calibrated model with the same confidences, by simulation; None
    where an earlier version measured the calibration.
    """

    ece: float  # expected calibration error, 0..1 (Guo et al. 2017, arXiv 1706.04599, equation 3)
    brier: float  # Brier score, 0..2 (Brier 1950)
    loss: float  # mean cross-entropy in nats
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]
    chance: float | None = None  # 0..1
    chance_interval: tuple[float, float] | None = None

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.count)

    @property
    def is_miscalibrated(self) -> bool:
        """Whether the error is larger than chance alone gives in 97.5 % of the simulations."""
        return exceeds_chance(self.ece, self.images, self.chance_interval)

    def describe(self, counted: Counted = "image") -> str:
        """The calibration error beside that of chance, in words; withheld below `MIN_IMAGES` images."""
        return describe_error(self.ece, self.images, self.chance, self.chance_interval, counted)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return tuples_to_lists(asdict(self))


def exceeds_chance(ece: float, images: int, chance_interval: tuple[float, float] | None) -> bool:
    """Whether a calibration error on enough images is larger than chance alone gives in 97.5 % of the simulations."""
    return images >= MIN_IMAGES and chance_interval is not None and ece > chance_interval[1]


def describe_error(
    ece: float,
    images: int,
    chance: float | None,
    chance_interval: tuple[float, float] | None,
    counted: Counted = "image",
) -> str:
    """A calibration error beside that of chance, in words; withheld below `MIN_IMAGES` images."""
    count = pluralize(images, counted)
    if images < MIN_IMAGES:
        return f"not given, because {count} are too few to measure it ({MIN_IMAGES} or more)"
    text = f"{100 * ece:.1f} points on {count}"
    if chance is None or chance_interval is None:
        return f"{text}; what chance alone gives is not known"
    low, high = chance_interval
    by_chance = f"a perfectly calibrated model shows {100 * chance:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    is_more = exceeds_chance(ece, images, chance_interval)
    verdict = "the model is miscalibrated" if is_more else "no evidence of miscalibration"
    return f"{text}, where {by_chance}: {verdict}"


def read_calibration(value: Mapping[str, Any]) -> Calibration:
    """The inverse of `Calibration.to_json`; DataError for any other value."""
    try:
        return Calibration(**lists_to_tuples(value))
    except (AttributeError, TypeError) as error:
        raise DataError(f"not a calibration: {error}; expected the output of `Calibration.to_json`") from error


def measure_calibration(predictions: Predictions) -> Calibration:
    """Compare confidence with accuracy; DataError without predictions."""
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to measure calibration")
    correct = predictions.predicted == predictions.labels
    truth = np.zeros_like(predictions.probabilities)
    np.put_along_axis(truth, predictions.labels[:, None], 1.0, axis=1)
    brier = float(((predictions.probabilities - truth) ** 2).sum(axis=1).mean())
    return compare_shares(
        predictions.confidence, correct, chance_errors(predictions.confidence), brier=brier, loss=log_loss(predictions)
    )


def compare_shares(
    confidence: np.ndarray, correct: np.ndarray, chance: np.ndarray, *, brier: float, loss: float
) -> Calibration:
    """Compare probabilities (N,) with how often what they say is true, bool (N,), in bins of equal width.

    `chance` are errors as `chance_errors` returns them.
    """
    bins = _bins(confidence)
    count = np.bincount(bins, minlength=BINS)
    divisor = np.maximum(count, 1)
    mean_confidence = np.bincount(bins, confidence, BINS) / divisor
    accuracy = np.bincount(bins, correct, BINS) / divisor
    low, high = np.quantile(chance, (0.025, 0.975))
    return Calibration(
        ece=float((count * np.abs(mean_confidence - accuracy)).sum() / len(confidence)),
        chance=float(chance.mean()),
        chance_interval=(float(low), float(high)),
        brier=brier,
        loss=loss,
        confidence=tuple(mean_confidence.tolist()),
        accuracy=tuple(accuracy.tolist()),
        count=tuple(count.tolist()),
    )


def chance_errors(confidence: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> np.ndarray:
    """Simulate the expected calibration error of a calibrated model, which is right as often as its confidence says.

    Bins with few images give an error even then (Nixon et al. 2019, arXiv 1904.01685), which this distribution shows
    (consistency resampling: Broecker and Smith 2007, Weather and Forecasting 22, 651-661).

    Args:
        confidence: Confidence of each image, (N,) in 0..1, N at least 1.
        draws: Number of simulations.
        seed: Random seed.

    Returns:
        One error in 0..1 for each simulation, float64 (draws,).
    """
    rng = np.random.default_rng(seed)
    confidence = np.sort(np.minimum(confidence, 1.0))
    starts = np.unique(_bins(confidence), return_index=True)[1]
    expected = np.add.reduceat(confidence, starts)
    errors = []
    size = max(1, _CHUNK_VALUES // len(confidence))
    for start in range(0, draws, size):
        right = rng.random((min(size, draws - start), len(confidence)), dtype=np.float32) < confidence
        found = np.add.reduceat(right, starts, axis=1, dtype=np.float64)
        errors.append(np.abs(found - expected).sum(axis=1) / len(confidence))
    return np.concatenate(errors)


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Number of the bin of each confidence; one on an edge belongs to the bin below it."""
    return np.asarray(np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1))


def fit_temperature(predictions: Predictions) -> float:
    """Fit the temperature T with the smallest cross-entropy, 0.05 to 20; 1 without predictions.

    Probabilities p become p**(1/T), divided by their sum: softmax of the logits divided by T (Guo et al. 2017). Above 1
    the model was overconfident. A standard normal prior of log T, with the weight of one image, keeps T finite if every
    prediction is correct. The predictions, at temperature 1, are those of images to which, as far as possible, neither
    weights nor settings were fitted.
    """
    from scipy.optimize import minimize_scalar  # takes a third of a second to import

    if not len(predictions):
        return 1.0
    logits = np.log(np.clip(predictions.probabilities, np.finfo(np.float64).tiny, 1.0))
    true = np.take_along_axis(logits, predictions.labels[:, None], axis=1)[:, 0]

    def cross_entropy(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        scaled = logits * scale
        top = scaled.max(axis=1)
        norm = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((norm - true * scale).sum() + log_temperature**2 / 2)

    result = minimize_scalar(cross_entropy, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Rescale probabilities at temperature 1, float64 (N, C), to another temperature."""
    if temperature == 1.0:
        return probabilities
    scaled = probabilities ** (1 / temperature)
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))
