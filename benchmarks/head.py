"""The head alone, cold, beside the bare pass of the frozen trunk over the same images: what all the rest costs.

    python benchmarks/head.py DATA [SIZE] [ROUNDS]

Rounds in turn, each with an empty store: `regraft.train` without fine-tuning, from image files to a saved model, and
the pass over all of those images by the same engine at the same size, from pixels in memory. Both are warm in what a
process does once (imports, the choice of the engine). Prints medians, ranges, and the ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import regraft
from regraft.models.checkpoint import save_classifier
from regraft.store import Store
from regraft.training.engine import make_engine
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.prefix import as_batch
from regraft.training.train import train

BATCH = 64


def main() -> None:
    """Measure and print."""
    folder, size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 160
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    data = regraft.scan(folder)
    model = regraft.build(classes=data.classes, image_size=size)
    pixels = as_batch(np.stack([model.preprocessing(data.source(sample)) for sample in data.samples]))
    precision = choose_precision("auto", choose_device("auto"))
    heads: list[float] = []
    bare: list[float] = []
    for number in range(rounds + 1):  # the first is not counted
        with tempfile.TemporaryDirectory() as empty:
            started = time.perf_counter()
            parts = regraft.split(regraft.scan(folder), train=0.9, val=0.1, test=0.0)
            fresh = regraft.build(classes=parts.classes, image_size=size)
            how = train(fresh, parts, store=Store(Path(empty)), finetune_epochs=0, views=1)
            save_classifier(fresh, Path(empty) / "model")
            heads.append(time.perf_counter() - started)
        engine = make_engine(how.engine, model, len(model.stages), precision)
        engine(pixels[:BATCH])
        started = time.perf_counter()
        for first in range(0, len(pixels), BATCH):
            engine(pixels[first : first + BATCH])
        bare.append(time.perf_counter() - started)
        steps = ", ".join(f"{name} {value:.2f}" for name, value in how.seconds.items())
        print(f"{number}: head alone {heads[-1]:.2f} s ({steps}), bare pass {bare[-1]:.2f} s", flush=True)
    for what, spent in (("head alone", heads[1:]), ("bare pass", bare[1:])):
        print(f"{what}, {len(data)} images, {how.engine}: {median(spent):.2f} s ({min(spent):.2f} to {max(spent):.2f})")
    print(f"ratio: {median(h / b for h, b in zip(heads[1:], bare[1:], strict=True)):.2f}")


if __name__ == "__main__":
    main()
