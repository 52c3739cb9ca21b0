"""Fine-tuning in bfloat16 on a processor: PyTorch's gradients, `FastGradients`, and `FusedTraining` too, in turns.

    python benchmarks/gradients.py [BACKBONE]

Prints images a second (median and range of the rounds) of training steps from the default freeze boundary, and how far
the gradients of each are from float32's. Backbones but EfficientNet-Lite0 have random weights here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median

import torch

import regraft
from regraft.models.classifier import Classifier, Hidden
from regraft.models.fusing import FusedTraining
from regraft.models.gradients import FastGradients

BATCH, STEPS, ROUNDS = 32, 8, 7


def gradients(
    model: Classifier, hidden: Hidden, boundary: int, way: AbstractContextManager[object], *, exact: bool = False
) -> list[torch.Tensor]:
    """Of a squared sum of the logits, for everything that trains."""
    with nullcontext() if exact else torch.autocast("cpu", torch.bfloat16), way:
        features = model.features_from(hidden, boundary)
    loss = model.head(features).square().mean()
    return list(torch.autograd.grad(loss, [p for _, p in model.trainable()]))


def main() -> None:
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
    weights = "auto" if name == "efficientnet_lite0" else "none"
    model = regraft.build(name, classes=tuple("abcdefghij"), weights=weights)
    boundary = model.resolve("auto")
    size = model.preprocessing.size
    pixels = torch.randint(
        0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        exact = model.activations(pixels, boundary)
    half = Hidden(exact.values.bfloat16(), exact.taps.bfloat16())
    model.freeze(boundary)
    model.train()
    fused = FusedTraining(model, boundary, torch.bfloat16)

    @contextmanager
    def both() -> Iterator[None]:
        with FastGradients(), fused:
            yield

    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "PyTorch": nullcontext, "gradients": FastGradients, "fused": both,
    }  # fmt: skip
    truth = gradients(model, exact, boundary, nullcontext(), exact=True)
    scale = sum(float(g.square().sum()) for g in truth) ** 0.5
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * ROUNDS:
        started = time.perf_counter()
        for _ in range(STEPS):
            gradients(model, half, boundary, ways[name]())
        rates[name].append(BATCH * STEPS / (time.perf_counter() - started))
    for name, way in ways.items():
        ours = gradients(model, half, boundary, way())
        error = sum(float((a - b).square().sum()) for a, b in zip(ours, truth, strict=True)) ** 0.5 / scale
        low, high = min(rates[name]), max(rates[name])
        print(
            f"{name:<9} {median(rates[name]):6.0f} images/s ({low:.0f} to {high:.0f})  error of gradients {error:.2%}"
        )


if __name__ == "__main__":
    main()
