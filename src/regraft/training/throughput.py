"""Measure how fast this machine runs each step of a training.

Input: a model and the options. Output: a `Throughput`, measured on a batch of noise in about a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from regraft import distributed
from regraft.cache import Cache
from regraft.models.classifier import Classifier
from regraft.models.cpu.conv_backward import FastGradients
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.staged import StageOutput
from regraft.timing import time_passes
from regraft.training.device import autocast, choose_device, choose_precision
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import plan_phases
from regraft.training.prefix_backend import BackendName, choose_backend, key_of_measurement, make_backend

_BATCH = 16
#: Seconds above which a pass is measured only once.
_LONG_PASS = 0.7


@dataclass(frozen=True)
class Throughput:
    """Measured speed of each step in images per second, and memory in bytes per image.

    `prefix` runs up to the freeze boundary in the precision of training, `features` from there to the head, `tail` and
    `last` are training steps from the boundary and of the last resolution alone, and `predict` runs in float32. `head`
    are the feature values per second of the whole fit by L-BFGS, which was measured once, on two cores. A
    training step keeps `activation_bytes` for the backward pass; `peak_layer_bytes` are input and output of the largest
    layer. `reason` says in a sentence why the backend was chosen. The speeds are those of so many `processes` together,
    on this `device` and in this `precision`; "" and None: what the options choose here.
    """

    decode: float
    prefix: float
    features: float
    tail: float
    last: float
    predict: float
    head: float = 5e6
    activation_bytes: float = 0.0
    peak_layer_bytes: float = 0.0
    prefix_backend: BackendName = "torch"
    reason: str = ""
    processes: int = 1
    device: str = ""
    precision: torch.dtype | None = None

    def measured_on(self, options: TrainingOptions) -> tuple[torch.device, torch.dtype]:
        """Device and precision of the training that has these speeds."""
        device = torch.device(self.device) if self.device else choose_device(options.device)
        return device, self.precision or choose_precision(options.precision, device)

    def of_processes(self, count: int) -> Throughput:
        """Estimate for several processes, which divide the images, from the speed of one beside the others."""
        steps = ("decode", "prefix", "features", "tail", "last", "predict")
        return replace(self, processes=count, **{name: getattr(self, name) * count for name in steps})

    def at(self, share: float) -> Throughput:
        """Estimate for images with this share of the area."""
        per_pixel = ("prefix", "features", "tail", "last", "predict")
        faster = {name: getattr(self, name) / share for name in per_pixel}
        smaller = {name: getattr(self, name) * share for name in ("activation_bytes", "peak_layer_bytes")}
        return replace(self, **faster, **smaller)


def measure_throughput(
    model: Classifier,
    options: TrainingOptions,
    *,
    decode: float,
    images: int,
    cache: Cache | None = None,
    warmup: bool = True,
) -> Throughput:
    """Measure the speed of each step on a batch of noise; the model stays as it was.

    `decode` are decoded images per second, measured before; `images` is the number of training images; `cache` has the
    measurements of prefix backends. Without `warmup` the forward passes are timed once on this machine, at their first
    and slower pass, in a third of the time, and remembered in the cache. Raises `MissingExtraError` if the prefix
    backend is not installed, and `UsageError` if it does not fit the device.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    shape, boundary_before, device_before = model.preprocessing.input_shape, model.boundary, model.mean.device
    model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_BATCH, *shape), dtype=torch.uint8, generator=generator).to(device)
    phases = plan_phases(model, options)
    name, reason = choose_backend(
        options.prefix_backend, model, phases.cut, precision, rows=images * phases.views, cache=cache
    )

    def predict() -> None:
        with torch.inference_mode():
            model(pixels)

    backend = make_backend(name, model, phases.cut, precision, cache)

    def measure_passes() -> dict[str, float]:
        backend(pixels[:1])  # sets itself up
        return {
            "prefix": _images_per_second(lambda: backend(pixels), device, warmup=warmup),
            "predict": _images_per_second(predict, device, warmup=warmup),
            "peak_layer_bytes": _peak_layer_bytes(model, pixels[:2]) / 2,
        }

    rates: dict[str, Any] = dict.fromkeys(("features", "tail", "last"), float("inf"))
    if warmup or cache is None:
        rates |= measure_passes()
    else:
        place = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        beside = [torch.get_num_threads(), distributed.world_size()]
        key = [*key_of_measurement(model, [backend]), list(shape), device.type, place, *beside]
        rates |= cache.get_or_measure("throughput", key, measure_passes)
    if phases.finetunes:
        with torch.inference_mode(), autocast(device, precision):
            activations = model.activations(pixels, phases.cut)
            rates["features"] = _images_per_second(lambda: model.forward_tail(activations, phases.cut), device)
        rates["tail"], rates["activation_bytes"] = _measure_steps(model, pixels, phases.boundary, precision)
        last = model.resolve("last")
        higher = last > phases.boundary
        rates["last"] = _measure_steps(model, pixels, last, precision)[0] if higher else rates["tail"]
        model.freeze(boundary_before)
    model.to(device_before).eval()
    return Throughput(
        decode=decode, prefix_backend=name, reason=reason, device=device.type, precision=precision, **rates
    )


def _measure_steps(
    model: Classifier, pixels: torch.Tensor, boundary: int, precision: torch.dtype
) -> tuple[float, float]:
    """Training steps in images per second, and the bytes per image that they keep for the backward pass."""
    device = model.mean.device
    model.freeze(boundary)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}  # from scratch a step changes them
    model.train()
    with torch.no_grad(), autocast(device, precision):
        activations = StageOutput(*(part.clone() for part in model.activations(pixels, boundary)))
    fused = FusedTraining(model, boundary, precision)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved_bytes: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            saved_bytes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def step() -> None:
        with autocast(device, precision), FastGradients(), fused:
            features = model.forward_tail(activations, boundary)
        torch.autograd.grad(model.head(features).sum(), [p for _, p in model.trainable_parameters()])

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step()
    speed = _images_per_second(step, device)
    model.load_state_dict(statistics, strict=False)
    return speed, sum(saved_bytes.values()) / len(pixels)


def _peak_layer_bytes(model: Classifier, pixels: torch.Tensor) -> float:
    sizes = [0]

    def record(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        sizes.append(sum(part.nbytes for part in (*inputs, output) if isinstance(part, torch.Tensor)))

    handles = [part.register_forward_hook(record) for part in model.backbone.modules() if not list(part.children())]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)


def _images_per_second(work: Callable[[], object], device: torch.device, *, warmup: bool = True) -> float:
    def pass_over_batch() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return _BATCH / min(time_passes(pass_over_batch, passes=1 + warmup, warmup=warmup, long_pass=_LONG_PASS))
