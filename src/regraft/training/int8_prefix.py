"""Let training images pass the frozen prefix in 8 bits, where cross-validation says that the head stays as accurate.

Input: a training whose precision is int8, or fastest. Output: a backend in 8 bits, calibrated on training images, or
none, and the figures that decided. The saved model computes in float, and so do validation images: the strength of the
head, the best epoch, the temperature and every score are those of the model that is saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from regraft.data.labels import ModelTask, Task
from regraft.data.split import inseparable_set_ids
from regraft.text import pluralize
from regraft.training.checkpoint import TrainingState
from regraft.training.device import computes_int8, has_int8
from regraft.training.int8_decision import Int8Decision, decide, hindrance
from regraft.training.linear_head import stratified_part
from regraft.training.lora import merged
from regraft.training.losses import Objective, strata
from regraft.training.prefix_backend import OpenVinoBackend, gmac_of_pass, is_clearly_faster
from regraft.training.setup import TrainingSetup

#: Training images that calibrate the prefix, and that are drawn apart from those to compare it, at most.
_CALIBRATED, _COMPARED = 304, 500
#: Multiply-accumulates of all passes, in 10^9, below which quantizing and comparing take longer than they save.
_WORTH_QUANTIZING_GMAC = 10_000.0


def quantize_prefix(setup: TrainingSetup, state: TrainingState) -> None:
    """Calibrate the prefix and decide, where the options ask for it; a training that resumes has decided already."""
    wanted, result = setup.options.precision, state.result
    if wanted not in ("int8", "fastest"):
        return
    is_decided = state.checkpoint is not None
    if is_decided and not result.int8.get("used"):
        return
    if not is_decided and wanted == "fastest" and not _may_pay(setup):
        return
    images = setup.split.train.with_samples(setup.split.train.table.take(_part(setup, _CALIBRATED)))
    with state.timed("prefix"), merged(setup.model):
        int8 = setup.data.int8_backend(setup.phases.cut, images)
        if not is_decided:
            result.int8 = {"used": False, "calibrated_on": len(images), **_decided(setup, state, int8)}
    if result.int8["used"]:
        setup.data.int8 = int8


def _may_pay(setup: TrainingSetup) -> bool:
    """Whether 8 bits could be faster here, by more than it takes to find out."""
    rows = len(setup.split.train) * setup.phases.views
    return (
        computes_int8(setup.device)
        and has_int8()
        and setup.deadline is None  # the time of calibration is not known beforehand
        and not hindrance(setup.phases, has_stored=setup.split.stored is not None)
        and rows * gmac_of_pass(setup.model) >= _WORTH_QUANTIZING_GMAC
    )


def _part(setup: TrainingSetup, count: int, *, seed: int = 0) -> np.ndarray:
    """Numbers of training images, rising, with the same shares of the classes."""
    kinds = strata(setup.labels, setup.objective.task)
    return stratified_part(kinds, min(count, len(kinds)), seed=setup.options.seed + seed)


def _decided(setup: TrainingSetup, state: TrainingState, int8: OpenVinoBackend) -> dict[str, Any]:
    """The figures of the comparison, which are noted, and `used`."""
    in_float, name = setup.data.float_backend(setup.phases.cut), state.result.precision
    setup.reporter.on_progress("int8", 0, 1, "the frozen layers are quantized")
    rates = dict(zip((name, "int8"), setup.data.rates([in_float, int8]), strict=True))
    setup.reporter.on_progress("int8", 1, 1)
    speeds = ", ".join(f"{precision} {rate:.0f}" for precision, rate in rates.items())
    found: dict[str, Any] = {"images_per_second": rates}
    if setup.options.precision == "fastest" and not is_clearly_faster(rates["int8"], rates[name]):
        state.note(f"The frozen layers run in {name}: int8 is not clearly faster (images per second: {speeds}).")
        return found
    chosen = _part(setup, _COMPARED, seed=1)
    images = setup.split.train.with_samples(setup.split.train.table.take(chosen))
    groups = inseparable_set_ids(images.samples)
    if not groups.any():
        state.note(f"int8 refused: the training images are one group, and nothing can be compared. {_goes_on(name)}")
        return found
    exact = setup.data.plain_features(images, in_float, f"backbone, {name}")
    quantized = setup.data.plain_features(images, int8, "backbone, int8")
    labels, seed = setup.labels[torch.from_numpy(chosen)], setup.options.seed
    decision = decide(exact, quantized, labels, _objective(setup), groups=groups, seed=seed)
    measured = _sentence(decision, setup.objective.task, name)
    if decision.used:
        state.note(f"Training images pass the frozen layers in int8 (images per second: {speeds}): {measured}.")
    else:
        state.note(f"int8 refused: {measured}. {_goes_on(name)}")
    return found | {"used": decision.used, "cross_validation": decision.to_json()}


def _objective(setup: TrainingSetup) -> Objective:
    """The loss of the head that is fitted; of one that trains in epochs the default of the task."""
    if setup.phases.head == "lbfgs":
        return setup.objective
    task: ModelTask = "ordinal" if setup.model.ordered else setup.objective.task
    classes, weights = setup.split.classes, setup.options.class_weights
    return Objective.of_labels(setup.labels.numpy(), classes, weights, task)


def _sentence(decision: Int8Decision, task: Task, precision: str) -> str:
    """What was measured, without the end of a sentence."""
    on = f"in {precision}, on {pluralize(decision.images, 'training image')}"
    if task == "regression":
        return f"cross-validated loss {decision.loss:.4f} instead of {decision.float_loss:.4f} {on}"
    share = "share of right answers" if task == "multilabel" else "accuracy"
    now, before = (f"{100 * score:.1f} %" for score in (decision.accuracy, decision.float_accuracy))
    return f"cross-validated {share} {now} instead of {before} {on}"


def _goes_on(precision: str) -> str:
    return f"The frozen layers run in {precision}."
