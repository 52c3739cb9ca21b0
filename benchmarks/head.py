"""Overhead of training the head: its time with an empty cache, and that of the frozen forward pass alone.

    python benchmarks/head.py DATA [SIZE] [ROUNDS] [--record]

Each round has an empty cache and measures training without fine-tuning, from image files to a saved model, and the
forward pass over the same images by the same prefix backend and size, from pixels in memory. Work that a process does
once (imports, selection of the backend) is not counted. Prints medians, ranges and the ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from evidence import save, take_flag

import regraft
from regraft.cache import Cache
from regraft.models.serialization import save_classifier
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import as_batch
from regraft.training.prefix_backend import make_backend
from regraft.training.trainer import train

BATCH = 64


def main() -> None:
    """Measure both and print the results."""
    record = take_flag()
    folder, size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 160
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    data = regraft.scan(folder)
    model = regraft.build(classes=data.classes, image_size=size)
    pixels = as_batch(np.stack([model.preprocessing(data.source(sample)) for sample in data.samples]))
    precision = choose_precision("auto", choose_device("auto"))
    heads: list[float] = []
    passes: list[float] = []
    for number in range(rounds + 1):  # the first round is not counted
        with tempfile.TemporaryDirectory() as empty:
            started = time.perf_counter()
            parts = regraft.split(regraft.scan(folder), train=0.9, val=0.1, test=0.0)
            fresh = regraft.build(classes=parts.classes, image_size=size)
            result = train(fresh, parts, cache=Cache(Path(empty)), finetune_epochs=0, views=1)
            save_classifier(fresh, Path(empty) / "model")
            heads.append(time.perf_counter() - started)
        backend = make_backend(result.prefix_backend, model, len(model.stages), precision)
        backend(pixels[:BATCH])
        started = time.perf_counter()
        for first in range(0, len(pixels), BATCH):
            backend(pixels[first : first + BATCH])
        passes.append(time.perf_counter() - started)
        steps = ", ".join(f"{name} {value:.2f}" for name, value in result.seconds.items())
        print(f"{number}: head only {heads[-1]:.2f} s ({steps}), forward pass {passes[-1]:.2f} s", flush=True)
    for label, times in (("head only", heads[1:]), ("forward pass", passes[1:])):
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"{label}, {len(data)} images, {result.prefix_backend}: {median(times):.2f} s ({spread})")
    print(f"ratio: {median(h / b for h, b in zip(heads[1:], passes[1:], strict=True)):.2f}")
    if record:
        measured = {
            "head alone, from files to a saved model": heads[1:],
            "forward pass of the backbone alone": passes[1:],
        }
        save("head", measured, unit="s", data=folder)


if __name__ == "__main__":
    main()
