from __future__ import annotations

import numpy as np
import pytest

from regraft.studies.learning_curve.extrapolation import (
    Interval,
    describe_gain,
    draw_scores,
    draw_weights,
    extrapolate,
    fit_power_law,
    judge_gain,
    single_class_gain,
)

SIZES = np.array([50.0, 100, 200, 400, 800])


def errors_at(sizes: np.ndarray, floor: float, exponent: float) -> np.ndarray:
    return floor + 0.2 * (np.asarray(sizes) / 800) ** -exponent


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.3), (0.0, 0.6), (0.1, 0.5), (0.05, 0.45)])
def test_known_laws_are_recovered(floor: float, exponent: float) -> None:
    curve = np.tile(errors_at(SIZES, floor, exponent), (200, 1))
    law = fit_power_law(SIZES, curve, np.full(5, 0.001))
    assert np.median(law.errors([1600, 3200]), axis=0) == pytest.approx(
        errors_at(np.array([1600, 3200]), floor, exponent), abs=0.01
    )


def test_intervals_cover_the_truth_where_it_is_known() -> None:
    covered_scores = covered_gains = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        floor, exponent = rng.uniform(0, 0.1), rng.uniform(0.25, 0.8)
        truth = 1 - errors_at(np.array([1000, 2000]), floor, exponent)
        # An image is right from a size on that differs between images, as with heads that learn.
        difficulty = rng.random(1000)
        predicted = np.stack([(difficulty < e).astype(int) for e in errors_at(SIZES, floor, exponent)])[None]
        labels, groups = np.zeros(1000, dtype=np.int64), np.arange(1000)
        scores = draw_scores(predicted, labels, 2, draw_weights(groups, draws=200, seed=seed))
        curve, _ = extrapolate(SIZES, scores.accuracy, 1000, 1000, seed=seed)
        covered_scores += curve.extrapolated[1].low <= truth[1] <= curve.extrapolated[1].high
        covered_gains += curve.gain.low <= truth[1] - truth[0] <= curve.gain.high
    assert covered_scores >= 36
    assert covered_gains >= 36


def test_the_first_draw_is_the_images_and_groups_share_a_weight() -> None:
    labels = np.array([0, 0, 1, 1])
    predicted = np.array([[[0, 1, 1, 1]], [[0, 0, 1, 0]]])
    weights = draw_weights(np.array([3, 3, 7, 8]), draws=50, seed=1)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert not np.array_equal(weights[1:, 2], weights[1:, 3])
    scores = draw_scores(predicted, labels, 3, weights)
    assert scores.accuracy[0] == pytest.approx([0.75])
    assert scores.recalls[0, 0, :2] == pytest.approx([0.75, 0.75])
    assert np.isnan(scores.recalls[:, 0, 2]).all()  # a class without images
    assert scores.macro_f1.shape == (51, 1)
    assert np.isfinite(scores.macro_f1).all()


def test_doubling_one_class_follows_from_halving_it() -> None:
    curve = np.tile(errors_at(SIZES, 0, 0.5), (400, 1))
    law = fit_power_law(SIZES, curve, np.full(5, 1e-4))
    half, full = (1 - errors_at(np.array([n]), 0, 0.5)[0] for n in (400, 800))
    gain = single_class_gain(np.full(400, half), np.full(400, full), law, 400, 800, 1000, images=1000)
    truth = errors_at(np.array([1000]), 0, 0.5)[0] - errors_at(np.array([2000]), 0, 0.5)[0]
    assert gain.low < truth < gain.high
    assert gain.value == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize(
    ("gain", "verdict", "words"),
    [
        (Interval(0.002, -0.001, 0.006), "saturated", "saturated: less than 1 point (-0.1 to 0.6)"),
        (Interval(0.021, 0.01, 0.032), "gain", "worth about 2 points (1.0 to 3.2)"),
        (Interval(0.01, 0.002, 0.03), "gain", "worth about 1.0 point (0.2 to 3.0)"),
        (Interval(0.2, 0.11, 0.33), "gain", "worth at least 11 points (11 to 33)"),
        (Interval(0.02, -0.01, 0.05), "unknown", "not clear (-1.0 to 5 points)"),
        (Interval(-0.03, -0.06, -0.02), "loss", "costs about 3 points (-6 to -2.0)"),
    ],
)
def test_words_follow_the_interval(gain: Interval, verdict: str, words: str) -> None:
    assert judge_gain(gain) == verdict
    assert describe_gain(gain, verdict) == words
