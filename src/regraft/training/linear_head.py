"""Fit a linear head by L-BFGS: multinomial logistic regression on cached features.

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

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from regraft.training.losses import SMALL_VALIDATION, EpochMetrics, Objective, compute_metrics

#: L2 strengths from strong to weak: the penalty is l2 / 2 * |W|^2 on standardized features, added to the mean loss.
L2_VALUES: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(1.0, -4.01, -0.5))
_ITERATIONS = 60
#: Relative decrease of the loss per step at which L-BFGS stops: for a head that is kept, and where only strengths are
#: compared, whose losses differ by some percent.
_FINE, _COARSE = 1e-6, 1e-4
#: Images of the first fold that suffice to decide which strengths the other folds try.
_ENOUGH_IMAGES = 100
#: Products in an evaluation of the loss from which on several threads are faster than one (benchmarks/busy.py).
_ENOUGH_PRODUCTS = 4_000_000


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The head at one L2 strength: weights (C, F) and biases (C,) for features that are not standardized."""

    l2: float
    weight: torch.Tensor
    bias: torch.Tensor
    train_loss: float  # without the penalty
    train_accuracy: float  # 0..1
    val: EpochMetrics | None
    seconds: float  # duration of the fit


def fit_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    l2_values: Sequence[float] = L2_VALUES,
    start: LinearHead | None = None,
    consume: bool = False,
    tolerance: float = _FINE,
) -> Iterator[LinearHead]:
    """Fit the head at one L2 strength after the other, from strong to weak, and yield each.

    The method is L-BFGS (Liu and Nocedal 1989) as implemented by scipy.optimize. The principal axes are exact, not an
    approximation: the solution of a penalized linear model lies in the span of its rows.

    Features are float32 (N, F), labels int64 (N,); `val` has those of the validation images. The first fit starts from
    `start`, or zero. `consume` standardizes the features in place, which saves a copy. A fit stops when its loss
    decreases by less than `tolerance`, relative, per step.
    """
    device = features.device
    mean = features.mean(dim=0)
    # The lower bound keeps nearly constant features from being blown up.
    deviation = features.std(dim=0, correction=0).clamp_min(1e-3 * float(features.std()) + 1e-12)
    standardized = (features.sub_(mean) if consume else features - mean).div_(deviation)
    targets = objective.targets(labels.to(device))
    classes = targets.shape[1]
    coordinates, axes = _principal_axes(standardized)
    covariance = coordinates.T @ coordinates / len(coordinates)
    identity = torch.eye(len(covariance), device=device)
    # Second derivative of the loss with respect to a logit, at equal probabilities.
    curvature = 0.25 if objective.loss == "binary_cross_entropy" else (classes - 1) / classes**2
    weight = torch.zeros(classes, len(covariance), device=device) if start is None else start.weight * deviation
    bias = torch.zeros(classes, device=device)
    if start is not None:
        bias = start.bias + start.weight @ mean
        weight = weight if axes is None else weight @ axes.T
    for l2 in l2_values:
        started = time.perf_counter()
        with _threads_for(coordinates.numel() * classes):
            root = torch.linalg.cholesky(curvature * covariance + l2 * identity)
            inverse = torch.linalg.solve_triangular(root, identity, upper=False)
            loss = _PenalizedLoss(coordinates, targets, objective, l2, inverse)
            weight, bias = _minimize(loss, weight @ root, bias, tolerance)
        plain_weight = (weight if axes is None else weight @ axes) / deviation
        plain_bias = bias - plain_weight @ mean
        logits = coordinates @ weight.T + bias
        val_metrics = None
        if val is not None:
            val_metrics = compute_metrics(objective, val[0] @ plain_weight.T + plain_bias, val[1], calibrate=True)
        yield LinearHead(
            l2=l2,
            weight=plain_weight,
            bias=plain_bias,
            train_loss=float(objective(logits, targets)),
            train_accuracy=float((logits.argmax(1) == labels.to(device)).double().mean()),
            val=val_metrics,
            seconds=time.perf_counter() - started,
        )


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread where an evaluation of the loss has few products: several would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if products < _ENOUGH_PRODUCTS else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _PenalizedLoss:
    """The loss as a function of `weight @ root` and `bias`, which makes it almost equally steep in every direction."""

    coordinates: torch.Tensor
    targets: torch.Tensor
    objective: Objective
    l2: float
    inverse: torch.Tensor  # of the root: multiplying is faster than solving a triangular system at every step

    def __call__(self, scaled: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        weight = scaled @ self.inverse
        loss = self.objective(self.coordinates @ weight.T + bias, self.targets)
        return loss + self.l2 / 2 * weight.square().sum()


def _minimize(
    loss: _PenalizedLoss, scaled: torch.Tensor, bias: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (C, R) and bias (C,) with the lowest loss, starting from these."""
    shape, size = scaled.shape, scaled.numel()

    def split(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.from_numpy(values).to(device=bias.device, dtype=torch.float32)
        return both[:size].view(shape), both[size:]

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        inputs = [part.requires_grad_() for part in split(values)]
        value = loss(*inputs)
        gradients = torch.autograd.grad(value, inputs)
        return float(value.detach()), torch.cat([g.flatten() for g in gradients]).double().cpu().numpy()

    # SciPy's threads and torch's would wait for each other: five times slower on two cores.
    with threadpool_limits(1, user_api="blas"):
        result = minimize(
            value_and_gradient,
            torch.cat([scaled.flatten(), bias]).double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "maxcor": 20, "ftol": tolerance, "gtol": 1e-5},
        )
    scaled, bias = split(result.x)
    return scaled @ loss.inverse, bias


def _principal_axes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Coordinates (N, R) of rows (N, F) on R orthonormal axes (R, F); the rows themselves and None where N >= F."""
    count, features = rows.shape
    if count >= features:
        return rows, None
    rows = rows.double()
    gram = rows @ rows.T
    ridge = 1e-6 * gram.diagonal().mean() + 1e-12  # rows may be equal, or constant
    coordinates = torch.linalg.cholesky(gram + ridge * torch.eye(count, device=gram.device))
    return coordinates.float(), torch.linalg.solve_triangular(coordinates, rows, upper=False).float()


def fit_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    on_fit: Callable[[LinearHead, int, int], None] = lambda head, done, total: None,
) -> tuple[LinearHead, list[LinearHead]]:
    """Find the best L2 strength on the plain images, then fit again on all views; return the best head, and all heads.

    Features are float32 (K, N, F), the plain view first, and are overwritten; labels are int64 (N,). Where `val` is
    None or small, cross-validation inside the training images chooses the strength. `on_fit` is called with each head,
    the number of heads fitted so far, and an upper bound of their number.
    """
    views, rows = len(features), features[0]
    l2_values: Sequence[float] = L2_VALUES
    by_validation = val is not None and len(val[1]) >= SMALL_VALIDATION
    if not by_validation:
        l2 = l2_by_cross_validation(rows, labels, objective, groups=groups, seed=seed)
        l2_values = L2_VALUES[: L2_VALUES.index(l2) + 1]
    path: list[LinearHead] = []
    for head in fit_path(rows, labels, objective, val=val, l2_values=l2_values, consume=views == 1):
        path.append(head)
        on_fit(head, len(path), len(l2_values))
        if by_validation and _past_minimum([fitted.val.loss for fitted in path if fitted.val]):
            break
    # Without validation the path ends at the strength that cross-validation chose.
    best = best_by_validation(path) if by_validation else path[-1]
    if views == 1:
        return best, path
    # More views need at most as strong a penalty.
    weaker = [l2 for l2 in L2_VALUES if l2 <= best.l2] if by_validation else [best.l2]
    on_views: list[LinearHead] = []
    rows, labels = features.flatten(0, 1), labels.repeat(views)
    for head in fit_path(rows, labels, objective, val=val, l2_values=weaker, start=best):
        on_views.append(head)
        on_fit(head, len(l2_values), len(l2_values))
        if len(on_views) > 1 and best_by_validation(on_views[-2:]) is not head:
            break
    return (best_by_validation([best, *on_views]) if by_validation else on_views[-1]), [*path, *on_views]


def l2_by_cross_validation(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """The L2 strength with the lowest loss over at most `folds` folds, which divide no group, int64 (N,)."""
    count = len(labels)
    _, first, group = np.unique(np.arange(count) if groups is None else groups, return_index=True, return_inverse=True)
    folds = max(2, min(folds, len(first)))
    fold_of_group = np.empty(len(first), dtype=np.int64)
    # Class by class, so that folds keep the proportions.
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels.cpu().numpy()[first]))
    fold_of_group[order] = np.arange(len(first)) % folds
    fold = torch.from_numpy(fold_of_group[group]).to(features.device)
    losses: list[list[float]] = []  # by fold
    for number in range(folds):
        inside, outside = fold != number, fold == number
        if not inside.any() or not outside.any():  # a single group leaves nothing to compare
            return L2_VALUES[len(L2_VALUES) // 2]
        # The first fold decides how weak the penalties become.
        l2_values = L2_VALUES[: len(losses[0])] if losses else L2_VALUES
        fold_losses: list[float] = []
        for head in fit_path(
            features[inside],
            labels[inside],
            objective,
            val=(features[outside], labels[outside]),
            l2_values=l2_values,
            consume=True,
            tolerance=_COARSE,
        ):
            assert head.val is not None
            fold_losses.append(head.val.loss)
            if not losses and int(outside.sum()) >= _ENOUGH_IMAGES and _past_minimum(fold_losses):
                break
        losses.append(fold_losses)
    return L2_VALUES[int(np.mean(losses, axis=0).argmin())]


def _past_minimum(losses: Sequence[float]) -> bool:
    """Whether weaker penalties cannot help: along a path the loss falls, and rises from some strength on."""
    return len(losses) - 1 - int(np.argmin(losses)) > 1


def best_by_validation(heads: Sequence[LinearHead]) -> LinearHead:
    """The head with the lowest validation loss, which is smooth where accuracy is coarse."""
    return min(heads, key=lambda head: head.train_loss if head.val is None else head.val.loss)
