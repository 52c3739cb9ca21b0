from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.learning_curve import (
    Range,
    alone,
    carry_on,
    describe_gain,
    draw_scores,
    draw_weights,
    fit_power_law,
    judge_gain,
)

SIZES = np.array([50.0, 100, 200, 400, 800])


def errors_at(sizes: np.ndarray, floor: float, exponent: float) -> np.ndarray:
    return floor + 0.2 * (np.asarray(sizes) / 800) ** -exponent


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.3), (0.0, 0.6), (0.1, 0.5), (0.05, 0.45)])
def test_known_laws_are_found_again(floor: float, exponent: float) -> None:
    curve = np.tile(errors_at(SIZES, floor, exponent), (200, 1))
    fits = fit_power_law(SIZES, curve, np.full(5, 0.001))
    told = np.median(fits.errors([1600, 3200]), axis=0)
    assert told == pytest.approx(errors_at(np.array([1600, 3200]), floor, exponent), abs=0.01)


def test_intervals_hold_the_truth_where_it_is_known() -> None:
    held_score = held_gain = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        floor, exponent = rng.uniform(0, 0.1), rng.uniform(0.25, 0.8)
        truth = 1 - errors_at(np.array([1000, 2000]), floor, exponent)
        # An image is right from a size on that differs between images, as with heads that learn.
        difficulty = rng.random(1000)
        predicted = np.stack([(difficulty < e).astype(int) for e in errors_at(SIZES, floor, exponent)])[None]
        labels, bundles = np.zeros(1000, dtype=np.int64), np.arange(1000)
        drawn = draw_scores(predicted, labels, 2, draw_weights(bundles, draws=200, seed=seed))
        curve, _ = carry_on(SIZES, drawn.accuracy, 1000, 1000, seed=seed)
        held_score += curve.ahead[1].low <= truth[1] <= curve.ahead[1].high
        held_gain += curve.gain.low <= truth[1] - truth[0] <= curve.gain.high
    assert held_score >= 36
    assert held_gain >= 36


def test_scores_are_those_of_the_images_and_bundles_weigh_as_one() -> None:
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([[[0, 1, 1, 1]], [[0, 0, 1, 0]]])
    weights = draw_weights(np.array([3, 3, 7, 8]), draws=50, seed=1)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert not np.array_equal(weights[1:, 2], weights[1:, 3])
    drawn = draw_scores(predicted, labels, 2, weights)
    assert drawn.accuracy[0] == pytest.approx([0.75])
    assert drawn.recalls[0, 0] == pytest.approx([0.75, 0.75])
    assert drawn.macro_f1.shape == (51, 1)


def test_doubling_one_class_follows_from_halving_it() -> None:
    curve = np.tile(errors_at(SIZES, 0, 0.5), (400, 1))
    fits = fit_power_law(SIZES, curve, np.full(5, 1e-4))
    half, full = (1 - errors_at(np.array([n]), 0, 0.5)[0] for n in (400, 800))
    found = alone(np.full(400, half), np.full(400, full), fits, 400, 800, 1000, images=1000)
    truth = errors_at(np.array([1000]), 0, 0.5)[0] - errors_at(np.array([2000]), 0, 0.5)[0]
    assert found.low < truth < found.high
    assert found.value == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize(
    ("gain", "verdict", "words"),
    [
        (Range(0.002, -0.001, 0.006), "saturated", "saturated: less than 1 point (-0.1 to 0.6)"),
        (Range(0.021, 0.01, 0.032), "gain", "worth about 2 points (1.0 to 3.2)"),
        (Range(0.01, 0.002, 0.03), "gain", "worth about 1.0 point (0.2 to 3.0)"),
        (Range(0.2, 0.11, 0.33), "gain", "worth at least 11 points (11 to 33)"),
        (Range(0.02, -0.01, 0.05), "unknown", "cannot be said (-1.0 to 5 points)"),
        (Range(-0.03, -0.06, -0.02), "loss", "costs about 3 points (-6 to -2.0)"),
    ],
)
def test_words_follow_the_interval(gain: Range, verdict: str, words: str) -> None:
    assert judge_gain(gain) == verdict
    assert describe_gain(gain, verdict) == words
