"""Estimate the cost of a training on this machine, and choose what fits into a budget of time.

Input: a model, the numbers of images and the options. Output: a `Plan` with the seconds of each step, from throughputs
that are measured on noise in about a second, and options that keep the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from regraft.cache import Cache
from regraft.errors import BudgetError
from regraft.models.classifier import Classifier, StageOutput
from regraft.models.cpu.conv_backward import FastGradients
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.text import pluralize
from regraft.timing import time_passes
from regraft.training.device import autocast, choose_device, choose_precision
from regraft.training.epochs import LR_CANDIDATES
from regraft.training.feature_cache import row_bytes
from regraft.training.options import TrainingOptions
from regraft.training.phase import Phase
from regraft.training.prefix_backend import BackendName, choose_backend, make_backend
from regraft.training.setup import plan_phases

#: (finetune_from, views, epochs) from which a budget chooses, the most thorough first: never more than the options ask
#: for; "" keeps their finetune_from.
LADDER = (("", 8, 10), ("", 8, 5), ("", 4, 5), ("", 4, 3), ("", 2, 2), ("last", 1, 3))
#: Shares of the epochs from which a budget chooses for a network that trains from scratch, with one epoch at last.
SCRATCH_LADDER = (0.75, 0.5, 0.35, 0.25, 0.15, 0.0)
#: Smaller images are tried before the rungs from this one on.
_THOROUGH_RUNGS = 5
_BATCH = 16
#: Images per pass when a part is predicted.
_PREDICTION_BATCH = 32
#: Seconds above which a pass is measured only once.
_LONG_PASS = 0.7
#: Safety factor: the machine may be slower during training than during the measurement.
_MARGIN = 1.25


@dataclass(frozen=True)
class Throughput:
    """Measured speed of each step in images per second, and memory in bytes per image.

    `prefix` runs up to the freeze boundary in the precision of training, `features` from there to the head, `tail` and
    `last` are training steps from the boundary and of the last resolution alone, and `predict` runs in float32. A
    training step keeps `activation_bytes` for the backward pass; `peak_layer_bytes` are input and output of the largest
    layer. `reason` says in a sentence why the backend was chosen.
    """

    decode: float
    prefix: float
    features: float
    tail: float
    last: float
    predict: float
    activation_bytes: float = 0.0
    peak_layer_bytes: float = 0.0
    prefix_backend: BackendName = "torch"
    reason: str = ""

    def of_processes(self, count: int) -> Throughput:
        """Estimate for several processes, which divide the images, from the speed of one beside the others."""
        steps = ("decode", "prefix", "features", "tail", "last", "predict")
        return replace(self, **{name: getattr(self, name) * count for name in steps})

    def at(self, share: float) -> Throughput:
        """Estimate for images with this share of the area."""
        per_pixel = ("prefix", "features", "tail", "last", "predict")
        faster = {name: getattr(self, name) / share for name in per_pixel}
        smaller = {name: getattr(self, name) * share for name in ("activation_bytes", "peak_layer_bytes")}
        return replace(self, **faster, **smaller)


@dataclass(frozen=True)
class Plan:
    """What a training will do, and its estimated cost.

    `seconds` are by step, with empty caches; `memory` and `disk` are bytes. `head_epochs` is 0 for a solved head.
    `rank` is the rung of the ladder from which a budget chooses: 0 is everything that the options ask for. `dropped`:
    the options ask for fine-tuning that does not fit.
    """

    options: TrainingOptions
    boundary: str
    images: int
    seconds: Mapping[str, float]
    memory: int
    disk: int
    head_epochs: int = 0
    rank: int = 0
    dropped: bool = False
    from_scratch: bool = False

    @property
    def is_thorough(self) -> bool:
        """Whether fine-tuning, where the options ask for it, has several epochs and views."""
        return self.rank < _THOROUGH_RUNGS and not self.dropped

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """One line for people."""
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items() if seconds >= 0.5)
        epochs = pluralize(self.options.finetune_epochs, "epoch")
        work = f"{self.images} images in {pluralize(self.options.views, 'view')}, "
        if self.from_scratch:
            work += f"{epochs} of the whole network from scratch"
        else:
            work += "the head trained"
        if self.head_epochs:
            optimizer = Phase.from_options(self.options, "head").optimizer
            work += f" for {pluralize(self.head_epochs, 'epoch')} by {optimizer}"
        if not self.from_scratch and self.options.finetune_epochs and self.boundary != "head":
            work += f", {epochs} of fine-tuning from {self.boundary}"
        if self.dropped:
            work += " (fine-tuning does not fit into the budget)"
        return (
            f"Plan: {work}. About {self.total:.0f} s with empty caches ({steps}), "
            f"{self.memory / 1e9:.1f} GB of memory, {self.disk / 1e6:,.0f} MB on disk."
        )


def measure_throughput(
    model: Classifier, options: TrainingOptions, *, decode: float, images: int, cache: Cache | None = None
) -> Throughput:
    """Measure the speed of each step on a batch of noise; the model stays as it was.

    `decode` are decoded images per second, measured before; `images` is the number of training images; `cache` has the
    measurements of prefix backends. Raises `MissingExtraError` if the prefix backend is not installed, and `UsageError`
    if it does not fit the device.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    size, boundary_before, device_before = model.preprocessing.size, model.boundary, model.mean.device
    model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_BATCH, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    phases = plan_phases(model, options)
    name, reason = choose_backend(
        options.prefix_backend, model, phases.cut, precision, rows=images * phases.views, cache=cache
    )

    def predict() -> None:
        with torch.inference_mode():
            model(pixels)

    backend = make_backend(name, model, phases.cut, precision)
    backend(pixels[:1])  # sets itself up
    rates = {
        "prefix": _images_per_second(lambda: backend(pixels), device),
        "predict": _images_per_second(predict, device),
    }
    rates |= dict.fromkeys(("features", "tail", "last"), float("inf"))
    rates["peak_layer_bytes"] = _peak_layer_bytes(model, pixels[:2]) / 2
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
    return Throughput(decode=decode, prefix_backend=name, reason=reason, **rates)


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


def _images_per_second(work: Callable[[], object], device: torch.device) -> float:
    def pass_over_batch() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return _BATCH / min(time_passes(pass_over_batch, passes=2, long_pass=_LONG_PASS))


def make_plan(
    model: Classifier,
    counts: Mapping[str, int],
    options: TrainingOptions,
    rates: Throughput,
    *,
    changes_views: bool = True,
    seconds: float | None = None,
) -> Plan:
    """Choose the most thorough training that fits.

    `counts` are images by part; `seconds` is the time for everything, evaluation included, and None only estimates what
    the options ask for. Raises `BudgetError` if not even the head, or from scratch one epoch, can be trained in it.
    """
    phases = plan_phases(model, options, changes_views=changes_views)
    asked = replace(options, views=phases.views, prefix_backend=rates.prefix_backend)
    plan = _estimate(model, counts, asked, rates)
    if seconds is None:
        return plan
    candidates = [plan]
    if phases.from_scratch:  # a head on random features is no smaller training of this network
        shorter = dict.fromkeys(max(1, int(asked.finetune_epochs * share)) for share in SCRATCH_LADDER)
        candidates += [_estimate(model, counts, replace(asked, finetune_epochs=count), rates) for count in shorter]
        return _first_that_fits(candidates, seconds, "one epoch")
    for start, views, epochs in LADDER if phases.finetunes else ():
        rung = replace(asked, views=min(views, asked.views), finetune_epochs=min(epochs, asked.finetune_epochs))
        if not start:
            candidates.append(_estimate(model, counts, rung, rates))
        elif model.resolve(start) > phases.boundary:
            candidates.append(_estimate(model, counts, replace(rung, finetune_from=start), rates))
    head_only = _estimate(model, counts, replace(asked, views=1, finetune_epochs=0), rates)
    candidates.append(replace(head_only, dropped=phases.finetunes))
    return _first_that_fits(candidates, seconds, "only the head")


def _first_that_fits(candidates: Sequence[Plan], seconds: float, least: str) -> Plan:
    for rank, candidate in enumerate(candidates):
        if candidate.total * _MARGIN <= seconds:
            return replace(candidate, rank=rank)
    raise BudgetError(
        f"The rest of the budget, {max(seconds, 0):.0f} s, is too short: training {least} takes about "
        f"{candidates[-1].total * _MARGIN:.0f} s here. Give more time, a smaller --image-size or fewer images."
    )


def _estimate(model: Classifier, counts: Mapping[str, int], options: TrainingOptions, rates: Throughput) -> Plan:
    train, val, test = (counts.get(part, 0) for part in ("train", "val", "test"))
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    phases = plan_phases(model, options)
    starts_with_head = phases.head != "none"
    rows = train * phases.views
    epochs = options.finetune_epochs if phases.finetunes else 0
    # Before fine-tuning L-BFGS fits the head on the plain images alone.
    head_rows = train if phases.finetunes and phases.head != "epochs" else rows
    to_head = 1 / rates.prefix + 1 / rates.features
    # The rates belong to the boundary of the given options; above it, both are taken to reach the head, as a bound.
    from_last = options.finetune_from == "last"
    prefix = 1 / rates.prefix if phases.finetunes and not from_last else to_head
    after_cut = 1 / rates.features if phases.cut < len(model.stages) else to_head if phases.boundary == 0 else 0.0
    candidates = len(LR_CANDIDATES) if epochs and not options.finetune_lr else 0
    per_epoch = options.steps_per_epoch * options.batch_size or train
    # L-BFGS goes over the features a few hundred times; its factor was measured on two cores.
    head = 1 + 2e-7 * head_rows * model.head.features + (head_rows + val) * after_cut
    seconds = {
        "decode": (train + val) / rates.decode,
        "prefix": (rows + val) * prefix if phases.boundary or starts_with_head else 0.0,
        "head": head if starts_with_head else 0.0,
        "finetune": (epochs + candidates) * (per_epoch / (rates.last if from_last else rates.tail) + val * after_cut),
        "evaluate": 2 + train * after_cut + (val + test) / min(rates.predict, rates.decode),
    }
    disk = (rows + val) * bool(seconds["prefix"]) * row_bytes(model, phases.cut, precision)
    disk += (train + val) * 3 * model.preprocessing.size**2
    # PyTorch keeps freed memory, so the needs of different steps add up: within a sixth of the peaks of seven runs.
    batches = 2 * _PREDICTION_BATCH * rates.peak_layer_bytes
    batches += options.batch_size * rates.activation_bytes if epochs else 0
    batches *= device.type == "cpu"
    memory = int(9e8 + 8 * model.megabytes() * 1e6 + 12 * head_rows * model.head.features + batches)
    head_epochs = options.head_epochs if phases.head == "epochs" else 0
    return Plan(
        options,
        phases.boundary_name,
        train,
        seconds,
        memory,
        disk,
        head_epochs,
        from_scratch=phases.from_scratch,
    )
