"""Near duplicates: images that show the same picture re-encoded, resized, cropped a little, brighter or mirrored.

Enters: the small pictures of N images. Leaves: pairs of them, each with a likeness. Two steps: descriptors (low
frequencies, whitened over the data set so that what all images share does not count) of each image, of its crops
and of its mirror image find candidates; a candidate counts if one picture can be laid over the other by shifting
and scaling so that what is left of both between two blurs correlates, also after what other images look like there
is taken away: a fixed camera's pictures of a thousand bottles are no duplicates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.fft import dct
from scipy.ndimage import gaussian_filter1d

#: Changes whenever the same pictures would give other pairs.
DUPLICATES_VERSION = 1

#: Correlations from which on two pictures count as the same, for shorter sides of 32 pixels and of 64 or more.
_NEAR = ((32.0, 64.0), (0.93, 0.98))
#: The same after what is common to other images is taken away.
_OWN = 0.85
#: Of the images most like one, those that stand for what is common: the very first may be its duplicates.
_COMMON = slice(16, 48)
#: With fewer images nothing is known to be common; from more of them so many are drawn.
_FEWEST, _DRAWN = 64, 4096
#: Cosine of descriptors from which on two images are laid over one another.
_CANDIDATE = 0.7
#: Candidates of one image that are tried, the most alike first: fewest and most, and of all images together.
_TRIED, _TRIED_IN_ALL = (4, 16), 130_000
#: Side of the square of low frequencies in a descriptor; the mean is left out.
_FREQUENCIES = 8
#: Candidates must also be alike, by so much, in the frequencies from the one to the other, or else chance made them.
_COARSE, _FINE, _ALIKE = 4, 12, 0.55
#: And so much when they are laid over one another roughly.
_ROUGH = 0.8
#: What is cut out of a picture to be found again in another: top, left, height, width as shares.
_CUTS = np.array(
    [(0, 0, 1, 1), (0, 0, 0.95, 0.95), (0, 0.05, 0.95, 0.95), (0.05, 0, 0.95, 0.95), (0.05, 0.05, 0.95, 0.95),
     (0.025, 0.025, 0.95, 0.95), (0.05, 0.05, 0.9, 0.9)],
    dtype=np.float32,
)  # fmt: skip
#: Up to so many images every one is compared with every other; of more, those in the nearest cells.
_ALL = 4096
_CELLS_TRIED = 16
#: Grey values, of 255, that a picture must vary by between the two blurs, so that it shows anything.
_VISIBLE = 1.0
#: Pairs that are laid over one another at once, and how many times as many between two looks at what is joined.
_BATCH, _AT_ONCE = 64, 4

#: Gives grey pictures, uint8 (n, S, S), for image numbers, int64 (n,).
Pictures = Callable[[np.ndarray], np.ndarray]

#: Of a pair, the smaller number first: cosine, number of the cut (negative: of the second image), whether mirrored.
_Candidates = dict[tuple[int, int], tuple[float, int, bool]]


@dataclass(frozen=True)
class Twins:
    """Two images that show the same.

    Attributes:
        first: Number of the one image.
        second: Number of the other, larger than `first`.
        likeness: Correlation of the two, laid over one another, up to 1.
        mirrored: Whether one is the mirror image of the other.
    """

    first: int
    second: int
    likeness: float
    mirrored: bool


def find_twins(
    pictures: Pictures,
    sides: np.ndarray,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Twins]:
    """Pairs of images that show the same, enough of them to join all that do.

    Args:
        pictures: Called for all images in turn, and then for the candidates.
        sides: The shorter side of each image in pixels, (N,): what the two are compared by is no finer.
        progress: Called with (candidates done, candidates in all).

    Returns:
        Sorted by the two numbers.
    """
    count = len(sides)
    if count < 2:
        return []
    best: _Candidates = {}
    for first, second, likeness, cut, mirrored in _candidates(pictures, count):
        key = (first, second) if first < second else (second, first)
        if likeness > best.get(key, (0.0,))[0]:
            best[key] = (likeness, cut if key == (first, second) else -cut, mirrored)
    queue = _roughly_same(pictures, _most_alike(_alike(pictures, best), count), best)
    common = _Common(pictures, count)
    twins: list[Twins] = []
    joined = Forest(count)
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        while done < len(queue):
            # What is known to show the same by way of others need not be laid over one another.
            chosen: list[tuple[int, int]] = []
            while done < len(queue) and len(chosen) < _AT_ONCE * _BATCH:
                if joined.root(queue[done][0]) != joined.root(queue[done][1]):
                    chosen.append(queue[done])
                done += 1
            batches = [chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH)]
            for same in pool.map(lambda batch: _same(pictures, sides, common, batch, best), batches):
                for twin in same:
                    twins.append(twin)
                    joined.join(twin.first, twin.second)
            if progress:
                progress(done, len(queue))
    return sorted(twins, key=lambda t: (t.first, t.second))


class Forest:
    """Numbers that are joined into sets (union-find)."""

    def __init__(self, count: int) -> None:
        """Each of 0 to count - 1 is alone."""
        self._parent = list(range(count))

    def root(self, i: int) -> int:
        """The number that stands for the set of i."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make one set of the two; the smaller root stays."""
        low, high = sorted((self.root(i), self.root(j)))
        self._parent[high] = low


class _Common:
    """What images like a certain one have in common."""

    def __init__(self, pictures: Pictures, count: int) -> None:
        drawn = np.arange(count)
        if count > _DRAWN:
            drawn = np.sort(np.random.default_rng(0).choice(count, _DRAWN, replace=False))
        self.drawn = drawn if count >= _FEWEST else np.empty(0, np.int64)
        self.known = _described(pictures, self.drawn)
        self.standardised = _standardised(pictures(self.drawn).astype(np.float32))

    def of(self, pictures: np.ndarray) -> np.ndarray:
        """The mean of those like each picture, float32 (n, S, S); 0 where nothing is known."""
        means = np.zeros(pictures.shape, np.float32)
        if len(self.drawn):
            likeness = _descriptors(pictures) @ self.known.T
            first = np.argpartition(-likeness, _COMMON.stop, axis=1)[:, : _COMMON.stop]
            order = np.argsort(-np.take_along_axis(likeness, first, axis=1), axis=1, kind="stable")
            for mean, like in zip(means, np.take_along_axis(first, order, axis=1)[:, _COMMON], strict=True):
                self.standardised[like].mean(axis=0, out=mean)
        return means


def _described(pictures: Pictures, numbers: np.ndarray) -> np.ndarray:
    parts = [_descriptors(pictures(numbers[i : i + 1024])) for i in range(0, len(numbers), 1024)]
    return np.concatenate(parts) if parts else np.empty((0, _FREQUENCIES**2), np.float32)


def _same(
    pictures: Pictures,
    sides: np.ndarray,
    common: _Common,
    pairs: list[tuple[int, int]],
    best: _Candidates,
) -> list[Twins]:
    """Those of some candidates that show the same."""
    whole, part, cuts, mirrored = _sides(pairs, best)
    one, other = pictures(whole), pictures(part)
    other[mirrored] = other[mirrored][:, :, ::-1]
    side = np.minimum(sides[whole], sides[part])
    likeness, own = overlay(one, other, _CUTS[cuts], side, common.of(one))
    same = (likeness >= np.interp(side, *_NEAR)) & (own >= _OWN)
    return [Twins(*pairs[i], float(likeness[i]), bool(mirrored[i])) for i in np.flatnonzero(same)]


def _alike(pictures: Pictures, best: _Candidates) -> _Candidates:
    """Those candidates that are alike in finer frequencies too."""
    kept: _Candidates = {}
    pairs = list(best)
    for start in range(0, len(pairs), 1024):
        some = pairs[start : start + 1024]
        whole, part, cuts, mirrored = _sides(some, best)
        other = pictures(part)
        other[mirrored] = other[mirrored][:, :, ::-1]
        fine = _descriptors(other, 0, _FINE)
        one = np.empty_like(fine)
        pictured = pictures(whole)
        for cut in np.unique(cuts):
            one[cuts == cut] = _descriptors(pictured[cuts == cut], int(cut), _FINE)
        likeness = np.einsum("nf,nf->n", one, fine)
        kept |= {some[i]: best[some[i]] for i in np.flatnonzero(likeness >= _ALIKE)}
    return kept


def _sides(
    pairs: Sequence[tuple[int, int]], best: _Candidates
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair the one that is cut, the other, the number of the cut, and whether the other is mirrored."""
    numbers = np.array(pairs)
    cuts = np.array([best[pair][1] for pair in pairs])
    mirrored = np.array([best[pair][2] for pair in pairs])
    swapped = cuts < 0
    whole, part = np.where(swapped, numbers[:, 1], numbers[:, 0]), np.where(swapped, numbers[:, 0], numbers[:, 1])
    return whole, part, np.abs(cuts), mirrored


def _roughly_same(pictures: Pictures, pairs: list[tuple[int, int]], best: _Candidates) -> list[tuple[int, int]]:
    """Those of some candidates that are alike at half the size, after one step."""

    def likeness(some: list[tuple[int, int]]) -> np.ndarray:
        whole, part, cuts, mirrored = _sides(some, best)
        one, other = pictures(whole), pictures(part)
        other[mirrored] = other[mirrored][:, :, ::-1]
        first, second = _halved(one.astype(np.float32)), _halved(other.astype(np.float32))
        laid = _between(_warped(first, _placed(first, second, _CUTS[cuts], steps=1)), 0.75)[:, 2:-2, 2:-2]
        seen = _between(second, 0.75)[:, 2:-2, 2:-2]
        product, left, right = (np.einsum("nij,nij->n", a, b) for a, b in ((laid, seen), (laid, laid), (seen, seen)))
        return np.asarray(product / np.sqrt(np.maximum(left * right, 1e-9)))

    batches = [pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(likeness, batches))
    return [pair for pair, value in zip(pairs, np.concatenate([[], *found]), strict=True) if value >= _ROUGH]


def _most_alike(best: _Candidates, count: int) -> list[tuple[int, int]]:
    """Pairs that are among the most alike of either of their images, the most alike first."""
    most = int(np.clip(_TRIED_IN_ALL // count, *_TRIED))
    tried: dict[int, int] = {}
    chosen = []
    for pair in sorted(best, key=lambda pair: (-best[pair][0], pair)):
        if min(tried.get(i, 0) for i in pair) < most:
            chosen.append(pair)
            for i in pair:
                tried[i] = tried.get(i, 0) + 1
    return chosen


def _candidates(pictures: Pictures, count: int) -> Iterator[tuple[int, int, float, int, bool]]:
    """First, second, cosine, number of the cut of the first, whether the second is mirrored."""
    views = [(cut, False) for cut in range(len(_CUTS))] + [(0, True)]
    described = np.empty((len(views), count, _FREQUENCIES**2), np.float32)
    for start in range(0, count, 1024):
        some = pictures(np.arange(start, min(start + 1024, count)))
        for number, (cut, mirrored) in enumerate(views):
            described[number, start : start + 1024] = _descriptors(some[:, :, ::-1] if mirrored else some, cut)
    whiten = _whitening(described[0])
    known = whiten(described[0])
    near = _Cells(known)
    for (cut, mirrored), descriptors in zip(views, described, strict=True):
        for first, second, likeness in near.pairs(whiten(descriptors)):
            # A mirror image is the same either way round; so is a pair of whole ones.
            if first < second or (cut and first != second):
                yield first, second, likeness, cut, mirrored


def _descriptors(pictures: np.ndarray, cut: int = 0, frequencies: int = _FREQUENCIES) -> np.ndarray:
    """Low frequencies (discrete cosine transform) of what lies in a cut of pictures (n, S, S), of length 1.

    Returns:
        float32 (n, frequencies**2); the mean is 0, and so is all of what shows nothing.
    """
    down, right = _transforms(pictures.shape[1], cut, frequencies)
    low = np.asarray(down @ pictures.astype(np.float32) @ right.T)
    low[:, 0, 0] = 0
    if frequencies > _FREQUENCIES:
        low[:, :_COARSE, :_COARSE] = 0
    low = low.reshape(len(low), -1)
    return np.asarray(low / np.maximum(np.linalg.norm(low, axis=1, keepdims=True), 1e-3))


@cache
def _transforms(size: int, cut: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """What takes pictures to the frequencies of a cut, down and to the right, float32 (frequencies, S)."""
    waves = dct(np.eye(size, dtype=np.float32), axis=0, norm="ortho")[:frequencies]
    down, right = _interpolations(_CUTS[[cut]], size)
    return waves @ down[0], waves @ right[0]


def _whitening(descriptors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What makes the descriptors' directions equally common; with few images it does little."""
    count, size = descriptors.shape
    weight = count / (count + 4.0 * size)  # of what the data set says, against none being more common than others
    mean = weight * descriptors.mean(axis=0)
    moments = descriptors - mean
    covariance = moments.T @ moments / count
    level = max(float(np.trace(covariance)) / size, 1e-12)
    values, vectors = np.linalg.eigh(weight * covariance + (1 - weight) * level * np.eye(size, dtype=np.float32))
    scale = vectors / np.sqrt(np.maximum(values, 0) + 0.05 * level)

    def whiten(rows: np.ndarray) -> np.ndarray:
        white = (rows - mean) @ scale
        return np.asarray(white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-6), np.float32)

    return whiten


class _Cells:
    """Descriptors by the nearest of about sqrt(N) of them, so that few need to be compared."""

    def __init__(self, known: np.ndarray) -> None:
        self.known = known
        cells = 1 if len(known) <= _ALL else 2 * round(len(known) ** 0.5)
        chosen = np.random.default_rng(0).choice(len(known), cells, replace=False)
        self.centres = known[np.sort(chosen)]
        self.tried = min(cells, _CELLS_TRIED)
        own = self._nearest(known, 1)[:, 0]
        order = np.argsort(own, kind="stable")
        self.members = np.split(order, np.searchsorted(own[order], np.arange(1, cells)))

    def _nearest(self, rows: np.ndarray, count: int) -> np.ndarray:
        """The `count` nearest cells of each row, in no order."""
        found = np.empty((len(rows), count), np.int64)
        for start in range(0, len(rows), 2048):
            likeness = rows[start : start + 2048] @ self.centres.T
            found[start : start + 2048] = (
                likeness.argmax(axis=1)[:, None]
                if count == 1
                else np.argpartition(likeness, -count, axis=1)[:, -count:]
            )
        return found

    def pairs(self, rows: np.ndarray) -> Iterator[tuple[int, int, float]]:
        """(row, known one, cosine) of all that are alike."""
        cells = self._nearest(rows, self.tried)
        order = np.argsort(cells, axis=None, kind="stable")
        ends = np.searchsorted(cells.ravel()[order], np.arange(1, len(self.members)))
        for asking, members in zip(np.split(order // self.tried, ends), self.members, strict=True):
            for start in range(0, len(asking), 1024):
                some = asking[start : start + 1024]
                likeness = rows[some] @ self.known[members].T
                for i, j in np.argwhere(likeness >= _CANDIDATE):
                    yield int(some[i]), int(members[j]), float(likeness[i, j])


def overlay(
    one: np.ndarray, other: np.ndarray, cuts: np.ndarray, sides: np.ndarray, common: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How alike pairs of pictures are when the first is shifted and scaled to lie over the second.

    Args:
        one: Grey pictures, uint8 (n, S, S).
        other: Grey pictures, uint8 (n, S, S).
        cuts: Where in `one` to begin to look for `other`: top, left, height and width as shares, (n, 4).
        sides: Shorter side, in pixels, of the smaller image of each pair, (n,).
        common: What images like `one` have in common, float (n, S, S).

    Returns:
        float (n,), twice: correlation of the two between two blurs, without the border and without what is black or
        white in either, 0 where either shows nothing; and the same when their shares in `common` are taken away.
    """
    size = one.shape[1]
    first, whole = one.astype(np.float32), other.astype(np.float32)
    places = _placed(_halved(first), _halved(whole), cuts, steps=5)
    places = _placed(first, whole, places, steps=3)
    laid, common = _warped(first, places), _warped(common, places)
    lit = ((other <= 250) & (other >= 5)).astype(np.float32)
    lit *= _warped(((one > 250) | (one < 5)).astype(np.float32), places) < 0.01
    margin = size // 16
    lit[:, :margin], lit[:, -margin:], lit[:, :, :margin], lit[:, :, -margin:] = 0, 0, 0, 0
    area = np.maximum(lit.sum(axis=(1, 2)), 1)
    likeness, own = np.zeros(len(one)), np.zeros(len(one))
    # What a picture of 16 pixels does not have is not compared.
    blurs = np.clip(np.round(0.6 * size / np.maximum(sides, 1) * 2) / 2, 0.75, 4.0)
    for blur in np.unique(blurs):
        chosen = np.flatnonzero(blurs == blur)
        weight = lit[chosen]

        def dot(x: np.ndarray, y: np.ndarray, weight: np.ndarray = weight) -> np.ndarray:
            return np.asarray(np.einsum("nij,nij,nij->n", x, y, weight))

        def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.asarray(dot(x, y) / np.sqrt(np.maximum(dot(x, x) * dot(y, y), 1e-9)))

        a, b, shared = (_between(pictures[chosen], blur) for pictures in (laid, whole, common))
        for pictures in (a, b, shared):
            pictures -= (np.einsum("nij,nij->n", pictures, weight) / area[chosen])[:, None, None]
        visible = np.minimum(dot(a, a), dot(b, b)) >= _VISIBLE**2 * area[chosen]
        visible &= area[chosen] >= 0.1 * size**2
        likeness[chosen] = np.where(visible, correlation(a, b), 0)
        for pictures in (a, b):
            share = dot(pictures, shared) / np.maximum(dot(shared, shared), 1e-9)
            pictures -= share[:, None, None] * shared
        own[chosen] = correlation(a, b)
    return likeness, own


def _between(pictures: np.ndarray, blur: float) -> np.ndarray:
    """The difference of two Gaussian blurs of pictures (n, S, S)."""
    fine, coarse = (_blurring(pictures.shape[1], sigma) for sigma in (blur, 3 * blur))
    return np.asarray(fine @ pictures @ fine.T - coarse @ pictures @ coarse.T)


@cache
def _blurring(size: int, sigma: float) -> np.ndarray:
    """The matrix of a Gaussian blur along one side, float32 (S, S)."""
    return np.asarray(gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0))


def _halved(pictures: np.ndarray) -> np.ndarray:
    count, size, _ = pictures.shape
    return np.asarray(pictures.reshape(count, size // 2, 2, size // 2, 2).mean(axis=(2, 4)))


def _placed(one: np.ndarray, other: np.ndarray, places: np.ndarray, *, steps: int) -> np.ndarray:
    """Move and scale the cuts of `one` to what lies over `other`, by Gauss-Newton steps (Lucas and Kanade 1981)."""
    count, size, _ = one.shape
    places, target = places.astype(np.float32), _standardised(other)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    ridge = np.eye(4, dtype=np.float32)
    for _ in range(steps):
        laid = _standardised(_warped(one, places))
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


def _standardised(pictures: np.ndarray) -> np.ndarray:
    pictures = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return np.asarray(pictures / np.maximum(pictures.std(axis=(1, 2), keepdims=True), 1.0))


def _warped(pictures: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What lies in a cut of each picture, stretched to (n, S, S); beyond the edge its last pixels are repeated."""
    down, right = _interpolations(places, pictures.shape[1])
    return np.asarray(down @ pictures @ right.transpose(0, 2, 1))


def _interpolations(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation down and to the right, as matrices (n, S, S)."""
    pixels = np.arange(size, dtype=np.float32)
    matrices = []
    for start, length in ((places[:, 0], places[:, 2]), (places[:, 1], places[:, 3])):
        at = np.clip(size * start[:, None] + (pixels + 0.5) * length[:, None] - 0.5, 0, size - 1)
        matrices.append(np.maximum(0, 1 - np.abs(at[:, :, None] - pixels)))
    return matrices[0], matrices[1]
