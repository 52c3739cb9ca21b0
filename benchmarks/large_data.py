"""Time, memory and disk of training the head alone on many images.

    python benchmarks/large_data.py FOLDER [--images 20000 200000] [--record] [--set SETTING=VALUE ...]

FOLDER gets, once, JPEGs of 64 pixels in ten classes: an ellipse in the class's color and shape on noise, of other
colors by a tenth of the images. Each training runs in a process of its own with an empty cache. Memory is the highest
sum over the process and all its children of the proportional set size (PSS), which counts a page that n processes share
as a n-th for each, sampled five times a second. Disk is what the cache and the run take at the end, and at most while
training; the features' size is images x features x bytes of a value.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import psutil
from PIL import Image, ImageDraw

CLASSES, SIZE = 10, 64
#: Images for which one number generator draws, so that writing is fast and every image is the same each time.
_BLOCK = 1000


def make_block(folder: Path, block: int) -> None:
    """Write the images of a block, unless they are there."""
    rng = np.random.default_rng([7, block])
    for number in range(block * _BLOCK, (block + 1) * _BLOCK):
        label = number % CLASSES
        drawn = label if rng.random() > 0.1 else int(rng.integers(CLASSES))
        noise = rng.integers(60, 196, (SIZE, SIZE, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        color = np.array([drawn * 25 % 256, drawn * 77 % 256, drawn * 131 % 256]) + rng.integers(-30, 31, 3)
        width, height = rng.integers(12, 30, 2) + np.array([12 * (drawn % 2), 12 * (drawn // 5)])
        left, top = rng.integers(0, SIZE - width), rng.integers(0, SIZE - height)
        box = [int(left), int(top), int(left + width), int(top + height)]
        draw = ImageDraw.Draw(image)
        (draw.ellipse if drawn % 3 else draw.rectangle)(box, fill=tuple(int(c) for c in np.clip(color, 0, 255)))
        image.save(folder / f"class_{label}" / f"{number:07d}.jpg", quality=85)


def make(folder: Path, images: int) -> Path:
    """Write so many images into a folder, which names their number."""
    data = folder / f"images-{images}"
    if (data / "complete").exists():
        return data
    for label in range(CLASSES):
        (data / f"class_{label}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(make_block, data), range(images // _BLOCK)))
    (data / "complete").touch()
    return data


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder, as `du` counts them."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(Path(path) / file).st_blocks * 512
            except FileNotFoundError:  # removed meanwhile
                continue
    return total


def pss_of(process: psutil.Process) -> int:
    """Proportional set size of a process and all its children, in bytes."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def train(data: Path, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Train in a new process with an empty cache; returns what was measured."""
    out, cache = folder / "run", folder / "cache"
    for path in (out, cache):
        shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "regraft", "train", str(data), "--out", str(out), "--finetune-epochs", "0"]
    command += ["--image-size", str(SIZE), "--backbone", "efficientnet_lite0"]
    command += [word for setting in settings for word in ("--set", setting)]
    started = time.perf_counter()
    process = psutil.Popen(command, env=os.environ | {"REGRAFT_CACHE": str(cache)}, stdout=sys.stderr)
    peaks, disk, steps = [0], [0], {"": 0.0}

    def sample() -> None:
        next_disk = 0.0
        while process.poll() is None:
            try:
                peaks.append(pss_of(process))
            except psutil.NoSuchProcess:
                break
            if time.perf_counter() > next_disk:
                disk.append(size_of(cache) + size_of(out))
                next_disk = time.perf_counter() + 5
            time.sleep(0.2)

    sampler = threading.Thread(target=sample)
    sampler.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    sampler.join()
    if code:
        raise SystemExit(f"regraft train ended with exit code {code}")
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    steps = metrics["time"]["steps"]
    tables = {entry.name.split("-")[0]: size_of(entry) for entry in sorted(cache.iterdir()) if entry.is_dir()}
    (table,) = [json.loads(file.read_text())["shape"] for file in cache.glob("activations-*/table.json")] or [[0]]
    taps = [json.loads(file.read_text())["shape"][0] for file in cache.glob("taps-*/table.json")]
    return {
        "seconds": seconds,
        "steps": {name: round(value, 1) for name, value in steps.items()},
        "memory": max(peaks),
        "disk": size_of(cache) + size_of(out),
        "peak_disk": max(disk),
        "tables": {name: round(size / 1e6, 1) for name, size in tables.items()},
        "run": size_of(out),
        "features": table[0] + sum(taps),
        "value_bytes": 2 if metrics["training"]["precision"] == "bfloat16" else 4,
        "accuracy": metrics["test"]["accuracy"]["value"]
        if isinstance(metrics["test"]["accuracy"], dict)
        else metrics["test"]["accuracy"],
    }


def main() -> None:
    """Write the images, train on them and print the results."""
    is_recorded = evidence.take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--set", action="append", default=[], help="further settings of the training")
    arguments = parser.parse_args()
    settings = ["training.feature_cache=disk", "training.memory_gb=0.5", "model.head_stages=last", *arguments.set]
    results = {}
    for images in arguments.images:
        data = make(arguments.folder, images)
        results[images] = result = train(data, arguments.folder, settings)
        size = images * result["features"] * result["value_bytes"]
        result["peak_gb"], result["disk_gb"] = round(result["memory"] / 1e9, 2), round(result["disk"] / 1e9, 3)
        result["disk_share"] = round(result["disk"] / size, 2) if size else float("nan")
        print(
            f"{images} images: {result['seconds']:.0f} s, peak memory {result['memory'] / 1e9:.2f} GB (PSS of all "
            f"processes), disk {result['disk'] / 1e6:.0f} MB (at most {result['peak_disk'] / 1e6:.0f}), "
            f"{result['disk_share']:.2f} times the features ({size / 1e6:.0f} MB), accuracy {result['accuracy']:.4f}"
        )
        print(
            f"  steps {result['steps']}, MB by table {result['tables']}, run {result['run'] / 1e6:.1f} MB", flush=True
        )
    first, last = min(results), max(results)
    if first < last:
        linear = results[last]["seconds"] / (results[first]["seconds"] * last / first)
        print(f"{last} images take {linear:.2f} times what {first} predict")
    if is_recorded:
        evidence.save(
            "large_data",
            {f"{images} images": [result["seconds"]] for images, result in results.items()},
            unit="s",
            title="The head alone on many images",
            facts={f"{images} images": result for images, result in results.items()},
        )


if __name__ == "__main__":
    main()
