"""Fit a linear head by L-BFGS: multinomial logistic regression on cached features, or ridge regression of numbers.

Input: features of the training images (all views) and of the validation images. Output: the head's weights at the L2
strength with the lowest validation loss. The strengths form one path from strong to weak, in which each fit starts
from the one before. The fit runs on the principal axes of the features: there the loss is almost equally steep in every
direction, so a dozen steps suffice, and fewer images than features mean as few axes as images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from regraft import distributed
from regraft.data.labels import Task
from regraft.models.cumulative import LEAST_GAP, even_intercepts
from regraft.resources import one_blas_thread
from regraft.training.feature_rows import FeatureRows, TensorRows, as_rows
from regraft.training.head_loss import HeadLoss, covariance, logits_of, moments, row_count
from regraft.training.losses import SMALL_VALIDATION, EpochMetrics, Objective, compute_metrics, strata
from regraft.training.row_sums import sum_over_shards

#: L2 strengths from strong to weak: the penalty is l2 / 2 * |W|^2 on standardized features, added to the mean loss.
L2_VALUES: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -4.01, -0.5))
_ITERATIONS = 60
#: Relative decrease of the loss per step at which L-BFGS stops: for a head that is kept, and where only strengths are
#: compared, whose losses differ by some percent.
_FINE, _COARSE = 1e-6, 1e-4
#: Images of the first fold that suffice to decide which strengths the other folds try.
ENOUGH_IMAGES = 100
#: Images above which the L2 strength is chosen on a part of them.
MAX_SEARCH_IMAGES = 200_000
#: Products in an evaluation of the loss from which on several threads are faster than one (benchmarks/busy.py).
_ENOUGH_PRODUCTS = 4_000_000
#: Share of the path of strengths that passes over all rows after a search on fewer: the best one, and a weaker one.
REFITTED_SHARE = 2 / len(L2_VALUES)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The head at one L2 strength: weights (C, F) and biases (C,) for features that are not standardized.

    Of classes with an order it has weights (1, F) and C-1 falling intercepts (`regraft.models.cumulative`).
    """

    l2: float
    weight: torch.Tensor
    bias: torch.Tensor
    train_loss: float  # without the penalty
    train_accuracy: float  # 0..1; NaN of numbers
    val: EpochMetrics | None
    seconds: float  # duration of the fit


def fit_path(
    features: torch.Tensor | FeatureRows,
    labels: torch.Tensor,
    objective: Objective,
    *,
    weights: torch.Tensor | None = None,
    val: tuple[torch.Tensor | FeatureRows, torch.Tensor] | None = None,
    l2_values: Sequence[float] = L2_VALUES,
    start: LinearHead | None = None,
    consume: bool = False,
    coarse: bool = False,
) -> Iterator[LinearHead]:
    """Fit the head at one L2 strength after the other, from strong to weak, and yield each.

    The method is L-BFGS (Liu and Nocedal 1989) as implemented by scipy.optimize. The principal axes are exact, not an
    approximation: the solution of a penalized linear model lies in the span of its rows.

    Features are float32 (N, F), or rows that are read in chunks; labels and `weights` are as in `HeadLoss`; `val` has
    features and labels, int64, of the validation images. The first fit starts from `start`, or zero. `consume`
    standardizes a tensor in place, which saves a copy.
    `coarse` is for comparing strengths: the fits stop earlier, and validation has no calibrated losses.
    """
    rows, device = as_rows(features), features.device
    mean, deviation = moments(rows)
    rows = rows.standardized(mean, deviation, consume=consume)
    rows, axes = _principal_axes(rows)
    loss = HeadLoss(rows, labels, objective, weights)
    second_moments = covariance(rows)
    (outputs, biases), size = objective.linear_shapes, len(second_moments)
    identity = torch.eye(size, device=device)
    curvature = _curvature(objective, len(objective.class_weights))
    weight = torch.zeros(outputs, size, device=device) if start is None else start.weight * deviation
    bias = even_intercepts(biases + 1).to(device) if objective.ordered else torch.zeros(biases, device=device)
    if start is not None:
        bias = start.bias + start.weight @ mean
        weight = weight if axes is None else weight @ axes.T
    for l2 in l2_values:
        started = time.perf_counter()
        with _threads_for(loss.count * size * outputs):
            root = torch.linalg.cholesky(curvature * second_moments + l2 * identity)
            inverse = torch.linalg.solve_triangular(root, identity, upper=False)
            weight, bias = _minimize(loss, l2, inverse, weight @ root, bias, _COARSE if coarse else _FINE)
        plain_weight = (weight if axes is None else weight @ axes) / deviation
        plain_bias = bias - plain_weight @ mean
        distributed.broadcast_tensors([plain_weight, plain_bias])
        train_loss, train_accuracy = loss.evaluate(weight, bias)
        val_metrics = None
        if val is not None:
            val_logits = logits_of(as_rows(val[0]), plain_weight, plain_bias)
            val_metrics = distributed.on_rank_0(
                partial(compute_metrics, objective, objective.logits(val_logits), val[1], calibrate=not coarse)
            )
        yield LinearHead(
            l2=l2,
            weight=plain_weight,
            bias=plain_bias,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val=val_metrics,
            seconds=time.perf_counter() - started,
        )


def _curvature(objective: Objective, classes: int) -> float:
    """Second derivative of the loss with respect to a logit, at equal probabilities; of a squared error anywhere.

    Of classes with an order it is that by the score, which all cumulative logits have in common.
    """
    if objective.task == "regression":
        return 2.0
    if objective.ordered:
        return (classes**2 - 1) / (3 * classes**2)
    return 0.25 if objective.loss != "cross_entropy" else (classes - 1) / classes**2


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread where an evaluation of the loss has few products: several would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if products < _ENOUGH_PRODUCTS else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _minimize(
    loss: HeadLoss, l2: float, inverse: torch.Tensor, scaled: torch.Tensor, bias: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (C, R) and bias (C,) with the lowest penalized loss, starting from these.

    The variables are the bias and `scaled`, (C, R), the weight times a root of the second derivatives, which makes the
    loss almost equally steep in every direction. `inverse` is that of the root: multiplying is faster than solving a
    triangular system at every step. The intercepts of classes with an order are the first one and the gaps below it,
    which have a lower bound; in these the loss is convex (Pratt 1981, JASA 76, 103-106).
    """
    shape, size = scaled.shape, scaled.numel()
    sums, bounds = torch.eye(len(bias), device=bias.device), None
    if loss.objective.ordered:  # intercepts = sums @ (first, gaps)
        sums = -torch.ones_like(sums).tril()
        sums[:, 0] = 1
        bounds = [(None, None)] * (size + 1) + [(LEAST_GAP, None)] * (len(bias) - 1)

    def split(values: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.as_tensor(values).to(device=bias.device, dtype=torch.float32)
        return both[:size].view(shape), both[size:]

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        scaled, steps = split(values)
        weight, bias = scaled @ inverse, sums @ steps
        distributed.broadcast((weight.cpu(), bias.cpu()))
        total = loss.gradient(weight, bias)
        by_weight, by_bias = split(total[1:])
        penalized = total[0].float() + (l2 / 2 * weight.square().sum()).cpu()
        by_scaled = (by_weight + l2 * weight) @ inverse.T
        return float(penalized), torch.cat([by_scaled.flatten(), by_bias @ sums]).double().cpu().numpy()

    if distributed.rank():  # only rank 0 searches: another processor may round otherwise, and take another step
        while (point := distributed.broadcast(None)) is not None:
            loss.gradient(*(part.to(bias.device) for part in point))
        weight, bias = torch.empty_like(scaled), torch.empty_like(bias)
        distributed.broadcast_tensors([weight, bias])
        return weight, bias
    from scipy.optimize import minimize  # takes half a second to import; before BLAS is limited, which it brings

    try:
        # SciPy's threads and torch's would wait for each other: five times slower on two cores.
        with one_blas_thread():
            result = minimize(
                value_and_gradient,
                torch.cat([scaled.flatten(), torch.linalg.solve(sums, bias)]).double().cpu().numpy(),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": _ITERATIONS, "maxcor": 20, "ftol": tolerance, "gtol": 1e-5},
            )
    finally:
        distributed.broadcast(None)
    scaled, steps = split(result.x)
    weight, bias = scaled @ inverse, sums @ steps
    distributed.broadcast_tensors([weight, bias])
    return weight, bias


def _principal_axes(rows: FeatureRows) -> tuple[FeatureRows, torch.Tensor | None]:
    """Rows in R coordinates on orthonormal axes (R, F); the rows themselves and None where there are N >= F of them.

    Rows of several shards stay as they are, too, because the axes need all rows at once.
    """
    count, features = row_count(rows), rows.features
    if count >= features or len(rows.bounds) > 2:
        return rows, None

    def flattened(shard: int) -> torch.Tensor:
        return torch.cat([values for _, values in rows.chunks(shard)]).flatten()

    values = sum_over_shards(flattened, 1, count * features).view(count, features).to(rows.device)
    gram = values @ values.T
    ridge = 1e-6 * gram.diagonal().mean() + 1e-12  # rows may be equal, or constant
    coordinates = torch.linalg.cholesky(gram + ridge * torch.eye(count, device=gram.device))
    axes = torch.linalg.solve_triangular(coordinates, values, upper=False).float()
    return TensorRows(coordinates.float().view(rows.views, -1, count), rows.bounds), axes


def fit_head(
    features: torch.Tensor | FeatureRows,
    labels: torch.Tensor,
    objective: Objective,
    *,
    weights: torch.Tensor | None = None,
    val: tuple[torch.Tensor | FeatureRows, torch.Tensor] | None = None,
    groups: np.ndarray | None = None,
    l2: float | None = None,
    seed: int = 0,
    on_fit: Callable[[LinearHead, int, int], None] = lambda head, done, total: None,
) -> tuple[LinearHead, list[LinearHead]]:
    """Find the best L2 strength on the plain images, then fit again on all views; return the best head, and all heads.

    Features are rows, or float32 (K, N, F), the plain view first, and are overwritten; labels and `weights` are as in
    `HeadLoss`. A given `l2`, one of `L2_VALUES`, is the strength; else, where `val` is None or small, cross-validation
    inside the training images chooses it. It is chosen on a part of more than `MAX_SEARCH_IMAGES` images, with the same
    shares of the classes. Heads that are fitted to probabilities are compared by their losses at the best temperature:
    their own says how sharp the probabilities were. `on_fit` is called with each head, the number of heads fitted so
    far, and an upper bound of their number.
    """
    every = as_rows(features)
    calibrated = _are_soft(labels, objective.task)
    rows, searched, search_weights = every.plain(), labels, weights
    if len(labels) > MAX_SEARCH_IMAGES:
        chosen = stratified_part(strata(labels, objective.task), MAX_SEARCH_IMAGES, seed=seed)
        rows, numbers = rows.subset(chosen), torch.from_numpy(chosen).to(labels.device)
        searched, search_weights = labels[numbers], None if weights is None else weights[numbers]
        groups = None if groups is None else groups[chosen]
    l2_values: Sequence[float] = L2_VALUES
    by_validation = l2 is None and val is not None and len(val[1]) >= SMALL_VALIDATION
    if not by_validation:
        if l2 is None:
            l2 = l2_by_cross_validation(rows, searched, objective, groups=groups, seed=seed)
        l2_values = L2_VALUES[: L2_VALUES.index(l2) + 1]
    path: list[LinearHead] = []
    consume = every.views == 1  # the subset is a copy, and else the rows are not needed again
    for head in fit_path(
        rows, searched, objective, weights=search_weights, val=val, l2_values=l2_values, consume=consume
    ):
        path.append(head)
        on_fit(head, len(path), len(l2_values))
        if by_validation and past_minimum([val_loss(fitted, calibrated) for fitted in path]):
            break
    # Without validation the path ends at the strength that cross-validation chose.
    best = best_by_validation(path, calibrated) if by_validation else path[-1]
    if not is_refitted(len(labels), every.views):
        return best, path
    # More rows need at most as strong a penalty.
    weaker = [value for value in L2_VALUES if value <= best.l2] if by_validation else [best.l2]
    on_all: list[LinearHead] = []
    for head in fit_path(every, labels, objective, weights=weights, val=val, l2_values=weaker, start=best):
        on_all.append(head)
        on_fit(head, len(l2_values), len(l2_values))
        if len(on_all) > 1 and best_by_validation(on_all[-2:], calibrated) is not head:
            break
    best_on_all = best_by_validation([best, *on_all], calibrated) if by_validation else on_all[-1]
    return best_on_all, [*path, *on_all]


def _are_soft(labels: torch.Tensor, task: Task) -> bool:
    """Whether labels are probabilities, and no classes, indicators or numbers."""
    if task == "classification":
        return labels.is_floating_point()
    return task == "multilabel" and bool(((labels > 0) & (labels < 1)).any())


def is_refitted(images: int, views: int) -> bool:
    """Whether `fit_head` searches the L2 strength on fewer rows than it fits: the plain images, or a part of many."""
    return views > 1 or images > MAX_SEARCH_IMAGES


def held_out_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    outside: torch.Tensor,
    objective: Objective,
    *,
    l2_values: Sequence[float] = L2_VALUES,
    least: int = 1,
    coarse: bool = False,
) -> Iterator[tuple[torch.Tensor, float]]:
    """Fit heads without some images, bool (N,), and yield the logits (M, C) of these, and their summed loss.

    There is a head for each L2 strength, until there are `least` of them and weaker penalties have made the loss
    worse twice. Features are float32 (N, F), labels int64 (N,) or indicators (N, C); `coarse` is that of `fit_path`.
    """
    losses: list[float] = []
    held_out, true, plain = features[outside], objective.targets(labels[outside]).double(), objective.plain()
    for head in fit_path(
        features[~outside], labels[~outside], objective, l2_values=l2_values, consume=True, coarse=coarse
    ):
        logits = objective.logits(held_out @ head.weight.T + head.bias)
        losses.append(plain.per_image(logits.double(), true).sum().item())
        yield logits, losses[-1]
        if len(losses) >= max(3, least) and losses[-1] > losses[-2] > losses[-3]:
            return


def stratified_part(labels: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Numbers of `count` images, rising, int64, with the same shares of the classes as all labels (N,)."""
    order = np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))
    return np.sort(order[np.linspace(0, len(labels) - 1, count).round().astype(np.int64)])


def l2_by_cross_validation(
    features: torch.Tensor | FeatureRows,
    labels: torch.Tensor,
    objective: Objective,
    *,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """The L2 strength with the lowest loss over at most `folds` folds, which divide no group, int64 (N,)."""
    rows = as_rows(features)
    fold = stratified_folds(strata(labels, objective.task), folds, groups=groups, seed=seed)
    losses: list[list[float]] = []  # by fold
    for number in range(max(2, int(fold.max(initial=0)) + 1)):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if not len(inside) or not len(outside):  # a single group leaves nothing to compare
            return L2_VALUES[len(L2_VALUES) // 2]
        # The first fold decides how weak the penalties become.
        l2_values = L2_VALUES[: len(losses[0])] if losses else L2_VALUES
        fold_losses: list[float] = []
        for head in fit_path(
            rows.subset(inside),
            labels[torch.from_numpy(inside).to(labels.device)],
            objective,
            val=(rows.subset(outside), labels[torch.from_numpy(outside).to(labels.device)]),
            l2_values=l2_values,
            consume=True,
            coarse=True,
        ):
            assert head.val is not None
            fold_losses.append(head.val.loss)
            if not losses and len(outside) >= ENOUGH_IMAGES and past_minimum(fold_losses):
                break
        losses.append(fold_losses)
    return L2_VALUES[int(np.mean(losses, axis=0).argmin())]


def stratified_folds(labels: np.ndarray, folds: int, *, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """The fold of each image, int64 (N,), of at most `folds`, which keep the classes' shares and divide no group."""
    every = np.arange(len(labels)) if groups is None else groups
    _, first, group = np.unique(every, return_index=True, return_inverse=True)
    fold_of_group = np.empty(len(first), dtype=np.int64)
    # Class by class, so that folds keep the proportions.
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels[first]))
    fold_of_group[order] = np.arange(len(first)) % max(2, min(folds, len(first)))
    return fold_of_group[group]


def past_minimum(losses: Sequence[float]) -> bool:
    """Whether weaker penalties cannot help: along a path the loss falls, and rises from some strength on."""
    return len(losses) - 1 - int(np.argmin(losses)) > 1


def val_loss(head: LinearHead, calibrated: bool) -> float:
    """Loss on the validation images, at the best temperature if `calibrated`; without any, on the training images."""
    if head.val is None:
        return head.train_loss
    return float(np.mean(head.val.calibrated_losses)) if calibrated else head.val.loss


def best_by_validation(heads: Sequence[LinearHead], calibrated: bool = False) -> LinearHead:
    """The head with the lowest validation loss, which is smooth where accuracy is coarse."""
    return min(heads, key=lambda head: val_loss(head, calibrated))
