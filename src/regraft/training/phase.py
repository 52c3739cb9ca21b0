"""Train for the epochs of one phase.

Input: a model, its training batches and a `Phase`. Output: an `Epoch` after each pass over the images; the model then
has the current weights, and the rest of the state can be saved and loaded. Every random draw is keyed by (seed, phase,
epoch, step), so there is no random state to save.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from regraft import distributed
from regraft.data.augmentation import draw_mixture, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.data.pooling import Groups
from regraft.errors import TrainingError
from regraft.models.classifier import Classifier
from regraft.models.cpu.conv_backward import FastGradients
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.staged import StageOutput
from regraft.quick_imports import without_compiler
from regraft.training.activations import Activations, ActivationSource
from regraft.training.callbacks import Epoch, ProgressReporter, known
from regraft.training.compiled_tail import compiled_tail
from regraft.training.data import Batches
from regraft.training.device import autocast
from regraft.training.feature_cache import predict_logits
from regraft.training.gradient_sum import GradientSum
from regraft.training.lora import merged
from regraft.training.losses import EpochMetrics, Objective, compute_metrics
from regraft.training.optimizer import lr_factor, make_optimizer
from regraft.training.options import Optimizer, TrainingOptions
from regraft.training.pooling import logits_of_groups
from regraft.training.sharded_tail import ShardedTail, divided_like, is_divided, whole

PhaseName = Literal["head", "finetune"]
#: Steps from which the duration of an epoch is estimated.
_TIMED_STEPS = 3
_PHASE_KEYS: dict[PhaseName, int] = {"head": 1, "finetune": 2}


class OutOfTime(Exception):
    """The deadline has passed; not `TimeoutError`, which a network file system may raise."""


@dataclass(frozen=True)
class Phase:
    """Settings of one phase; see `TrainingOptions`.

    `lr` is the peak learning rate; `warmup` is the share of the steps in which it rises from zero; there is no weight
    decay on vectors (biases, norms). `epochs` follow `earlier_epochs` of a training that is continued.
    """

    name: PhaseName
    epochs: int
    lr: float
    optimizer: Optimizer
    weight_decay: float
    batch_size: int
    schedule: str
    warmup: float
    reduce_on_plateau: int
    plateau_factor: float
    monitor: str
    momentum: float = 0.9
    layer_decay: float = 1.0
    ema_epochs: float = 0.0
    steps_per_epoch: int = 0  # 0: one pass over the images
    earlier_epochs: int = 0

    @classmethod
    def from_options(
        cls, options: TrainingOptions, name: PhaseName, *, epochs: int | None = None, lr: float | None = None
    ) -> Phase:
        """Return the settings of a phase; `epochs` and `lr` replace those of the options."""
        is_head = name == "head"
        optimizer = options.head_optimizer if is_head else options.optimizer
        return cls(
            name=name,
            epochs=epochs or (options.head_epochs if is_head else options.finetune_epochs),
            lr=lr or (options.head_lr if is_head else options.finetune_lr),
            # A head with hidden layers or dropout has no L-BFGS.
            optimizer="adamw" if optimizer == "lbfgs" else optimizer,
            weight_decay=options.weight_decay,
            batch_size=options.batch_size,
            steps_per_epoch=options.steps_per_epoch,
            schedule=options.schedule,
            warmup=options.warmup,
            reduce_on_plateau=options.reduce_on_plateau,
            plateau_factor=options.plateau_factor,
            monitor=options.monitor,
            momentum=options.momentum,
            layer_decay=options.layer_decay,
            ema_epochs=0.0 if is_head else options.ema_epochs,
        )


class PhaseTrainer:
    """Train one phase epoch by epoch, in place; its state can be saved after each epoch.

    Several processes divide the images of each step, and train as one process does, up to rounding.

    `labels` are the classes of the training images, int64 (N,), or target probabilities, float32 (N, C), and
    `view_targets` those of the K cached views of each, (K, N, C), if these differ; the validation images are scored
    after each epoch, or their `val_groups`, by the mean logits of each. If `compiled`, steps run through
    `torch.compile`; if `sharded`, on a copy that the processes divide, from which the model gets its weights for
    validation and `averaged`.

    Attributes:
        epoch: Number of finished epochs.
        num_bad_epochs: Number of epochs since the monitor last improved.
    """

    def __init__(
        self,
        model: Classifier,
        phase: Phase,
        batches: Batches,
        labels: torch.Tensor,
        objective: Objective,
        *,
        val: tuple[ActivationSource, torch.Tensor] | None,
        val_groups: Groups | None = None,
        fused: FusedTraining,
        augmentation: Augmentation,
        precision: torch.dtype,
        compiled: bool,
        sharded: bool = False,
        seed: int,
        reporter: ProgressReporter,
        view_targets: torch.Tensor | None = None,
    ) -> None:
        self.model, self.phase, self.batches, self.objective = model, phase, batches, objective
        self.val, self.augmentation, self.precision, self.seed, self.reporter = (
            val, augmentation, precision, seed, reporter,
        )  # fmt: skip
        self.val_groups = val_groups
        self.targets = objective.targets(labels)
        self.view_targets = view_targets if isinstance(batches, Activations) else None
        self.steps_per_pass = math.ceil(len(batches) / phase.batch_size)
        self.steps = phase.steps_per_epoch or self.steps_per_pass
        distributed.broadcast_tensors([p.detach() for p in model.trained_tensors().values()])
        self.sharded = ShardedTail(model) if sharded else None
        trained = self.sharded.classifier if self.sharded else model
        self.optimizer = make_optimizer(trained, phase)
        self.fused, self.compiled = fused, compiled
        self.tail = self.sharded or (compiled_tail(model) if compiled else model.forward_tail)
        self.head = trained.head
        self.scaler = torch.amp.GradScaler(model.mean.device.type, enabled=precision == torch.float16)
        self.parameters = list(trained.trained_tensors().values())
        # FSDP takes the mean of the gradients, and each process has a part of their sum: the loss makes up for that.
        self.loss_scale = distributed.world_size() if self.sharded else 1
        undivided = [p for p in self.parameters if p.requires_grad and not is_divided(p)]
        self.sum_gradients = GradientSum(undivided, divisor=self.loss_scale)
        self.communication = [0.0, 0.0]  # seconds of communication, and of all steps
        ema_steps = phase.ema_epochs * self.steps
        self.average = [p.detach().clone() for p in self.parameters] if ema_steps >= 1 else []
        # Whole and divided tensors, which PyTorch cannot change in one operation.
        self.kinds = [[i for i, p in enumerate(self.parameters) if is_divided(p) == kind] for kind in (False, True)]
        self.ema_weight = 1 / max(1.0, ema_steps)
        self.epoch, self.images_per_epoch = 0, len(batches)
        self.lr_scale, self.best_value, self.num_bad_epochs = 1.0, -math.inf, 0

    def run_epoch(self, *, deadline: float | None = None) -> tuple[Epoch, EpochMetrics | None]:
        """Train for one more epoch and compute the validation metrics.

        Raises `TrainingError`, which names the step, if the loss is NaN or infinite, and `OutOfTime` when
        `time.monotonic()` has passed `deadline`.
        """
        phase, started = self.phase, time.perf_counter()
        loss, accuracy, lr = self._train(deadline=deadline)
        seconds = time.perf_counter() - started
        metrics = self.validate()
        self.epoch += 1
        self._reduce_on_plateau(metrics.value(phase.monitor) if metrics else -loss)
        row = Epoch(
            phase=phase.name,
            epoch=phase.earlier_epochs + self.epoch,
            train_loss=loss,
            train_accuracy=known(accuracy),
            val_loss=None if metrics is None else metrics.loss,
            val_accuracy=None if metrics is None else known(metrics.accuracy),
            val_macro_f1=None if metrics is None else known(metrics.macro_f1),
            lr=lr,
            seconds=seconds,
            images_per_second=self.images_per_epoch / seconds,
        )
        return row, metrics

    def validate(self) -> EpochMetrics | None:
        """Compute the validation metrics of the averaged weights; None without validation images."""
        if self.val is None:
            return None
        activations, labels = self.val
        with self.averaged(), merged(self.model), self.fused:
            logits = predict_logits(self.model, activations, self.precision)
        if self.val_groups is not None:
            logits = logits_of_groups(logits, self.val_groups, self.objective)
            labels = labels[torch.from_numpy(self.val_groups.firsts)]
        return distributed.on_rank_0(lambda: compute_metrics(self.objective, logits, labels, calibrate=True))

    def _reduce_on_plateau(self, value: float) -> None:
        phase = self.phase
        self.num_bad_epochs = 0 if value > self.best_value else self.num_bad_epochs + 1
        self.best_value = max(self.best_value, value)
        if phase.reduce_on_plateau and self.num_bad_epochs and self.num_bad_epochs % phase.reduce_on_plateau == 0:
            self.lr_scale /= phase.plateau_factor
            self.reporter.on_message(
                f"{phase.monitor} has not improved for {self.num_bad_epochs} epochs: the learning rate is divided by "
                f"{phase.plateau_factor:g}."
            )

    def time_epoch(self) -> float:
        """Estimate the seconds of an epoch from a few steps, which change the weights."""
        self._train(max_steps=1)  # the first step sets up what the others use
        steps, started = min(self.steps, _TIMED_STEPS), time.perf_counter()
        self._train(max_steps=steps)
        return (time.perf_counter() - started) / steps * self.steps

    def _train(self, *, max_steps: int | None = None, deadline: float | None = None) -> tuple[float, float, float]:
        """Train for one pass over the images; returns mean loss, accuracy and the last learning rate."""
        model, phase, steps = self.model, self.phase, self.steps
        device, boundary = model.mean.device, self.batches.boundary
        epoch, overall = self.epoch, phase.earlier_epochs + self.epoch
        order = self._order(overall)
        count, done = sum(map(len, order)), 0
        model.train()
        if self.sharded:
            self.sharded.classifier.train()
        # Loss and accuracy, times the images; processes that were interrupted, and whether the time is up.
        sums, lr = torch.zeros(4, device=device), phase.lr
        # Reading the loss waits for the device, which is expensive on a GPU.
        report_every = 32 if device.type == "cuda" else 4
        distributed.barrier()  # rank 0 may have saved, which is no step
        started, before = time.perf_counter(), distributed.communication_seconds()
        # The compiler brings its own kernels and cannot trace the fused ones.
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            nullcontext() if self.compiled else self.fused,
        ):
            for step, indices in enumerate(order[:max_steps]):
                is_late = deadline is not None and time.monotonic() > deadline
                if is_late and not distributed.is_distributed():
                    raise OutOfTime
                step_key = random_key(self.seed, _PHASE_KEYS[phase.name], overall, step)
                lr = self.lr_scale * phase.lr * lr_factor(phase, (epoch * steps + step) / (phase.epochs * steps))
                for group in self.optimizer.param_groups:
                    group["lr"] = lr * group["lr_share"]
                self.optimizer.zero_grad(set_to_none=True)
                values = torch.zeros(4, device=device)
                own = distributed.share(len(indices))
                is_idle = own.start == own.stop
                if not is_idle or self.sharded:  # whose parts the other processes need, too
                    inputs, targets, weight = self._own_part(indices, slice(0, 1) if is_idle else own, step_key)
                    torch.manual_seed(step_key if not own.start else random_key(step_key, own.start))  # for dropout
                    with autocast(device, self.precision), nullcontext() if self.compiled else FastGradients():
                        if boundary == 0:
                            inputs = model.activations(inputs.values, 0)
                        features = self.tail(inputs, boundary)
                    logits = self.head(features)  # outside autocast, in float32
                    loss = self.objective(logits, targets) * (0.0 if is_idle else weight)
                    self.scaler.scale(loss * self.loss_scale).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
                    values[0] = loss.detach() * len(indices)
                    values[1] = self.objective.hits(logits.detach(), targets).sum() * (not is_idle)
                else:
                    self.scaler.scale(values)  # sets itself up
                values[2] = float(distributed.is_interrupted())
                values[3] = float(is_late and distributed.rank() == 0)
                sums += self.sum_gradients(values)
                with without_compiler():
                    self.scaler.step(self.optimizer)
                self.scaler.update()
                for kind in filter(None, self.kinds if self.average else []):
                    present = [self.parameters[i].detach() for i in kind]
                    torch._foreach_lerp_([self.average[i] for i in kind], present, self.ema_weight)
                done += len(indices)
                if (step + 1) % report_every == 0 or step == steps - 1:
                    loss_sum, correct, interrupted, late = sums.tolist()
                    if interrupted:
                        raise KeyboardInterrupt
                    if late:
                        raise OutOfTime
                    mean, accuracy = loss_sum / done, correct / done
                    if not math.isfinite(mean):
                        raise TrainingError(_diverged(phase, epoch * steps + step + 1, steps * phase.epochs))
                    speed = done / (time.perf_counter() - started)
                    share = "" if known(accuracy) is None else f"accuracy {accuracy:.3f}  "
                    detail = f"epoch {epoch + 1}/{phase.epochs}  loss {mean:.3f}  {share}{speed:.0f} images/s"
                    self.reporter.on_progress(phase.name, epoch * count + done, phase.epochs * count, detail)
        self.images_per_epoch = count
        self.communication[0] += distributed.communication_seconds() - before
        self.communication[1] += time.perf_counter() - started
        return float(sums[0]) / count, float(sums[1]) / count, lr

    def _own_part(self, indices: np.ndarray, own: slice, key: int) -> tuple[StageOutput, torch.Tensor, float]:
        """Inputs and targets of this process's part of a step, mixed as one process mixes all of it.

        The weight is that of the part's mean loss in the mean of all.
        """
        device, targets = self.model.mean.device, self._targets(indices, key)
        places = np.arange(len(indices))[own]
        mixture = draw_mixture(len(indices), self.augmentation, key)
        if mixture is None:
            inputs = self.batches.sample(indices, key, places).to(device)
        else:
            needed, rows = np.unique(np.concatenate([places, mixture.partner[own]]), return_inverse=True)
            sampled = self.batches.sample(indices, key, needed)
            both = (torch.from_numpy(half) for half in np.split(rows, 2))
            parts = [[values[chosen.to(values.device)] for values in sampled] for chosen in both]
            inputs = StageOutput(*mixture.mix(sampled if len(needed) == len(places) else parts[0], parts[1])).to(device)
            targets = mixture.mix_targets(targets)
        mine = targets[own]
        if len(mine) == len(targets):
            weight = 1.0
        else:
            weight = float(self.objective.weights(mine).sum() / self.objective.weights(targets).sum())
        return inputs, mine.to(device, non_blocking=True), weight

    def _targets(self, indices: np.ndarray, key: int) -> torch.Tensor:
        """Target probabilities of the images of a step, (n, C): of the views that the key draws, where these differ."""
        chosen = torch.from_numpy(indices)
        if self.view_targets is None or not isinstance(self.batches, Activations):
            return self.targets[chosen]
        return self.view_targets[torch.from_numpy(self.batches.draw_views(len(indices), key)), chosen]

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The images of each step; an epoch goes on in the pass over the images in which the one before stopped."""
        order: list[np.ndarray] = []
        number, skipped = divmod(epoch * self.steps, self.steps_per_pass)
        while len(order) < skipped + self.steps:
            key = random_key(self.seed, _PHASE_KEYS[self.phase.name], number)
            permutation = np.random.default_rng(key).permutation(len(self.batches))
            order += np.array_split(permutation, self.steps_per_pass)
            number += 1
        return order[skipped : skipped + self.steps]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the model has the exponential moving average of its weights (cf. arXiv 1803.05407)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.average, strict=False):
            current = parameter.clone()
            parameter.copy_(value)
            value.copy_(current)
        if self.sharded:
            self.sharded.publish()

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that the next epochs depend on, besides the weights of the model.

        They do not depend on the number of processes, of which each must call this if they divide the weights.
        """
        tensors = {f"average.{i}": whole(value) for i, value in enumerate(self.average)}
        for i, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": whole(torch.as_tensor(value)) for name, value in slots.items()}
        values = {
            "epoch": self.epoch,
            "lr_scale": self.lr_scale,
            "best_value": self.best_value,
            "num_bad_epochs": self.num_bad_epochs,
        }
        return tensors, {**values, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "average":
                self.average[int(rest)].copy_(divided_like(tensor, self.average[int(rest)]))
            elif kind == "optimizer":
                number, _, slot = rest.partition(".")
                slots.setdefault(int(number), {})[slot] = tensor
        # Fused optimizers walk memory in order, so a slot needs the memory format of its parameter.
        for index, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            for slot, tensor in slots.get(index, {}).items():
                if tensor.shape == parameter.shape:
                    slots[index][slot] = torch.empty_like(parameter).copy_(divided_like(tensor, parameter))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.scaler.load_state_dict(values["scaler"])
        self.epoch, self.lr_scale = values["epoch"], values["lr_scale"]
        self.best_value, self.num_bad_epochs = values["best_value"], values["num_bad_epochs"]


def _diverged(phase: Phase, step: int, steps: int) -> str:
    return (
        f"The loss of the {phase.name} phase is NaN or infinite at step {step} of {steps} (learning rate "
        f"{phase.lr:g}). The best weights so far are kept, if there are any. Try a tenth of the learning rate, or "
        "training.precision = off."
    )
