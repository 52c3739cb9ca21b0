"""Find near duplicates: the same picture re-encoded, resized, slightly cropped, brighter or mirrored.

First, descriptors find candidates. A descriptor has the low frequencies of an image, of one of its crops or of its
mirror image, and is whitened over the data set, so that what all images share does not count. Then each candidate pair
is aligned by shift and scale. It is a near duplicate if the aligned pictures correlate after a band-pass filter, and
still correlate after what similar images share is projected out: a thousand bottles seen by a fixed camera are not
duplicates. Unlikely candidates are rejected early, by finer frequencies and then at half the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache, partial

import numpy as np

from regraft.data.quality.descriptor_index import DescriptorIndex
from regraft.data.quality.registration import AlignedPairs, coarse_align, crop_matrices, standardize
from regraft.data.union_find import UnionFind
from regraft.resources import usable_cpus

#: Part of the cache key; changes whenever the same thumbnails would give other pairs.
NEAR_DUPLICATES_VERSION = 4

#: Smallest correlation of near duplicates, for shorter sides of 32 pixels and of 64 or more.
_MIN_SIMILARITY = ((32.0, 64.0), (0.93, 0.98))
#: Smallest correlation after what similar images share is projected out.
_MIN_RESIDUAL = 0.85
#: Ranks of the similar images whose mean counts as shared; the nearest may be duplicates themselves.
_SHARED_RANKS = slice(16, 48)
#: With fewer images nothing counts as shared; from more images a sample of this size is drawn.
_MIN_IMAGES, _MAX_IMAGES = 64, 4096
#: Smallest and largest number of candidates of an image, and the number for all images together.
_TRIED, _TRIED_IN_ALL = (4, 16), 130_000
#: Side of the square of frequencies in a descriptor, and of the square that is computed.
_LOW, _COMPUTED = 8, 12
#: Candidates also need this similarity in the computed frequencies outside a square of this side.
_COARSE, _MIN_FINE_SIMILARITY = 4, 0.55
#: Numbers of alignment steps at half the size, and the smallest correlation after them.
_STAGES = ((1, 0.8), (4, 0.9))
#: Crops of an image that are compared with whole images: top, left, height and width as fractions.
_CROPS = np.array(
    [(0, 0, 1, 1), (0, 0, 0.95, 0.95), (0, 0.05, 0.95, 0.95), (0.05, 0, 0.95, 0.95), (0.05, 0.05, 0.95, 0.95),
     (0.025, 0.025, 0.95, 0.95), (0.05, 0.05, 0.9, 0.9)],
    dtype=np.float32,
)  # fmt: skip
#: Images whose spectra are in memory at once; those of more images are computed again where they are needed.
_IN_MEMORY = 65_536
#: Where all images are compared: pairs that are compared at once, and candidates that stay of each image.
_COMPARED, _KEPT_OF_ALL = 2**21, 64
#: Where an index proposes images: images that search at once, and candidates that stay of each.
_QUERIES, _KEPT = 4096, 16
#: Pairs that are aligned at once, and batches between two looks at which images are connected already.
_BATCH, _BATCHES = 64, 4

#: Returns gray thumbnails, uint8 (n, S, S), for image numbers, int64 (n,).
Pictures = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]
#: Descriptors, float32 (n, F), in which what all images share does not count.
_Whiten = Callable[[np.ndarray], np.ndarray]


def find_near_duplicates(pictures: Pictures, sides: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
    """Find pairs of near duplicates, enough of them to connect each group of near duplicates.

    `pictures` is called for all images in turn, then for the candidates; `sides` has the shorter side of each image in
    pixels, (N,), since finer details are not compared; `progress` is called with (candidates done, all candidates), and
    for very many images before that with (images searched, all images).

    Returns float64 (n, 4), sorted: the two image numbers, the smaller one first; the correlation after alignment, at
    most 1; and whether one is the mirror image of the other, 0 or 1.
    """
    count = len(sides)
    if count < 2:
        return np.empty((0, 4))
    spectra = _Spectra(pictures, count)
    queue = _most_similar(_similar_in_detail(spectra, _candidates(spectra, progress)), count)
    queue = replace(queue, aligned=queue.boxes)
    shared = _SharedContent(pictures, spectra.low)
    del spectra
    pairs: list[tuple[int, int, float, int]] = []
    connected = UnionFind(count)
    done = 0
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for steps, threshold in _STAGES:
            batches = [queue[i : i + _BATCH] for i in range(0, len(queue), _BATCH)]
            queue = _concatenate([queue[:0], *pool.map(partial(_filter, pictures, steps, threshold), batches)])
        ends = list(zip(queue.first.tolist(), queue.second.tolist(), strict=True))
        while done < len(ends):
            # Images that are connected through others need not be compared.
            chosen: list[int] = []
            while done < len(ends) and len(chosen) < _BATCHES * _BATCH:
                if connected.find(ends[done][0]) != connected.find(ends[done][1]):
                    chosen.append(done)
                done += 1
            batches = [queue[chosen[i : i + _BATCH]] for i in range(0, len(chosen), _BATCH)]
            for found in pool.map(partial(_compare, pictures, sides, shared), batches):
                for pair in found:
                    pairs.append(pair)
                    connected.union(*pair[:2])
            if progress:
                progress(done, len(ends))
    return np.array(sorted(pairs), np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class _Candidates:
    """Candidate pairs: a crop of the image `whole`, and the image `part`, which is mirrored first if `mirrored`."""

    whole: np.ndarray
    part: np.ndarray
    cosine: np.ndarray  # similarity of their descriptors
    crop: np.ndarray
    mirrored: np.ndarray
    aligned: np.ndarray | None = None  # the box of `whole` that matches `part`, float32 (n, 4); None: the crop

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, chosen: slice | np.ndarray | list[int]) -> _Candidates:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return _Candidates(**{name: column[chosen] for name, column in columns.items() if column is not None})

    @property
    def boxes(self) -> np.ndarray:
        return np.asarray(_CROPS[self.crop]) if self.aligned is None else self.aligned

    @property
    def first(self) -> np.ndarray:
        return np.asarray(np.minimum(self.whole, self.part))

    @property
    def second(self) -> np.ndarray:
        return np.asarray(np.maximum(self.whole, self.part))

    def load(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Thumbnails of `whole`, and of `part`, mirrored where needed."""
        first, second = pictures(self.whole), pictures(self.part)
        second[self.mirrored] = second[self.mirrored][:, :, ::-1]
        return first, second


def _concatenate(pieces: Iterable[_Candidates]) -> _Candidates:
    pieces = list(pieces)
    columns = {f.name: [getattr(piece, f.name) for piece in pieces] for f in fields(_Candidates)}
    return _Candidates(**{name: np.concatenate(column) for name, column in columns.items() if column[0] is not None})


class _SharedContent:
    def __init__(self, pictures: Pictures, low: np.ndarray) -> None:
        count = len(low)
        drawn = np.arange(count if count >= _MIN_IMAGES else 0)
        if count > _MAX_IMAGES:
            drawn = np.sort(np.random.default_rng(0).choice(count, _MAX_IMAGES, replace=False))
        self._low, self._drawn = low, drawn
        self._descriptors = _normalize(low[drawn])
        self._standardized = standardize(pictures(drawn).astype(np.float32))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Mean image for each image number, float32 (n, S, S); 0 if there are too few images."""
        means = np.zeros((len(numbers), *self._standardized.shape[1:]), np.float32)
        if not len(self._drawn):
            return means
        similarity = _normalize(self._low[numbers]) @ self._descriptors.T
        nearest = np.argpartition(-similarity, _SHARED_RANKS.stop, axis=1)[:, : _SHARED_RANKS.stop]
        order = np.argsort(-np.take_along_axis(similarity, nearest, axis=1), axis=1, kind="stable")
        for mean, ranked in zip(means, np.take_along_axis(nearest, order, axis=1)[:, _SHARED_RANKS], strict=True):
            self._standardized[ranked].mean(axis=0, out=mean)
        return means


def _filter(pictures: Pictures, steps: int, threshold: float, candidates: _Candidates) -> _Candidates:
    boxes, similarity = coarse_align(*candidates.load(pictures), candidates.boxes, steps=steps)
    return replace(candidates, aligned=boxes)[similarity >= threshold]


def _compare(
    pictures: Pictures, sides: np.ndarray, shared: _SharedContent, candidates: _Candidates
) -> list[tuple[int, int, float, int]]:
    side = np.minimum(sides[candidates.whole], sides[candidates.part])
    aligned = AlignedPairs(*candidates.load(pictures), candidates.boxes, side)
    similarity = aligned.similarity()
    near = np.flatnonzero(similarity >= np.interp(side, *_MIN_SIMILARITY))
    near = near[aligned.residual_similarity(near, shared.of(candidates.whole[near])) >= _MIN_RESIDUAL]
    found = candidates[near]
    columns = (found.first, found.second, similarity[near], found.mirrored.astype(int))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _most_similar(candidates: _Candidates, count: int) -> _Candidates:
    """The candidates that are among the most similar ones of either of their images, the most similar first."""
    limit = int(np.clip(_TRIED_IN_ALL // count, *_TRIED))
    candidates = candidates[np.lexsort((candidates.second, candidates.first, -candidates.cosine))]
    tried = [0] * count
    chosen = []
    for number, (i, j) in enumerate(zip(candidates.whole.tolist(), candidates.part.tolist(), strict=True)):
        if min(tried[i], tried[j]) < limit:
            chosen.append(number)
            tried[i] += 1
            tried[j] += 1
    return candidates[chosen]


def _candidates(spectra: _Spectra, progress: Progress | None) -> _Candidates:
    """Pairs of an image, or a crop of it, and another image with similar descriptors; each pair once, the best."""
    whiten, count = _whitening(spectra.low), len(spectra.low)
    index = DescriptorIndex(_in_blocks(spectra.low, lambda low: whiten(_normalize(low))))
    rows, limit = (_COMPARED // count + 1, _KEPT_OF_ALL) if index.compares_all else (_QUERIES, _KEPT)
    kept = []
    for start, block in spectra.blocks():
        for row in range(0, block.shape[1], rows):
            found = [
                _search(index, whiten, block[crop, row : row + rows], start + row, crop, mirrored)
                for crop, mirrored in [*((crop, False) for crop in range(len(_CROPS))), (0, True)]
            ]
            kept.append(_best_of_each(_best_of_pairs(_concatenate(found), count), limit))
        if progress and count > _IN_MEMORY:
            progress(start + block.shape[1], count)
    return _best_of_pairs(_concatenate(kept), count)


def _search(
    index: DescriptorIndex,
    whiten: Callable[[np.ndarray], np.ndarray],
    spectra: np.ndarray,
    start: int,
    crop: int,
    mirrored: bool,
) -> _Candidates:
    """Candidates of a crop of consecutive images or of their mirror images; `start` is the first image."""
    whole, part, cosine = index.search(whiten(_normalize(_low(_mirror(spectra) if mirrored else spectra))))
    whole += start
    # Whole images and mirror images match in both directions; one is enough.
    kept = whole != part if crop else whole < part
    whole, part, cosine = whole[kept], part[kept], cosine[kept]
    return _Candidates(whole, part, cosine, np.full(len(whole), crop), np.full(len(whole), mirrored))


def _best_of_pairs(candidates: _Candidates, count: int) -> _Candidates:
    """The most similar candidate of each pair of images, sorted by pair."""
    pair = candidates.first * count + candidates.second
    order = np.lexsort((-candidates.cosine, pair))
    _, first = np.unique(pair[order], return_index=True)
    return candidates[order[first]]


def _best_of_each(candidates: _Candidates, limit: int) -> _Candidates:
    """The `limit` most similar candidates of each image that searched."""
    order = np.lexsort((-candidates.cosine, candidates.whole))
    starts = np.flatnonzero(np.diff(candidates.whole[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return candidates[np.sort(order[rank < limit])]


def _similar_in_detail(spectra: _Spectra, candidates: _Candidates) -> _Candidates:
    kept = []
    by_whole = np.argsort(candidates.whole, kind="stable")  # so that crops of an image are computed once
    for start in range(0, len(candidates), 8192):
        chosen = by_whole[start : start + 8192]
        chunk = candidates[chosen]
        first, second = spectra.of(chunk.crop, chunk.whole), spectra.of(np.zeros_like(chunk.crop), chunk.part)
        second[chunk.mirrored] = _mirror(second[chunk.mirrored])
        for frequencies in (first, second):
            frequencies[:, :_COARSE, :_COARSE] = 0
        similarity = np.einsum("nf,nf->n", _normalize(first), _normalize(second))
        kept.append(chosen[similarity >= _MIN_FINE_SIMILARITY])
    return candidates[np.sort(np.concatenate([[], *kept]).astype(int))]


class _Spectra:
    """DCT low frequencies of each crop of each image, norm 1, mean 0 (flat: 0), float16.

    `low` has the lowest ones of whole images, float16 (N, _LOW, _LOW).
    """

    def __init__(self, pictures: Pictures, count: int) -> None:
        self._pictures, self._count = pictures, count
        self._all = self._compute(np.arange(count)) if count <= _IN_MEMORY else None
        self._whole = np.empty((count, _COMPUTED, _COMPUTED), np.float16)
        for start, block in self.blocks():
            self._whole[start : start + _IN_MEMORY] = block[0]
        self.low = np.ascontiguousarray(_low(self._whole))

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first image of each block, and the spectra, (crops, n, rows, columns)."""
        if self._all is not None:
            yield 0, self._all
            return
        for start in range(0, self._count, _IN_MEMORY):
            yield start, self._compute(np.arange(start, min(start + _IN_MEMORY, self._count)))

    def of(self, crops: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """A copy of the spectra of crops of images, (n, rows, columns)."""
        if self._all is not None:
            return np.asarray(self._all[crops, numbers])
        if not crops.any():
            return np.asarray(self._whole[numbers])
        unique, places = np.unique(numbers, return_inverse=True)
        return np.asarray(self._compute(unique)[crops, places])

    def _compute(self, numbers: np.ndarray) -> np.ndarray:
        spectra = np.empty((len(_CROPS), len(numbers), _COMPUTED, _COMPUTED), np.float16)
        for start in range(0, len(numbers), 1024):
            chunk = self._pictures(numbers[start : start + 1024]).astype(np.float32)
            size = chunk.shape[1]
            rows, columns = _transforms(size)
            partial_spectra = chunk.reshape(-1, size) @ columns.reshape(-1, size).T
            partial_spectra = partial_spectra.reshape(len(chunk), size, len(_CROPS), _COMPUTED)
            for crop in range(len(_CROPS)):
                spectrum = np.asarray(rows[crop] @ partial_spectra[:, :, crop])
                spectrum[:, 0, 0] = 0
                norm = np.linalg.norm(spectrum, axis=(1, 2), keepdims=True)
                spectra[crop, start : start + 1024] = spectrum / np.maximum(norm, 1e-3)
        return spectra


def _in_blocks(low: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of the lowest frequencies of each image, computed in blocks: float32 (N, _LOW**2)."""
    values = np.empty((len(low), _LOW**2), np.float32)
    for start in range(0, len(low), _IN_MEMORY):
        values[start : start + _IN_MEMORY] = function(low[start : start + _IN_MEMORY])
    return values


def _low(spectra: np.ndarray) -> np.ndarray:
    return spectra[:, :_LOW, :_LOW]


def _mirror(spectra: np.ndarray) -> np.ndarray:
    """Spectra of the mirror images: cosines that are odd about the middle change sign."""
    return np.asarray(spectra * np.where(np.arange(spectra.shape[2]) % 2, -1, 1).astype(spectra.dtype))


def _normalize(spectra: np.ndarray) -> np.ndarray:
    """Vectors of norm 1, float32 (n, f); zeros stay 0."""
    rows = spectra.reshape(-1, spectra.shape[1] * spectra.shape[2]).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


@cache
def _transforms(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices from pixels to the frequencies of each crop, for rows and columns, float32 (crops, _COMPUTED, S)."""
    from scipy.fft import dct  # slow to import, and not needed when the pairs are cached

    waves = dct(np.eye(size, dtype=np.float32), axis=0, norm="ortho")[:_COMPUTED]
    rows, columns = crop_matrices(_CROPS, size)
    return waves @ rows, waves @ columns


def _whitening(low: np.ndarray) -> _Whiten:
    """A function that whitens descriptors like those of `low`, shrunk toward the identity for few images."""
    count, size = len(low), _LOW**2
    weight = count / (count + 4.0 * size)
    blocks = [low[start : start + _IN_MEMORY] for start in range(0, count, _IN_MEMORY)]
    mean = weight * sum(_normalize(block).mean(axis=0) * np.float32(len(block) / count) for block in blocks)
    moments = ((_normalize(block) - mean) for block in blocks)
    covariance = sum(moment.T @ moment for moment in moments) / count
    level = max(float(np.trace(covariance)) / size, 1e-12)
    values, vectors = np.linalg.eigh(weight * covariance + (1 - weight) * level * np.eye(size, dtype=np.float32))
    scale = vectors / np.sqrt(np.maximum(values, 0) + 0.05 * level)

    def whiten(rows: np.ndarray) -> np.ndarray:
        white = (rows - mean) @ scale
        return np.asarray(white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-6), np.float32)

    return whiten
