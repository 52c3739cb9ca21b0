"""Estimate a training on any number of images, processes and GPUs, by arithmetic from measured speeds.

Input: a model, the numbers of images, the options, `Rates` and a `Cluster`. Output: a `ScalePlan` with the seconds of
each step, memory, disk, the bytes that a step sends, and the bottleneck. Nothing runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from regraft.data.preprocessing import shape_of
from regraft.errors import UsageError, cause_of
from regraft.models.classifier import Classifier
from regraft.training import lora
from regraft.training.budget import Room, estimate_plan, make_plan
from regraft.training.device import choose_precision
from regraft.training.linear_head import REFITTED_SHARE, is_refitted
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import PhasePlan, plan_phases
from regraft.training.row_sums import shard_bounds
from regraft.training.setup import check_batch_norms, check_sharding
from regraft.training.throughput import Throughput

Step = Literal["storage", "decode", "prefix", "head", "finetune", "network", "evaluate"]

#: The words that a file of rates may have in these places; (): any name.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "device": ("cpu", "cuda"), "precision": ("float32", "bfloat16", "float16"), "backbone": (), "boundary": (),
}  # fmt: skip
#: Evaluations of loss and gradient by L-BFGS over the path of L2 strengths.
_EVALUATIONS = 250


@dataclass(frozen=True)
class Rates:
    """Measured speeds, as a JSON file with these names has them; `regraft plan DATA --save-rates FILE` writes one.

    Attributes:
        device: "cpu" or "cuda": what `prefix`, `features`, `tail` and `predict` were measured on.
        precision: Type of their values: "float32", "bfloat16" or "float16".
        backbone: Name of the network that was measured.
        image_size: Side of its input in pixels, or height x width, such as "384x128".
        boundary: Name of its first stage that was fine-tuned.
        cpus: CPUs that these speeds used, where the device is the CPU.
        decode: Images per second that one CPU decodes and resizes.
        prefix: Images per second of a device up to the freeze boundary.
        features: Images per second of a device from the boundary to the head, forward only.
        tail: Images per second of a device in training steps from the boundary.
        predict: Images per second of a device in prediction.
        head: Feature values (images times features) per second of a device in one loss and gradient of the head.
        image_bytes: Mean size of a file in bytes.
        activation_bytes: Bytes that a training step keeps for each image.
        peak_layer_bytes: Bytes of input and output of the largest layer, for each image.
        read_bytes: Bytes per second that the storage gives to all processes together; 0: not measured.
        network_bytes: Bytes per second that a process sends to another one; 0: not measured.
    """

    device: str
    precision: str
    backbone: str
    image_size: int | str
    boundary: str
    cpus: int
    decode: float
    prefix: float
    features: float
    tail: float
    predict: float
    head: float
    image_bytes: float
    activation_bytes: float = 0.0
    peak_layer_bytes: float = 0.0
    read_bytes: float = 0.0
    network_bytes: float = 0.0

    @classmethod
    def load(cls, file: Path) -> Rates:
        """Read a JSON file; raises `UsageError` if it is not one, or names other speeds, or one is not positive."""
        names = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read as JSON: {cause_of(error)}.") from error
        if not isinstance(values, dict) or not required <= set(values) <= names:
            raise UsageError(
                f"{file}: expected an object with {', '.join(sorted(required))}, and if you like "
                f"{', '.join(sorted(names - required))}. `regraft plan DATA --save-rates FILE` writes one."
            )
        for name, value in values.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name == "image_size" and isinstance(value, str) and re.fullmatch(r"[1-9]\d*x[1-9]\d*", value):
                continue
            if name in _WORDS:
                if not isinstance(value, str) or value not in (_WORDS[name] or (value,)):
                    expected = " or ".join(_WORDS[name]) or "a name"
                    raise UsageError(f"{file}: {name} is {value!r}; expected {expected}.")
            elif not is_number or value < 0 or (name in required and not value):
                raise UsageError(f"{file}: {name} is {value!r}; expected a positive number.")
        size = values["image_size"]
        return cls(**values | {"image_size": size if isinstance(size, str) else max(1, round(size))})

    def on(self, cluster: Cluster) -> Throughput:
        """The speed of all devices of a cluster together."""
        devices = cluster.gpus or cluster.cpus / self.cpus
        prefix, features, tail, predict = (
            rate * devices for rate in (self.prefix, self.features, self.tail, self.predict)
        )
        return Throughput(
            decode=self.decode * cluster.cpus,
            prefix=prefix,
            features=features,
            tail=tail,
            last=tail,
            predict=predict,
            head=self.head * devices / _EVALUATIONS,
            activation_bytes=self.activation_bytes,
            peak_layer_bytes=self.peak_layer_bytes,
            processes=cluster.processes,
            device=self.device,
            precision=getattr(torch, self.precision),
        )

    def to_json(self) -> dict[str, Any]:
        """The values of a file that `load` reads."""
        return {name: value if isinstance(value, str) else round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Cluster:
    """Processes of one training, one GPU for each where there are any, and the CPUs of all machines together."""

    processes: int = 1
    gpus: int = 0
    cpus: int = 1

    def __post_init__(self) -> None:
        if min(self.processes, self.cpus) < 1 or self.gpus < 0:
            raise UsageError(
                f"{self.processes} processes, {self.gpus} GPUs and {self.cpus} CPUs: expected at least one process and "
                "one CPU."
            )
        if self.gpus and self.gpus != self.processes:
            raise UsageError(
                f"{self.processes} processes and {self.gpus} GPUs: expected one process for each GPU (--processes "
                f"{self.gpus} --gpus {self.gpus})."
            )
        if self.cpus < self.processes:
            raise UsageError(
                f"{self.processes} processes on {self.cpus} CPUs: expected at least one CPU for each (--cpus "
                f"{self.processes})."
            )

    def check_device(self, device: str) -> None:
        """Raise `UsageError` if rates that were measured on this device are not those of the cluster."""
        if bool(self.gpus) != (device == "cuda"):
            raise UsageError(
                f"The plan is for {self.gpus} GPUs, and the rates were measured on {device}. Give the rates of such a "
                "machine: `regraft plan DATA --save-rates FILE` there, then --rates FILE here."
            )


@dataclass(frozen=True)
class ScalePlan:
    """What a training takes on a cluster.

    Attributes:
        images: Images by part.
        cluster: Where it runs.
        seconds: Seconds by step, as if each ran alone.
        memory: Bytes of main memory of one process.
        gpu_memory: Bytes of memory of one GPU, 0 without GPUs.
        disk: Bytes of the cache for all images: outputs of frozen layers, and pixels that are read again.
        step_bytes: Bytes that a process sends in one step of fine-tuning; 0 without fine-tuning or for one process.
        steps: Steps of fine-tuning.
        views: Cached views of each training image.
        live_prefix: Whether the frozen layers run in every step of fine-tuning, because their outputs are not cached.
        boundary: First stage that is fine-tuned, or `head`.
        measured_at: Image size of the rates, in pixels, where it is not that of the plan; else 0.
        unmeasured: Names of the rates that are missing, and with them their step in `seconds`.
    """

    images: Mapping[str, int]
    cluster: Cluster
    seconds: Mapping[Step, float]
    memory: int
    gpu_memory: int
    disk: int
    step_bytes: int
    steps: int
    views: int
    live_prefix: bool
    boundary: str
    measured_at: int | str = 0
    unmeasured: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Seconds of everything. Reading overlaps with the rest, and so does decoding where GPUs compute."""
        of = {step: self.seconds.get(step, 0.0) for step in get_args(Step)}
        computing = of["prefix"] + of["evaluate"] + of["finetune"] * self.live_prefix  # steps that decode, too
        others = of["head"] + of["network"] + of["finetune"] * (not self.live_prefix)
        decoding = max(of["decode"], computing) if self.cluster.gpus else of["decode"] + computing
        return max(of["storage"], decoding) + others

    @property
    def bottleneck(self) -> Step:
        """The step with the most seconds."""
        return max(self.seconds, key=lambda step: self.seconds[step])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = {**asdict(self), "images": dict(self.images), "seconds": dict(self.seconds)}
        return {**values, "total_seconds": self.total, "bottleneck": self.bottleneck}


def plan_scale(
    model: Classifier,
    images: Mapping[str, int],
    options: TrainingOptions,
    rates: Rates,
    cluster: Cluster,
    *,
    changes_views: bool = True,
    room: Room | None = None,
) -> ScalePlan:
    """Estimate a training of a model on images by part, as `make_plan` does for this machine.

    `room` is that on the disk for the cache and in the memory of a process; None: enough. Rates of another image size
    are scaled by the number of pixels, except that of decoding. A step of LoRA is taken to be as slow as one of all
    weights, as a bound. Raises `UsageError` if the rates are of another device than the cluster has, or of another
    backbone, precision or freeze boundary, or if the options cannot be trained.
    """
    cluster.check_device(rates.device)
    phases = plan_phases(model, options, changes_views=changes_views)
    check_batch_norms(model, phases, cluster.processes)
    _check_rates(rates, model, options, phases)
    check_sharding(options, getattr(torch, rates.precision))
    if phases.finetunes and options.finetune_method == "lora":
        lora.check_lora(model, phases.boundary)
    if options.feature_cache != "auto":
        room = None  # what is asked for is planned
    size = model.preprocessing
    speed = rates.on(cluster).at(math.prod(size.shape) / math.prod(shape_of(rates.image_size)))
    plan = make_plan(model, images, options, speed, changes_views=changes_views, room=room)
    phases = plan_phases(model, plan.options, changes_views=changes_views)
    # What decoding takes is the difference from files that need none.
    decoded = estimate_plan(model, images, plan.options, replace(speed, decode=math.inf), room)
    seconds: dict[Step, float] = {
        "decode": plan.total - decoded.total,
        "prefix": decoded.seconds["prefix"],
        "head": decoded.seconds["head"],
        "finetune": decoded.seconds["finetune"],
        "evaluate": decoded.seconds["evaluate"],
    }
    total, train, processes = sum(images.values()), images.get("train", 0), cluster.processes
    epochs = options.finetune_epochs if phases.finetunes else 0
    steps = epochs * math.ceil((options.steps_per_epoch * options.batch_size or train) / options.batch_size)
    is_divided = options.sharding == "fsdp" and processes > 1
    trained = 4 * _trained(model, phases, options) if steps else 0
    step_bytes = _fsdp_bytes(trained, processes) if is_divided else _ring_bytes(trained, processes)
    unmeasured = []
    if rates.read_bytes:
        passes = 1 if plan.seconds["decode"] else 1 + epochs  # pixels without room are read in every pass
        seconds["storage"] = passes * total * rates.image_bytes / rates.read_bytes
    else:
        unmeasured.append("read_bytes")
    if processes > 1 and rates.network_bytes:
        of_head = _head_bytes(model, train, phases, processes) if phases.head == "lbfgs" else 0
        seconds["network"] = (steps * step_bytes + of_head) / rates.network_bytes
    elif processes > 1:
        unmeasured.append("network_bytes")
    batch = math.ceil(options.batch_size / processes) * speed.activation_bytes * bool(epochs)
    copies = 3 + (options.ema_epochs > 0)  # gradients, two moments of the optimizer, and the averaged weights
    of_training = copies * trained
    if is_divided:
        # A part of these and of a second copy, which is whole before it is divided, and of a stage while it runs.
        of_training = max(trained, (copies + 1) * trained // processes + 2 * _largest_stage(model, phases))
    on_gpu = 1e6 * model.megabytes() + of_training + batch
    return ScalePlan(
        images={part: count for part, count in images.items() if count},
        cluster=cluster,
        seconds={step: value for step, value in seconds.items() if value > 0},
        memory=plan.memory,
        gpu_memory=int(on_gpu) if cluster.gpus else 0,
        disk=plan.disk,
        step_bytes=step_bytes,
        steps=steps,
        views=1 if plan.is_live else max(1, plan.options.views),
        live_prefix=plan.is_live,
        boundary=plan.boundary,
        measured_at=rates.image_size if rates.image_size != size.named_size else 0,
        unmeasured=tuple(unmeasured),
    )


def _check_rates(rates: Rates, model: Classifier, options: TrainingOptions, phases: PhasePlan) -> None:
    """Refuse rates that say nothing about this training."""
    again = "Measure rates with the settings of the plan: `regraft plan DATA ... --save-rates FILE`."
    if rates.backbone != model.spec.name:
        raise UsageError(f"The rates are those of {rates.backbone}, and the plan is for {model.spec.name}. {again}")
    wanted = rates.precision
    if options.precision != "auto":
        wanted = str(choose_precision(options.precision, torch.device(rates.device))).removeprefix("torch.")
    if rates.precision != wanted:
        raise UsageError(f"The rates were measured in {rates.precision}, and the plan is for {wanted}. {again}")
    if phases.finetunes and phases.boundary_name != rates.boundary:
        raise UsageError(
            f"The rates were measured with fine-tuning from {rates.boundary}, and the plan fine-tunes from "
            f"{phases.boundary_name}. Plan with --finetune-from {rates.boundary}. Or: {again[0].lower()}{again[1:]}"
        )


def _trained(model: Classifier, phases: PhasePlan, options: TrainingOptions) -> int:
    """Number of parameters that fine-tuning changes."""
    head = sum(parameter.numel() for parameter in model.head.parameters())
    if options.finetune_method == "lora":
        return head + lora.adapter_parameters(model, phases.boundary, options.lora_rank)
    return head + sum(p.numel() for stage in model.stages[phases.boundary :] for p in stage.parameters())


def _largest_stage(model: Classifier, phases: PhasePlan) -> int:
    """Bytes of the largest fine-tuned part that FSDP puts together at once."""
    parts = (module for stage in model.stages[phases.boundary :] for _, module in stage.modules)
    return 4 * max(sum(p.numel() for p in part.parameters()) for part in (*parts, model.head))


def _head_bytes(model: Classifier, train: int, phases: PhasePlan, processes: int) -> int:
    """Bytes that each process sends while L-BFGS fits the head.

    Each evaluation adds up the loss and its gradient, and each fit before that the second moments of the features, by
    shards and in float64 (`row_sums`).
    """
    features, classes = model.head.features, len(model.classes)
    refits = is_refitted(train, 1 if phases.finetunes else phases.views)
    gradients = _EVALUATIONS * (1 + REFITTED_SHARE * refits) * (features + 1) * classes
    values = gradients + (1 + refits) * features**2
    return _ring_bytes(8 * (len(shard_bounds(train)) - 1) * values, processes)


def _ring_bytes(size: float, processes: int) -> int:
    """Bytes that each process sends in a ring all-reduce of `size` bytes (Patarasuk and Yuan 2009)."""
    return int(2 * size * (processes - 1) / processes)


def _fsdp_bytes(size: float, processes: int) -> int:
    """Bytes that each process sends in a step of FSDP on `size` bytes of weights.

    The weights are gathered in the forward and in the backward pass, and the gradients scattered: three passes over
    them, where an all-reduce has two (Rajbhandari et al. 2020, arXiv 1910.02054, section 7.2).
    """
    return int(3 * size * (processes - 1) / processes)
