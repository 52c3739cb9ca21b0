"""The state of a training in one file, saved after each epoch: a killed training resumes to the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regraft import distributed
from regraft.atomic_io import atomic_write
from regraft.errors import RunError
from regraft.models.classifier import Classifier
from regraft.models.malloc import return_freed_memory
from regraft.models.ood import MahalanobisOod
from regraft.text import pluralize
from regraft.training.callbacks import Epoch, HeadChoice, HeadFit, ProgressReporter, Training
from regraft.training.model_selection import BestModel
from regraft.training.phase import PhaseTrainer
from regraft.training.refit import LinearWeights
from regraft.training.setup import TrainingSetup


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of an unfinished training: the running phase, tensors by name, and plain JSON values."""

    phase: str
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]

    def resume_phase(self, trainer: PhaseTrainer) -> None:
        """Restore the trainer of the phase; before its first epoch there is nothing to restore."""
        if self.values["trainer"]:
            trainer.load_state_dict(_strip_prefix("trainer.", self.tensors), self.values["trainer"])


@dataclass(kw_only=True)
class TrainingState:
    """What changes during a training."""

    result: Training
    best_model: BestModel
    reporter: ProgressReporter
    checkpoint: Checkpoint | None = None  # None in a new training
    finetune_lr: float = 0.0  # 0 before it is chosen
    finetune_epochs: int = 0  # 0 before it is chosen
    earlier_epochs: int = 0  # of fine-tuning, in a finished training that this one continues
    is_stopped: bool = False  # whether a callback ended the training
    ood: MahalanobisOod | None = None  # None before it is fitted
    earlier_seconds: float = 0.0  # passed before an interruption
    started: float = field(default_factory=time.perf_counter)  # a value of `time.perf_counter()`

    def note(self, text: str) -> None:
        """Report a message, unless it is empty, and keep it, once, in the result."""
        if not text:
            return
        if text not in self.result.notes:
            self.result.notes.append(text)
        self.reporter.on_message(text)

    def resumes_in(self, phase: str) -> bool:
        """Whether the training resumes from a checkpoint of this phase."""
        return self.checkpoint is not None and self.checkpoint.phase == phase

    @property
    def keeps_earlier_model(self) -> bool:
        """Whether no epoch that follows a finished training is the best."""
        kept = None if self.best_model.row is None else self.result.history[self.best_model.row]
        is_further = kept is not None and kept.phase == "finetune" and kept.epoch > self.earlier_epochs
        return bool(self.earlier_epochs) and not is_further

    @property
    def total_seconds(self) -> float:
        """Seconds since the start, those before an interruption included."""
        return time.perf_counter() - self.started + self.earlier_seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the duration of a block to the seconds of a step, and return its memory, also if the block raises."""
        started, seconds = time.perf_counter(), self.result.seconds
        try:
            yield
        finally:
            return_freed_memory()
            seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - started


def start_or_resume(setup: TrainingSetup, on_better: Callable[[Classifier], None] | None) -> TrainingState:
    """Make a new state, or restore and report the checkpoint's; `RunError` if it is damaged or another training's."""
    result = Training(
        device=str(setup.device),
        precision=str(setup.precision).removeprefix("torch."),
        boundary=setup.phases.boundary_name,
    )
    best_model = BestModel(setup.model, setup.options, on_better)
    state = TrainingState(result=result, best_model=best_model, reporter=setup.reporter)
    if not len(setup.split.val) and (setup.options.early_stopping or setup.options.reduce_on_plateau):
        state.note("There is no val part: the last epoch is kept, and early stopping has no effect.")
    if checkpoint := _load(setup.checkpoint, setup.identity):
        _resume(setup, state, checkpoint)
    if name := setup.options.custom_loss:
        state.note(f"The training loss is {name}. Validation losses are those of {setup.objective.loss}.")
    return state


def continue_training(setup: TrainingSetup, state: TrainingState, earlier: Training) -> None:
    """Let more epochs of fine-tuning follow a finished training, whose final model the setup has."""
    result, best = state.result, state.best_model
    result.history = [replace(row, kept=False) for row in earlier.history]
    result.head_path, result.prefix_backend = earlier.head_path, earlier.prefix_backend
    result.unlabeled, result.int8 = earlier.unlabeled, earlier.int8
    result.seconds = dict(earlier.seconds)
    state.earlier_seconds = result.seconds.pop("total", 0.0)
    state.earlier_epochs = sum(row.phase == "finetune" for row in earlier.history)
    state.finetune_epochs = setup.options.finetune_epochs - state.earlier_epochs
    best.weights = {name: tensor.detach().clone() for name, tensor in setup.model.state_dict().items()}
    best.row = next((i for i, row in enumerate(earlier.history) if row.kept), None)
    state.checkpoint = Checkpoint("finetune", {}, {"trainer": None})
    done, more = state.earlier_epochs, state.finetune_epochs
    state.note(
        f"{pluralize(done, 'epoch')} of fine-tuning {'is' if done == 1 else 'are'} done. {more} more "
        f"{'follows' if more == 1 else 'follow'}; the learning rate schedule starts again."
    )
    save_checkpoint(setup, state, "finetune", None)


def _resume(setup: TrainingSetup, state: TrainingState, checkpoint: Checkpoint) -> None:
    """Restore everything but the trainer of the phase."""
    model, result, values = setup.model, state.result, checkpoint.values
    state.checkpoint = checkpoint
    state.best_model.load_state_dict(_strip_prefix("best.", checkpoint.tensors), values["best_model"])
    model.load_state_dict(model.state_dict() | _strip_prefix("model.", checkpoint.tensors))
    result.history = [Epoch(**row) for row in values["history"]]
    result.head_path = [HeadFit(**row) for row in values["head_path"]]
    if choice := values.get("head_choice"):
        result.head_choice = HeadChoice.from_json(choice)
    result.notes, result.prefix_backend = list(values["notes"]), values["prefix_backend"]
    result.seconds = dict(values["seconds"])
    state.earlier_seconds, state.finetune_lr = result.seconds.pop("total"), values["finetune_lr"]
    result.processes = dict(values.get("processes", {}))
    result.unlabeled = dict(values.get("unlabelled", {}))
    result.int8 = dict(values.get("int8", {}))
    if refitted := _strip_prefix("refitted.", checkpoint.tensors):
        result.refitted = LinearWeights(**refitted)
    state.finetune_epochs = values.get("finetune_epochs", 0)  # not in checkpoints of version 0.1
    state.earlier_epochs = values.get("earlier_epochs", 0)
    epoch = state.earlier_epochs + (values["trainer"]["epoch"] if values["trainer"] else 0)
    where = f"epoch {epoch} of the {checkpoint.phase} phase" if epoch else f"the {checkpoint.phase} phase"
    state.reporter.on_message(f"Training resumes after {where}.")
    if result.head_path:
        state.reporter.on_head_path(result.head_path)
    for row in result.history:
        state.reporter.on_epoch_end(row)


def save_checkpoint(setup: TrainingSetup, state: TrainingState, phase: str, trainer: PhaseTrainer | None) -> None:
    """Replace the checkpoint, if any, after an epoch, or without a trainer after the head was fitted.

    It does not depend on the number of processes: rank 0 saves the state, which is the same on all of them.
    """
    if setup.checkpoint is None:
        return
    trainer_tensors, trainer_values = ({}, None) if trainer is None else trainer.state_dict()
    if distributed.rank():
        return
    result, weights = state.result, setup.model.state_dict()
    best_tensors, best_values = state.best_model.state_dict(setup.trainable)
    tensors = {f"trainer.{name}": tensor for name, tensor in trainer_tensors.items()}
    tensors |= {f"model.{name}": weights[name] for name in setup.trainable}
    tensors |= {f"best.{name}": tensor for name, tensor in best_tensors.items()}
    if result.refitted is not None:
        tensors |= {"refitted.weight": result.refitted.weight, "refitted.bias": result.refitted.bias}
    values = {
        "identity": setup.identity,
        "phase": phase,
        "finetune_lr": state.finetune_lr,
        "finetune_epochs": state.finetune_epochs,
        "earlier_epochs": state.earlier_epochs,
        "prefix_backend": result.prefix_backend,
        "trainer": trainer_values,
        "best_model": best_values,
        "history": [row.to_row() for row in result.history],
        "head_path": [row.to_row() for row in result.head_path],
        "head_choice": asdict(result.head_choice) if result.head_choice else None,
        "notes": result.notes,
        "seconds": {**result.seconds, "total": state.total_seconds},
        "processes": result.processes,
        "unlabelled": result.unlabeled,
        "int8": result.int8,
    }
    on_cpu = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_write(setup.checkpoint) as temporary:
        save_file(on_cpu, temporary, metadata={"state": json.dumps(values)})


def _load(file: Path | None, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Read the checkpoint, if there is one: rank 0 does, and sends one tensor after the other to the others."""
    loaded: dict[str, torch.Tensor] = {}

    def load() -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        if file is None or not file.exists():
            return None
        values, tensors = _read(file, identity)
        loaded.update(tensors)
        # Without memory: names, shapes and types.
        return values, {name: tensor.to("meta") for name, tensor in tensors.items()}

    if (found := distributed.on_rank_0(load)) is None:
        return None
    values, described = found
    tensors = loaded or {name: torch.empty_like(tensor, device="cpu") for name, tensor in described.items()}
    distributed.broadcast_tensors([tensor.reshape(-1).view(torch.uint8) for tensor in tensors.values()])
    return Checkpoint(values["phase"], tensors, values)


def _read(file: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            values = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"The checkpoint {file} is damaged or of another version ({error}). Delete it to train from the start."
        ) from error
    if values["identity"] != identity:
        raise RunError(
            f"The checkpoint {file} belongs to a training with another model, other options or other library versions. "
            "Delete it to train from the start."
        )
    return values, tensors


def _strip_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
