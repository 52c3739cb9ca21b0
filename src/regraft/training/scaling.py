"""Estimate a training on any number of images, processes and GPUs, by arithmetic from measured speeds.

Input: a model, the numbers of images, the options, `Rates` and a `Cluster`. Output: a `ScalePlan` with the seconds of
each step, memory, disk, the bytes that a step sends, and the bottleneck. Nothing runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training.device import choose_precision
from regraft.training.feature_cache import row_bytes
from regraft.training.linear_head import MAX_SEARCH_IMAGES
from regraft.training.options import TrainingOptions
from regraft.training.row_sums import shard_bounds
from regraft.training.setup import PhasePlan, plan_phases
from regraft.training.storage import memory_limit

Step = Literal["storage", "decode", "prefix", "head", "finetune", "network", "evaluate"]

#: Evaluations of loss and gradient by L-BFGS over the path of L2 strengths.
_EVALUATIONS = 250
#: Share of the evaluations that the last fit needs, where the strength was chosen on a part.
_FIT_SHARE = 0.2
#: Memory of a process before any image, in bytes: Python, PyTorch and the libraries.
_BASE_MEMORY = 6e8


@dataclass(frozen=True)
class Rates:
    """Measured speeds, as a JSON file with these names has them; `regraft plan DATA --save-rates FILE` writes one.

    Attributes:
        device: "cpu" or "cuda": what `prefix`, `features`, `tail` and `predict` were measured on.
        cpus: CPUs that these speeds used, where the device is the CPU.
        decode: Images per second that one CPU decodes and resizes.
        prefix: Images per second of a device up to the freeze boundary.
        features: Images per second of a device from the boundary to the head, forward only.
        tail: Images per second of a device in training steps from the boundary.
        predict: Images per second of a device in prediction.
        head: Feature values per second of a device in the loss and gradient of the head: images times features.
        image_bytes: Mean size of a file in bytes.
        activation_bytes: Bytes that a training step keeps for each image.
        read_bytes: Bytes per second that the storage gives to all processes together; 0: not measured.
        network_bytes: Bytes per second that a process sends to another one; 0: not measured.
    """

    device: str
    cpus: int
    decode: float
    prefix: float
    features: float
    tail: float
    predict: float
    head: float
    image_bytes: float
    activation_bytes: float = 0.0
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
            raise UsageError(f"{file} cannot be read as JSON: {error}.") from error
        if not isinstance(values, dict) or not required <= set(values) <= names:
            raise UsageError(
                f"{file}: expected an object with {', '.join(sorted(required))}, and if you like "
                f"{', '.join(sorted(names - required))}. `regraft plan DATA --save-rates FILE` writes one."
            )
        for name, value in values.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name == "device":
                if value not in ("cpu", "cuda"):
                    raise UsageError(f"{file}: device is {value!r}; expected cpu or cuda.")
            elif not is_number or value < 0 or (name in required and not value):
                raise UsageError(f"{file}: {name} is {value!r}; expected a positive number.")
        return cls(**values)

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


@dataclass(frozen=True)
class ScalePlan:
    """What a training takes on a cluster.

    Attributes:
        images: Images by part.
        cluster: Where it runs.
        seconds: Seconds by step, as if each ran alone.
        memory: Bytes of main memory of one process.
        gpu_memory: Bytes of memory of one GPU, 0 without GPUs.
        disk: Bytes of the cached outputs of frozen layers for all images.
        step_bytes: Bytes that a process sends in one step of fine-tuning; 0 without fine-tuning or for one process.
        steps: Steps of fine-tuning.
        views: Cached views of each training image.
        live_prefix: Whether the frozen layers run in every step of fine-tuning, because their outputs are not cached.
        boundary: First stage that is fine-tuned, or `head`.
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
    unmeasured: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Seconds of everything. Reading overlaps with the rest, and so does decoding where GPUs compute."""
        of = {step: self.seconds.get(step, 0.0) for step in get_args(Step)}
        compute, rest = of["prefix"] + of["finetune"] * self.live_prefix, of["head"] + of["evaluate"] + of["network"]
        rest += of["finetune"] * (not self.live_prefix)
        if self.cluster.gpus:
            return max(of["storage"], of["decode"], compute) + rest
        return max(of["storage"], of["decode"] + compute) + rest

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
    disk: float = math.inf,
) -> ScalePlan:
    """Estimate a training of a model on images by part, of which up to `disk` bytes of activations may be cached.

    Raises `UsageError` if the rates are of another device than the cluster has.
    """
    if bool(cluster.gpus) != (rates.device == "cuda"):
        raise UsageError(
            f"The plan is for {cluster.gpus} GPUs, and the rates were measured on {rates.device}. Give the rates of "
            "such a machine: `regraft plan DATA --save-rates FILE` there, then --rates FILE here."
        )
    phases = plan_phases(model, options, changes_views=changes_views)
    train, val, test = (images.get(part, 0) for part in ("train", "val", "test"))
    processes, devices = cluster.processes, cluster.gpus or cluster.cpus / rates.cpus
    decode = rates.decode * cluster.cpus
    prefix, to_head, tail, predict = (
        rate * devices for rate in (rates.prefix, rates.features, rates.tail, rates.predict)
    )
    epochs = options.finetune_epochs if phases.finetunes else 0
    per_epoch = options.steps_per_epoch * options.batch_size or train
    steps = epochs * math.ceil(per_epoch / options.batch_size)
    features, classes = model.head.features, len(model.classes)
    precision = choose_precision(options.precision, torch.device(rates.device))
    views = phases.views
    stored = (train * views + val) * row_bytes(model, phases.cut, precision)
    is_live = bool(epochs) and (not phases.boundary or options.feature_cache == "none" or stored > disk)
    if is_live:  # the frozen layers run in every step, and only the features for the head are stored
        views, stored = 1, (train + val) * features * precision.itemsize * (phases.head != "none")

    rows = (train * views + val) * bool(stored)
    a_step = 1 / tail + (1 / prefix if is_live and phases.boundary else 0.0)
    fits_head = phases.head == "lbfgs"
    seconds: dict[Step, float] = {
        "decode": (train + val + is_live * epochs * per_epoch) / decode,
        "prefix": rows / prefix,
        "head": fits_head * _head_seconds(train, features, rates.head * devices) + (train + val) / to_head,
        "finetune": epochs * (per_epoch * a_step + val / to_head),
        "evaluate": (val + test) / min(predict, decode) + train / to_head,
    }
    step_bytes = _ring_bytes(4 * _trained(model, phases), processes) if steps else 0
    unmeasured = []
    if rates.read_bytes:
        read = train + val + test + is_live * epochs * per_epoch
        seconds["storage"] = read * rates.image_bytes / rates.read_bytes
    else:
        unmeasured.append("read_bytes")
    if processes > 1 and rates.network_bytes:
        head_bytes = _ring_bytes(8 * (len(shard_bounds(train)) - 1) * (features + 1) * classes, processes)
        seconds["network"] = (steps * step_bytes + fits_head * _EVALUATIONS * head_bytes) / rates.network_bytes
    elif processes > 1:
        unmeasured.append("network_bytes")
    batch = math.ceil(options.batch_size / processes) * rates.activation_bytes * bool(epochs)
    weights = 1e6 * model.megabytes() * (4 if epochs else 1)  # gradients and two moments of the optimizer
    in_memory = min(4.0 * train * features / processes, memory_limit(options.memory_gb))
    return ScalePlan(
        images={part: count for part, count in (("train", train), ("val", val), ("test", test)) if count},
        cluster=cluster,
        seconds={step: value for step, value in seconds.items() if value},
        memory=int(_BASE_MEMORY + in_memory + (0 if cluster.gpus else weights + batch)),
        gpu_memory=int(weights + batch) if cluster.gpus else 0,
        disk=int(stored),
        step_bytes=step_bytes,
        steps=steps,
        views=views,
        live_prefix=is_live and bool(phases.boundary),
        boundary=phases.boundary_name,
        unmeasured=tuple(unmeasured),
    )


def _trained(model: Classifier, phases: PhasePlan) -> int:
    """Number of parameters that fine-tuning changes."""
    stages = (parameter for stage in model.stages[phases.boundary :] for parameter in stage.parameters())
    return sum(parameter.numel() for parameter in (*stages, *model.head.parameters()))


def _head_seconds(train: int, features: int, values_per_second: float) -> float:
    """Fitting the head: the path of strengths over all images, or their choice on a part and one fit over all."""
    part = min(train, MAX_SEARCH_IMAGES)
    return _EVALUATIONS * (part + (train - part) * _FIT_SHARE) * features / values_per_second


def _ring_bytes(size: float, processes: int) -> int:
    """Bytes that each process sends in a ring all-reduce of `size` bytes (Patarasuk and Yuan 2009)."""
    return int(2 * size * (processes - 1) / processes)
