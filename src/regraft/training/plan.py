"""What a training will cost on this machine, and what of it fits into a time.

Enters: a model, the numbers of images and the options. Leaves: a `Plan` with an estimate for each step, from rates
that are measured on made-up images in about a second, and the options that keep a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, Hidden
from regraft.models.depthwise import FastDepthwise
from regraft.training.hardware import autocast, choose_device, choose_precision
from regraft.training.options import TrainingOptions
from regraft.training.prefix import row_bytes
from regraft.training.train import views_of

#: (views, epochs of fine-tuning) that a budget chooses among, never more than asked for, the most thorough first.
LADDER = ((8, 10), (8, 5), (4, 5), (4, 3), (2, 2))
_BATCH = 16
#: Seconds of a pass that is not repeated.
_LONG = 0.7
#: The machine may be slower later than while it was measured.
_MARGIN = 1.25


@dataclass(frozen=True)
class Rates:
    """Images a second, and what does not depend on their number.

    Attributes:
        decode: Read, decoded and resized.
        prefix: Through the whole backbone, in the precision of training.
        tail: Training steps from the freeze boundary.
        predict: Predictions in float32.
    """

    decode: float
    prefix: float
    tail: float
    predict: float


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
        dropped: Whether fine-tuning was asked for and does not fit.
    """

    options: TrainingOptions
    boundary: str
    images: int
    seconds: Mapping[str, float]
    memory: int
    disk: int
    dropped: bool = False

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """One line for people."""
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items() if seconds >= 0.5)
        what = f"{self.images} images in {self.options.views} view{'s' * (self.options.views > 1)}, the head solved"
        if self.options.finetune_epochs and self.boundary != "head":
            what += f", {self.options.finetune_epochs} epochs of fine-tuning from {self.boundary}"
        if self.dropped:
            what += " (fine-tuning does not fit into the budget)"
        return (
            f"Plan: {what}. About {self.total:.0f} s with empty caches ({steps}), "
            f"{self.memory / 1e9:.1f} GB of memory, {self.disk / 1e6:,.0f} MB on disk."
        )


def measure_rates(model: Classifier, options: TrainingOptions, *, decode: float) -> Rates:
    """Measure on a batch of noise what one image costs; the model is left as it was.

    Args:
        model: To be trained.
        options: For boundary, device and precision.
        decode: Images a second, known already.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    size, was = model.preprocessing.size, model.boundary
    home = model.mean.device
    model.to(device).eval()
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (_BATCH, 3, size, size), dtype=torch.uint8, generator=noise).to(device)

    def prefix() -> None:
        with torch.inference_mode(), autocast(device, precision):
            model.activations(pixels, len(model.stages))

    def predict() -> None:
        with torch.inference_mode():
            model(pixels)

    rates = {"prefix": _rate(prefix, device), "predict": _rate(predict, device), "tail": float("inf")}
    boundary = model.resolve(options.finetune_from)
    if boundary < len(model.stages) and options.finetune_epochs:
        with torch.no_grad(), autocast(device, precision):
            hidden = Hidden(*(part.clone() for part in model.activations(pixels, boundary)))
        model.freeze(boundary)
        model.train()

        def tail() -> None:
            with autocast(device, precision), FastDepthwise():
                features = model.features_from(hidden, boundary)
            torch.autograd.grad(model.head(features).sum(), [p for _, p in model.trainable()])

        rates["tail"] = _rate(tail, device)
        model.freeze(was)
    model.to(home).eval()
    return Rates(decode=decode, **rates)


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
    asked = replace(options, views=views_of(options, finetunes=finetunes) if changes_views else 1)
    plan = _estimate(model, counts, asked, rates, boundary if finetunes else len(model.stages))
    if seconds is None:
        return plan
    candidates = [plan] if plan.total * _MARGIN <= seconds else []
    if finetunes:
        for views, epochs in LADDER:
            fewer = replace(asked, views=min(views, asked.views), finetune_epochs=min(epochs, asked.finetune_epochs))
            candidates.append(_estimate(model, counts, fewer, rates, boundary))
    head = replace(asked, views=1, finetune_epochs=0)
    candidates.append(replace(_estimate(model, counts, head, rates, len(model.stages)), dropped=finetunes))
    for candidate in candidates:
        if candidate.total * _MARGIN <= seconds:
            return candidate
    raise UsageError(
        f"A budget of {seconds:.0f} s from now on is too short: training only the head takes about "
        f"{candidates[-1].total * _MARGIN:.0f} s here. Give more time, a smaller --image-size or fewer images."
    )


def _estimate(
    model: Classifier, counts: Mapping[str, int], options: TrainingOptions, rates: Rates, boundary: int
) -> Plan:
    train, val, test = (counts.get(part, 0) for part in ("train", "val", "test"))
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    end, rows = len(model.stages), train * options.views
    epochs = options.finetune_epochs if boundary < end else 0
    # The solver goes over the features a few hundred times; the figure is that of two cores.
    seconds = {
        "decode": (train + val) / rates.decode,
        "prefix": (rows + val) / rates.prefix,
        "head": 1 + 2e-7 * rows * model.head.features if options.head_epochs else 0.0,
        "finetune": epochs * (train / rates.tail + val / rates.prefix),
        "evaluate": 2 + train / rates.prefix + (val + test) / min(rates.predict, rates.decode),
    }
    cuts = {boundary, end} - {0}
    disk = (rows + val) * sum(row_bytes(model, cut, precision) for cut in cuts)
    disk += (train + val) * 3 * model.preprocessing.size**2
    memory = int(9e8 + 8 * model.megabytes() * 1e6 + 12 * rows * model.head.features)
    name = model.stages[boundary].name if boundary < end else "head"
    return Plan(options, name, train, seconds, memory, disk)


def _rate(work: Callable[[], None], device: torch.device) -> float:
    """Images a second. The first pass sets things up and counts only where it is long, so that this hardly matters."""

    def timed() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = timed()
    return _BATCH / (first if first > _LONG else min(timed(), timed()))
