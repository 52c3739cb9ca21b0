"""The one training loop.

Enters: a model, where its training batches come from, and a phase. Leaves: an `Epoch` after each pass over the
images; the model holds the weights of the moment, and the rest of the state can be kept and taken up. Every random
draw is keyed by (seed, phase, epoch, step), so no random state has to be kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from regraft.data.augmentation import Augmentation, augment, mix, random_key
from regraft.data.pixels import Pixels
from regraft.errors import TrainingError
from regraft.models.classifier import Classifier, Hidden
from regraft.models.fusing import FusedTraining
from regraft.models.gradients import FastGradients
from regraft.training.hardware import autocast, has_room
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
    """Views drawn anew in every epoch, for training that has no frozen prefix.

    Attributes:
        pixels: Of N images, uint8 (N, S, S, 3): on the disk, or in the memory of the device where views are drawn.
        augmentation: What they may differ in.
        boundary: 0.
    """

    pixels: Pixels | torch.Tensor
    augmentation: Augmentation
    boundary: int = 0

    @classmethod
    def of(cls, pixels: Pixels, augmentation: Augmentation, device: torch.device) -> LiveViews:
        """Views of these pixels, which are moved to a GPU if there is room for them."""
        if not has_room(device, int(np.prod(pixels.shape))):
            return cls(pixels, augmentation)
        held = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), 256):
            held[start : start + 256] = torch.from_numpy(pixels[slice(start, start + 256)]).to(device)
        return cls(held, augmentation)

    def __len__(self) -> int:
        """Number of training images."""
        return len(self.pixels)

    def drawn(self, indices: np.ndarray, key: int) -> Hidden:
        """One view of each of these images; the values are pixels, uint8 (n, 3, S, S)."""
        keys = [random_key(key, int(i)) for i in indices]
        if isinstance(self.pixels, torch.Tensor):
            batch = self.pixels[torch.from_numpy(indices)].permute(0, 3, 1, 2)
        else:
            batch = as_batch(self.pixels[indices])
        return Hidden(augment(batch, self.augmentation, keys), torch.empty(len(indices), 0, device=batch.device))


@dataclass(frozen=True)
class MirroredMaps:
    """The one view that is kept of each image, its maps mirrored at random.

    A convolutional prefix makes of a mirrored image nearly the mirrored map, so this is nearly a second view, for
    nothing. What the head reads of the stages below is pooled, and stays.

    Attributes:
        activations: Maps (N, C, H, W) of one view.
        flip: Probability of left for right.
        vertical_flip: Probability of upside down.
    """

    activations: Activations
    flip: float
    vertical_flip: float

    @property
    def boundary(self) -> int:
        """Index of the first stage that is not in them."""
        return self.activations.boundary

    def __len__(self) -> int:
        """Number of training images."""
        return len(self.activations)

    def drawn(self, indices: np.ndarray, key: int) -> Hidden:
        """These images, each mirrored or not."""
        maps, taps = self.activations.batch(0, indices)
        rng = np.random.default_rng(random_key(key, 1))
        for share, axis in ((self.flip, 3), (self.vertical_flip, 2)):
            turned = torch.from_numpy(rng.random(len(indices)) < share).to(maps.device)
            maps = torch.where(turned[:, None, None, None], maps.flip(axis), maps)
        return Hidden(maps.contiguous(memory_format=torch.channels_last), taps)


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


class PhaseLoop:
    """The epochs of one phase, which can be left after any of them and taken up again.

    Args:
        model: Trained in place.
        phase: What to do.
        batches: The training inputs.
        labels: Of the training images, int64 (N,).
        objective: The loss.
        val: Activations and labels to score on after each epoch.
        fused: In which the stages run.
        augmentation: For MixUp and CutMix.
        precision: Of the arithmetic.
        compiled: Whether steps run through `torch.compile`.
        seed: Of everything that is drawn.
        listener: Told how far the work is.

    Attributes:
        epoch: Epochs that are done.
    """

    def __init__(
        self,
        model: Classifier,
        phase: Phase,
        batches: Batches,
        labels: torch.Tensor,
        objective: Objective,
        *,
        val: tuple[Activations, torch.Tensor] | None,
        fused: FusedTraining,
        augmentation: Augmentation,
        precision: torch.dtype,
        compiled: bool,
        seed: int,
        listener: Listener,
    ) -> None:
        """Nothing is trained yet."""
        self.model, self.phase, self.batches, self.objective = model, phase, batches, objective
        self.val, self.augmentation, self.precision, self.seed, self.listener = (
            val, augmentation, precision, seed, listener,
        )  # fmt: skip
        self.targets = objective.targets(labels)
        self.steps = math.ceil(len(batches) / phase.batch_size)
        self.optimizer = make_optimizer(model, phase)
        self.fused, self.compiled = fused, compiled
        self.tail = _compiled_tail(model) if compiled else model.features_from
        self.scaler = torch.amp.GradScaler(model.mean.device.type, enabled=precision == torch.float16)
        self.parameters = [p for _, p in model.trainable()]
        reach = phase.averaging * self.steps
        self.average = [p.detach().clone() for p in self.parameters] if reach >= 1 else []
        self.share = 1 / max(1.0, reach)
        self.epoch = 0
        self.reduction, self.best, self.stale = 1.0, -math.inf, 0

    def run_epoch(self) -> tuple[Epoch, Scores | None]:
        """Train one more epoch and score it.

        Raises:
            TrainingError: The loss is no longer a number; the message names the step.
        """
        phase, started = self.phase, time.perf_counter()
        loss, accuracy, lr = self._train()
        seconds = time.perf_counter() - started
        scores = None
        if self.val is not None:
            with self.averaged(), self.fused:
                scores = score(
                    self.objective, predict_logits(self.model, self.val[0], self.precision), self.val[1], refine=True
                )
        self.epoch += 1
        value = scores.value(phase.monitor) if scores else -loss
        self.stale = 0 if value > self.best else self.stale + 1
        self.best = max(self.best, value)
        if phase.reduce_on_plateau and self.stale and self.stale % phase.reduce_on_plateau == 0:
            self.reduction /= phase.plateau_factor
            self.listener.note(
                f"No better {phase.monitor} for {self.stale} epochs: learning rate divided by {phase.plateau_factor:g}."
            )
        row = Epoch(
            phase=phase.name,
            epoch=self.epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=None if scores is None else scores.loss,
            val_accuracy=None if scores is None else scores.accuracy,
            val_macro_f1=None if scores is None else scores.macro_f1,
            lr=lr,
            strength=None,
            seconds=seconds,
            images_per_second=len(self.batches) / seconds,
        )
        return row, scores

    def _train(self) -> tuple[float, float, float]:
        """One pass over the images: mean loss, accuracy, and the last learning rate."""
        model, phase, steps = self.model, self.phase, self.steps
        device, boundary, count = model.mean.device, self.batches.boundary, len(self.batches)
        started, epoch = time.perf_counter(), self.epoch
        key = random_key(self.seed, _PHASE_KEYS[phase.name], epoch)
        order = np.array_split(np.random.default_rng(key).permutation(count), steps)
        model.train()
        losses, right, lr = torch.zeros((), device=device), torch.zeros((), device=device), phase.lr
        # A look at the loss waits for the device, which a GPU should not do often.
        every = 32 if device.type == "cuda" else 4
        # The compiler has other kernels of its own, and cannot have these.
        with torch.random.fork_rng(), nullcontext() if self.compiled else self.fused:
            for step, indices in enumerate(order):
                step_key = random_key(self.seed, _PHASE_KEYS[phase.name], epoch, step)
                torch.manual_seed(step_key)  # for dropout
                lr = self.reduction * phase.lr * rate(phase, (epoch * steps + step) / (phase.epochs * steps))
                for group in self.optimizer.param_groups:
                    group["lr"] = lr * group["share"]
                chosen = self.targets[torch.from_numpy(indices)]
                mixed, wanted = mix(self.batches.drawn(indices, step_key), chosen, self.augmentation, step_key)
                inputs, wanted = Hidden(*mixed).to(device), wanted.to(device, non_blocking=True)
                with autocast(device, self.precision), nullcontext() if self.compiled else FastGradients():
                    if boundary == 0:
                        inputs = model.activations(inputs.values, 0)
                    features = self.tail(inputs, boundary)
                logits = model.head(features)  # in float32, as everywhere
                loss = self.objective(logits, wanted)
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
                self.scaler.step(self.optimizer)
                self.scaler.update()
                if self.average:
                    torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], self.share)
                losses += loss.detach() * len(indices)
                right += (logits.detach().argmax(1) == wanted.argmax(1)).sum()
                done = min((step + 1) * phase.batch_size, count)
                if (step + 1) % every == 0 or step == steps - 1:
                    mean, accuracy = float(losses) / done, float(right) / done
                    if not math.isfinite(mean):
                        raise TrainingError(_diverged(phase, epoch * steps + step + 1, steps * phase.epochs))
                    speed = done / (time.perf_counter() - started)
                    detail = (
                        f"epoch {epoch + 1}/{phase.epochs}  loss {mean:.3f}  "
                        f"accuracy {accuracy:.3f}  {speed:.0f} images/s"
                    )
                    self.listener.work(phase.name, epoch * count + done, phase.epochs * count, detail)
        return float(losses) / count, float(right) / count, lr

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has the averaged weights (arXiv 1803.05407; the average is exponential here)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.average, strict=False):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All that the next epochs depend on besides the model's own weights: tensors, and plain values."""
        tensors = {f"average.{i}": value for i, value in enumerate(self.average)}
        for i, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in slots.items()}
        values = {"epoch": self.epoch, "reduction": self.reduction, "best": self.best, "stale": self.stale}
        return tensors, {**values, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Take up where `state` was."""
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "average":
                self.average[int(rest)].copy_(tensor)
            elif kind == "optimizer":
                number, _, slot = rest.partition(".")
                slots.setdefault(int(number), {})[slot] = tensor
        # The fused optimisers go through memory as it lies, so a slot must lie as its parameter does.
        for index, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            for slot, tensor in slots.get(index, {}).items():
                if tensor.shape == parameter.shape:
                    slots[index][slot] = torch.empty_like(parameter).copy_(tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.scaler.load_state_dict(values["scaler"])
        self.epoch, self.reduction = values["epoch"], values["reduction"]
        self.best, self.stale = values["best"], values["stale"]


def _compiled_tail(model: Classifier) -> Callable[[Hidden, int], torch.Tensor]:
    """`features_from` by torch's compiler, which begins its work at the first call."""
    tail = torch.compile(model.features_from)

    def run(hidden: Hidden, boundary: int) -> torch.Tensor:
        try:
            return tail(hidden, boundary)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = " ".join(str(error).split("\n")[:2])  # of many
            raise TrainingError(
                f"torch.compile cannot compile what is fine-tuned ({why}). Train with training.compile = false."
            ) from error

    return run


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
    # One pass over the weights in place of a dozen.
    fused = model.mean.device.type in ("cpu", "cuda")
    if phase.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=phase.lr, fused=fused)
    if phase.optimizer == "adam":
        return torch.optim.Adam(groups, lr=phase.lr, fused=fused)
    if phase.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=phase.lr)
    return torch.optim.SGD(groups, lr=phase.lr, momentum=0.9, nesterov=True, fused=fused)


def predict_logits(model: Classifier, activations: Activations, precision: torch.dtype) -> torch.Tensor:
    """Run the tail and the head over the plain view of every image.

    Returns:
        float32 (N, C), on the CPU.
    """
    return torch.cat([logits.cpu() for _, logits in _predicted(model, activations, precision)])


def predict_with_features(
    model: Classifier, activations: Activations, precision: torch.dtype, *, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, and what the head read of some images.

    Args:
        model: On the device that it is to run on.
        activations: Of N images.
        precision: Of the arithmetic.
        most: So many images' features are kept at most, evenly spread among them.

    Returns:
        Logits float32 (N, C), the numbers of K images, int64 (K,), and their features, float32 (K, F); on the CPU.
    """
    rows = torch.linspace(0, len(activations) - 1, min(len(activations), most)).round().long()
    all_logits, kept, start = [], [], 0
    for features, logits in _predicted(model, activations, precision):
        inside = rows[(rows >= start) & (rows < start + len(features))] - start
        kept.append(features.cpu()[inside].float())
        all_logits.append(logits.cpu())
        start += len(features)
    return torch.cat(all_logits), rows, torch.cat(kept)


def _predicted(
    model: Classifier, activations: Activations, precision: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features and logits of the plain view, batch by batch."""
    model.eval()
    device = model.mean.device
    with torch.inference_mode():
        for start in range(0, len(activations), 128):
            batch = activations.batch(0, slice(start, start + 128)).to(device)
            with autocast(device, precision):
                features = model.features_from(batch, activations.boundary)
            yield features, model.head(features)


def _diverged(phase: Phase, step: int, steps: int) -> str:
    return (
        f"The loss of the {phase.name} phase is no longer a number at step {step} of {steps} "
        f"(learning rate {phase.lr:g}). "
        f"The best weights until then are kept. Try a tenth of the learning rate, or precision = off."
    )
