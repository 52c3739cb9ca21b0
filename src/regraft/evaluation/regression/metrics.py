"""Metrics of models that give an image a number, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.intervals import draw_image_weights
from regraft.evaluation.metrics import json_of_counted, lists_to_tuples, tuples_to_lists
from regraft.evaluation.regression.conformal import measure_coverage
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.subgroups import Subgroups, json_of_subgroups, subgroups_from_json
from regraft.evaluation.training_overlap import Scores, TrainingOverlap
from regraft.notebook_repr import NotebookRepr
from regraft.text import pluralize

#: Half the width of the interval of the mean absolute error, as a share of it, from which on it is uncertain.
_WIDE = 0.2
#: Fields that JSON has only where they say something.
_LAST = ("counted", "subgroups")
_TITLES = {"mae": "MAE", "rmse": "RMSE", "r2": "R2"}


@dataclass(frozen=True)
class RegressionEvaluation(NotebookRepr):
    """Metrics of one set of predictions; errors are in the unit of the numbers.

    Attributes:
        count: Number of images.
        mae: Mean absolute error.
        rmse: Root of the mean squared error.
        median_absolute_error: Half of the images have a smaller error.
        r2: Share of the variance of the true numbers that the model explains, at most 1; 0: no better than predicting
            their mean for all images. None if all true numbers are equal.
        bias: Mean of predicted minus true.
        mean: Mean of the true numbers.
        deviation: Standard deviation of the true numbers, the RMSE of predicting their mean.
        intervals: 95 % intervals (low, high) of `mae`, `rmse` and `r2` (not where it is None) by the Bayesian bootstrap
            over the images.
        half_width: Half the width of the prediction intervals; None: there are none.
        coverage: Share of the images whose true number is in its prediction interval; None without intervals.
        coverage_interval: 95 % Wilson interval of this share.
        overlap: Images that the model knows from its training; None: not looked for, or none.
        counted: What was predicted: an `image`, or a `group` of images.
        subgroups: The same for images of one camera, site or other value each, where that was asked for.
    """

    count: int
    mae: float
    rmse: float
    median_absolute_error: float
    r2: float | None
    bias: float
    mean: float
    deviation: float
    intervals: Mapping[str, tuple[float, float]]
    half_width: float | None = None
    coverage: float | None = None
    coverage_interval: tuple[float, float] | None = None
    overlap: TrainingOverlap | None = None
    counted: Counted = "image"
    subgroups: tuple[Subgroups, ...] = ()

    @property
    def accuracy(self) -> None:
        """Numbers are never right or wrong."""
        return None

    @property
    def accuracy_interval(self) -> None:
        """As `accuracy`."""
        return None

    @property
    def headline(self) -> Scores:
        """What numbers are judged by: the mean absolute error."""
        return {"mean absolute error": (self.mae, self.intervals["mae"])}

    @property
    def no_better(self) -> str:
        """A sentence if the model is not clearly better than predicting the mean for all images, else ""."""
        if self.r2 is not None and self.intervals["r2"][0] > 0:
            return ""
        return (
            f"The model is not clearly better than predicting the mean of the true numbers for every {self.counted}, "
            f"whose RMSE is {self.deviation:.4g}."
        )

    def cautions(self) -> list[str]:
        """Sentences about claims for which there are too few images; empty if there are none."""
        cautions = [] if self.overlap is None else self.overlap.cautions(None, self.headline, self.counted)
        low, high = self.intervals["mae"]
        if self.mae > 0 and (high - low) / 2 > _WIDE * self.mae:
            cautions.append(
                f"With {pluralize(self.count, self.counted)}, the mean absolute error is known only to about "
                f"±{50 * (high - low) / self.mae:.0f} % of itself."
            )
        return [*cautions, *(text for one in self.subgroups for text in one.cautions())]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without NaN."""
        nested = {
            "intervals": tuples_to_lists(self.intervals),
            "overlap": None if self.overlap is None else self.overlap.to_json(),
        }
        values = {name: value for name, value in asdict(replace(self, subgroups=())).items() if name not in _LAST}
        said = {**json_of_counted(self.counted), **json_of_subgroups(self.subgroups)}
        return {"task": "regression", **tuples_to_lists({**values, **said, **nested})}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RegressionEvaluation:
        """The inverse of `to_json`; DataError for any other value."""
        try:
            fields = {name: item for name, item in value.items() if name != "task"}
            known = fields.get("overlap")
            nested = {
                "intervals": lists_to_tuples(fields["intervals"]),
                "overlap": None if known is None else TrainingOverlap.from_json(known),
                "subgroups": subgroups_from_json(value),
            }
            return cls(**{**lists_to_tuples(fields), **nested})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not an evaluation: {error!r}; expected the output of `to_json`") from error

    def __str__(self) -> str:
        lines = []
        for name, title in _TITLES.items():
            value: float | None = getattr(self, name)
            if value is None:
                lines.append(f"{title:<23}{'-':>10}   all true numbers are equal")
                continue
            low, high = self.intervals[name]
            lines.append(f"{title:<23}{value:>10.4g}   95 % interval {low:.4g} to {high:.4g}")
        lines.append(f"{'median absolute error':<23}{self.median_absolute_error:>10.4g}")
        lines.append(f"{'bias':<23}{self.bias:>10.4g}   mean of predicted minus true")
        lines.append(f"{'true numbers':<23}{self.mean:>10.4g}   mean; standard deviation {self.deviation:.4g}")
        if self.coverage is not None and self.coverage_interval is not None:
            low, high = self.coverage_interval
            lines.append(
                f"{'within +-' + format(self.half_width, '.4g'):<23}{100 * self.coverage:>8.1f} %   95 % interval "
                f"{100 * low:.1f} to {100 * high:.1f} %"
            )
        return "\n".join(lines) + "\n"


def evaluate_numbers(predictions: RegressionPredictions) -> RegressionEvaluation:
    """Compute all metrics; DataError without predictions.

    R2 is 1 - sum (y - f)^2 / sum (y - mean y)^2, as scikit-learn's `r2_score` computes it. In the Bayesian bootstrap
    (Rubin 1981, Annals of Statistics 9, 130-134) each draw weights the images by a Dirichlet distribution; the mean of
    the true numbers is that of the same draw.
    """
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to evaluate")
    targets, residuals, count = predictions.targets, predictions.residuals, len(predictions)
    center = float(targets.mean())
    # About the mean, squares lose no digits where the numbers are large.
    moved = targets - center
    estimate = _scores(moved, residuals, np.full((1, count), 1 / count))
    draws = [_scores(moved, residuals, weights) for weights in draw_image_weights(count)]
    has_spread = bool(np.ptp(targets))
    names = ["mae", "rmse", *(["r2"] if has_spread else [])]
    intervals = {
        name: _interval(float(estimate[name][0]), np.concatenate([draw[name] for draw in draws]), name)
        for name in names
    }
    coverage = measure_coverage(residuals, predictions.half_width)
    return RegressionEvaluation(
        count=count,
        mae=float(estimate["mae"][0]),
        rmse=float(estimate["rmse"][0]),
        median_absolute_error=float(np.median(np.abs(residuals))),
        r2=float(estimate["r2"][0]) if has_spread else None,
        bias=float(residuals.mean()),
        mean=center,
        deviation=float(targets.std()),
        intervals=intervals,
        half_width=coverage.half_width,
        coverage=coverage.coverage,
        coverage_interval=coverage.interval,
        counted=predictions.counted,
    )


def scores_of(targets: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """MAE, RMSE and R2 of predicted numbers (n,), n >= 1, alone; R2 is NaN if all true numbers are equal."""
    scores = _scores(targets - targets.mean(), values - targets, np.full((1, len(targets)), 1 / len(targets)))
    mae, rmse, r2 = (float(scores[name][0]) for name in ("mae", "rmse", "r2"))
    return mae, rmse, r2 if np.ptp(targets) else math.nan


def drawn_scores(targets: np.ndarray, residuals: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R2 and MAE, each float64 (b,), for weights of the images (b, N) that add up to 1; the targets have the mean 0."""
    scores = _scores(targets, residuals, weights)
    return scores["r2"], scores["mae"]


def _scores(targets: np.ndarray, residuals: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (b,) for weights of the images (b, N) that add up to 1."""
    error = weights @ residuals**2
    variance = weights @ targets**2 - (weights @ targets) ** 2
    return {
        "mae": weights @ np.abs(residuals),
        "rmse": np.sqrt(error),
        "r2": 1 - error / np.where(variance > 0, variance, 1.0),
    }


def _interval(estimate: float, draws: np.ndarray, name: str) -> tuple[float, float]:
    """The central 95 % of the draws, shifted to have the estimate as median, within what the score can be."""
    low, middle, high = np.quantile(draws, (0.025, 0.5, 0.975)).tolist()
    low, high = estimate + low - middle, estimate + high - middle
    return (low, min(high, 1.0)) if name == "r2" else (max(low, 0.0), high)
