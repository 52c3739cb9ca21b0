"""The solved head: multinomial logistic regression on cached features.

Enters: features of the training images (all their views) and of the validation images. Leaves: the head's weights, at
the strength that validation likes best. All strengths are solved in one path from strong to weak, each from the one
before, on the principal axes of the features: there the loss is nearly as steep in every direction, so that a dozen
steps do, and where there are fewer images than features there are only as many axes as images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from regraft.training.objective import Objective, Scores, score

#: Of the penalty strength / 2 * |W|^2 on standardised features, beside the mean loss; from strong to weak.
STRENGTHS: tuple[float, ...] = tuple(10.0**exponent for exponent in np.arange(1.0, -4.01, -0.5))
_ITERATIONS = 60
#: Relative decrease of the loss in a step at which L-BFGS ends: of a head that is kept, and where only the strengths
#: are compared, whose losses are some per cent apart.
_FINE, _COARSE = 1e-6, 1e-4
#: Images of a fold that are enough for it to tell where weaker penalties need not be tried in the others.
_ENOUGH = 100


@dataclass(frozen=True, eq=False)
class Solution:
    """The head at one strength.

    Attributes:
        strength: Of the penalty.
        weight: (C, F) for the features as they come.
        bias: (C,).
        train_loss: Of the training rows, without the penalty.
        train_accuracy: Of the training rows, 0..1.
        val: Scores on validation, or None.
        seconds: That this strength took.
    """

    strength: float
    weight: torch.Tensor
    bias: torch.Tensor
    train_loss: float
    train_accuracy: float
    val: Scores | None
    seconds: float


def solve_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    start: Solution | None = None,
    consume: bool = False,
    tolerance: float = _FINE,
) -> Iterator[Solution]:
    """Solve the head for one strength after the other.

    Args:
        features: float32 (N, F).
        labels: int64 (N,).
        objective: The loss; smoothing and class weights hold here too.
        val: Features and labels to score on.
        strengths: Penalties, strong to weak.
        start: Where the first of them starts from; default: zero.
        consume: Standardise the features in place, which saves a copy of them.
        tolerance: Relative decrease of the loss in a step at which a strength is solved.

    Yields:
        A `Solution` for each strength.

    Source of the method: L-BFGS, Liu and Nocedal 1989, as scipy.optimize implements it. The axes are exact, not an
    approximation: the solution of a penalised linear model lies in the span of its rows.
    """
    device = features.device
    mean = features.mean(dim=0)
    # A feature that hardly varies must not be blown up.
    deviation = features.std(dim=0, correction=0).clamp_min(1e-3 * float(features.std()) + 1e-12)
    standard = (features.sub_(mean) if consume else features - mean).div_(deviation)
    targets = objective.targets(labels.to(device))
    classes = targets.shape[1]
    places, span = _in_their_span(standard)
    covariance = places.T @ places / len(places)
    identity = torch.eye(len(covariance), device=device)
    # Second derivative of the loss by a logit, at equal probabilities.
    curvature = 0.25 if objective.loss == "binary_cross_entropy" else (classes - 1) / classes**2
    weight = torch.zeros(classes, len(covariance), device=device) if start is None else start.weight * deviation
    bias = torch.zeros(classes, device=device)
    if start is not None:
        bias = start.bias + start.weight @ mean
        weight = weight if span is None else weight @ span.T
    for strength in strengths:
        started = time.perf_counter()
        root = torch.linalg.cholesky(curvature * covariance + strength * identity)
        inverse = torch.linalg.solve_triangular(root, identity, upper=False)
        loss = _Loss(places, targets, objective, strength, inverse)
        weight, bias = _minimised(loss, weight @ root, bias, tolerance)
        plain_weight = (weight if span is None else weight @ span) / deviation
        plain_bias = bias - plain_weight @ mean
        logits = places @ weight.T + bias
        yield Solution(
            strength=strength,
            weight=plain_weight,
            bias=plain_bias,
            train_loss=float(objective(logits, targets)),
            train_accuracy=float((logits.argmax(1) == labels.to(device)).double().mean()),
            val=None if val is None else score(objective, val[0] @ plain_weight.T + plain_bias, val[1], refine=True),
            seconds=time.perf_counter() - started,
        )


@dataclass(frozen=True)
class _Loss:
    """The penalised loss as a function of `weight @ root` and `bias`; the root makes it nearly round.

    Its `inverse` is kept, because a product with it is faster than solving the triangle at every step.
    """

    places: torch.Tensor
    targets: torch.Tensor
    objective: Objective
    strength: float
    inverse: torch.Tensor

    def __call__(self, rounded: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        weight = rounded @ self.inverse
        loss = self.objective(self.places @ weight.T + bias, self.targets)
        return loss + self.strength / 2 * weight.square().sum()


def _minimised(
    loss: _Loss, rounded: torch.Tensor, bias: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight (C, R) and bias (C,) with the least loss, from where these start."""
    shape, size = rounded.shape, rounded.numel()

    def parts(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.from_numpy(values).to(device=bias.device, dtype=torch.float32)
        return both[:size].view(shape), both[size:]

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        inputs = [part.requires_grad_() for part in parts(values)]
        value = loss(*inputs)
        gradients = torch.autograd.grad(value, inputs)
        return float(value.detach()), torch.cat([g.flatten() for g in gradients]).double().cpu().numpy()

    # SciPy's threads and torch's would wait for each other: five times slower on two cores.
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            value_and_gradient,
            torch.cat([rounded.flatten(), bias]).double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "maxcor": 20, "ftol": tolerance, "gtol": 1e-5},
        )
    rounded, bias = parts(found.x)
    return rounded @ loss.inverse, bias


def _in_their_span(standard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows (N, F) by their coordinates on R orthonormal axes, (N, R), and the axes, (R, F); None: as they are.

    The solution of a penalised linear model lies in the span of its rows, so fewer rows than features lose nothing.
    """
    count, features = standard.shape
    if count >= features:
        return standard, None
    rows = standard.double()
    products = rows @ rows.T
    ridge = 1e-6 * products.diagonal().mean() + 1e-12  # rows may be equal, or all of one value
    places = torch.linalg.cholesky(products + ridge * torch.eye(count, device=products.device))
    return places.float(), torch.linalg.solve_triangular(places, rows, upper=False).float()


def solve_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[torch.Tensor, torch.Tensor] | None = None,
    bundles: np.ndarray | None = None,
    seed: int = 0,
    tell: Callable[[Solution, int, int], None],
) -> Solution:
    """Find the strength on the plain images, then solve once more on all views.

    Args:
        features: float32 (K, N, F), the plain view first; used up.
        labels: int64 (N,).
        objective: The loss.
        val: Features and labels that choose the strength; None: cross-validation inside the training images does.
        bundles: Of `strength_by_cross_validation`.
        seed: The same.
        tell: Called with each solution, the number of its rows, and how many strengths there are.

    Returns:
        The best of them.
    """
    views, rows = len(features), features[0]
    strengths: Sequence[float] = STRENGTHS
    if val is None:
        strength = strength_by_cross_validation(rows, labels, objective, bundles=bundles, seed=seed)
        strengths = STRENGTHS[: STRENGTHS.index(strength) + 1]
    path: list[Solution] = []
    for solution in solve_path(rows, labels, objective, val=val, strengths=strengths, consume=views == 1):
        path.append(solution)
        tell(solution, len(rows), len(strengths))
        if val is not None and _is_past_the_valley([one.val.loss for one in path if one.val]):
            break
    # Without validation the path ends at the strength that cross-validation chose.
    best = path[-1] if val is None else best_by_validation(path)
    if views == 1:
        return best
    # More views bear a weaker penalty, if another.
    weaker = [best.strength] if val is None else [s for s in STRENGTHS if s <= best.strength]
    path, rows, labels = [], features.flatten(0, 1), labels.repeat(views)
    for solution in solve_path(rows, labels, objective, val=val, strengths=weaker, start=best):
        path.append(solution)
        tell(solution, len(rows), len(strengths))
        if len(path) > 1 and best_by_validation(path[-2:]) is not solution:
            break
    return path[-1] if val is None else best_by_validation([best, *path])


def strength_by_cross_validation(
    features: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    *,
    bundles: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """The strength with the least loss over folds of the training images, for data without a validation part.

    Args:
        features: (N, F).
        labels: (N,).
        objective: The loss.
        bundles: int64 (N,), a number for each image; those with the same number share a fold. Default: each alone.
        folds: At most; never more than bundles.
        seed: Of the folds.
    """
    count = len(labels)
    _, first, bundle = np.unique(
        np.arange(count) if bundles is None else bundles, return_index=True, return_inverse=True
    )
    folds = max(2, min(folds, len(first)))
    fold_of = np.empty(len(first), dtype=np.int64)
    # Class by class, so that folds keep the proportions.
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), labels.cpu().numpy()[first]))
    fold_of[order] = np.arange(len(first)) % folds
    fold = fold_of[bundle]
    of_row = torch.from_numpy(fold).to(features.device)
    losses: list[list[float]] = []  # by fold
    for number in range(folds):
        inside, outside = of_row != number, of_row == number
        if not inside.any() or not outside.any():  # a single bundle: there is nothing to compare
            return STRENGTHS[len(STRENGTHS) // 2]
        held = (features[outside], labels[outside])
        # As far as the first fold went.
        strengths = STRENGTHS[: len(losses[0])] if losses else STRENGTHS
        of_fold: list[float] = []
        for solution in solve_path(
            features[inside], labels[inside], objective, val=held, strengths=strengths, consume=True, tolerance=_COARSE
        ):
            assert solution.val is not None
            of_fold.append(solution.val.loss)
            if not losses and len(held[1]) >= _ENOUGH and _is_past_the_valley(of_fold):
                break
        losses.append(of_fold)
    return STRENGTHS[int(np.mean(losses, axis=0).argmin())]


def _is_past_the_valley(losses: Sequence[float]) -> bool:
    """Whether weaker penalties would only cost time: the loss along a path falls, and from some strength on rises."""
    return len(losses) - 1 - int(np.argmin(losses)) > 1


def best_by_validation(solutions: Sequence[Solution]) -> Solution:
    """The solution with the least validation loss; the loss is smooth where accuracy is coarse."""

    def loss(solution: Solution) -> float:
        return solution.train_loss if solution.val is None else solution.val.loss

    return min(solutions, key=loss)
