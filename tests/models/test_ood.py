"""Distances and p-values of out-of-distribution detection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.models.ood import MahalanobisOod, fit_ood

FEATURES = 40


def sample(count: int, seed: int, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes with a large variance in five directions and a small one in all others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    directions = torch.linalg.qr(torch.randn(FEATURES, 5, generator=torch.Generator().manual_seed(9))).Q
    values = 3 * torch.randn(count, 5, generator=generator) @ directions.T
    values += 0.1 * torch.randn(count, FEATURES, generator=generator) + 4.0 * labels[:, None]
    values[:, -1] += shift
    return values, labels


@pytest.fixture(scope="module")
def ood() -> MahalanobisOod:
    ood = fit_ood(*sample(600, 0))
    assert ood is not None
    ood.calibrate(ood(sample(400, 1)[0]))
    return ood


def test_the_distance_is_mahalanobis(ood: MahalanobisOod) -> None:
    values, _ = sample(20, 5)
    components, noise = ood.components.double(), float(ood.noise_variance)
    covariance = components @ torch.diag(ood.variances.double() - noise) @ components.T + noise * torch.eye(FEATURES)
    inverse = torch.linalg.inv(covariance)
    residuals = values.double()[:, None] - ood.means.double()[None]
    expected = torch.einsum("ncf,fg,ncg->nc", residuals, inverse, residuals).amin(dim=1)
    torch.testing.assert_close(ood(values).double(), expected, rtol=1e-3, atol=1e-3)


def test_p_values_of_in_distribution_images_are_uniform(ood: MahalanobisOod) -> None:
    p_values = ood.p_value(ood(sample(2000, 2)[0]))
    assert p_values is not None
    for level in (0.05, 0.2, 0.5):
        assert float((p_values <= level).double().mean()) == pytest.approx(level, abs=0.05)
    assert 1 / 401 <= float(p_values.min()) <= float(p_values.max()) <= 1


def test_out_of_distribution_images_have_the_lowest_p_value(ood: MahalanobisOod) -> None:
    p_values = ood.p_value(ood(sample(100, 3, shift=2.0)[0]))
    assert p_values is not None
    assert float(p_values.max()) == pytest.approx(1 / 401)


def test_a_row_does_not_depend_on_the_others(ood: MahalanobisOod) -> None:
    values, _ = sample(50, 4)
    single = torch.cat([ood(row[None]) for row in values])
    torch.testing.assert_close(single, ood(values), rtol=1e-9, atol=1e-9)


def test_the_fit_is_deterministic() -> None:
    first, second = (fit_ood(*sample(100, 0)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_too_few_images_give_no_detector() -> None:
    assert fit_ood(torch.randn(2, 8), torch.tensor([0, 1])) is None
    assert fit_ood(torch.ones(5, 8), torch.zeros(5, dtype=torch.long)) is None
    ood = fit_ood(torch.randn(3, 8), torch.zeros(3, dtype=torch.long))
    assert ood is not None
    assert ood.p_value(torch.ones(1)) is None
    assert np.isfinite(ood(torch.randn(4, 8)).numpy()).all()
