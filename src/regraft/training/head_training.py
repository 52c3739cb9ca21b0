"""Fit the head on features of the frozen network, or train it in epochs.

Input: the activations of training and validation images at the head, or below it. Output: the head's weights in the
model, and in the state how they were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.data.dataset import Part
from regraft.data.split import inseparable_set_ids
from regraft.training.activations import Activations, ActivationSource, CachedTensor
from regraft.training.callbacks import HeadFit, known
from regraft.training.checkpoint import TrainingState, save_checkpoint
from regraft.training.device import has_room
from regraft.training.epochs import train_phase
from regraft.training.feature_rows import FeatureRows, StoredRows, TensorRows
from regraft.training.linear_head import L2_VALUES, LinearHead, fit_head
from regraft.training.lora import merged
from regraft.training.phase import Phase
from regraft.training.pooling import means_of
from regraft.training.refit import HeadPart, refit, stacked_rows
from regraft.training.row_sums import own_rows, shard_bounds
from regraft.training.setup import TrainingSetup
from regraft.training.several_heads import fit_combined_head
from regraft.training.unlabelled import HeadTargets, with_unlabeled


def train_head(setup: TrainingSetup, state: TrainingState, cached: Mapping[Part, ActivationSource]) -> None:
    """Fit the head by L-BFGS, or train it in epochs, on features of the frozen network."""
    model, phases = setup.model, setup.phases
    if phases.head == "none" or (phases.head == "lbfgs" and state.checkpoint):
        return
    model.freeze(len(model.stages))
    # Before fine-tuning, views beyond the plain images cost time and gain the fitted head nothing
    # (docs/decisions/head-on-plain-images.md).
    views = 1 if phases.finetunes and phases.head == "lbfgs" else cached["train"].views
    with setup.fused:
        fitted = phases.head == "lbfgs"
        # Images without labels are compared with all others, unless a teacher has said what they show.
        compares = setup.split.unlabeled is not None and setup.soft_targets is None
        own = fitted and not compares and setup.groups is None
        inputs = setup.data.head_inputs(cached, views, fitted=fitted, own=own)
    if fitted:
        with merged(model):  # as in every run of the frozen network, so that its outputs are found in the cache
            targets = with_unlabeled(setup, state, inputs["train"])
        val = (inputs["val"], setup.val_labels) if "val" in inputs else None
        if setup.groups is not None:
            targets = HeadTargets(*means_of(targets.inputs, targets.targets, setup.groups.train))
            val = val and means_of(*val, setup.groups.val)
        _fit_linear_head(setup, state, targets, val)
        save_checkpoint(setup, state, "head", None)
    else:
        train_phase(setup, state, Phase.from_options(setup.options, "head"), inputs["train"], inputs.get("val"))


def _as_rows(setup: TrainingSetup, inputs: Activations, count: int) -> FeatureRows:
    """Inputs of the head for `count` images, of the shards of this process: on the device, or read in chunks."""
    model, end, bounds = setup.model, len(setup.model.stages), shard_bounds(count)
    own = own_rows(count) if distributed.is_distributed() else None
    if isinstance(values := inputs.rows.values, torch.Tensor):
        if own is not None and values.shape[1] == count:  # it has all images
            values = values[:, torch.from_numpy(own)]
        # Fitting standardizes a copy.
        if setup.device.type != "cuda" or has_room(setup.device, 2 * values.nbytes):
            return TensorRows(values.to(setup.device), bounds)
        inputs, own = Activations(end, CachedTensor(values)), None
    return StoredRows(
        lambda view, images: model.forward_tail(inputs.batch(view, images), end),
        inputs.views,
        model.head.features,
        bounds,
        setup.device,
        own,
    )


def _inseparable_sets(setup: TrainingSetup) -> np.ndarray:
    """Number of the inseparable set of each row of the head, int64 (N + M,); an unlabeled image is one by itself."""
    sets = inseparable_set_ids(setup.split.train.samples)
    if setup.groups is not None:
        return np.asarray(sets[setup.groups.train.firsts])
    return np.concatenate([sets, len(sets) + np.arange(len(setup.targets) - len(sets))])


def _fit_linear_head(
    setup: TrainingSetup, state: TrainingState, train: HeadTargets, val: tuple[Activations, torch.Tensor] | None
) -> None:
    reporter, steps = setup.reporter, len(L2_VALUES) + 1

    def on_fit(head: LinearHead, done: int, total: int) -> None:
        nonlocal steps
        steps = total + 1  # the last is the head on all rows
        reporter.on_progress("head", done, steps, f"L2 {head.l2:.2g}")

    options: dict[str, Any] = {
        "weights": train.weights,
        "val": None if val is None else (_as_rows(setup, val[0], len(val[1])), val[1].to(setup.device)),
        "groups": _inseparable_sets(setup) if train.l2 is None else None,
        "l2": train.l2,
        "seed": setup.options.seed,
        "on_fit": on_fit,
    }
    stacked = _stacked(setup, state, train, val)  # the fit overwrites the rows
    rows, targets = _as_rows(setup, train.inputs, len(train.targets)), train.targets.to(setup.device)
    best: LinearHead | None
    if setup.model.members:
        blocks = {one.spec.name: block for one, block in zip(setup.model.members, setup.model.blocks, strict=True)}
        trained = [head.to(setup.device) for head in setup.trained_heads]
        fitted = fit_combined_head(rows, targets, setup.objective, blocks, trained=trained, **options)
        best, path, weight, bias, metrics = fitted.best, fitted.path, fitted.weight, fitted.bias, fitted.val
        state.result.head_choice = fitted.choice
        state.note(str(fitted.choice))
        parts = fitted.parts
    else:
        best, path = fit_head(rows, targets, setup.objective, **options)
        weight, bias, metrics = best.weight, best.bias, best.val
        parts = [HeadPart(slice(0, rows.features), best.l2)]
    reporter.on_progress("head", steps, steps)
    setup.model.head.set_linear(weight, bias)
    state.result.head_path = [
        HeadFit(
            l2=head.l2,
            train_loss=head.train_loss,
            val_loss=None if head.val is None else head.val.loss,
            val_accuracy=None if head.val is None else known(head.val.accuracy),
            seconds=head.seconds,
            chosen=head is best,
        )
        for head in path
    ]
    state.best_model.keep(None, metrics)
    if stacked is not None:
        _refit(setup, state, *stacked, parts)
    reporter.on_head_path(state.result.head_path)


def _stacked(
    setup: TrainingSetup, state: TrainingState, train: HeadTargets, val: tuple[Activations, torch.Tensor] | None
) -> tuple[FeatureRows, torch.Tensor, torch.Tensor | None] | None:
    """The rows of training and validation images, on which the head is fitted again; None where it is not."""
    if not setup.options.refit or val is None:
        return None
    if distributed.is_distributed():
        why = "several processes train"
    elif setup.split.stored is not None:
        why = "images are gone, and features stand for them"
    elif stacked := stacked_rows(train.inputs, val[0], train.targets, val[1], train.weights):
        return stacked
    else:
        why = "the features are not in memory"
    state.note(f"The head is not fitted again with the validation images (training.refit): {why}.")
    return None


def _refit(
    setup: TrainingSetup,
    state: TrainingState,
    rows: FeatureRows,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    parts: Sequence[HeadPart],
) -> None:
    if not parts:
        state.note(
            "The heads that were fine-tuned with their backbones are not fitted again with the validation images."
        )
        return
    refitted = refit(rows, targets, setup.objective, parts, weights=weights)
    state.result.refitted = refitted.to(torch.device("cpu"))
