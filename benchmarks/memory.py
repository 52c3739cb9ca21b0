"""Peak memory of head training on many images.

    python benchmarks/memory.py FOLDER [--images 50000] [--classes 100] [--size 224]

FOLDER gets synthetic JPEGs (once; a few hundred bytes to some kilobytes each) and a cache of about 8 GB; both are kept.
regraft trains in a separate process with an empty cache. Prints its peak resident memory and the time of each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, classes: int, number: int, side: int = 240) -> None:
    """Write a square JPEG: smooth blobs in the colors of its class, and noise."""
    rng = np.random.default_rng(number)
    label = number % classes
    colors = np.random.default_rng(label).integers(0, 256, (4, 4, 3))
    small = np.clip(colors + rng.normal(0, 40, colors.shape), 0, 255).astype(np.uint8)
    file = folder / f"class_{label:03d}" / f"{number:06d}.jpg"
    if not file.exists():
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, quality=85)


def main() -> None:
    """Write the images, train and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    data, out = arguments.folder / "images", arguments.folder / f"run-{int(time.time())}"
    for label in range(arguments.classes):
        (data / f"class_{label:03d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(make, data, arguments.classes), range(arguments.images), chunksize=500))
    started = time.perf_counter()
    command = [sys.executable, "-m", "regraft.cli", "train", str(data), "--out", str(out), "--finetune-epochs", "0"]
    command += ["--image-size", str(arguments.size), "--set", "data.val=0.02", "--set", "data.test=0.02", "--json"]
    variables = {"REGRAFT_CACHE": str(arguments.folder / f"cache-{int(time.time())}")}
    subprocess.run(["env", *(f"{k}={v}" for k, v in variables.items()), *command], check=True, stdout=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    print(f"{arguments.images} images of {arguments.size} pixels, {arguments.classes} classes")
    print(f"peak resident memory {peak:.2f} GB; the whole command {time.perf_counter() - started:.0f} s")
    print("steps:", {name: round(value, 1) for name, value in metrics["time"]["steps"].items()})


if __name__ == "__main__":
    main()
