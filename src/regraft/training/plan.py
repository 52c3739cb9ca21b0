"""What a training will cost on this machine, and what of it fits into a time.

Enters: a model, the numbers of images and the options. Leaves: a `Plan` with an estimate for each step, from rates
that are measured on made-up images in about a second, and the options that keep a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, Hidden
from regraft.models.fusing import FusedTraining
from regraft.models.gradients import FastGradients
from regraft.store import Store
from regraft.training.engine import EngineName, choose_engine, make_engine
from regraft.training.hardware import autocast, choose_device, choose_precision
from regraft.training.options import TrainingOptions
from regraft.training.prefix import row_bytes
from regraft.training.train import SWEEP, views_of

#: (where fine-tuning begins, views, epochs) that a budget chooses among, the most thorough first: never more than was
#: asked for, and "" begins where that does.
LADDER = (("", 8, 10), ("", 8, 5), ("", 4, 5), ("", 4, 3), ("", 2, 2), ("last", 1, 3))
#: What comes after it in the ladder is tried with smaller images first.
_THOROUGH = 5
_BATCH = 16
#: Images of one pass when a part is predicted.
_PREDICTED = 32
#: Seconds of a pass that is not repeated.
_LONG = 0.7
#: The machine may be slower later than while it was measured.
_MARGIN = 1.25


@dataclass(frozen=True)
class Rates:
    """Images a second, and what does not depend on their number.

    Attributes:
        decode: Read, decoded and resized.
        prefix: As far as the freeze boundary, in the precision of training.
        features: From there to the head.
        tail: Training steps from the freeze boundary.
        last: Training steps of the last resolution alone.
        predict: Predictions in float32.
        held: Bytes that an image of a training step holds until its gradients are there.
        widest: Bytes of an image in the largest layer of a prediction, what enters and what leaves it.
        engine: That runs the prefix.
        why: It does, in a sentence, or "".
    """

    decode: float
    prefix: float
    features: float
    tail: float
    last: float
    predict: float
    held: float = 0.0
    widest: float = 0.0
    engine: EngineName = "torch"
    why: str = ""

    def at(self, share: float) -> Rates:
        """Estimates for images with this share of the area."""
        per_pixel = ("prefix", "features", "tail", "last", "predict")
        faster = {name: getattr(self, name) / share for name in per_pixel}
        return replace(self, held=self.held * share, widest=self.widest * share, **faster)


@dataclass(frozen=True)
class Plan:
    """What will be done, and for how long.

    Attributes:
        options: As asked for, with the views and epochs that were chosen.
        boundary: Name of the first stage that is fine-tuned, or `head`.
        images: Training images.
        seconds: By step: decode, prefix, head, finetune, evaluate; estimates for empty caches.
        memory: Bytes of main memory, estimated.
        disk: Bytes that the store takes.
        rank: Place in the ladder of what a budget chooses among; 0 is all that was asked for.
        dropped: Whether fine-tuning was asked for and does not fit.
    """

    options: TrainingOptions
    boundary: str
    images: int
    seconds: Mapping[str, float]
    memory: int
    disk: int
    rank: int = 0
    dropped: bool = False

    @property
    def is_thorough(self) -> bool:
        """Whether fine-tuning, where it was asked for, goes over some epochs and views."""
        return self.rank < _THOROUGH and not self.dropped

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """One line for people."""
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items() if seconds >= 0.5)
        what = f"{self.images} images in {self.options.views} view{'s' * (self.options.views > 1)}, the head trained"
        if self.options.finetune_epochs and self.boundary != "head":
            what += f", {self.options.finetune_epochs} epochs of fine-tuning from {self.boundary}"
        if self.dropped:
            what += " (fine-tuning does not fit into the budget)"
        return (
            f"Plan: {what}. About {self.total:.0f} s with empty caches ({steps}), "
            f"{self.memory / 1e9:.1f} GB of memory, {self.disk / 1e6:,.0f} MB on disk."
        )


def measure_rates(
    model: Classifier, options: TrainingOptions, *, decode: float, images: int, store: Store | None = None
) -> Rates:
    """Measure on a batch of noise what one image costs; the model is left as it was.

    Args:
        model: To be trained.
        options: For boundary, device and precision.
        decode: Images a second, known already.
        images: To be trained on.
        store: Where measurements are remembered.

    Raises:
        MissingExtraError: The engine that is asked for is not installed.
        UsageError: It does not fit the device.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    size, was = model.preprocessing.size, model.boundary
    home = model.mean.device
    model.to(device).eval()
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_BATCH, 3, size, size), dtype=torch.uint8, generator=noise).to(device)

    boundary = model.resolve(options.finetune_from)
    finetunes = boundary < len(model.stages) and options.finetune_epochs > 0
    end = len(model.stages)
    cut = boundary if finetunes and boundary else end
    rows = images * (views_of(options, finetunes=finetunes) if boundary else 1)
    name, why = choose_engine(options.engine, model, cut, precision, rows=rows, store=store)

    def predict() -> None:
        with torch.inference_mode():
            model(pixels)

    engine = make_engine(name, model, cut, precision)
    engine(pixels[:1])  # sets itself up
    rates = {"prefix": _rate(lambda: engine(pixels), device), "predict": _rate(predict, device)}
    rates |= dict.fromkeys(("features", "tail", "last"), float("inf"))
    rates["widest"] = _widest(model, pixels[:2]) / 2
    if finetunes:
        with torch.inference_mode(), autocast(device, precision):
            hidden = model.activations(pixels, cut)
            rates["features"] = _rate(lambda: model.features_from(hidden, cut), device)
        rates["tail"], rates["held"] = _tail_rate(model, pixels, boundary, precision)
        last = model.resolve("last")
        rates["last"] = _tail_rate(model, pixels, last, precision)[0] if last > boundary else rates["tail"]
        model.freeze(was)
    model.to(home).eval()
    return Rates(decode=decode, engine=name, why=why, **rates)


def _tail_rate(model: Classifier, pixels: torch.Tensor, boundary: int, precision: torch.dtype) -> tuple[float, float]:
    """Images a second of training steps, and bytes that each image holds in them."""
    device = model.mean.device
    model.freeze(boundary)
    model.train()
    with torch.no_grad(), autocast(device, precision):
        hidden = Hidden(*(part.clone() for part in model.activations(pixels, boundary)))
    fused = FusedTraining(model, boundary, precision)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def step() -> None:
        with autocast(device, precision), FastGradients(), fused:
            features = model.features_from(hidden, boundary)
        torch.autograd.grad(model.head(features).sum(), [p for _, p in model.trainable()])

    with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
        step()
    return _rate(step, device), sum(held.values()) / len(pixels)


def _widest(model: Classifier, pixels: torch.Tensor) -> float:
    """Bytes of the largest layer's input and output."""
    found = [0]

    def look(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        found.append(sum(part.nbytes for part in (*inputs, output) if isinstance(part, torch.Tensor)))

    handles = [part.register_forward_hook(look) for part in model.backbone.modules() if not list(part.children())]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return max(found)


def make_plan(
    model: Classifier,
    counts: Mapping[str, int],
    options: TrainingOptions,
    rates: Rates,
    *,
    changes_views: bool = True,
    seconds: float | None = None,
) -> Plan:
    """Choose what fits.

    Args:
        model: To be trained.
        counts: Images by part.
        options: As asked for.
        rates: Of this machine.
        changes_views: Whether augmentation makes views differ.
        seconds: That all may take, evaluation included; None: what the options ask for is only estimated.

    Raises:
        UsageError: Not even the head can be trained in this time.
    """
    boundary = model.resolve(options.finetune_from)
    finetunes = boundary < len(model.stages) and options.finetune_epochs > 0
    views = views_of(options, finetunes=finetunes) if changes_views else 1
    asked = replace(options, views=views, engine=rates.engine)
    plan = _estimate(model, counts, asked, rates, boundary if finetunes else len(model.stages), rates.tail)
    if seconds is None:
        return plan
    candidates = [plan]
    for start, views, epochs in LADDER if finetunes else ():
        fewer = replace(asked, views=min(views, asked.views), finetune_epochs=min(epochs, asked.finetune_epochs))
        if not start:
            candidates.append(_estimate(model, counts, fewer, rates, boundary, rates.tail))
        elif (higher := model.resolve(start)) > boundary:
            fewer = replace(fewer, finetune_from=start)
            candidates.append(_estimate(model, counts, fewer, rates, higher, rates.last))
    head = replace(asked, views=1, finetune_epochs=0)
    alone = _estimate(model, counts, head, rates, len(model.stages), rates.tail)
    candidates.append(replace(alone, dropped=finetunes))
    for rank, candidate in enumerate(candidates):
        if candidate.total * _MARGIN <= seconds:
            return replace(candidate, rank=rank)
    raise UsageError(
        f"What is left of the budget, {max(seconds, 0):.0f} s, is too short: training only the head takes about "
        f"{candidates[-1].total * _MARGIN:.0f} s here. Give more time, a smaller --image-size or fewer images."
    )


def _estimate(
    model: Classifier,
    counts: Mapping[str, int],
    options: TrainingOptions,
    rates: Rates,
    boundary: int,
    tail: float,
) -> Plan:
    train, val, test = (counts.get(part, 0) for part in ("train", "val", "test"))
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    end = len(model.stages)
    epochs = options.finetune_epochs if boundary < end else 0
    rows = train * options.views if boundary else train  # with everything fine-tuned no other views are kept
    # Before fine-tuning the head is solved on the plain images alone.
    plain = train if epochs and options.head_optimizer == "lbfgs" and not model.head.widths else rows
    cut = boundary or end
    whole = 1 / rates.prefix + 1 / rates.features
    # Beyond the boundary that the rates are of, both are taken to be all the way, which is a bound.
    prefix = 1 / rates.prefix if options.finetune_from != "last" and epochs else whole
    after = whole if epochs and not boundary else 1 / rates.features if cut < end else 0.0
    trials = len(SWEEP) if epochs and not options.finetune_lr else 0
    # The solver goes over the features a few hundred times; the figure is that of two cores.
    seconds = {
        "decode": (train + val) / rates.decode,
        "prefix": (rows + val) * prefix,
        "head": 1 + 2e-7 * plain * model.head.features + (plain + val) * after if options.head_epochs else 0.0,
        "finetune": (epochs + trials) * (train / tail + val * after),
        "evaluate": 2 + train * after + (val + test) / min(rates.predict, rates.decode),
    }
    disk = (rows + val) * row_bytes(model, cut, precision)
    disk += (train + val) * 3 * model.preprocessing.size**2
    # Freed memory is kept, so what one step needs stays beside what another does: seven runs' peaks to within a sixth.
    batches = 2 * _PREDICTED * rates.widest + (options.batch_size * rates.held if epochs else 0)
    batches *= device.type == "cpu"
    memory = int(9e8 + 8 * model.megabytes() * 1e6 + 12 * plain * model.head.features + batches)
    name = model.stages[boundary].name if boundary < end else "head"
    return Plan(options, name, train, seconds, memory, disk)


def _rate(work: Callable[[], object], device: torch.device) -> float:
    """Images a second. The first pass sets things up and counts only where it is long, so that this hardly matters."""

    def timed() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = timed()
    return _BATCH / (first if first > _LONG else min(timed(), timed()))
