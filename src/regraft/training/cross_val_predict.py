"""Predict every image by a linear head that was trained without it."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from regraft.cluster.executor import Executor, InProcess
from regraft.cluster.executor import Task as ClusterTask
from regraft.data.labels import ModelTask
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.label_propagation import nearest_neighbors
from regraft.training.linear_head import L2_VALUES, fit_path, held_out_path
from regraft.training.losses import Objective, units_of
from regraft.training.options import ClassWeights
from regraft.training.soft_labels import decide, neighbors_needed, soft_labels


def cross_val_predict(
    features: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    reporter: ProgressReporter,
    *,
    classes: int,
    class_weights: ClassWeights = "none",
    task: ModelTask | None = None,
    executor: Executor | None = None,
) -> np.ndarray:
    """Predict each image by a head that was fitted without its fold: probabilities, float64 (N, C), or numbers (N, 1).

    The L2 strength of a fold's head is the one with the lowest loss over the images of the other folds, whose heads
    were fitted with this fold's labels: one number that a fold's labels reach by a little. Inputs:
    features (N, F), labels int64 (N,) below `classes`, or indicators, float32 (N, C), and the fold number of each image
    (N,). `class_weights` are as in `TrainingOptions`, by the indices of the classes. With `task` regression labels are
    numbers (N, 1), and so is what is predicted; with ordinal the classes have an order. The executor fits the folds;
    default: this process.
    """
    executor = executor or InProcess()
    numbers = np.unique(fold)
    shared = features if isinstance(executor, InProcess) else executor.share(features.cpu().numpy())
    center, scale = units_of(torch.from_numpy(labels)) if task == "regression" else (0.0, 1.0)
    if task == "regression":  # in one unit for all folds: the head of a fold is the same in any
        labels = ((labels.astype(np.float64) - center) / scale).astype(np.float32)
    progress = _FoldsProgress(reporter, len(numbers))
    rows = {f"fold {row + 1}": row for row in range(len(numbers))}
    waiting = iter(rows)

    def next_task() -> ClusterTask | None:
        if (name := next(waiting, None)) is None:
            return None
        arguments = (shared, labels, fold == numbers[rows[name]], classes, class_weights, task)
        return ClusterTask(name, fit_fold, arguments, progress.of_fold(rows[name]))

    logits = torch.zeros(len(L2_VALUES), len(labels), classes)
    losses = torch.full((len(numbers), len(L2_VALUES)), float("inf"), dtype=torch.float64)
    for ended, future in executor.run(next_task):
        row = rows[ended.name]
        fitted, losses_of_fold = future.result()
        logits[: len(fitted), torch.from_numpy(fold == numbers[row])] = torch.tensor(fitted)
        losses[row, : len(fitted)] = torch.tensor(losses_of_fold)
    answers = torch.empty(len(labels), classes, dtype=torch.float64)
    objective = _objective(labels, classes, class_weights, task)
    for row, number in enumerate(numbers):
        outside, others = torch.from_numpy(fold == number), torch.arange(len(numbers)) != row
        best = int(losses[others].sum(dim=0).argmin())
        if not losses[row, best].isfinite():  # its own labels ended its path, and must not decide
            fitted, _ = fit_fold(
                features, labels, fold == number, classes, class_weights, task, reporter=NullReporter(), least=best + 1
            )
            logits[: len(fitted), outside] = torch.tensor(fitted)
        answers[outside] = objective.answers(logits[best, outside].double())
    return (answers * scale + center).numpy()


def _objective(labels: np.ndarray, classes: int, class_weights: ClassWeights, task: ModelTask | None) -> Objective:
    return Objective.of_labels(labels, [str(i) for i in range(classes)], class_weights, task)


def cross_val_predict_with_unlabeled(
    features: torch.Tensor,
    unlabeled: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    plain: np.ndarray,
    reporter: ProgressReporter,
    *,
    class_weights: ClassWeights = "none",
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """Predict each image out of fold, with images without labels where they help.

    In each fold the other folds decide whether they help; a held-out image is in no graph. Inputs: features
    (N, F) and (M, F), labels and fold as in `cross_val_predict`, and `plain`, its result, (N, C), which remains where
    the images without labels do not help. Returns probabilities, float64 (N, C), and the number of folds in which they
    do.
    """
    count, classes = plain.shape
    features = torch.cat([features, unlabeled.to(features.device)])
    neighbors = nearest_neighbors(features, neighbors_needed())
    others, probabilities, used = np.arange(count, len(features)), plain.copy(), 0
    numbers = np.unique(fold)
    for step, number in enumerate(numbers):
        inside, outside = np.flatnonzero(fold != number), torch.from_numpy(fold == number)
        rows = np.concatenate([inside, others])
        objective = _objective(labels[inside], classes, class_weights, None)
        graph, inputs = neighbors.among(rows, neighbors_needed()), features[torch.from_numpy(rows)]

        def on_fit(done: int, total: int, step: int = step) -> None:
            reporter.on_progress("unlabeled", step * total + done, len(numbers) * total, f"fold {step + 1}")

        own = None if groups is None else groups[inside]
        decision = decide(graph, inputs, labels[inside], objective, groups=own, seed=seed, on_fit=on_fit)
        if not decision.used:
            continue
        used += 1
        nearest = graph.among(np.arange(len(rows)), decision.propagation.neighbors)
        soft = soft_labels(
            nearest, inputs, labels[inside], objective, decision.propagation, decision.start_l2, decision.temperature
        )
        targets, importance = soft.after(labels[inside])
        values = L2_VALUES[: L2_VALUES.index(decision.l2) + 1]
        *_, head = fit_path(inputs, targets, objective, weights=importance, l2_values=values, consume=True)
        logits = features[:count][outside] @ head.weight.T + head.bias
        probabilities[outside.numpy()] = objective.answers(logits.double()).cpu().numpy()
    return probabilities, used


def fit_fold(
    features: torch.Tensor | np.ndarray,
    labels: np.ndarray,
    in_fold: np.ndarray,
    classes: int,
    class_weights: ClassWeights,
    task: ModelTask | None = None,
    *,
    reporter: ProgressReporter,
    least: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit heads without a fold, bool (N,), from strong to weak penalties, and predict its M images by each.

    Returns logits, float32 (S, M, C), and the summed loss of each, float64 (S,), where S is at most the number of
    `L2_VALUES`: it ends when weaker penalties make the loss worse twice, but not before there are `least` heads.
    """
    with warnings.catch_warnings():  # arrays that came from a cluster cannot be written, and nothing writes into them
        warnings.simplefilter("ignore", UserWarning)
        inputs, targets, outside = map(torch.as_tensor, (features, labels, in_fold))
    objective = _objective(labels[~in_fold], classes, class_weights, task)
    logits: list[torch.Tensor] = []
    losses: list[float] = []
    for held_out, loss in held_out_path(inputs, targets, outside, objective, least=least):
        logits.append(held_out.cpu())
        losses.append(loss)
        reporter.on_progress("head", len(losses), len(L2_VALUES))
    reporter.on_progress("head", len(L2_VALUES), len(L2_VALUES))
    return torch.stack(logits).detach().numpy(), np.array(losses)


class _FoldsProgress:
    """The progress of all folds as one."""

    def __init__(self, reporter: ProgressReporter, folds: int) -> None:
        self._reporter, self._steps = reporter, [0] * folds

    def of_fold(self, row: int) -> ProgressReporter:
        """The reporter of one fold."""
        return _FoldReporter(self, row)

    def update(self, row: int, done: int) -> None:
        """Report that `done` heads of a fold are fitted or not needed."""
        self._steps[row] = done
        total = len(self._steps) * len(L2_VALUES)
        self._reporter.on_progress("head", sum(self._steps), total, f"fold {row + 1}")


class _FoldReporter(NullReporter):
    def __init__(self, folds: _FoldsProgress, row: int) -> None:
        self._folds, self._row = folds, row

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Report the fold's heads among those of all folds."""
        self._folds.update(self._row, done)
