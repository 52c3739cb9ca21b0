"""Split conformal intervals have the coverage that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import UsageError
from regraft.evaluation.regression.conformal import conformal_half_width, least_images


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_intervals_cover_as_often_as_asked_whatever_the_errors(coverage: float) -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(400):
        width = conformal_half_width(rng.standard_cauchy(39), coverage)
        assert width is not None
        shares.append((np.abs(rng.standard_cauchy(200)) <= width).mean())
    # The expectation is ceil(40 coverage) / 40, at least the coverage.
    assert np.mean(shares) == pytest.approx(coverage, abs=0.02)


def test_the_width_is_the_residual_of_the_finite_sample_rank() -> None:
    residuals = np.array([-9.0, 1, -2, 3, -4, 5, -6, 7, -8])
    assert conformal_half_width(residuals, 0.9) == 9
    assert conformal_half_width(residuals, 0.5) == 5
    assert conformal_half_width(residuals[:8], 0.9) is None
    assert conformal_half_width(np.empty(0), 0.5) is None
    assert least_images(0.9) == 9
    assert least_images(0.95) == 19


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, 2.0])
def test_a_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(UsageError, match="expected a share"):
        conformal_half_width(np.ones(30), coverage)
