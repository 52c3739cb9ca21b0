"""Spread what is known of some images to similar images, over a graph of nearest neighbors.

Input: features of all images, (N, F), the labels of the first of them, and what a model says of the others. Output:
class probabilities of the others, and how certain each of them is. Of several labels an image, each is a question by
itself, with two answers. The graph is sparse: it has k edges for each image, so its memory is bounded by N k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

#: Bytes of the similarities of a few images with all others, which are in memory at once.
_BLOCK_BYTES = 64 * 2**20
#: Power of the cosine similarity that weights an edge (Iscen et al. 2019, arXiv 1904.04717).
_GAMMA = 3
#: Relative residual at which conjugate gradients stop.
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest images of each of N images, the most similar first, without the image itself.

    Attributes:
        images: Their numbers, int64 (N, K), or -1 where an image has fewer.
        similarities: Cosine similarities, float32 (N, K).
    """

    images: np.ndarray
    similarities: np.ndarray

    def among(self, images: np.ndarray, k: int) -> Neighbors:
        """The first k neighbors of these images, int64 (n,) and rising, among themselves, numbered from 0.

        An image of whose K neighbors fewer than k are among them has fewer: they have the number -1.
        """
        number_of = np.full(len(self.images), -1, np.int64)
        number_of[images] = np.arange(len(images))
        chosen, similarities = self.images[images], self.similarities[images]
        numbers = np.where(chosen < 0, -1, number_of[chosen])
        order = np.argsort(numbers < 0, axis=1, kind="stable")[:, :k]
        return Neighbors(np.take_along_axis(numbers, order, 1), np.take_along_axis(similarities, order, 1))


def nearest_neighbors(features: torch.Tensor, count: int) -> Neighbors:
    """Find the `count` most similar other images of each image by the cosine of standardized features, (N, F).

    All pairs are compared, a block of images at a time.
    """
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    lowest = 1e-3 * float(deviation.square().mean().sqrt()) + 1e-12  # nearly constant features are not blown up
    units = torch.nn.functional.normalize((features - mean) / deviation.clamp_min(lowest), dim=1)
    total = len(units)
    count = min(count, total - 1)
    images, similarities = np.empty((total, count), np.int64), np.empty((total, count), np.float32)
    rows = max(1, _BLOCK_BYTES // (4 * total))
    for start in range(0, total, rows):
        block = units[start : start + rows] @ units.T
        block.view(-1)[start :: total + 1][: len(block)] = -torch.inf  # an image is no neighbor of itself
        values, numbers = block.topk(count, dim=1)
        images[start : start + rows] = numbers.cpu().numpy()
        similarities[start : start + rows] = values.cpu().numpy()
    return Neighbors(images, similarities)


def propagate(
    neighbors: Neighbors, start: np.ndarray, labeled: int, *, alpha: float, several: bool = False
) -> np.ndarray:
    """Class probabilities of the images after the first `labeled` ones, float32 (N - labeled, C).

    `start` has a row of probabilities for each image, float (N, C): its label, or what a model says of it; zeros where
    nothing is known. The result has the rows of (I - alpha S)^-1 Y, divided by their sums, where Y is the start and S
    the symmetrically normalized matrix of the edges (Zhou et al. 2004, "Learning with local and global consistency").
    Before, columns are scaled so that the classes have together the shares that they have among the labels (class mass
    normalization, Zhu et al. 2003). An image that nothing reaches has these shares. Of `several` labels an image, the
    same is done for each column p of the start with the two classes p and 1 - p.
    """
    solve, total = _solver(neighbors, alpha), len(start)
    shares = start[:labeled].mean(axis=0)
    scores = np.zeros((total - labeled, len(shares)))
    for index in np.flatnonzero(shares):
        scores[:, index] = np.maximum(solve(start[:, index])[labeled:], 0)
    if not several:
        return _normalized(scores, shares)
    every = solve(np.ones(total))[labeled:]  # solutions are linear: what is left of it is that of 1 - p
    probabilities = np.empty(scores.shape, np.float32)
    for label, share in enumerate(shares.tolist()):
        both = np.stack([scores[:, label], np.maximum(every - scores[:, label], 0)], axis=1)
        probabilities[:, label] = _normalized(both, np.array([share, 1 - share]))[:, 0]
    return probabilities


def _normalized(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Scores (M, C) to probabilities of classes that have together these shares (C,), float32 (M, C)."""
    scores = scores * (shares / np.maximum(scores.sum(axis=0), 1e-12))
    sums = scores.sum(axis=1, keepdims=True)
    reached = sums > 1e-12
    probabilities: np.ndarray = np.where(reached, scores / np.where(reached, sums, 1), shares).astype(np.float32)
    return probabilities


def _solver(neighbors: Neighbors, alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a start of all images, (N,), to the solution, float64 (N,), of their graph."""
    from scipy.sparse import csr_array, diags_array, eye_array  # slow to import, and few trainings need them
    from scipy.sparse.linalg import cg

    total = len(neighbors.images)
    rows = np.repeat(np.arange(total), neighbors.images.shape[1])
    columns, similarities = neighbors.images.ravel(), neighbors.similarities.ravel().astype(np.float64)
    kept = (columns >= 0) & (similarities > 0)
    weights = similarities[kept] ** _GAMMA
    edges = csr_array((weights, (rows[kept], columns[kept])), shape=(total, total))
    edges = edges + edges.T
    degrees = np.asarray(edges.sum(axis=1)).ravel()
    scale = diags_array(1 / np.sqrt(np.maximum(degrees, 1e-12)))
    system = (eye_array(total) - alpha * (scale @ edges @ scale)).tocsr()

    def solve(start: np.ndarray) -> np.ndarray:
        solution: np.ndarray = cg(system, start.astype(np.float64), rtol=_TOLERANCE)[0]
        return solution

    return solve


def certainty(probabilities: np.ndarray, *, several: bool = False) -> np.ndarray:
    """1 minus the entropy of each row over its largest value, log C: float32 (N,), in 0..1 (arXiv 1904.04717).

    Of `several` labels an image, it is the mean of the certainties of the answers for each.
    """
    if several:
        answers = np.stack([probabilities, 1 - probabilities], axis=-1)
        return np.asarray(certainty(answers.reshape(-1, 2)).reshape(probabilities.shape).mean(axis=1))
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    certain: np.ndarray = np.clip(1 - entropy / np.log(probabilities.shape[1]), 0, 1).astype(np.float32)
    return certain
