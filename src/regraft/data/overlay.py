"""How alike two pictures are when one is shifted and scaled to lie over the other.

Enters: pairs of small grey pictures. Leaves: where in the one the other lies, and their correlation there: that of what
is left between two blurs, so that neither light nor noise counts.
"""

from __future__ import annotations

from functools import cache

import numpy as np

#: Grey values, of 255, that a picture must vary by between the two blurs, so that it shows anything.
_VISIBLE = 1.0
#: Sigmas of the finer blur, in pixels, when all images are large enough; the coarser blur has three times that.
_BLUR, _COARSER = 0.75, 3.0


def place_roughly(
    one: np.ndarray, other: np.ndarray, places: np.ndarray, *, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Look at half the size where in one picture the other lies.

    Args:
        one: Grey pictures, uint8 (n, S, S).
        other: Grey pictures, uint8 (n, S, S).
        places: Where in `one` to begin to look for `other`: top, left, height and width as shares, (n, 4).
        steps: Of the search.

    Returns:
        Places, float32 (n, 4), and the correlation there at half the size, float (n,).
    """
    first, second = _halved(one.astype(np.float32)), _halved(other.astype(np.float32))
    places = _placed(first, second, places, steps=steps)
    inner = slice(2, -2)
    laid = _between(_warped(first, places), _BLUR)[:, inner, inner]
    seen = _between(second, _BLUR)[:, inner, inner]
    product, left, right = (np.einsum("nij,nij->n", a, b) for a, b in ((laid, seen), (laid, laid), (seen, seen)))
    return places, np.asarray(product / np.sqrt(np.maximum(left * right, 1e-9)))


class Overlay:
    """Pairs of pictures, laid over one another at their full size.

    Args:
        one: Grey pictures, uint8 (n, S, S).
        other: Grey pictures, uint8 (n, S, S).
        places: Where in `one` to begin to look for `other`, as `place_roughly` gives them, (n, 4).
        sides: Shorter side, in pixels, of the smaller image of each pair, (n,).
    """

    def __init__(self, one: np.ndarray, other: np.ndarray, places: np.ndarray, sides: np.ndarray) -> None:
        """Find out where they lie."""
        size = one.shape[1]
        first, self._whole = one.astype(np.float32), other.astype(np.float32)
        self._places = _placed(first, self._whole, places, steps=3)
        self._laid = _warped(first, self._places)
        lit = ((other <= 250) & (other >= 5)).astype(np.float32)
        lit *= _warped(((one > 250) | (one < 5)).astype(np.float32), self._places) < 0.01
        margin = size // 16
        lit[:, :margin], lit[:, -margin:], lit[:, :, :margin], lit[:, :, -margin:] = 0, 0, 0, 0
        self._lit, self._area = lit, np.maximum(lit.sum(axis=(1, 2)), 1)
        # What a picture of 16 pixels does not have is not compared.
        self._blurs = np.clip(np.round(0.6 * size / np.maximum(sides, 1) * 2) / 2, _BLUR, 4.0)

    def likeness(self) -> np.ndarray:
        """Correlation between two blurs, without the border and without what is black or white in either, float (n,).

        It is 0 where either shows nothing.
        """
        size = self._lit.shape[1]
        found = np.zeros(len(self._lit))
        for blur in np.unique(self._blurs):
            chosen = np.flatnonzero(self._blurs == blur)
            weight, area = self._lit[chosen], self._area[chosen]
            a, b = (self._seen(pictures, chosen, blur) for pictures in (self._laid, self._whole))
            visible = np.minimum(_dot(a, a, weight), _dot(b, b, weight)) >= _VISIBLE**2 * area
            visible &= area >= 0.1 * size**2
            found[chosen] = np.where(visible, _correlation(a, b, weight), 0)
        return found

    def own_likeness(self, chosen: np.ndarray, common: np.ndarray) -> np.ndarray:
        """The same for some of the pairs, when their shares in what others look like are taken away.

        Args:
            chosen: Numbers of m pairs.
            common: What images like `one` of these pairs have in common, float (m, S, S).
        """
        common = _warped(common, self._places[chosen])
        found = np.zeros(len(chosen))
        for blur in np.unique(self._blurs[chosen]):
            those = np.flatnonzero(self._blurs[chosen] == blur)
            numbers = chosen[those]
            weight = self._lit[numbers]
            a, b = (self._seen(pictures, numbers, blur) for pictures in (self._laid, self._whole))
            shared = self._centred(_between(common[those], blur), numbers)
            for pictures in (a, b):
                share = _dot(pictures, shared, weight) / np.maximum(_dot(shared, shared, weight), 1e-9)
                pictures -= share[:, None, None] * shared
            found[those] = _correlation(a, b, weight)
        return found

    def _seen(self, pictures: np.ndarray, numbers: np.ndarray, blur: float) -> np.ndarray:
        return self._centred(_between(pictures[numbers], blur), numbers)

    def _centred(self, pictures: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        means = np.einsum("nij,nij->n", pictures, self._lit[numbers]) / self._area[numbers]
        return np.asarray(pictures - means[:, None, None])


def standardised(pictures: np.ndarray) -> np.ndarray:
    """Pictures, float (n, S, S), of mean 0 and of standard deviation 1; nearly flat ones stay nearly flat."""
    pictures = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return np.asarray(pictures / np.maximum(pictures.std(axis=(1, 2), keepdims=True), 1.0))


def interpolations(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What stretches cuts of pictures to (size, size): linear interpolation down and to the right, float (n, S, S)."""
    pixels = np.arange(size, dtype=np.float32)
    matrices = []
    for start, length in ((places[:, 0], places[:, 2]), (places[:, 1], places[:, 3])):
        at = np.clip(size * start[:, None] + (pixels + 0.5) * length[:, None] - 0.5, 0, size - 1)
        matrices.append(np.maximum(0, 1 - np.abs(at[:, :, None] - pixels)))
    return matrices[0], matrices[1]


def _dot(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nij,nij,nij->n", x, y, weight))


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(_dot(x, y, weight) / np.sqrt(np.maximum(_dot(x, x, weight) * _dot(y, y, weight), 1e-9)))


def _between(pictures: np.ndarray, blur: float) -> np.ndarray:
    """The difference of two Gaussian blurs of pictures (n, S, S)."""
    fine, coarse = (_blurring(pictures.shape[1], sigma) for sigma in (blur, _COARSER * blur))
    return np.asarray(fine @ pictures @ fine.T - coarse @ pictures @ coarse.T)


@cache
def _blurring(size: int, sigma: float) -> np.ndarray:
    """The matrix of a Gaussian blur along one side, float32 (S, S)."""
    from scipy.ndimage import gaussian_filter1d  # as in `duplicates`: imported when it is needed

    return np.asarray(gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0))


def _halved(pictures: np.ndarray) -> np.ndarray:
    count, size, _ = pictures.shape
    return np.asarray(pictures.reshape(count, size // 2, 2, size // 2, 2).mean(axis=(2, 4)))


def _placed(one: np.ndarray, other: np.ndarray, places: np.ndarray, *, steps: int) -> np.ndarray:
    """Move and scale the cuts of `one` to what lies over `other`, by Gauss-Newton steps (Lucas and Kanade 1981)."""
    count, size, _ = one.shape
    places, target = places.astype(np.float32), standardised(other)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    ridge = np.eye(4, dtype=np.float32)
    for _ in range(steps):
        laid = standardised(_warped(one, places))
        down, right = np.gradient(laid, axis=(1, 2))
        down *= size / places[:, 2, None, None]
        right *= size / places[:, 3, None, None]
        slopes = np.stack([down, right, down * along[:, None], right * along], axis=1).reshape(count, 4, -1)
        slopes -= slopes.mean(axis=2, keepdims=True)
        square = slopes @ slopes.transpose(0, 2, 1)
        level = np.trace(square, axis1=1, axis2=2)[:, None, None] / 4
        square += ridge * (1e-3 * level + 1e-3)
        step = np.linalg.solve(square, slopes @ (target - laid).reshape(count, -1, 1))[:, :, 0]
        places = places + np.clip(step, -0.03, 0.03)
        places[:, :2] = np.clip(places[:, :2], -0.2, 0.2)
        places[:, 2:] = np.clip(places[:, 2:], 0.8, 1.25)
    return places


def _warped(pictures: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What lies in a cut of each picture, stretched to (n, S, S); beyond the edge its last pixels are repeated."""
    down, right = interpolations(places, pictures.shape[1])
    return np.asarray(down @ pictures @ right.transpose(0, 2, 1))
