"""Align one of two thumbnails with the other by shift and scale, and correlate them.

A band-pass filter (difference of Gaussians) removes illumination and noise first. Thumbnails are gray, uint8 (n, S, S).
"""

from __future__ import annotations

from functools import cache

import numpy as np

#: Smallest standard deviation, in gray levels of 255, of a filtered thumbnail that shows anything.
_MIN_STD = 1.0
#: Sigma of the finer blur in pixels for images that are large enough, and how much wider the coarser blur is.
_SIGMA, _RATIO = 0.75, 3.0


def coarse_align(
    first: np.ndarray, second: np.ndarray, boxes: np.ndarray, *, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Align pairs at half the size by Gauss-Newton steps: boxes, float32 (n, 4), and the correlation, float (n,).

    `boxes` of `first` to match with `second` are top, left, height and width as fractions, (n, 4).
    """
    first, second = _halve(first.astype(np.float32)), _halve(second.astype(np.float32))
    boxes = _align(first, second, boxes, steps=steps)
    inner = slice(2, -2)
    a = _band_pass(_crop(first, boxes), _SIGMA)[:, inner, inner]
    b = _band_pass(second, _SIGMA)[:, inner, inner]
    product, left, right = (np.einsum("nij,nij->n", x, y) for x, y in ((a, b), (a, a), (b, b)))
    return boxes, np.asarray(product / np.sqrt(np.maximum(left * right, 1e-9)))


class AlignedPairs:
    """Pairs of thumbnails, aligned from boxes of `coarse_align`; `sides`: shorter sides of smaller images in pixels."""

    def __init__(self, first: np.ndarray, second: np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> None:
        size = first.shape[1]
        floats, self._second = first.astype(np.float32), second.astype(np.float32)
        self._boxes = _align(floats, self._second, boxes, steps=3)
        self._first = _crop(floats, self._boxes)
        # Black and white areas and the border get no weight.
        weight = ((second <= 250) & (second >= 5)).astype(np.float32)
        weight *= _crop(((first > 250) | (first < 5)).astype(np.float32), self._boxes) < 0.01
        margin = size // 16
        weight[:, :margin], weight[:, -margin:], weight[:, :, :margin], weight[:, :, -margin:] = 0, 0, 0, 0
        self._weight, self._area = weight, np.maximum(weight.sum(axis=(1, 2)), 1)
        # Details that the smaller image cannot have are blurred away.
        self._sigmas = np.clip(np.round(0.6 * size / np.maximum(sides, 1) * 2) / 2, _SIGMA, 4.0)

    def similarity(self) -> np.ndarray:
        """Weighted correlation of the filtered thumbnails, float (n,); 0 if either shows nothing."""
        size = self._weight.shape[1]
        similarity = np.zeros(len(self._weight))
        for sigma in np.unique(self._sigmas):
            chosen = np.flatnonzero(self._sigmas == sigma)
            weight, area = self._weight[chosen], self._area[chosen]
            a, b = (self._filtered(pictures, chosen, sigma) for pictures in (self._first, self._second))
            visible = np.minimum(_dot(a, a, weight), _dot(b, b, weight)) >= _MIN_STD**2 * area
            visible &= area >= 0.1 * size**2
            similarity[chosen] = np.where(visible, _correlation(a, b, weight), 0)
        return similarity

    def residual_similarity(self, chosen: np.ndarray, common: np.ndarray) -> np.ndarray:
        """Correlation of pairs without `common`, (m, S, S): what each `first` shares with similar images."""
        common = _crop(common, self._boxes[chosen])
        similarity = np.zeros(len(chosen))
        for sigma in np.unique(self._sigmas[chosen]):
            selected = np.flatnonzero(self._sigmas[chosen] == sigma)
            numbers = chosen[selected]
            weight = self._weight[numbers]
            a, b = (self._filtered(pictures, numbers, sigma) for pictures in (self._first, self._second))
            shared = self._centered(_band_pass(common[selected], sigma), numbers)
            for pictures in (a, b):
                share = _dot(pictures, shared, weight) / np.maximum(_dot(shared, shared, weight), 1e-9)
                pictures -= share[:, None, None] * shared
            similarity[selected] = _correlation(a, b, weight)
        return similarity

    def _filtered(self, pictures: np.ndarray, numbers: np.ndarray, sigma: float) -> np.ndarray:
        return self._centered(_band_pass(pictures[numbers], sigma), numbers)

    def _centered(self, pictures: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        means = np.einsum("nij,nij->n", pictures, self._weight[numbers]) / self._area[numbers]
        return np.asarray(pictures - means[:, None, None])


def standardize(pictures: np.ndarray) -> np.ndarray:
    """Scale pictures, float (n, S, S), to mean 0 and standard deviation 1; nearly flat ones stay nearly flat."""
    pictures = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return np.asarray(pictures / np.maximum(pictures.std(axis=(1, 2), keepdims=True), 1.0))


def crop_matrices(boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices that stretch boxes of pictures to (size, size) by linear interpolation: rows and columns, (n, S, S)."""
    pixels = np.arange(size, dtype=np.float32)
    matrices = []
    for start, length in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        at = np.clip(size * start[:, None] + (pixels + 0.5) * length[:, None] - 0.5, 0, size - 1)
        matrices.append(np.maximum(0, 1 - np.abs(at[:, :, None] - pixels)))
    return matrices[0], matrices[1]


def _dot(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nij,nij,nij->n", x, y, weight))


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(_dot(x, y, weight) / np.sqrt(np.maximum(_dot(x, x, weight) * _dot(y, y, weight), 1e-9)))


def _band_pass(pictures: np.ndarray, sigma: float) -> np.ndarray:
    fine, coarse = (_blur_matrix(pictures.shape[1], value) for value in (sigma, _RATIO * sigma))
    return np.asarray(fine @ pictures @ fine.T - coarse @ pictures @ coarse.T)


@cache
def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """Gaussian blur along one side as a matrix, float32 (S, S)."""
    from scipy.ndimage import gaussian_filter1d  # slow to import, and not needed when the pairs are cached

    return np.asarray(gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0))


def _halve(pictures: np.ndarray) -> np.ndarray:
    count, size, _ = pictures.shape
    return np.asarray(pictures.reshape(count, size // 2, 2, size // 2, 2).mean(axis=(2, 4)))


def _align(first: np.ndarray, second: np.ndarray, boxes: np.ndarray, *, steps: int) -> np.ndarray:
    """Move and scale boxes of `first` until they match `second`, by Gauss-Newton steps (Lucas and Kanade 1981)."""
    count, size, _ = first.shape
    boxes, target = boxes.astype(np.float32), standardize(second)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    for _ in range(steps):
        cropped = standardize(_crop(first, boxes))
        down, right = np.gradient(cropped, axis=(1, 2))
        down *= size / boxes[:, 2, None, None]
        right *= size / boxes[:, 3, None, None]
        slopes = np.stack([down, right, down * along[:, None], right * along], axis=1).reshape(count, 4, -1)
        slopes -= slopes.mean(axis=2, keepdims=True)
        square = slopes @ slopes.transpose(0, 2, 1)
        level = np.trace(square, axis1=1, axis2=2)[:, None, None] / 4
        square += np.eye(4, dtype=np.float32) * (1e-3 * level + 1e-3)
        step = np.linalg.solve(square, slopes @ (target - cropped).reshape(count, -1, 1))[:, :, 0]
        boxes = boxes + np.clip(step, -0.03, 0.03)
        boxes[:, :2] = np.clip(boxes[:, :2], -0.2, 0.2)
        boxes[:, 2:] = np.clip(boxes[:, 2:], 0.8, 1.25)
    return boxes


def _crop(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A box of each picture, stretched to (n, S, S); beyond the edge the last pixels are repeated."""
    rows, columns = crop_matrices(boxes, pictures.shape[1])
    return np.asarray(rows @ pictures @ columns.transpose(0, 2, 1))
