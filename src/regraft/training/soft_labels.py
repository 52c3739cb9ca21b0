"""Give images without labels soft labels for the fit of the head, if cross-validation says that this helps.

Input: features of labeled images and of images without labels, (n + m, F). Output: a `Decision` with what
cross-validation measured, and soft labels with weights for the m images. A head that is fitted on the labels answers
for the others; its answers are smoothed over the graph of the most similar images, where they agree better with one
another than a head does, and then teach the head that is kept. Each image that cross-validation holds out is answered
by a head that was fitted without it; it is in no graph. Of several labels an image, each is spread by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft.errors import UsageError
from regraft.training.label_propagation import Neighbors, certainty, nearest_neighbors, propagate
from regraft.training.linear_head import L2_VALUES, fit_path, past_minimum, stratified_folds
from regraft.training.losses import EpochMetrics, Objective, best_temperature, compute_metrics, strata

#: Images without labels on which the decision rests, at most; all of them get labels.
MAX_SEARCH_IMAGES = 4000
#: Images that a graph has at most, because all pairs are compared, and labeled images among them.
MAX_IMAGES, MAX_LABELED = 30_000, 20_000
_FOLDS = 5
#: Products per second when all pairs of images are compared, on two cores.
_PRODUCTS_PER_SECOND = 1e10


@dataclass(frozen=True)
class Propagation:
    """How soft labels are made.

    What the head says spreads to the `neighbors` most similar images, a share `alpha` of it along each edge, 0..1. The
    probabilities are then raised to the power `sharpness`. An image without a label has on average `weight` times the
    weight of a labeled one, and more if its label is certain.
    """

    neighbors: int = 10
    alpha: float = 0.5
    sharpness: float = 3.0
    weight: float = 0.5


#: What cross-validation compares (docs/decisions/unlabelled-images.md).
CANDIDATES = (Propagation(alpha=0.5), Propagation(alpha=0.8))


@dataclass(frozen=True)
class Decision:
    """What cross-validation on the labeled images measured.

    Attributes:
        used: Whether the soft labels are used: the loss falls by more than its standard error, and the accuracy does
            not; where the loss falls by two, the accuracy may fall by its own standard error.
        propagation: The best candidate.
        l2: The L2 strength that is best for it.
        start_l2: The L2 strength of the head on the labels alone.
        temperature: That at which this head's probabilities have the lowest loss.
        accuracy_without: Accuracy of the head on the labels alone, 0..1; of several labels an image the share of right
            answers, as in `compute_metrics`.
        accuracy_with: Accuracy with the best candidate, 0..1.
        loss_decrease: Mean decrease of the calibrated loss of an image.
        loss_error: Standard error of it.
    """

    used: bool
    propagation: Propagation
    l2: float
    start_l2: float
    temperature: float
    accuracy_without: float
    accuracy_with: float
    loss_decrease: float
    loss_error: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Class probabilities, float32 (m, C), and weights, float32 (m,), of images without labels.

    Of several labels an image, each probability is that of a label by itself.
    """

    probabilities: np.ndarray
    weights: np.ndarray

    def after(self, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets (n + m, C) and weights (n + m,) of labeled images, which have weight 1, and of these.

        Labels are class indices, int64 (n,), or indicators, (n, C).
        """
        targets = np.concatenate([_indicators(labels, self.probabilities.shape[1]), self.probabilities])
        weights = np.concatenate([np.ones(len(labels), np.float32), self.weights])
        return torch.from_numpy(targets), torch.from_numpy(weights)


def estimate_seconds(labeled: int, others: int, features: int, values_per_second: float) -> float:
    """Estimated seconds to compare heads and to give soft labels, by the speed of a fit (`Throughput.head`).

    Each fold fits a path of heads on the labels, and for each candidate one on the images that decide, too.
    """
    every, drawn = labeled + others, labeled + min(others, MAX_SEARCH_IMAGES)
    fitted = _FOLDS * (labeled + len(CANDIDATES) * drawn) + every  # the last is the head that is kept
    pairs = every**2 + (drawn**2 if others > MAX_SEARCH_IMAGES else 0)
    return features * (fitted / values_per_second + pairs / _PRODUCTS_PER_SECOND)


def neighbors_needed() -> int:
    """Neighbors of each image from which every graph can be made, although a fold takes labeled images away."""
    return 2 * max(candidate.neighbors for candidate in CANDIDATES) + 8


def check_labels(count: int) -> None:
    """Raise `UsageError` if so many images have labels that the comparison would take longer than the training."""
    if count > MAX_LABELED:
        raise UsageError(
            f"data.unlabelled works with at most {MAX_LABELED:,} labeled images, and the training has {count:,}, from "
            "which a head learns more than images without labels could add. Leave out --unlabelled."
        )


def part_size(labeled: int, others: int) -> int:
    """Number of the images without labels that are used."""
    return min(others, MAX_IMAGES - labeled)


def part_to_use(labeled: int, others: int, *, seed: int = 0) -> np.ndarray:
    """Numbers of the images without labels to use, rising, int64: all, or a part of too many."""
    drawn = np.random.default_rng(seed).permutation(others)[: part_size(labeled, others)]
    return np.sort(drawn)


def decide(
    neighbors: Neighbors,
    features: torch.Tensor,
    labels: np.ndarray,
    objective: Objective,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
) -> Decision:
    """Compare heads without and with soft labels by cross-validation on the labeled images.

    Args:
        neighbors: The nearest images of each of the n + m images, as many as `neighbors_needed` says.
        features: Features of the labeled images, then of the others, float32 (n + m, F).
        labels: Classes of the first n images, int64 (n,), or indicators, float32 (n, C).
        objective: The loss of the fit.
        groups: Numbers of sets that no fold divides, int64 (n,).
        seed: Seed of the folds, and of the images that are compared where there are many.
        on_fit: Called with the number of steps done, and of all.
    """
    count, classes = len(labels), len(objective.class_weights)
    others = np.arange(count, len(features))
    if len(others) > MAX_SEARCH_IMAGES:
        drawn = np.sort(np.random.default_rng(seed).choice(others, MAX_SEARCH_IMAGES, replace=False))
        features = features[torch.from_numpy(np.concatenate([np.arange(count), drawn]))]
        others = np.arange(count, len(features))
        neighbors = nearest_neighbors(features, neighbors_needed())  # of those of all images, few were drawn
    true = torch.from_numpy(labels)
    fold = stratified_folds(strata(true, objective.task), _FOLDS, groups=groups, seed=seed)
    numbers = np.unique(fold).tolist()
    steps, done = len(numbers) * (1 + len(CANDIDATES)), 0

    def out_of_fold(fit: Callable[[np.ndarray, int | None, np.ndarray], list[torch.Tensor]]) -> list[torch.Tensor]:
        """Logits of every labeled image, (n, C), at each L2 strength, by heads that were fitted without its fold."""
        nonlocal done
        path: list[torch.Tensor] = []
        for number in numbers:
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            fitted = fit(inside, len(path) or None, outside)  # the first fold decides how weak the penalties become
            path = path or [torch.zeros(count, classes) for _ in fitted]
            for logits, part in zip(path, fitted, strict=True):
                logits[outside] = part
            done += 1
            on_fit(done, steps)
        return path

    def plainly(inside: np.ndarray, length: int | None, outside: np.ndarray) -> list[torch.Tensor]:
        rows = features[torch.from_numpy(inside)]
        return _logits_along_path(rows, true[inside], None, objective, features, true, outside, length)

    plain = out_of_fold(plainly)
    best = int(np.argmin([compute_metrics(objective, logits, true).loss for logits in plain]))
    start_l2, temperature = L2_VALUES[best], best_temperature(objective, plain[best], true)
    without = compute_metrics(objective, plain[best], true, calibrate=True)
    results: list[tuple[float, EpochMetrics, torch.Tensor, float, Propagation]] = []
    for candidate in CANDIDATES:

        def softly(
            inside: np.ndarray, length: int | None, outside: np.ndarray, candidate: Propagation = candidate
        ) -> list[torch.Tensor]:
            rows = np.concatenate([inside, others])
            own, graph = features[torch.from_numpy(rows)], neighbors.among(rows, candidate.neighbors)
            soft = soft_labels(graph, own, labels[inside], objective, candidate, start_l2, temperature)
            targets, weights = soft.after(labels[inside])
            return _logits_along_path(own, targets, weights, objective, features, true, outside, length)

        for logits, l2 in zip(out_of_fold(softly), L2_VALUES, strict=False):
            metrics = compute_metrics(objective, logits, true, calibrate=True)
            results.append((float(np.mean(metrics.calibrated_losses)), metrics, logits, l2, candidate))
    _, metrics, logits, l2, candidate = min(results, key=lambda result: result[0])
    gain, error = metrics.gain_over(without)
    # Images that one head alone answers correctly: their number is the variance of the difference of correct answers.
    right, before = (objective.hits(said, objective.targets(true)) for said in (logits, plain[best]))
    differing = float((right - before).double().square().sum())
    noise = differing**0.5 / count if gain > 2 * error else 0.0
    used = gain > error and metrics.accuracy >= without.accuracy - noise
    return Decision(used, candidate, l2, start_l2, temperature, without.accuracy, metrics.accuracy, gain, error)


def soft_labels(
    neighbors: Neighbors,
    features: torch.Tensor,
    labels: np.ndarray,
    objective: Objective,
    propagation: Propagation,
    start_l2: float,
    temperature: float,
) -> SoftLabels:
    """Fit a head on the labeled images, and smooth what it says of the others over a graph.

    Labels are class indices, int64 (n,), or indicators, float32 (n, C). Features are those of all images in the graph,
    float32 (n + m, F), the labeled ones first.
    """
    count, several = len(labels), objective.task == "multilabel"
    path = fit_path(features[:count].clone(), torch.from_numpy(labels), objective, l2_values=[start_l2], consume=True)
    head = next(iter(path))
    logits = (features[count:] @ head.weight.T + head.bias).cpu().double() / temperature
    predicted = logits.sigmoid() if objective.activation == "sigmoid" else logits.softmax(dim=1)
    predicted = predicted if several else predicted / predicted.sum(dim=1, keepdim=True)
    start = np.concatenate([_indicators(labels, logits.shape[1]), predicted.numpy()])
    spread = propagate(neighbors, start, count, alpha=propagation.alpha, several=several)
    certain, sharp = certainty(spread, several=several), spread**propagation.sharpness
    weights = propagation.weight * certain / max(1e-6, float(certain.mean()))
    sums = sharp + (1 - spread) ** propagation.sharpness if several else sharp.sum(axis=1, keepdims=True)
    return SoftLabels(sharp / sums, weights)


def _indicators(labels: np.ndarray, classes: int) -> np.ndarray:
    """Indicators, float32 (n, C), as they are, or of class indices, int64 (n,)."""
    return labels if labels.ndim == 2 else np.eye(classes, dtype=np.float32)[labels]


def _logits_along_path(
    rows: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    objective: Objective,
    features: torch.Tensor,
    labels: torch.Tensor,
    outside: np.ndarray,
    length: int | None,
) -> list[torch.Tensor]:
    """Logits of held-out images by a head at each L2 strength, (k, C) on the CPU, from strong to weak.

    The path has `length` strengths, or ends where weaker ones make the loss worse.
    """
    held_out, true = features[torch.from_numpy(outside)], labels[outside]
    logits: list[torch.Tensor] = []
    losses: list[float] = []
    for head in fit_path(
        rows, targets, objective, weights=weights, val=(held_out, true), l2_values=L2_VALUES[:length], consume=True,
        coarse=True,
    ):  # fmt: skip
        assert head.val is not None
        logits.append((held_out @ head.weight.T + head.bias).cpu())
        losses.append(head.val.loss)
        if length is None and past_minimum(losses):
            break
    return logits
