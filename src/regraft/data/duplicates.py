"""Near duplicates: images that show the same picture re-encoded, resized, cropped a little, brighter or mirrored.

Enters: the small pictures of N images. Leaves: pairs of them, each with a likeness. Two steps: descriptors (low
frequencies, whitened over the data set so that what all images share does not count) of each image, of its crops
and of its mirror image find candidates; a candidate counts if one picture can be laid over the other by shifting
and scaling so that what is left of both between two blurs correlates, also after what other images look like there
is taken away: a fixed camera's pictures of a thousand bottles are no duplicates. What is clearly no candidate is
given up as early as can be: by finer frequencies, then at half the size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache, partial

import numpy as np

from regraft.data.overlay import Overlay, interpolations, place_roughly, standardised

#: Changes whenever the same pictures would give other pairs.
DUPLICATES_VERSION = 2

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
#: Side of the square of low frequencies by which candidates are found, and of that which is kept; the mean is left out.
_LOW, _KEPT = 8, 12
#: Candidates must also be alike, by so much, in what is kept but for this square, or else chance made them.
_COARSE, _ALIKE = 4, 0.55
#: And so much at half the size after so many steps of laying them over one another.
_ROUGH = ((1, 0.8), (4, 0.9))
#: What is cut out of a picture to be found again in another: top, left, height, width as shares.
_CUTS = np.array(
    [(0, 0, 1, 1), (0, 0, 0.95, 0.95), (0, 0.05, 0.95, 0.95), (0.05, 0, 0.95, 0.95), (0.05, 0.05, 0.95, 0.95),
     (0.025, 0.025, 0.95, 0.95), (0.05, 0.05, 0.9, 0.9)],
    dtype=np.float32,
)  # fmt: skip
#: Up to so many images every one is compared with every other; of more, those in the nearest cells.
_ALL = 4096
_CELLS_TRIED = 16
#: Pairs that are laid over one another at once, and how many times as many between two looks at what is joined.
_BATCH, _AT_ONCE = 64, 4

#: Gives grey pictures, uint8 (n, S, S), for image numbers, int64 (n,).
Pictures = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]


def find_twins(pictures: Pictures, sides: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
    """Pairs of images that show the same, enough of them to join all that do.

    Args:
        pictures: Called for all images in turn, and then for the candidates.
        sides: The shorter side of each image in pixels, (N,): what the two are compared by is no finer.
        progress: Called with (candidates done, candidates in all).

    Returns:
        float64 (n, 4), sorted: the numbers of the two, the smaller first; their correlation, laid over one another, up
        to 1; and whether one is the mirror image of the other, 0 or 1.
    """
    count = len(sides)
    if count < 2:
        return np.empty((0, 4))
    described = _described(pictures, count)
    queue = _most_alike(_alike(described, _candidates(described)), count)
    known = _Common(pictures, described[0].copy())
    del described
    twins: list[tuple[int, int, float, int]] = []
    joined = Forest(count)
    done = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for steps, least in _ROUGH:
            batches = [queue[i : i + _BATCH] for i in range(0, len(queue), _BATCH)]
            queue = _joined([queue[:0], *pool.map(partial(_roughly_same, pictures, steps, least), batches)])
        ends = list(zip(queue.first.tolist(), queue.second.tolist(), strict=True))
        while done < len(ends):
            # What is known to show the same by way of others need not be laid over one another.
            chosen: list[int] = []
            while done < len(ends) and len(chosen) < _AT_ONCE * _BATCH:
                if joined.root(ends[done][0]) != joined.root(ends[done][1]):
                    chosen.append(done)
                done += 1
            batches = [queue[chosen[i : i + _BATCH]] for i in range(0, len(chosen), _BATCH)]
            for same in pool.map(partial(_same, pictures, sides, known), batches):
                for twin in same:
                    twins.append(twin)
                    joined.join(*twin[:2])
            if progress:
                progress(done, len(ends))
    return np.array(sorted(twins), np.float64).reshape(-1, 4)


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


@dataclass(frozen=True)
class _Pairs:
    """Candidates.

    Attributes:
        whole: Number of the image that is cut, int64 (n,).
        part: Number of the image that is looked for in it, int64 (n,).
        cosine: Of their descriptors, float32 (n,).
        cut: Number of the cut, int64 (n,).
        mirrored: Whether `part` is mirrored first, bool (n,).
        places: Where in `whole` the search for `part` is, float32 (n, 4).
    """

    whole: np.ndarray
    part: np.ndarray
    cosine: np.ndarray
    cut: np.ndarray
    mirrored: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, chosen: slice | np.ndarray | list[int]) -> _Pairs:
        return _Pairs(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @property
    def first(self) -> np.ndarray:
        """The smaller number of each."""
        return np.asarray(np.minimum(self.whole, self.part))

    @property
    def second(self) -> np.ndarray:
        """The larger number of each."""
        return np.asarray(np.maximum(self.whole, self.part))

    def pictures(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Of each the picture that is cut, and the other, mirrored where it is to be."""
        one, other = pictures(self.whole), pictures(self.part)
        other[self.mirrored] = other[self.mirrored][:, :, ::-1]
        return one, other


def _joined(pieces: Iterable[_Pairs]) -> _Pairs:
    """One after the other."""
    pieces = list(pieces)
    return _Pairs(*(np.concatenate([getattr(piece, f.name) for piece in pieces]) for f in fields(_Pairs)))


class _Common:
    """What images like a certain one have in common."""

    def __init__(self, pictures: Pictures, whole: np.ndarray) -> None:
        """Draw some; `whole` are descriptors of all."""
        count = len(whole)
        drawn = np.arange(count if count >= _FEWEST else 0)
        if count > _DRAWN:
            drawn = np.sort(np.random.default_rng(0).choice(count, _DRAWN, replace=False))
        self._whole, self._drawn = whole, drawn
        self._known = _normed(_low(whole[drawn]))
        self._standardised = standardised(pictures(drawn).astype(np.float32))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The mean of those like each image, float32 (n, S, S); 0 where nothing is known."""
        means = np.zeros((len(numbers), *self._standardised.shape[1:]), np.float32)
        if not len(self._drawn):
            return means
        likeness = _normed(_low(self._whole[numbers])) @ self._known.T
        first = np.argpartition(-likeness, _COMMON.stop, axis=1)[:, : _COMMON.stop]
        order = np.argsort(-np.take_along_axis(likeness, first, axis=1), axis=1, kind="stable")
        for mean, like in zip(means, np.take_along_axis(first, order, axis=1)[:, _COMMON], strict=True):
            self._standardised[like].mean(axis=0, out=mean)
        return means


def _roughly_same(pictures: Pictures, steps: int, least: float, pairs: _Pairs) -> _Pairs:
    """Those of some candidates that are alike at half the size, after more steps."""
    places, likeness = place_roughly(*pairs.pictures(pictures), pairs.places, steps=steps)
    return replace(pairs, places=places)[likeness >= least]


def _same(pictures: Pictures, sides: np.ndarray, known: _Common, pairs: _Pairs) -> list[tuple[int, int, float, int]]:
    """Those of some candidates that show the same, as `find_twins` has them."""
    side = np.minimum(sides[pairs.whole], sides[pairs.part])
    overlay = Overlay(*pairs.pictures(pictures), pairs.places, side)
    likeness = overlay.likeness()
    near = np.flatnonzero(likeness >= np.interp(side, *_NEAR))
    near = near[overlay.own_likeness(near, known.of(pairs.whole[near])) >= _OWN]
    found = pairs[near]
    columns = (found.first, found.second, likeness[near], found.mirrored.astype(int))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _most_alike(pairs: _Pairs, count: int) -> _Pairs:
    """Those that are among the most alike of either of their images, the most alike first."""
    most = int(np.clip(_TRIED_IN_ALL // count, *_TRIED))
    pairs = pairs[np.lexsort((pairs.second, pairs.first, -pairs.cosine))]
    tried = [0] * count
    chosen = []
    for number, (i, j) in enumerate(zip(pairs.whole.tolist(), pairs.part.tolist(), strict=True)):
        if min(tried[i], tried[j]) < most:
            chosen.append(number)
            tried[i] += 1
            tried[j] += 1
    return pairs[chosen]


def _candidates(described: np.ndarray) -> _Pairs:
    """Pairs of images, or of a cut of one and another, that are alike; of each pair the most alike."""
    whole = _normed(_low(described[0]))
    whiten = _whitening(whole)
    near = _Cells(whiten(whole))
    count, pieces = len(whole), []
    for cut, mirrored in [*((cut, False) for cut in range(len(_CUTS))), (0, True)]:
        low = _normed(_low(_mirrored(described[0]) if mirrored else described[cut]))
        asking, other, cosine = near.pairs(whiten(low))
        # A mirror image is the same either way round; so is a pair of whole ones.
        kept = asking != other if cut else asking < other
        asking, other, cosine = asking[kept], other[kept], cosine[kept]
        number = np.full(len(asking), cut)
        pieces.append(_Pairs(asking, other, cosine, number, np.full(len(asking), mirrored), _CUTS[number]))
    pairs = _joined(pieces)
    order = np.lexsort((-pairs.cosine, pairs.first * count + pairs.second))
    pairs = pairs[order]
    _, firsts = np.unique(pairs.first * count + pairs.second, return_index=True)
    return pairs[firsts]


def _alike(described: np.ndarray, pairs: _Pairs) -> _Pairs:
    """Those that are alike in finer frequencies too."""
    kept = []
    for start in range(0, len(pairs), 8192):
        some = pairs[start : start + 8192]
        one, other = described[some.cut, some.whole], described[0, some.part]
        other[some.mirrored] = _mirrored(other[some.mirrored])
        for frequencies in (one, other):
            frequencies[:, :_COARSE, :_COARSE] = 0
        likeness = np.einsum("nf,nf->n", _normed(one), _normed(other))
        kept.append(start + np.flatnonzero(likeness >= _ALIKE))
    return pairs[np.concatenate([[], *kept]).astype(int)]


def _described(pictures: Pictures, count: int) -> np.ndarray:
    """Low frequencies (discrete cosine transform) of what lies in each cut of each image, of length 1 each.

    Returns:
        float16 (cuts, N, down, right); the mean is 0, and so is all of what shows nothing. 2 kB an image.
    """
    described = np.empty((len(_CUTS), count, _KEPT, _KEPT), np.float16)
    for start in range(0, count, 1024):
        some = pictures(np.arange(start, min(start + 1024, count))).astype(np.float32)
        size = some.shape[1]
        down, right = _transforms(size)
        rows = (some.reshape(-1, size) @ right.reshape(-1, size).T).reshape(len(some), size, len(_CUTS), _KEPT)
        for cut in range(len(_CUTS)):
            low = np.asarray(down[cut] @ rows[:, :, cut])
            low[:, 0, 0] = 0
            length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
            described[cut, start : start + 1024] = low / np.maximum(length, 1e-3)
    return described


def _low(described: np.ndarray) -> np.ndarray:
    """The frequencies by which candidates are found."""
    return described[:, :_LOW, :_LOW]


def _mirrored(described: np.ndarray) -> np.ndarray:
    """What the mirror image would give: a cosine that changes sign about the middle does."""
    return np.asarray(described * np.where(np.arange(described.shape[2]) % 2, -1, 1).astype(described.dtype))


def _normed(described: np.ndarray) -> np.ndarray:
    """As vectors of length 1, float32 (n, f); what shows nothing stays 0."""
    rows = described.reshape(-1, described.shape[1] * described.shape[2]).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


@cache
def _transforms(size: int) -> tuple[np.ndarray, np.ndarray]:
    """What takes pictures to the frequencies of each cut, down and to the right, float32 (cuts, _KEPT, S)."""
    from scipy.fft import dct  # takes a fifth of a second to import, which a second look at the same data need not

    waves = dct(np.eye(size, dtype=np.float32), axis=0, norm="ortho")[:_KEPT]
    down, right = interpolations(_CUTS, size)
    return waves @ down, waves @ right


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

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all that are alike: number of the row, number of the known one, int64 (n,), and cosine, float32 (n,)."""
        cells = self._nearest(rows, self.tried)
        order = np.argsort(cells, axis=None, kind="stable")
        ends = np.searchsorted(cells.ravel()[order], np.arange(1, len(self.members)))
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        for asking, members in zip(np.split(order // self.tried, ends), self.members, strict=True):
            known = self.known[members].T
            for start in range(0, len(asking), 1024):
                some = asking[start : start + 1024]
                likeness = rows[some] @ known
                i, j = np.divmod(np.flatnonzero(likeness >= _CANDIDATE), max(1, len(members)))
                found.append((some[i], members[j], likeness[i, j]))
        first, second, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
        return first, second, cosine
