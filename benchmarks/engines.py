"""The frozen prefix in each way it can be run, in turns.

As timm built it, with norms folded, with activations in the convolutions too (what regraft's engine `torch` runs), and
on OpenVINO if it is installed.

    python benchmarks/engines.py [BACKBONE] [SIZE] [DATA]

With DATA, what `regraft.scan` takes, 64 of its images are run by the pretrained network, else noise by one of random
weights. Prints images a second (median and range of the rounds), seconds until the first batch, and how far the
features are from float32's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

import regraft
from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.folding import folded
from regraft.training.engine import make_engine
from regraft.training.hardware import autocast, choose_device, choose_precision
from regraft.training.prefix import as_batch

BATCH, ROUNDS = 64, 9


def as_it_is(model: Classifier, precision: torch.dtype) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    def run(pixels: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode(), autocast(model.mean.device, precision):
            return [model.activations(pixels.to(model.mean.device), len(model.stages)).values.cpu()]

    return run


def main() -> None:
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    model = regraft.build(name, classes=("a", "b"), image_size=size, weights="auto" if len(sys.argv) > 3 else "none")
    device = choose_device("auto")
    model.to(device)
    size, end, precision = model.preprocessing.size, len(model.stages), choose_precision("auto", device)
    if len(sys.argv) > 3:
        data = regraft.scan(sys.argv[3])
        chosen = data.samples[:: max(1, len(data) // BATCH)][:BATCH]
        pixels = as_batch(np.stack([model.preprocessing(data.source(sample)) for sample in chosen]))
    else:
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=noise)
    exact = as_it_is(model, torch.float32)(pixels)[0]
    engines: dict[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
        "as it is": as_it_is(model, precision),
        "folded": as_it_is(folded(model, end, fuse=False), precision),
    }
    engines["fused"] = make_engine("torch", model, end, precision)
    try:
        engines["openvino"] = make_engine("openvino", model, end, precision)
    except (MissingExtraError, UsageError) as error:
        print(error)
    first, rates = {}, {engine: [] for engine in engines}
    for engine, run in engines.items():
        started = time.perf_counter()
        run(pixels)
        first[engine] = time.perf_counter() - started
    for engine in list(engines) * ROUNDS:
        started = time.perf_counter()
        engines[engine](pixels)
        rates[engine].append(BATCH / (time.perf_counter() - started))
    print(f"{name}, {size} pixels, {str(precision).removeprefix('torch.')} on {device}")
    for engine, run in engines.items():
        error = float((run(pixels)[0].float() - exact).norm() / exact.norm())
        low, high = min(rates[engine]), max(rates[engine])
        print(
            f"{engine:<14} {median(rates[engine]):6.0f} images/s ({low:.0f} to {high:.0f})"
            f"  first batch after {first[engine]:.1f} s  error {error:.1%}"
        )


if __name__ == "__main__":
    main()
