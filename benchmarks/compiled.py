"""Fine-tuning steps as they are and under `torch.compile`, in turns, and what compiling costs.

    python benchmarks/compiled.py [BACKBONE] [--device cpu|cuda]

Prints images a second of both from the default freeze boundary (median and range of the rounds), the seconds until the
first compiled steps are done, and after how many images compiling has paid for itself, if ever.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

import regraft
from regraft.models.classifier import Classifier, Hidden
from regraft.models.fusing import FusedTraining
from regraft.models.gradients import FastGradients
from regraft.training.hardware import choose_precision

BATCH, STEPS, ROUNDS = 32, 8, 7


def gradients(model: Classifier, features: torch.Tensor) -> None:
    torch.autograd.grad(model.head(features).square().mean(), [p for _, p in model.trainable()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    model = regraft.build(asked.backbone, classes=tuple("abcdefghij"), weights="none").to(device)
    boundary, size = model.resolve("auto"), model.preprocessing.size
    precision = choose_precision("auto", device)
    pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8).to(device)
    with torch.no_grad():
        maps = model.activations(pixels, boundary)
    hidden = Hidden(maps.values.to(precision), maps.taps.to(precision))
    model.freeze(boundary)
    model.train()

    fused = FusedTraining(model, boundary, precision)

    def plain() -> None:
        with torch.autocast(device.type, precision), FastGradients(), fused:
            features = model.features_from(hidden, boundary)
        gradients(model, features)

    tail = torch.compile(model.features_from)

    def compiled() -> None:
        with torch.autocast(device.type, precision):
            features = tail(hidden, boundary)
        gradients(model, features)

    def seconds(step: Callable[[], None], steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    ways = {"as it is": plain, "compiled": compiled}
    first = {name: seconds(step, 3) for name, step in ways.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * ROUNDS:
        rates[name].append(BATCH * STEPS / seconds(ways[name], STEPS))
    for name, found in rates.items():
        print(
            f"{name}: {median(found):.1f} images/s ({min(found):.1f} to {max(found):.1f}), 3 steps {first[name]:.1f} s"
        )
    gain = 1 / median(rates["as it is"]) - 1 / median(rates["compiled"])
    cost = first["compiled"] - first["as it is"]
    print(f"Compiling pays after {cost / gain:,.0f} images." if gain > 0 else "Compiling never pays here.")


if __name__ == "__main__":
    main()
