"""Learning curves with 95 % intervals, extrapolated by one power law: pure functions of arrays, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Verdict = Literal["gain", "saturated", "loss", "unknown"]

#: Draws of the bootstrap, and multiples of the images to which curves are extrapolated.
DRAWS, FACTORS = 600, (1.0, 2.0, 4.0)
#: Grid of the power law: exponents, and floors as shares of the error at the largest subset.
_EXPONENTS, _FLOORS = np.arange(0.1, 1.21, 0.05), np.arange(0.0, 0.91, 0.05)
#: Standard deviation of a mean curve around any power law: as a share of the error at the largest subset, the same for
#: each halving below it, and in standard errors of the test images, since other subsets would give another curve.
_MISFIT, _MISFIT_PER_HALVING, _SUBSET_NOISE = 0.02, 0.02, 0.3
#: How far a doubling departs from the law, as a share of the error and in standard errors of the test images, and the
#: effect of one class alone in such errors: chosen so that intervals hold the truth (`benchmarks/learning_curve.py`).
_DEPARTURE, _DEPARTURE_NOISE, _SINGLE_CLASS_NOISE = 0.04, 0.15, 1.0
#: A gain that counts as none, and the width of an interval above which only its lower end is reported, in points.
NO_GAIN, TOO_WIDE = 1.0, 12.0


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Interval:
        """Median and central 95 % of draws, (b,)."""
        low, value, high = np.quantile(draws, (0.025, 0.5, 0.975)).tolist()
        return cls(value, low, high)


@dataclass(frozen=True)
class Curve:
    """A score (0..1) by the number of images, and its extrapolation to all images, twice and four times as many."""

    sizes: tuple[float, ...]
    measured: tuple[Interval, ...]
    extrapolated_sizes: tuple[float, ...]
    extrapolated: tuple[Interval, ...]
    gain: Interval  # of twice the images over all of them, as a share: 0.02 is two points
    verdict: Verdict

    def points(self) -> list[tuple[str, float, Interval]]:
        """Kind (`measured` or `extrapolated`), number of images and score of each point."""
        kinds = ["measured"] * len(self.sizes) + ["extrapolated"] * len(self.extrapolated_sizes)
        sizes, scores = (*self.sizes, *self.extrapolated_sizes), (*self.measured, *self.extrapolated)
        return list(zip(kinds, sizes, scores, strict=True))

    def to_json(self, unit: str = "images") -> dict[str, Any]:
        """Plain JSON values; `unit` is what is counted."""
        points: dict[str, list[Any]] = {"measured": [], "extrapolated": []}
        for kind, images, score in self.points():
            points[kind].append({unit: images} | asdict(score))
        return {**points, "gain_of_doubling": asdict(self.gain), "verdict": self.verdict}


@dataclass(frozen=True)
class ClassCurve:
    """The learning curve of one class: its recall by its images, or groups, where all classes grow together."""

    name: str
    images: int
    recall: Curve
    gain_alone: Interval | None = None  # of recall, by twice the images of this class alone; None: not measured
    gain_alone_macro_f1: Interval | None = None  # of the macro-F1 of all classes
    verdict_alone: Verdict | None = None

    def to_json(self, unit: str = "images") -> dict[str, Any]:
        """Plain JSON values; `unit` is what is counted."""
        values = asdict(self) | {"recall": self.recall.to_json(unit)}
        return {unit if name == "images" else name: value for name, value in values.items()}


def judge_gain(gain: Interval) -> Verdict:
    """`saturated`: certainly less than one point; `gain` or `loss`: certainly so; else `unknown`."""
    if 100 * gain.high < NO_GAIN and 100 * gain.low > -NO_GAIN:
        return "saturated"
    if gain.low > 0:
        return "gain"
    return "loss" if gain.high < 0 else "unknown"


def describe_gain(gain: Interval, verdict: Verdict) -> str:
    """The gain in words, such as `worth about 2 points (1 to 3)`."""
    value, low, high = (100 * number for number in (gain.value, gain.low, gain.high))
    span = f"{_points(low)} to {_points(high)}"
    if verdict == "saturated":
        return f"saturated: less than {NO_GAIN:g} point ({span})"
    if verdict == "unknown":
        return f"not clear ({span} points)"
    if verdict == "gain" and high - low > TOO_WIDE:
        return f"worth at least {_points(low)} {'point' if _points(low) == '1.0' else 'points'} ({span})"
    about = f"{abs(value):.0f}" if abs(value) >= 1.5 else f"{abs(value):.1f}"
    number = f"about {about} {'point' if about in ('1.0', '1') else 'points'} ({span})"
    return f"worth {number}" if verdict == "gain" else f"costs {number}"


def _points(value: float) -> str:
    """One decimal below five, and no minus zero."""
    return f"{value + 0.0:.1f}".replace("-0.0", "0.0") if abs(value) < 4.95 else f"{value:.0f}"


class ScoreDraws(NamedTuple):
    """Scores by size in each draw of the bootstrap; the first draw is the images themselves."""

    accuracy: np.ndarray  # float64 (b, L)
    macro_f1: np.ndarray  # float64 (b, L)
    recalls: np.ndarray  # float64 (b, L, C), NaN where a class has no images


def draw_weights(groups: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Weights of the images by the Bayesian bootstrap over groups (Rubin 1981), float32 (draws + 1, N); first ones."""
    _, group = np.unique(groups, return_inverse=True)
    weights = np.random.default_rng(seed).standard_exponential((draws, group.max() + 1), dtype=np.float32)
    return np.concatenate([np.ones((1, len(group)), np.float32), weights[:, group]])


def draw_scores(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> ScoreDraws:
    """Scores by size in each draw, of predicted classes, int (R, L, N); weights (b, N). Repeats are averaged."""
    one_hot = np.eye(classes, dtype=np.float32)
    support = weights @ one_hot[labels]
    accuracy, f1s, recalls = [], [], []
    for by_repeat in predicted.swapaxes(0, 1):
        votes = one_hot[by_repeat].mean(axis=0)  # (N, C)
        hits, chosen = weights @ (votes * one_hot[labels]), weights @ votes
        accuracy.append(hits.sum(axis=1) / support.sum(axis=1))
        with np.errstate(invalid="ignore"):  # a class without images
            recalls.append(hits / support)
            f1s.append(2 * hits.astype(np.float64) / (support + chosen))
    return ScoreDraws(*(np.stack(part, axis=1) for part in (accuracy, np.nanmean(f1s, axis=2), recalls)))


class PowerLaw(NamedTuple):
    """A power law for each draw, (b,): error(n) = floor + slope * (n / largest) ** -exponent."""

    floor: np.ndarray
    slope: np.ndarray
    exponent: np.ndarray
    largest: float

    def errors(self, sizes: Sequence[float] | np.ndarray) -> np.ndarray:
        """Errors at some sizes, (b, len(sizes))."""
        share = np.asarray(sizes, dtype=np.float64) / self.largest
        return np.asarray(self.floor[:, None] + self.slope[:, None] * share[None, :] ** -self.exponent[:, None])


def fit_power_law(sizes: np.ndarray, errors: np.ndarray, noise: np.ndarray, *, seed: int = 0) -> PowerLaw:
    """Fit an inverse power law to each draw of an error's curve.

    Errors of classifiers fall as a power of the number of examples towards a floor (Cortes et al. 1993; Hestness et al.
    2017, arXiv 1712.00409; extrapolated from small sets by Mukherjee et al. 2003, Journal of Computational Biology 10,
    119-142). No law fits all curves (Viering and Loog 2021, arXiv 2103.10948), so exponent and floor are not estimated
    but drawn from a grid, each pair with its likelihood, and each point of the curve gets its own noise. Sizes, (L,),
    are rising; `errors`, (b, L), are 1 - score; `noise`, (L,), is the standard deviation of each point.
    """
    rng = np.random.default_rng(seed)
    # The first draw is the images themselves and gets no noise.
    noisy = errors + rng.standard_normal(errors.shape) * noise * (np.arange(len(errors)) > 0)[:, None]
    last = np.maximum(errors[:, -1], 1e-6)
    powers = (np.asarray(sizes, dtype=np.float64) / sizes[-1])[None, :] ** -_EXPONENTS[:, None]  # (E, L)
    # Weighted least squares for the slope at every exponent and floor: (b, E, F).
    above = noisy[:, None, :] - (_FLOORS[:, None] * last[:, None, None])  # (b, F, L)
    slopes = np.einsum("bfl,el,l->bef", above, powers, noise**-2.0) / (powers**2 @ noise**-2.0)[None, :, None]
    rest = above[:, None] - slopes[..., None] * powers[None, :, None]
    misfits = (rest**2 @ noise**-2.0).reshape(len(errors), -1)
    likelihood = np.cumsum(np.exp(-0.5 * (misfits - misfits.min(axis=1, keepdims=True))), axis=1)
    drawn = (likelihood < (rng.random(len(errors)) * likelihood[:, -1])[:, None]).sum(axis=1)
    exponent, floor = np.unravel_index(drawn, slopes.shape[1:])
    slope = slopes[np.arange(len(errors)), exponent, floor]
    return PowerLaw(_FLOORS[floor] * last, slope, _EXPONENTS[exponent], float(sizes[-1]))


def extrapolate(
    sizes: np.ndarray,
    scores: np.ndarray,
    total: float,
    images: float,
    *,
    is_share: bool = True,
    seed: int = 0,
) -> tuple[Curve, PowerLaw]:
    """Extrapolate a score's curve, (b, L), whose best value is 1, to `total`, twice and four times as many images.

    `total` is more than the largest subset, since some were held out; `images` is the number of test images. The score
    is a share of them, 0..1 (`is_share`), or any other, whose standard error is that of the draws.
    """
    errors, halvings = 1 - scores, np.log2(sizes[-1] / sizes)
    noise = _standard_error(errors[0], images) if is_share else scores[1:].std(axis=0)
    misfit = (_MISFIT + _MISFIT_PER_HALVING * halvings) * np.clip(errors[0], 1 / (images + 2), None)
    law = fit_power_law(sizes, errors, np.hypot(misfit, _SUBSET_NOISE * noise), seed=seed)
    ahead = tuple(total * factor for factor in FACTORS)
    departure = np.hypot(_DEPARTURE * errors[0, -1], _DEPARTURE_NOISE * noise[-1])
    drift = departure * np.random.default_rng([seed, 1]).standard_normal(len(scores))
    beyond = 1 - law.errors(ahead) + drift[:, None] * np.log2(np.array(ahead) / sizes[-1])
    beyond = np.clip(beyond, 0 if is_share else None, 1)
    measured = measured_intervals(scores)
    gain = Interval.of(beyond[:, 1] - beyond[:, 0])
    extrapolated = tuple(map(Interval.of, beyond.T))
    return Curve(tuple(map(float, sizes)), measured, ahead, extrapolated, gain, judge_gain(gain)), law


def measured_intervals(scores: np.ndarray) -> tuple[Interval, ...]:
    """Each score with the central 95 % of its draws, by size: scores (b, L), whose first draw is the images."""
    low, high = np.quantile(scores[1:], (0.025, 0.975), axis=0)
    return tuple(Interval(*row) for row in zip(scores[0].tolist(), low.tolist(), high.tolist(), strict=True))


def single_class_gain(
    before: np.ndarray, after: np.ndarray, law: PowerLaw, half: float, full: float, total: float, *, images: float
) -> Interval:
    """Gain by twice the images of one class, from the loss by half of them while the other classes stayed.

    If a score's error falls as n ** -c, the step from `total` to twice as many is (total ** -c - (2 total) ** -c) /
    (half ** -c - full ** -c) of the step from `half` to `full`, the images of the class in the halved and whole subset.
    `before` and `after` are the scores with these, (b,); `images` is the number of test images.
    """
    c = law.exponent
    factor = (total**-c - (2 * total) ** -c) / (half**-c - full**-c)
    rng = np.random.default_rng([round(1000 * full), 2])
    noise = _SINGLE_CLASS_NOISE * _standard_error(after[0], images) * rng.standard_normal(len(after))
    return Interval.of((after - before) * factor + noise)


def _standard_error(share: Any, count: float) -> Any:
    """Standard error of proportions, with one right and one wrong answer added."""
    share = (share * count + 1) / (count + 2)
    return np.sqrt(share * (1 - share) / (count + 2))
