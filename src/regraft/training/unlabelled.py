"""Let the head learn from images without labels, where cross-validation on the labeled images says that it helps.

Input: the inputs of the head for the labeled training images. Output: the rows that the head is fitted on, with their
targets and weights; those of the labeled images alone where the others do not help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from regraft.data.split import inseparable_set_ids
from regraft.training.activations import Activations, CachedTensor
from regraft.training.checkpoint import TrainingState
from regraft.training.label_propagation import nearest_neighbors
from regraft.training.setup import TrainingSetup
from regraft.training.soft_labels import Decision, decide, neighbors_needed, part_to_use, soft_labels

#: Copies of all features that the work needs at once: themselves, standardized, and those of a fold on other axes.
_COPIES = 4


@dataclass(frozen=True, eq=False)
class HeadTargets:
    """Rows that the head is fitted on, with targets and weights as in `HeadLoss`; `l2` is None if not chosen yet."""

    inputs: Activations
    targets: torch.Tensor
    weights: torch.Tensor | None = None
    l2: float | None = None


def with_unlabeled(setup: TrainingSetup, state: TrainingState, train: Activations) -> HeadTargets:
    """Add the images without labels to the inputs of the labeled training images (K, n, F), if they help.

    The decision and its figures are noted in the state.
    """
    stored = setup.split.stored_of("train").weights
    weights = torch.cat([torch.ones(len(setup.targets) - len(stored)), torch.from_numpy(stored)])
    plain = HeadTargets(train, setup.targets, weights if len(stored) else None)
    if (unlabeled := setup.split.unlabeled) is None or setup.soft_targets is not None:  # which have theirs
        return plain
    if setup.trained_heads:
        reason = "the backbones were fine-tuned on the labeled images, whose features can then judge no others"
        _record(setup, state, None, reason)
        return plain
    count = len(train)
    chosen = part_to_use(count, len(unlabeled), seed=setup.options.seed)
    images = unlabeled.images.with_samples(unlabeled.images.table.take(chosen))
    values, size = train.rows.values, 4 * (count + len(images)) * setup.model.head.features
    if not isinstance(values, torch.Tensor) or not setup.data.has_memory_for(size * (_COPIES + train.views)):
        needed = size * (_COPIES + train.views) / 1e9
        _record(setup, state, None, f"they need {needed:.1f} GB of memory for features (training.memory_gb)")
        return plain
    extra = setup.data.unlabeled_features(images)
    features = torch.cat([values[0], extra]).to(setup.device)
    labels = setup.labels.numpy()
    neighbors = nearest_neighbors(features, neighbors_needed())
    decision = decide(
        neighbors,
        features,
        labels,
        setup.objective,
        groups=inseparable_set_ids(setup.split.train.samples),
        seed=setup.options.seed,
        on_fit=lambda done, total: setup.reporter.on_progress("unlabeled", done, total, "heads compared"),
    )
    _record(setup, state, decision, images=len(images))
    if not decision.used:
        return plain
    graph = neighbors.among(np.arange(len(features)), decision.propagation.neighbors)
    soft = soft_labels(
        graph, features, labels, setup.objective, decision.propagation, decision.start_l2, decision.temperature
    )
    targets, weights = soft.after(labels)
    both = torch.cat([values, extra.expand(train.views, -1, -1)], dim=1)
    return HeadTargets(Activations(train.boundary, CachedTensor(both)), targets, weights, decision.l2)


def _record(
    setup: TrainingSetup, state: TrainingState, decision: Decision | None, reason: str = "", images: int = 0
) -> None:
    unlabeled = setup.split.unlabeled
    assert unlabeled is not None
    result: dict[str, Any] = {
        **unlabeled.to_json(),
        "used": images if decision and decision.used else 0,
        "reason": reason or None,
        "cross_validation": decision and decision.to_json(),
    }
    state.result.unlabeled = result
    if decision is None:
        state.note(f"Unlabeled images: not used: {reason}.")
        return
    share = "share of right answers" if setup.model.task == "multilabel" else "accuracy"
    accuracies = f"{share} {decision.accuracy_without:.3f} -> {decision.accuracy_with:.3f}"
    verb = "fell" if decision.loss_decrease >= 0 else "rose"
    state.note(
        f"Unlabeled images: {f'{images:,} used' if decision.used else 'not used'}; cross-validation "
        f"{accuracies}, the loss per image {verb} by {abs(decision.loss_decrease):.3f} (standard error "
        f"{decision.loss_error:.3f})."
    )
