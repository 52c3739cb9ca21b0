"""The epochs of a phase: how many there is time for, at which learning rate, and the training itself.

Input: the batches of a phase, and what the training has found so far. Output: rows of the history and the best weights.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from regraft import distributed
from regraft.errors import TrainingError
from regraft.training.activations import ActivationSource
from regraft.training.callbacks import wants_to_stop
from regraft.training.checkpoint import TrainingState, save_checkpoint
from regraft.training.data import Batches
from regraft.training.options import TrainingOptions
from regraft.training.phase import OutOfTime, Phase, PhaseTrainer
from regraft.training.setup import TrainingSetup

#: Learning rates that `finetune_lr = 0` compares.
LR_CANDIDATES = (1e-4, 3e-4, 1e-3, 3e-3)
#: Duration of an epoch with its validation, as a multiple of its training steps.
_EPOCH_MARGIN = 1.15


def train_phase(
    setup: TrainingSetup, state: TrainingState, phase: Phase, batches: Batches, val: ActivationSource | None
) -> None:
    """Train one phase until its last epoch, early stopping or the deadline; keep the best weights."""
    trainer = _phase_trainer(setup, phase, batches, val)
    if state.checkpoint and state.resumes_in(phase.name):
        state.checkpoint.resume_phase(trainer)
    if not trainer.epoch:
        if state.best_model.weights is not None and state.best_model.metrics is None:  # of an earlier training
            state.best_model.metrics = trainer.validate()
        state.best_model.begin_phase()
    try:
        with distributed.deferred_interrupt():
            _train_epochs(setup, state, phase, trainer)
    finally:
        for place, seconds in zip(("communication", "steps"), trainer.communication, strict=True):
            state.result.processes[place] = state.result.processes.get(place, 0.0) + seconds


def _train_epochs(setup: TrainingSetup, state: TrainingState, phase: Phase, trainer: PhaseTrainer) -> None:
    options = setup.options
    patience, longest = options.early_stopping if trainer.val is not None else 0, 0.0
    while trainer.epoch < phase.epochs:
        if patience and trainer.num_bad_epochs >= patience:
            state.note(
                f"{options.monitor} has not improved for {trainer.num_bad_epochs} epochs: the {phase.name} phase ended "
                f"after {trainer.epoch}."
            )
            return
        deadline = setup.deadline_at_pace(longest) if phase.name == "finetune" else setup.deadline
        if distributed.broadcast(deadline is not None and time.monotonic() + longest > deadline):
            state.note(f"The time is up: the {phase.name} phase ended after {trainer.epoch} of {phase.epochs} epochs.")
            return
        started = time.monotonic()
        try:
            # Without a model to keep there must be one epoch.
            row, metrics = trainer.run_epoch(deadline=deadline if state.best_model.weights is not None else None)
        except OutOfTime:
            state.note(f"The time is up: the {phase.name} phase ended in epoch {trainer.epoch + 1} of {phase.epochs}.")
            return
        longest = max(longest, time.monotonic() - started)
        state.result.history.append(row)
        setup.reporter.on_epoch_end(row)
        with trainer.averaged():
            state.best_model.update(phase.name, len(state.result.history) - 1, metrics)
        save_checkpoint(setup, state, phase.name, trainer)
        if distributed.on_rank_0(partial(wants_to_stop, setup.callbacks, row)):
            state.is_stopped = True
            state.note(f"A callback ended the training after epoch {row.epoch} of the {phase.name} phase.")
            return


def fitting_epochs(setup: TrainingSetup, state: TrainingState, batches: Batches, val: ActivationSource | None) -> int:
    """The number of fine-tuning epochs for which there is time at the machine's present speed."""
    wanted = setup.options.finetune_epochs
    if setup.deadline is None:
        return wanted
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    trainer = _phase_trainer(
        setup, Phase.from_options(setup.options, "finetune", epochs=1, lr=LR_CANDIDATES[0]), batches, val
    )
    seconds = trainer.time_epoch() * _EPOCH_MARGIN
    setup.model.load_state_dict(before)
    deadline = setup.deadline_at_pace(seconds)
    assert deadline is not None
    searched = 0 if setup.options.finetune_lr else len(LR_CANDIDATES)
    fitting = distributed.broadcast(int((deadline - time.monotonic()) / seconds) - searched)
    if fitting >= wanted:
        return wanted
    must_train = state.best_model.weights is None
    epochs = max(fitting, int(must_train))
    state.note(
        f"The machine is slower than planned: an epoch takes about {seconds:.0f} s, and there is time for "
        f"{epochs or 'none'} of {wanted}."
    )
    return epochs


def find_lr(setup: TrainingSetup, state: TrainingState, batches: Batches, val: ActivationSource | None) -> float:
    """Train one epoch at each learning rate, and return the one with the lowest validation loss."""
    assert val is not None  # see `set_up`
    losses: dict[float, float] = {}
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    longest = 0.0
    for lr in LR_CANDIDATES:
        # There must be time for this epoch and for one that uses the result.
        if distributed.broadcast(setup.deadline is not None and time.monotonic() + 2 * longest > setup.deadline):
            break
        started = time.monotonic()
        trainer = _phase_trainer(setup, Phase.from_options(setup.options, "finetune", epochs=1, lr=lr), batches, val)
        try:
            _, metrics = trainer.run_epoch()
            assert metrics is not None
            losses[lr] = sum(metrics.calibrated_losses) / len(metrics.calibrated_losses)
        except TrainingError:  # the learning rate is far too high
            losses[lr] = float("inf")
        setup.model.load_state_dict(before)
        longest = max(longest, time.monotonic() - started)
    if not losses:
        return TrainingOptions().finetune_lr
    best = min(losses, key=lambda lr: losses[lr])
    compared = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in losses.items())
    state.note(f"Learning rate {best:g} is best after one epoch each (validation loss per image: {compared}).")
    return best


def _phase_trainer(setup: TrainingSetup, phase: Phase, batches: Batches, val: ActivationSource | None) -> PhaseTrainer:
    return PhaseTrainer(
        setup.model,
        phase,
        batches,
        setup.targets,
        setup.objective,
        val=None if val is None else (val, setup.val_labels),
        val_groups=None if setup.groups is None else setup.groups.val,
        fused=setup.fused,
        # The head reads vectors, which CutMix cannot cut.
        augmentation=replace(setup.augmentation, cutmix=0.0) if phase.name == "head" else setup.augmentation,
        precision=setup.precision,
        compiled=setup.options.compile and phase.name == "finetune",
        sharded=setup.options.sharding == "fsdp" and phase.name == "finetune" and distributed.is_distributed(),
        seed=setup.options.seed,
        reporter=setup.reporter,
        view_targets=None if setup.soft_targets is None else setup.soft_targets.of_views,
    )
