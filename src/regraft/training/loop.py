"""The one training loop.

Enters: a model, where its training batches come from, and a phase. Leaves: an `Epoch` after each pass over the
images; the model holds the weights of the moment. Every random draw is keyed by (seed, phase, epoch, step), so no
random state has to be kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from regraft.data.augmentation import Augmentation, augment, mix, random_key
from regraft.data.pixels import Pixels
from regraft.errors import TrainingError
from regraft.models.classifier import Classifier, Hidden
from regraft.models.depthwise import FastDepthwise
from regraft.training.hardware import autocast
from regraft.training.objective import Objective, Scores, score
from regraft.training.options import Optimizer
from regraft.training.prefix import Activations, as_batch
from regraft.training.progress import Epoch, Listener

_PHASE_KEYS = {"head": 1, "finetune": 2}


class Batches(Protocol):
    """Where a phase's inputs come from."""

    @property
    def boundary(self) -> int:
        """Index of the first stage that the inputs have not gone through."""

    def __len__(self) -> int:
        """Number of training images."""

    def drawn(self, indices: np.ndarray, key: int) -> Hidden:
        """One view of each of these images: activations at `boundary`."""


@dataclass(frozen=True)
class LiveViews:
    """Views drawn anew in every epoch, for training that has no frozen prefix."""

    pixels: Pixels
    augmentation: Augmentation
    boundary: int = 0

    def __len__(self) -> int:
        """Number of training images."""
        return len(self.pixels)

    def drawn(self, indices: np.ndarray, key: int) -> Hidden:
        """One view of each of these images; the values are pixels, uint8 (n, 3, S, S)."""
        keys = [random_key(key, int(i)) for i in indices]
        return Hidden(augment(as_batch(self.pixels[indices]), self.augmentation, keys), torch.empty(len(indices), 0))


@dataclass(frozen=True)
class Phase:
    """One phase of training, as data.

    Attributes:
        name: `head` or `finetune`.
        epochs: At most.
        lr: The highest learning rate.
        optimizer: adamw, adam, rmsprop or sgd (with Nesterov momentum 0.9).
        weight_decay: Of weights; biases and norms have none.
        batch_size: Images in a step.
        schedule: `cosine` to zero, or `constant`.
        warmup: Share of the steps in which the rate rises from zero.
        reduce_on_plateau: Epochs without improvement before the rate is divided; 0: never.
        plateau_factor: By which it is divided.
        monitor: What improvement is measured by.
        layer_decay: The rate of each stage is that of the one above times this.
        averaging: Epochs that the average of the weights reaches back; 0: no average.
    """

    name: str
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
    layer_decay: float = 1.0
    averaging: float = 0.0


def run_phase(
    model: Classifier,
    phase: Phase,
    batches: Batches,
    labels: torch.Tensor,
    objective: Objective,
    *,
    val: tuple[Activations, torch.Tensor] | None,
    augmentation: Augmentation,
    precision: torch.dtype,
    seed: int,
    listener: Listener,
) -> Iterator[tuple[Epoch, Scores | None]]:
    """Train until the phase is over or the caller stops asking.

    Raises:
        TrainingError: The loss is no longer a number; the message names the step.
    """
    device, boundary, count = model.mean.device, batches.boundary, len(batches)
    optimizer = make_optimizer(model, phase)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    targets = objective.targets(labels)
    steps = math.ceil(count / phase.batch_size)
    average = _Average([p for _, p in model.trainable()], phase.averaging * steps)
    reduction, best, stale = 1.0, -math.inf, 0
    for epoch in range(phase.epochs):
        started = time.perf_counter()
        key = random_key(seed, _PHASE_KEYS[phase.name], epoch)
        order = np.array_split(np.random.default_rng(key).permutation(count), steps)
        model.train()
        losses, right = torch.zeros((), device=device), torch.zeros((), device=device)
        lr = phase.lr
        with torch.random.fork_rng():
            for step, indices in enumerate(order):
                step_key = random_key(seed, _PHASE_KEYS[phase.name], epoch, step)
                torch.manual_seed(step_key)  # for dropout
                lr = reduction * phase.lr * rate(phase, (epoch * steps + step) / (phase.epochs * steps))
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["share"]
                chosen = targets[torch.from_numpy(indices)]
                mixed, wanted = mix(batches.drawn(indices, step_key), chosen, augmentation, step_key)
                inputs, wanted = Hidden(*mixed).to(device), wanted.to(device, non_blocking=True)
                with autocast(device, precision), FastDepthwise():
                    if boundary == 0:
                        inputs = model.activations(inputs.values, 0)
                    features = model.features_from(inputs, boundary)
                logits = model.head(features)  # in float32, as everywhere
                loss = objective(logits, wanted)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
                scaler.step(optimizer)
                scaler.update()
                average.update()
                losses += loss.detach() * len(indices)
                right += (logits.detach().argmax(1) == wanted.argmax(1)).sum()
                done = min((step + 1) * phase.batch_size, count)
                if step % 4 == 3 or step == steps - 1:  # a look at the loss waits for the device
                    mean, accuracy = float(losses) / done, float(right) / done
                    if not math.isfinite(mean):
                        raise TrainingError(_diverged(phase, epoch * steps + step + 1, steps * phase.epochs))
                    speed = done / (time.perf_counter() - started)
                    detail = (
                        f"epoch {epoch + 1}/{phase.epochs}  loss {mean:.3f}  "
                        f"accuracy {accuracy:.3f}  {speed:.0f} images/s"
                    )
                    listener.work(phase.name, epoch * count + done, phase.epochs * count, detail)
        seconds = time.perf_counter() - started
        average.swap()
        scores = None if val is None else score(objective, predict_logits(model, val[0], precision), val[1])
        yield (
            Epoch(
                phase=phase.name,
                epoch=epoch + 1,
                train_loss=float(losses) / count,
                train_accuracy=float(right) / count,
                val_loss=None if scores is None else scores.loss,
                val_accuracy=None if scores is None else scores.accuracy,
                val_macro_f1=None if scores is None else scores.macro_f1,
                lr=lr,
                strength=None,
                seconds=seconds,
                images_per_second=count / seconds,
            ),
            scores,
        )
        average.swap()
        value = scores.value(phase.monitor) if scores else -float(losses)
        stale = 0 if value > best else stale + 1
        best = max(best, value)
        if phase.reduce_on_plateau and stale and stale % phase.reduce_on_plateau == 0:
            reduction /= phase.plateau_factor
            listener.note(
                f"No better {phase.monitor} for {stale} epochs: learning rate divided by {phase.plateau_factor:g}."
            )


def rate(phase: Phase, progress: float) -> float:
    """The learning rate's share of its highest value, at `progress` (0..1) through the phase.

    Linear warm-up, then half a cosine to zero (arXiv 1608.03983) or constant.
    """
    if progress < phase.warmup:
        return max(progress / phase.warmup, 0.01)
    if phase.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - phase.warmup) / (1 - phase.warmup)))


def make_optimizer(model: Classifier, phase: Phase) -> torch.optim.Optimizer:
    """An optimiser over what trains now; vectors (biases, norms) do not decay, and lower stages learn more slowly.

    Source of the decay over the layers: arXiv 1801.06146.
    """
    pieces = [list(model.head.parameters()), *(list(stage.parameters()) for stage in reversed(model.stages))]
    groups = [
        {"params": chosen, "weight_decay": decay, "share": phase.layer_decay**depth}
        for depth, piece in enumerate(pieces)
        for decay, chosen in (
            (phase.weight_decay, [p for p in piece if p.requires_grad and p.ndim > 1]),
            (0.0, [p for p in piece if p.requires_grad and p.ndim <= 1]),
        )
        if chosen
    ]
    if phase.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=phase.lr)
    if phase.optimizer == "adam":
        return torch.optim.Adam(groups, lr=phase.lr)
    if phase.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=phase.lr)
    return torch.optim.SGD(groups, lr=phase.lr, momentum=0.9, nesterov=True)


class _Average:
    """A running average of parameters, which can take their place for a while (arXiv 1803.05407, exponential here).

    Args:
        parameters: To average.
        reach: Steps that it reaches back; below 1: it does nothing.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], reach: float) -> None:
        self.parameters = parameters if reach >= 1 else []
        self.share = 1 / max(1.0, reach)
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        if self.parameters:
            torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], self.share)

    @torch.no_grad()
    def swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def predict_logits(
    model: Classifier,
    activations: Activations,
    precision: torch.dtype,
) -> torch.Tensor:
    """Run the tail and the head over the plain view of every image.

    Returns:
        float32 (N, C), on the CPU.
    """
    model.eval()
    device, out = model.mean.device, []
    with torch.inference_mode():
        for start in range(0, len(activations), 128):
            batch = activations.batch(0, slice(start, start + 128)).to(device)
            with autocast(device, precision):
                features = model.features_from(batch, activations.boundary)
            out.append(model.head(features).cpu())
    return torch.cat(out)


def _diverged(phase: Phase, step: int, steps: int) -> str:
    return (
        f"The loss of the {phase.name} phase is no longer a number at step {step} of {steps} "
        f"(learning rate {phase.lr:g}). "
        f"The best weights until then are kept. Try a tenth of the learning rate, or precision = off."
    )
