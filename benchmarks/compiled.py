"""Fine-tuning steps with and without `torch.compile`, in turns, and the cost of compiling.

    python benchmarks/compiled.py [BACKBONE] [--device cpu|cuda]

Prints images/s of both from the default freeze boundary (median and range of the rounds), the seconds of the first
compiled steps, and the number of images after which compiling pays off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

import regraft
from regraft.models.classifier import Classifier
from regraft.models.cpu.conv_backward import FastGradients
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.staged import StageOutput
from regraft.training.device import choose_precision

BATCH, STEPS, ROUNDS = 32, 8, 7


def gradients(model: Classifier, features: torch.Tensor) -> None:
    torch.autograd.grad(model.head(features).square().mean(), [p for _, p in model.trainable_parameters()])


def main() -> None:
    """Measure both and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    model = regraft.build(args.backbone, classes=tuple("abcdefghij"), weights="none").to(device)
    boundary, size = model.resolve("auto"), model.preprocessing.size
    precision = choose_precision("auto", device)
    pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8).to(device)
    with torch.no_grad():
        maps = model.activations(pixels, boundary)
    hidden = StageOutput(maps.values.to(precision), maps.taps.to(precision))
    model.freeze(boundary)
    model.train()

    fused = FusedTraining(model, boundary, precision)

    def plain() -> None:
        with torch.autocast(device.type, precision), FastGradients(), fused:
            features = model.forward_tail(hidden, boundary)
        gradients(model, features)

    tail = torch.compile(model.forward_tail)

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

    variants = {"not compiled": plain, "compiled": compiled}
    first = {name: seconds(step, 3) for name, step in variants.items()}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for name in list(variants) * ROUNDS:
        rates[name].append(BATCH * STEPS / seconds(variants[name], STEPS))
    for name, samples in rates.items():
        print(
            f"{name}: {median(samples):.1f} images/s ({min(samples):.1f} to {max(samples):.1f}), "
            f"first 3 steps {first[name]:.1f} s"
        )
    gain = 1 / median(rates["not compiled"]) - 1 / median(rates["compiled"])
    cost = first["compiled"] - first["not compiled"]
    print(f"Compiling pays off after {cost / gain:,.0f} images." if gain > 0 else "Compiling does not pay off.")


if __name__ == "__main__":
    main()
