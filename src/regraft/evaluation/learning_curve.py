"""Learning curves: how scores grow with the images that are learnt from, and what more of them would bring.

Enters: what heads on parts of the images said of images that they did not see. Leaves: curves with intervals, carried
on to twice and four times the images. Pure functions of arrays; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Draws of the bootstrap, and how many times the images the curves are carried on to.
DRAWS, FACTORS = 600, (1.0, 2.0, 4.0)
#: Exponents of the power law, and shares of the error at the largest part that more images never take away.
_EXPONENTS = np.arange(0.1, 1.21, 0.05)
_FLOORS = np.arange(0.0, 0.91, 0.05)
#: By how much of itself a mean error departs from any power law, at the largest part and for each halving below it.
_MISFIT, _MISFIT_BELOW = 0.02, 0.02
#: And in standard errors of the judged images, since other parts would have given another curve.
_ROUGH = 0.3
#: How far a doubling departs from the law, as a share of the error and in standard errors of the judged images, and the
#: effect of one class alone in such errors: chosen so that intervals hold the truth (`benchmarks/learning_curve.py`).
_DEPARTURE, _DEPARTURE_FEW, _DEPARTURE_ALONE = 0.04, 0.15, 1.0
#: A gain in points that counts as none, and a width of an interval beyond which only its lower end is said.
NOTHING, TOO_WIDE = 1.0, 12.0


@dataclass(frozen=True)
class Range:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Range:
        """Median and central 95 % of draws, (b,)."""
        low, value, high = np.quantile(draws, (0.025, 0.5, 0.975))
        return cls(float(value), float(low), float(high))

    def to_json(self) -> dict[str, float]:
        """Plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Curve:
    """A score by the number of images, and beyond.

    Attributes:
        sizes: Images of which heads were solved, rising.
        measured: The score there, 0..1, with an interval over the judged images.
        ahead_sizes: All images, twice and four times as many.
        ahead: The score there, by the power law.
        gain: What twice the images bring beyond all of them, as a share (0.02 is two points).
        verdict: `gain`, `saturated`, `loss` or `unknown`.
    """

    sizes: tuple[float, ...]
    measured: tuple[Range, ...]
    ahead_sizes: tuple[float, ...]
    ahead: tuple[Range, ...]
    gain: Range
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "measured": [{"images": n} | r.to_json() for n, r in zip(self.sizes, self.measured, strict=True)],
            "extrapolated": [{"images": n} | r.to_json() for n, r in zip(self.ahead_sizes, self.ahead, strict=True)],
            "gain_of_doubling": self.gain.to_json(),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class ClassCurve:
    """What is known of one class.

    Attributes:
        name: Of the class.
        images: Of it in all.
        joint: Its recall by its images, where all classes grow together.
        alone: What twice the images of this class alone bring to its recall; None where it was not measured.
        alone_macro_f1: And to the macro-F1 of all classes.
        alone_verdict: As a curve's, of `alone`.
    """

    name: str
    images: int
    joint: Curve
    alone: Range | None = None
    alone_macro_f1: Range | None = None
    alone_verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        gains = (("gain_alone", self.alone), ("gain_alone_macro_f1", self.alone_macro_f1))
        return {
            "name": self.name,
            "images": self.images,
            "recall": self.joint.to_json(),
            **{key: gain.to_json() if gain else None for key, gain in gains},
            "verdict_alone": self.alone_verdict,
        }


def judge_gain(gain: Range) -> str:
    """`saturated`: surely less than one point; `gain` or `loss`: surely so; else `unknown`."""
    if 100 * gain.high < NOTHING and 100 * gain.low > -NOTHING:
        return "saturated"
    if gain.low > 0:
        return "gain"
    return "loss" if gain.high < 0 else "unknown"


def describe_gain(gain: Range, verdict: str) -> str:
    """The same in words, such as `worth about 2 points (1 to 3)`."""
    value, low, high = (100 * number for number in (gain.value, gain.low, gain.high))
    span = f"{_points(low)} to {_points(high)}"
    if verdict == "saturated":
        return f"saturated: less than {NOTHING:g} point ({span})"
    if verdict == "unknown":
        return f"cannot be said ({span} points)"
    if verdict == "gain" and high - low > TOO_WIDE:
        return f"worth at least {_points(low)} {'point' if _points(low) == '1.0' else 'points'} ({span})"
    about = f"{abs(value):.0f}" if abs(value) >= 1.5 else f"{abs(value):.1f}"
    number = f"about {about} {'point' if about in ('1.0', '1') else 'points'} ({span})"
    return f"worth {number}" if verdict == "gain" else f"costs {number}"


def _points(value: float) -> str:
    """One decimal below five, and no minus zero."""
    return f"{value + 0.0:.1f}".replace("-0.0", "0.0") if abs(value) < 4.95 else f"{value:.0f}"


@dataclass(frozen=True, eq=False)
class Draws:
    """Scores by size in each draw of the bootstrap.

    Attributes:
        accuracy: float64 (b, L); the first row is of the images themselves.
        macro_f1: Likewise.
        recalls: float64 (b, L, C); NaN where a class has no images.
    """

    accuracy: np.ndarray
    macro_f1: np.ndarray
    recalls: np.ndarray


def draw_weights(bundles: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Weights of the images by the Bayesian bootstrap over bundles (Rubin 1981), float32 (draws + 1, N); first ones."""
    _, bundle = np.unique(bundles, return_inverse=True)
    drawn = np.random.default_rng(seed).standard_exponential((draws, bundle.max() + 1), dtype=np.float32)
    return np.concatenate([np.ones((1, len(bundle)), np.float32), drawn[:, bundle]])


def draw_scores(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> Draws:
    """Accuracy, macro-F1 and recalls in each draw, by size; repeats are averaged.

    Args:
        predicted: int (R, L, N).
        labels: int (N,).
        classes: C.
        weights: (b, N), as `draw_weights`.
    """
    repeats, sizes, count = predicted.shape
    own = np.zeros((count, classes), np.float32)
    own[np.arange(count), labels] = 1
    support = weights @ own
    recalls, f1s = (np.empty((len(weights), sizes, classes)) for _ in range(2))
    accuracy = np.empty((len(weights), sizes))
    for size in range(sizes):
        right, chosen = np.zeros((count, classes), np.float32), np.zeros((count, classes), np.float32)
        for repeat in range(repeats):
            told = predicted[repeat, size]
            chosen[np.arange(count), told] += 1 / repeats
            right[np.arange(count), labels] += (told == labels) / repeats
        hits, named = weights @ right, weights @ chosen
        accuracy[:, size] = hits.sum(axis=1) / support.sum(axis=1)
        recalls[:, size] = np.divide(hits, support, out=np.full(hits.shape, np.nan), where=support > 0)
        both = support + named
        f1s[:, size] = np.divide(2 * hits, both, out=np.full(hits.shape, np.nan), where=both > 0)
    return Draws(accuracy, np.nanmean(f1s, axis=2), recalls)


@dataclass(frozen=True, eq=False)
class Fits:
    """One power law for each draw: error(n) = floor + slope * n ** -exponent, n in units of the largest part.

    Attributes:
        floor: (b,).
        slope: (b,).
        exponent: (b,).
        largest: Images of the largest part.
    """

    floor: np.ndarray
    slope: np.ndarray
    exponent: np.ndarray
    largest: float

    def errors(self, sizes: Sequence[float] | np.ndarray) -> np.ndarray:
        """(b, len(sizes))."""
        share = np.asarray(sizes, dtype=np.float64) / self.largest
        return np.asarray(self.floor[:, None] + self.slope[:, None] * share[None, :] ** -self.exponent[:, None])


def fit_power_law(sizes: np.ndarray, errors: np.ndarray, noise: np.ndarray, *, seed: int = 0) -> Fits:
    """Fit an inverse power law to each draw of an error's curve.

    Errors of classifiers fall as a power of the number of examples towards a floor (Cortes et al. 1993; Hestness et
    al. 2017, arXiv 1712.00409; fitted to small sets and carried on by Mukherjee et al. 2003, Journal of Computational
    Biology 10, 119-142). No law holds for all curves (Viering and Loog 2021, arXiv 2103.10948), so exponent and floor
    are not estimated but drawn, each pair of a grid as often as it explains the draw's curve, and each point of the
    curve gets noise of its own.

    Args:
        sizes: Images of each part, (L,), rising.
        errors: 1 - score, (b, L).
        noise: Standard deviation of a point beyond what all points share, (L,) or (b, L).
        seed: Of the noise and of the grid's points.

    Returns:
        One law for each draw.
    """
    rng = np.random.default_rng(seed)
    noise = np.broadcast_to(noise, errors.shape)
    # The first draw is the images themselves, and stays as it is.
    moved = errors + rng.standard_normal(errors.shape) * noise * (np.arange(len(errors)) > 0)[:, None]
    share = np.asarray(sizes, dtype=np.float64) / sizes[-1]
    last = np.maximum(errors[:, -1], 1e-6)
    powers = share[None, :] ** -_EXPONENTS[:, None]  # (E, L)
    misses = np.empty((len(errors), len(_EXPONENTS), len(_FLOORS)))
    slopes = np.empty_like(misses)
    weights = 1 / noise**2
    square = np.einsum("bl,el->be", weights, powers**2)
    for place, part in enumerate(_FLOORS):
        above = moved - (part * last)[:, None]
        slope = np.einsum("bl,bl,el->be", weights, above, powers) / square
        slopes[:, :, place] = slope
        rest = above[:, None, :] - slope[:, :, None] * powers[None]
        misses[:, :, place] = np.einsum("bl,bel->be", weights, rest**2)
    chance = np.exp(-0.5 * (misses - misses.min(axis=(1, 2), keepdims=True))).reshape(len(errors), -1)
    summed = np.cumsum(chance, axis=1)
    picks = (summed < (rng.random(len(errors)) * summed[:, -1])[:, None]).sum(axis=1)
    exponent, floor = np.unravel_index(picks, misses.shape[1:])
    rows = np.arange(len(errors))
    return Fits(_FLOORS[floor] * last, slopes[rows, exponent, floor], _EXPONENTS[exponent], float(sizes[-1]))


def misfit(sizes: np.ndarray, errors: np.ndarray, images: float) -> np.ndarray:
    """Noise of each point of a curve: that of its parts, and what no power law explains, (L,).

    Args:
        sizes: (L,).
        errors: Of the images themselves, (L,).
        images: Judged ones; few of them make the curve rough.
    """
    below = np.log2(sizes[-1] / np.asarray(sizes))
    level = np.clip(errors, 1 / (images + 2), None)
    rough = _ROUGH * np.array([_standard_error(float(error), images) for error in errors])
    return np.asarray(np.hypot((_MISFIT + _MISFIT_BELOW * below) * level, rough))


def carry_on(
    sizes: np.ndarray, scores: np.ndarray, total: float, images: float, *, seed: int = 0
) -> tuple[Curve, Fits]:
    """A score's curve, carried on to all images, twice and four times as many.

    Args:
        sizes: Images of each part, (L,), rising.
        scores: In each draw, (b, L), 0..1, the images themselves first.
        total: All images; more than the largest part, since some were held out.
        images: Judged ones.
        seed: Of the draws.
    """
    errors = 1 - scores
    fits = fit_power_law(sizes, errors, misfit(sizes, errors[0], images), seed=seed)
    ahead_sizes = tuple(total * factor for factor in FACTORS)
    drift = np.random.default_rng([seed, 1]).standard_normal(len(scores)) * np.hypot(
        _DEPARTURE * errors[0, -1], _DEPARTURE_FEW * _standard_error(scores[0, -1], images)
    )
    beyond = np.log2(np.array(ahead_sizes) / sizes[-1])
    ahead = np.clip(1 - fits.errors(ahead_sizes) + drift[:, None] * beyond, 0, 1)
    gain = Range.of(ahead[:, 1] - ahead[:, 0])
    return Curve(
        tuple(float(n) for n in sizes),
        tuple(
            Range(float(scores[0, i]), *map(float, np.quantile(scores[1:, i], (0.025, 0.975))))
            for i in range(len(sizes))
        ),
        ahead_sizes,
        tuple(Range.of(ahead[:, i]) for i in range(len(FACTORS))),
        gain,
        judge_gain(gain),
    ), fits


def alone(
    before: np.ndarray, after: np.ndarray, fits: Fits, half: float, full: float, total: float, *, images: float
) -> Range:
    """What twice the images of one class bring, from what half of them cost while the others stayed.

    Of what falls as n ** -c, the step from `total` to twice as many is (total ** -c - (2 total) ** -c) / (half ** -c -
    full ** -c) of the step from `half` to `full`.

    Args:
        before: The score with half of the class in each draw, (b,).
        after: With all of it.
        fits: Whose exponents c are taken, (b,).
        half: Images of the class in the halved part.
        full: In the whole one.
        total: All of the class.
        images: That the score is of.
    """
    c = fits.exponent
    factor = (total**-c - (2 * total) ** -c) / (half**-c - full**-c)
    rng = np.random.default_rng([round(1000 * full), 2])
    noise = _DEPARTURE_ALONE * _standard_error(after[0], images) * rng.standard_normal(len(after))
    return Range.of((after - before) * factor + noise)


def _standard_error(share: float, count: float) -> float:
    """Of a proportion, with one right and one wrong answer added."""
    share = (share * count + 1) / (count + 2)
    return float(np.sqrt(share * (1 - share) / (count + 2)))
