"""Heads on nested parts of the images: what is known after a sixteenth, an eighth, a quarter, half and all of them.

Enters: features of labelled images, and folds. Leaves: what heads on parts of the other folds say of each image; the
prefix does not run here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from regraft.training.objective import Objective
from regraft.training.progress import Listener
from regraft.training.solver import STRENGTHS, Solution, solve_path

#: Images of a class that each part has at least.
LEAST = 2
#: Rows above which a solver of one thread is slower than one of several.
_ONE_THREAD = 4000


@dataclass(frozen=True, eq=False)
class Judged:
    """What heads on parts of the training images said of the images that they did not see.

    Attributes:
        predicted: Classes, int64 (R, L, N): by repeat and part, the smallest part first; the last part is all.
        counts: Images of each class in a part, mean over the folds and repeats, float64 (L, C).
        halved: Classes by heads that had half of one class and all of the others, int64 (C, N), of the first repeat;
            None where that was not asked for.
        half_counts: Images of each class that were left of it, mean over the folds, float64 (C,); likewise.
        solved: Heads that were solved.
    """

    predicted: np.ndarray
    counts: np.ndarray
    halved: np.ndarray | None
    half_counts: np.ndarray | None
    solved: int


def nested_parts(
    labels: np.ndarray, bundles: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Parts of a set of images, each within the next; no bundle is divided.

    Args:
        labels: int (N,).
        bundles: A number for each image, (N,); those with the same number come together.
        shares: Of each class, rising; 1 is all.
        rng: Of the order in which images are taken.

    Returns:
        bool (L, N). A class has its share of images, at least `LEAST`, and more by less than one bundle.
    """
    _, first, bundle = np.unique(bundles, return_index=True, return_inverse=True)
    size = np.bincount(bundle)
    owner = labels[first]  # a bundle of several classes counts as its first image
    chosen = np.zeros((len(shares), len(first)), dtype=bool)
    order = rng.permutation(len(first))
    for label in np.unique(owner):
        own = order[owner[order] == label]
        before = np.cumsum(size[own]) - size[own]
        for level, share in enumerate(shares):
            chosen[level, own] = before < max(LEAST, round(share * int(size[own].sum())))
    return chosen[:, bundle]


def judge_by_parts(
    features: torch.Tensor,
    labels: np.ndarray,
    bundles: np.ndarray,
    folds: Sequence[np.ndarray],
    shares: Sequence[float],
    listener: Listener,
    *,
    classes: int,
    halves: bool,
    seed: int = 0,
) -> Judged:
    """Judge every image by heads on nested parts of the folds that it is not in.

    A fold's head has the strength with the least loss over the other folds; which strengths are tried for a part
    follows from the part before it, over all folds. Each head starts from the same fold's head on the part before.

    Args:
        features: float32 (N, F).
        labels: int64 (N,), below `classes`.
        bundles: int64 (N,); no bundle is in two folds.
        folds: For each of R repeats the number of the fold of each image, (N,).
        shares: Of the images of each class, rising, the last one 1.
        listener: Told how far the work is.
        classes: C.
        halves: Whether to solve heads with half of each class in turn too: C more for each fold.
        seed: Of the parts.
    """
    worker = _Parts(features, torch.from_numpy(labels), listener, classes)
    predicted = np.empty((len(folds), len(shares), len(labels)), dtype=np.int64)
    counts = np.zeros((len(shares), classes))
    halved = np.empty((classes, len(labels)), dtype=np.int64) if halves else None
    half_counts = np.zeros(classes) if halves else None
    numbers = [np.unique(fold) for fold in folds]
    worker.total = sum(map(len, numbers)) * len(shares) + halves * classes * len(numbers[0])
    places: list[int | None] = [None] * len(shares)
    with _threads(len(labels)):
        for repeat, fold in enumerate(folds):
            outside = [np.flatnonzero(fold == number) for number in numbers[repeat]]
            inside, parts = [], []
            for number in numbers[repeat]:
                rows = np.flatnonzero(fold != number)
                rng = np.random.default_rng([seed, repeat, int(number)])
                inside.append(rows)
                parts.append(nested_parts(labels[rows], bundles[rows], [*shares, 0.5], rng))
            starts: list[Solution | None] = [None] * len(outside)
            for level in range(len(shares)):
                trains = [rows[part[level]] for rows, part in zip(inside, parts, strict=True)]
                near = places[level] if places[level] is not None else places[level - 1] if level else None
                predicted[repeat, level], places[level], starts = worker.part(trains, outside, starts, near)
                for rows in trains:
                    counts[level] += np.bincount(labels[rows], minlength=classes)
            if repeat == 0 and halved is not None and half_counts is not None:
                for held, rows, part, start in zip(outside, inside, parts, starts, strict=True):
                    for label in range(classes):
                        left = rows[part[-1] | (labels[rows] != label)]
                        half_counts[label] += (labels[left] == label).sum() / len(outside)
                        halved[label, held] = worker.again(left, held, start)
    return Judged(predicted, counts / sum(map(len, numbers)), halved, half_counts, worker.solved)


class _Parts:
    """Solves, and counts what it solved."""

    def __init__(self, features: torch.Tensor, targets: torch.Tensor, listener: Listener, classes: int) -> None:
        self.features, self.targets, self.listener = features, targets, listener
        self.objective = Objective("cross_entropy", 0.0, torch.ones(classes))
        self.solved = self.done = self.total = 0

    def part(
        self,
        trains: Sequence[np.ndarray],
        outside: Sequence[np.ndarray],
        starts: Sequence[Solution | None],
        near: int | None,
    ) -> tuple[np.ndarray, int, list[Solution | None]]:
        """Predicted classes (N,), the place of the best strength over all folds, and each fold's head there."""
        found: list[dict[int, Solution]] = [{} for _ in trains]
        losses = torch.full((len(trains), len(STRENGTHS)), torch.inf, dtype=torch.float64)
        wanted = range(len(STRENGTHS)) if near is None else range(max(0, near - 1), min(len(STRENGTHS), near + 2))
        best, todo = 0, list(wanted)
        while todo:
            for row, (train, held) in enumerate(zip(trains, outside, strict=True)):
                start = found[row].get(todo[0] - 1, starts[row])
                for place, solution in zip(todo, self._path(train, todo, start), strict=False):
                    found[row][place] = solution
                    losses[row, place] = self._loss(solution, held)
                    if len(todo) > 3 and losses[row, place] > losses[row, place - 1] > losses[row, place - 2]:
                        break
            best = int(losses.sum(dim=0).argmin())
            beyond = [p for p in (best - 1, best + 1) if 0 <= p < len(STRENGTHS)]
            todo = [p for p in beyond if near is not None and p not in found[0]][:1]
        predicted = np.empty(len(self.targets), dtype=np.int64)
        for row, held in enumerate(outside):
            others = losses[torch.arange(len(trains)) != row].sum(dim=0)
            place = int(torch.where(losses[row].isfinite(), others, torch.inf).argmin())
            predicted[held] = self._predicted(found[row][place], held)
            self._tell()
        return predicted, best, [solutions.get(best) for solutions in found]

    def again(self, train: np.ndarray, held: np.ndarray, start: Solution | None) -> np.ndarray:
        """Predicted classes of `held` by a head on `train` of the strength of `start`, from which it starts."""
        place = len(STRENGTHS) // 2 if start is None else STRENGTHS.index(start.strength)
        self._tell()
        return self._predicted(next(iter(self._path(train, [place], start))), held)

    def _path(self, train: np.ndarray, places: Sequence[int], start: Solution | None) -> Iterator[Solution]:
        rows = torch.from_numpy(train)
        chosen = [STRENGTHS[place] for place in places]
        for solution in solve_path(
            self.features[rows], self.targets[rows], self.objective, strengths=chosen, start=start, consume=True
        ):
            self.solved += 1
            yield solution

    def _logits(self, solution: Solution, held: np.ndarray) -> torch.Tensor:
        return self.features[torch.from_numpy(held)] @ solution.weight.T + solution.bias

    def _loss(self, solution: Solution, held: np.ndarray) -> float:
        logits, targets = self._logits(solution, held).double(), self.targets[torch.from_numpy(held)]
        return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))

    def _predicted(self, solution: Solution, held: np.ndarray) -> np.ndarray:
        return np.asarray(self._logits(solution, held).argmax(dim=1).numpy())

    def _tell(self) -> None:
        self.done += 1
        self.listener.work("heads", self.done, self.total)


@contextmanager
def _threads(rows: int) -> Iterator[None]:
    """One thread where the problems are small: several would mostly wait for each other."""
    before = torch.get_num_threads()
    if rows <= _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
