"""What is familiar, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.models.familiarity import Familiarity, fit_familiarity

FEATURES = 40


def drawn(count: int, seed: int, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that vary in five directions much and in all others a little."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    directions = torch.linalg.qr(torch.randn(FEATURES, 5, generator=torch.Generator().manual_seed(9))).Q
    values = 3 * torch.randn(count, 5, generator=generator) @ directions.T
    values += 0.1 * torch.randn(count, FEATURES, generator=generator) + 4.0 * labels[:, None]
    values[:, -1] += shift
    return values, labels


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    found = fit_familiarity(*drawn(600, 0))
    assert found is not None
    found.judge_by(found(drawn(400, 1)[0]))
    return found


def test_the_distance_is_mahalanobis(fitted: Familiarity) -> None:
    values, _ = drawn(20, 5)
    basis, noise = fitted.directions.double(), float(fitted.noise)
    covariance = basis @ torch.diag(fitted.variances.double() - noise) @ basis.T + noise * torch.eye(FEATURES)
    inverse = torch.linalg.inv(covariance)
    rest = values.double()[:, None] - fitted.means.double()[None]
    expected = torch.einsum("ncf,fg,ncg->nc", rest, inverse, rest).amin(dim=1)
    torch.testing.assert_close(fitted(values).double(), expected, rtol=1e-3, atol=1e-3)


def test_familiar_images_are_as_strange_as_others(fitted: Familiarity) -> None:
    shares = fitted.share(fitted(drawn(2000, 2)[0]))
    assert shares is not None
    for level in (0.05, 0.2, 0.5):
        assert float((shares <= level).double().mean()) == pytest.approx(level, abs=0.05)
    assert 1 / 401 <= float(shares.min()) <= float(shares.max()) <= 1


def test_what_lies_elsewhere_is_strange(fitted: Familiarity) -> None:
    shares = fitted.share(fitted(drawn(100, 3, shift=2.0)[0]))
    assert shares is not None
    assert float(shares.max()) == pytest.approx(1 / 401)


def test_a_row_does_not_depend_on_the_others(fitted: Familiarity) -> None:
    values, _ = drawn(50, 4)
    alone = torch.cat([fitted(row[None]) for row in values])
    torch.testing.assert_close(alone, fitted(values), rtol=1e-9, atol=1e-9)


def test_it_is_the_same_each_time() -> None:
    one, other = (fit_familiarity(*drawn(100, 0)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_nothing_is_known_of_too_few() -> None:
    assert fit_familiarity(torch.randn(2, 8), torch.tensor([0, 1])) is None
    assert fit_familiarity(torch.ones(5, 8), torch.zeros(5, dtype=torch.long)) is None
    found = fit_familiarity(torch.randn(3, 8), torch.zeros(3, dtype=torch.long))
    assert found is not None
    assert found.share(torch.ones(1)) is None
    assert np.isfinite(found(torch.randn(4, 8)).numpy()).all()
