from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regraft.data.quality.registration import AlignedPairs, coarse_align, crop_matrices, standardize

WHOLE = np.array([[0, 0, 1, 1]], np.float32)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A picture larger than a thumbnail, (96, 96)."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(96, 96)), 1.5)
    return np.clip(128 + 60 * noise / noise.std(), 6, 249).astype(np.uint8)


def aligned(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, AlignedPairs]:
    boxes, _ = coarse_align(first[None], second[None], WHOLE, steps=8)
    return boxes, AlignedPairs(first[None], second[None], boxes, np.array([256]))


def test_a_shifted_picture_is_aligned(scene):
    first, second = scene[16:80, 16:80], scene[19:83, 14:78]
    boxes, pairs = aligned(first, second)
    assert boxes[0] == pytest.approx([3 / 64, -2 / 64, 1, 1], abs=0.01)
    assert pairs.similarity()[0] > 0.95
    _, other = aligned(first, np.ascontiguousarray(scene[80:16:-1, 16:80]))
    assert other.similarity()[0] < 0.5


def test_brightness_and_contrast_do_not_matter(scene):
    first = scene[16:80, 16:80]
    _, pairs = aligned(first, (60 + first * 0.5).astype(np.uint8))
    assert pairs.similarity()[0] > 0.95


def test_a_picture_that_shows_nothing_is_similar_to_none(scene):
    flat = np.full((64, 64), 128, np.uint8)
    assert aligned(flat, flat)[1].similarity() == [0]
    assert aligned(scene[16:80, 16:80], flat)[1].similarity() == [0]


def test_what_is_common_to_many_images_does_not_make_a_pair(scene):
    rng = np.random.default_rng(1)
    shared = scene[16:80, 16:80].astype(float)
    first, second = (np.clip(shared + rng.normal(0, 12, shared.shape), 6, 249).astype(np.uint8) for _ in range(2))
    _, pairs = aligned(first, second)
    rest = pairs.residual_similarity(np.array([0]), shared[None].astype(np.float32))
    assert abs(rest[0]) < 0.3 < pairs.similarity()[0]


def test_matrices_stretch_a_box():
    picture = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    rows, columns = crop_matrices(WHOLE, 4)
    assert np.array_equal(rows @ picture @ columns.transpose(0, 2, 1), picture)
    rows, columns = crop_matrices(np.array([[0.5, 0, 0.5, 1]], np.float32), 4)
    assert (rows @ picture @ columns.transpose(0, 2, 1)).min() >= 6
    assert standardize(picture).mean() == pytest.approx(0, abs=1e-6)
    assert standardize(picture).std() == pytest.approx(1)
