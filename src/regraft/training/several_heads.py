"""The head over several backbones: one on all features, or the averaged heads of one backbone each.

Input: features of the training and validation images, and which columns are each backbone's. Output: weights and biases
of one linear head, and how it was chosen. The average of calibrated logits is itself linear in the features side by
side, so the model has the same form whichever is taken; the one with the lower calibrated loss is, on validation
images, or by cross-validation where these are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from regraft import distributed
from regraft.training.callbacks import HeadChoice, HeadScore
from regraft.training.feature_rows import FeatureRows
from regraft.training.head_loss import logits_of
from regraft.training.linear_head import (
    MAX_SEARCH_IMAGES,
    LinearHead,
    fit_head,
    fit_path,
    stratified_folds,
    stratified_part,
)
from regraft.training.losses import SMALL_VALIDATION, EpochMetrics, Objective, best_temperature, compute_metrics, strata
from regraft.training.refit import HeadPart, LinearWeights, added

#: Folds of the cross-validation.
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class CombinedHead:
    """Weights (C, F) and biases (C,), their metrics on validation, the path of the joint head, and the choice.

    `parts` are what was fitted, so that it can be fitted again; none if the heads were trained with their backbones.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    val: EpochMetrics | None
    path: list[LinearHead]
    best: LinearHead | None  # of the path; None if the averaged heads are taken
    choice: HeadChoice
    parts: Sequence[HeadPart]


def fit_combined_head(
    rows: FeatureRows,
    labels: torch.Tensor,
    objective: Objective,
    blocks: Mapping[str, slice],
    *,
    weights: torch.Tensor | None = None,
    val: tuple[FeatureRows, torch.Tensor] | None = None,
    groups: np.ndarray | None = None,
    l2: float | None = None,
    seed: int = 0,
    trained: Sequence[LinearWeights] = (),
    on_fit: Callable[[LinearHead, int, int], None] = lambda head, done, total: None,
) -> CombinedHead:
    """Fit a head on all features and one on those of each backbone, and take all features or the average.

    `blocks` are the columns of each backbone by its name. The other arguments are those of `fit_head`; rows in memory
    are overwritten. `trained` are heads of the backbones that were fine-tuned with them, which are averaged instead of
    fitted ones; their features have seen the training images, so without enough validation images nothing can judge a
    new head on them, and the average is taken. Soft labels, which are for one head on all features, are compared on
    validation images only.
    """
    by_validation = val is not None and len(val[1]) >= SMALL_VALIDATION
    is_soft = labels.is_floating_point() and objective.task == "classification"
    cross_validates = not by_validation and not trained and not is_soft
    heads = [
        fit_head(
            rows.columns(columns), labels, objective, weights=weights, groups=groups, seed=seed,
            val=(val[0].columns(columns), val[1]) if val else None,
        )[0]
        for columns in (blocks.values() if by_validation or cross_validates else ())
        if not trained
    ]  # fmt: skip
    alone = trained or [LinearWeights(head.weight, head.bias) for head in heads]
    # Cross-validation reads the rows after the fit, which overwrites them.
    kept = rows.columns(slice(0, rows.features)) if cross_validates else rows
    best, path = fit_head(
        kept, labels, objective, weights=weights, val=val, groups=groups, l2=l2, seed=seed, on_fit=on_fit
    )  # fmt: skip
    joint = LinearWeights(best.weight, best.bias)
    judged: list[torch.Tensor] | None
    if by_validation:
        assert val is not None
        judged, of = [logits_of(val[0], joint.weight, joint.bias)], val[1]
        judged += [
            logits_of(val[0].columns(columns), head.weight, head.bias)
            for columns, head in zip(blocks.values(), alone, strict=True)
        ]
    elif cross_validates:
        judged, of = _cross_validated(rows.plain(), labels, objective, blocks, [best, *heads], groups, seed)
    else:
        judged, of = None, labels
    average = joint
    if judged is None:
        temperatures = [1.0] * len(alone)
        average = _average(alone, temperatures) if trained else joint
        choice = HeadChoice("averaged" if trained else "joint", "none", 0, {})
    else:
        temperatures, choice = distributed.on_rank_0(
            partial(_choose, objective, judged, of, list(blocks), "validation" if by_validation else "cross-validation")
        )
        average = _average(alone, temperatures)
    if choice.chosen == "joint":
        parts = [HeadPart(slice(0, rows.features), best.l2)]
        return CombinedHead(joint.weight, joint.bias, best.val, path, best, choice, parts)
    metrics = None
    if val is not None:
        logits = logits_of(val[0], average.weight, average.bias)
        metrics = distributed.on_rank_0(partial(compute_metrics, objective, logits, val[1], calibrate=True))
    parts = (
        [
            HeadPart(columns, head.l2, scale)
            for columns, head, scale in zip(blocks.values(), heads, _shares(temperatures), strict=True)
        ]
        if heads
        else []
    )
    return CombinedHead(average.weight, average.bias, metrics, path, None, choice, parts)


def _average(heads: Sequence[LinearWeights], temperatures: Sequence[float]) -> LinearWeights:
    """The mean of the heads' logits, each divided by its temperature, as one head over all features."""
    return added([head.scaled(share) for head, share in zip(heads, _shares(temperatures), strict=True)])


def _shares(temperatures: Sequence[float]) -> list[float]:
    """What each head's logits are multiplied by in the mean of all, each divided by its temperature."""
    return [1 / (temperature * len(temperatures)) for temperature in temperatures]


def _choose(
    objective: Objective,
    logits: Sequence[torch.Tensor],
    labels: torch.Tensor,
    names: Sequence[str],
    by: Literal["validation", "cross-validation"],
) -> tuple[list[float], HeadChoice]:
    """The temperature of each backbone's logits, and the choice; `logits` are those of the joint head, then theirs."""
    joint, *alone = (values.float().cpu() for values in logits)
    labels = labels.cpu()
    temperatures = [best_temperature(objective, values, labels) for values in alone]
    averaged = torch.stack([values / t for values, t in zip(alone, temperatures, strict=True)]).mean(dim=0)
    scores: dict[str, HeadScore] = {}
    for name, values in [("joint", joint), ("averaged", averaged), *zip(names, alone, strict=True)]:
        metrics = compute_metrics(objective, values, labels, calibrate=True)
        scores[name] = HeadScore(float(np.mean(metrics.calibrated_losses)), metrics.accuracy)
    chosen: Literal["joint", "averaged"] = "joint" if scores["joint"].loss <= scores["averaged"].loss else "averaged"
    return temperatures, HeadChoice(chosen, by, len(labels), scores)


def _cross_validated(
    rows: FeatureRows,
    labels: torch.Tensor,
    objective: Objective,
    blocks: Mapping[str, slice],
    heads: Sequence[LinearHead],
    groups: np.ndarray | None,
    seed: int,
) -> tuple[list[torch.Tensor] | None, torch.Tensor]:
    """Logits of images by heads that were fitted without them at the strengths of `heads`, and the images' labels.

    None instead of logits if the images are all in one group, so that there is nothing to compare.
    """
    if len(labels) > MAX_SEARCH_IMAGES:
        part = stratified_part(strata(labels, objective.task), MAX_SEARCH_IMAGES, seed=seed)
        rows, labels = rows.subset(part), labels[torch.from_numpy(part).to(labels.device)]
        groups = None if groups is None else groups[part]
    fold = stratified_folds(strata(labels, objective.task), _FOLDS, groups=groups, seed=seed)
    if len(np.unique(fold)) < 2:
        return None, labels
    columns = [slice(0, rows.features), *blocks.values()]
    logits = [torch.zeros(len(labels), len(objective.class_weights), device=labels.device) for _ in heads]
    for number in np.unique(fold):
        inside, outside = (np.flatnonzero(chosen) for chosen in (fold != number, fold == number))
        places = [torch.from_numpy(images).to(labels.device) for images in (inside, outside)]
        for values, head, block in zip(logits, heads, columns, strict=True):
            own = rows.columns(block)
            (fitted,) = fit_path(
                own.subset(inside), labels[places[0]], objective, l2_values=[head.l2], consume=True, coarse=True
            )
            values[places[1]] = logits_of(own.subset(outside), fitted.weight, fitted.bias)
    return logits, labels
