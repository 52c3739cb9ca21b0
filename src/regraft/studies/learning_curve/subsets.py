"""Heads on nested subsets of the images: a sixteenth, an eighth, a quarter, half and all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from regraft.data.labels import ModelTask
from regraft.training.callbacks import ProgressReporter
from regraft.training.linear_head import L2_VALUES, LinearHead, fit_path
from regraft.training.losses import Objective, strata

#: Images of a class that each subset has at least.
MIN_IMAGES_PER_CLASS = 2
#: Turns in which the images of a spread subset are taken, so that it has a sixteenth of them or a multiple of that.
_TURNS = 16
#: Rows above which a solver with one thread is slower than one with several.
_ONE_THREAD_ROWS = 4000


@dataclass(frozen=True, eq=False)
class SubsetPredictions:
    """What heads on subsets of the training images predict for the images that they have not seen."""

    #: By repeat and subset, the smallest first: classes, int64 (R, L, N); of several labels an image the probability of
    #: each, and of numbers these, float64 (R, L, N, C).
    predicted: np.ndarray
    images: np.ndarray  # float64 (L,), mean images in a subset
    counts: np.ndarray  # float64 (L, C), mean images of each class in a subset; of numbers all images
    halved: np.ndarray | None  # int64 (C, N), with half of one class and all others, in the first repeat
    half_counts: np.ndarray  # float64 (C,), mean images left of that class
    heads: int


def nested_subsets(
    labels: np.ndarray, groups: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Nested subsets, bool (L, N), with rising shares, at least two images, of each class; no group is divided."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    size, label_of_group = np.bincount(group), labels[first]  # a group of several classes counts as its first image
    chosen = np.zeros((len(shares), len(first)), dtype=bool)
    order = rng.permutation(len(first))
    for label in np.unique(label_of_group):
        own = order[label_of_group[order] == label]
        before = np.cumsum(size[own]) - size[own]
        for level, share in enumerate(shares):
            chosen[level, own] = before < max(MIN_IMAGES_PER_CLASS, round(share * int(size[own].sum())))
    return chosen[:, group]


def spread_subsets(
    key: np.ndarray, groups: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Nested subsets, bool (L, N), evenly spread over the images in the order of a key (N,); no group is divided.

    Of every sixteen groups in this order one is taken first, and the next always from the widest gap.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.lexsort((rng.permutation(len(first)), key[first]))] = np.arange(len(first)) + rng.integers(_TURNS)
    bits = _TURNS.bit_length() - 1
    turn = np.array([int(f"{number:0{bits}b}"[::-1], 2) for number in range(_TURNS)])[place % _TURNS]
    return np.stack([turn < share * _TURNS for share in shares])[:, group]


def predict_by_subsets(
    features: torch.Tensor,
    labels: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[np.ndarray],
    shares: Sequence[float],
    reporter: ProgressReporter,
    *,
    classes: int,
    halves: bool,
    seed: int = 0,
    task: ModelTask = "classification",
) -> SubsetPredictions:
    """Predict every image by heads on nested subsets of the folds that it is not in.

    A fold's head has the L2 strength with the least loss over the other folds. The strengths to try on a subset are
    those around the best one on the subset before it. Each head starts from the same fold's head on that subset.
    Features are float32 (N, F); the shares rise to 1; `folds` has a fold number of each image, (N,), for each repeat.
    Labels are classes, int64 (N,); of the task multilabel indicators, float32 (N, C); of regression numbers in standard
    deviations from their mean, float32 (N, 1). `halves` fits heads with half of each class in turn too, where an image
    has one: C more for each fold.
    """
    numbers = [np.unique(fold) for fold in folds]
    num_folds = sum(map(len, numbers))
    total = num_folds * len(shares) + halves * classes * len(numbers[0])
    objective = Objective.of_labels(labels, [str(number) for number in range(classes)], task=task)
    solver = _Solver(features, torch.from_numpy(labels), objective, total, reporter)
    predicted = np.stack([[solver.empty()] * len(shares)] * len(folds))
    images, counts, half_counts = np.zeros(len(shares)), np.zeros((len(shares), classes)), np.zeros(classes)
    halved = np.empty((classes, len(labels)), dtype=np.int64) if halves else None
    best: list[int | None] = [None] * len(shares)  # place of the best strength on each subset
    with _few_threads(len(labels)):
        for repeat, fold in enumerate(folds):
            tests = [np.flatnonzero(fold == number) for number in numbers[repeat]]
            rows = [np.flatnonzero(fold != number) for number in numbers[repeat]]
            rngs = [np.random.default_rng([seed, repeat, int(number)]) for number in numbers[repeat]]
            subsets = [
                _subsets(objective, labels[r], groups[r], [*shares, 0.5], g) for r, g in zip(rows, rngs, strict=True)
            ]
            heads: list[LinearHead | None] = [None] * len(tests)
            for level in range(len(shares)):
                trains = [r[subset[level]] for r, subset in zip(rows, subsets, strict=True)]
                near = best[level] if best[level] is not None else best[level - 1]
                predicted[repeat, level], best[level], heads = solver.fit_subset(trains, tests, heads, near)
                images[level] += sum(map(len, trains)) / num_folds
                counts[level] += sum(_counts(objective, labels[train], classes) for train in trains) / num_folds
            if repeat or halved is None:
                continue
            for test, r, subset, head in zip(tests, rows, subsets, heads, strict=True):
                assert head is not None
                for label in range(classes):
                    train = r[subset[-1] | (labels[r] != label)]
                    half_counts[label] += (labels[train] == label).sum() / len(tests)
                    halved[label, test] = solver.predict(solver.fit(train, [head.l2], head)[0], test)
                    solver.step()
    return SubsetPredictions(predicted, images, counts, halved, half_counts, solver.heads)


def _subsets(
    objective: Objective, labels: np.ndarray, groups: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Nested subsets with the same shares of the classes, of the sets of labels, or of the numbers."""
    if objective.task == "classification":
        return nested_subsets(labels, groups, shares, rng)
    key = labels[:, 0] if objective.task == "regression" else strata(torch.from_numpy(labels), objective.task)
    return spread_subsets(key, groups, shares, rng)


def _counts(objective: Objective, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images of each class, (C,); of numbers all."""
    if objective.task == "classification":
        return np.bincount(labels, minlength=classes)
    return np.array([len(labels)]) if objective.task == "regression" else labels.sum(axis=0)


class _Solver:
    def __init__(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        objective: Objective,
        total: int,
        reporter: ProgressReporter,
    ) -> None:
        self.features, self.targets, self.total, self.reporter = features, targets, total, reporter
        self.objective = objective
        self.heads = self.done = 0

    def empty(self) -> np.ndarray:
        """Room for what is predicted of all images."""
        if self.objective.task == "classification":
            return np.empty(len(self.targets), np.int64)
        return np.empty(self.targets.shape, np.float64)

    def fit_subset(
        self,
        trains: Sequence[np.ndarray],
        tests: Sequence[np.ndarray],
        starts: Sequence[LinearHead | None],
        near: int | None,
    ) -> tuple[np.ndarray, int, list[LinearHead | None]]:
        """Predictions of all images, the place of the best strength over all folds, and each fold's head with it."""
        first, end = (0, len(L2_VALUES)) if near is None else (max(0, near - 1), near + 2)
        heads, losses = [], []
        for train, test, start in zip(trains, tests, starts, strict=True):
            heads.append(self.fit(train, L2_VALUES[first:end], start))
            targets = self.objective.targets(self.targets[test]).double()
            logits = [self._logits(head, test).double() for head in heads[-1]]
            losses.append([float(self.objective.per_image(each, targets).sum()) for each in logits])
            self.step()
        total, predicted = np.sum(losses, axis=0), self.empty()
        for test, by_strength, loss in zip(tests, heads, losses, strict=True):
            predicted[test] = self.predict(by_strength[int((total - loss).argmin())], test)
        best = int(total.argmin())
        return predicted, first + best, [by_strength[best] for by_strength in heads]

    def fit(self, train: np.ndarray, strengths: Sequence[float], start: LinearHead | None) -> list[LinearHead]:
        features, targets = self.features[train], self.targets[train]
        self.heads += len(strengths)
        return list(fit_path(features, targets, self.objective, l2_values=strengths, start=start, consume=True))

    def predict(self, head: LinearHead, rows: np.ndarray) -> np.ndarray:
        logits = self._logits(head, rows)
        if self.objective.task == "classification":
            return np.asarray(logits.argmax(dim=1).numpy())
        return np.asarray(self.objective.answers(logits.double()).numpy())

    def step(self) -> None:
        self.done += 1
        self.reporter.on_progress("heads", self.done, self.total)

    def _logits(self, head: LinearHead, rows: np.ndarray) -> torch.Tensor:
        return self.objective.logits(self.features[rows] @ head.weight.T + head.bias)


@contextmanager
def _few_threads(rows: int) -> Iterator[None]:
    """Use one thread for small problems: several would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if rows <= _ONE_THREAD_ROWS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
