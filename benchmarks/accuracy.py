"""Test accuracy and seconds of the presets, on data sets, numbers of training images and draws of them.

    python benchmarks/accuracy.py DATA [DATA ...] [--images 1000,200,50] [--draws 3] [--presets fast,balanced,best]
        [--unlabelled] [--record] [-- OPTION ...]

DATA is what `regraft train` takes; where it has no train and test parts, a third of it is the test part, which is the
same for all presets and draws. Each training runs in a process of its own with an empty cache, from image files to a
saved run, imports included. What follows `--` goes to every training. `--unlabelled` gives `best` the training images
that were not drawn, without their labels. `--record` writes `benchmarks/results/accuracy.json`; a number of images that
a data set does not have is left out, and 0 is all that it has.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
from evidence import hash_of, save

import regraft
from regraft.data.decode import decode_image
from regraft.training.backbone_scores import stratified_order

PRESETS = ("fast", "balanced", "best")
#: Share of the images for the test where the data has no test part.
_TEST = 1 / 3


def main() -> None:
    """Train, print a table, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument(
        "--images", type=lambda text: [int(count) for count in text.split(",")], default=[1000, 200, 50]
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(PRESETS))
    parser.add_argument("--unlabelled", action="store_true")
    parser.add_argument("--record", action="store_true")
    own, options = sys.argv[1:], list[str]()
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)
    accuracies: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for data in arguments.data:
        parts = parts_of(data)
        for count in arguments.images:
            drawn = count or len(parts["train"])
            if drawn > len(parts["train"]):
                continue
            base = f"{data.stem}, {drawn:,} images"
            seconds: dict[str, list[float]] = {}
            for draw in range(arguments.draws):
                with tempfile.TemporaryDirectory(prefix="regraft-accuracy-") as folder:
                    manifest = write_draw(parts, drawn, draw, Path(folder))
                    for preset in arguments.presets:
                        own = [*options, "--set", f"training.seed={draw}"]
                        if arguments.unlabelled and preset == "best":
                            own += ["--unlabelled", str(Path(folder) / "unlabelled")]
                        metrics, elapsed = trained(manifest, preset, own, Path(folder) / preset)
                        label = f"{base}: {preset}"
                        accuracies.setdefault(label, []).append(metrics["test"]["accuracy"])
                        seconds.setdefault(label, []).append(elapsed)
                        print(label, draw, f"{metrics['test']['accuracy']:.4f}", f"{elapsed:.0f} s",
                              metrics["model"]["backbone"], flush=True)  # fmt: skip
            for label, times in seconds.items():
                facts[label] = {
                    "images": drawn,
                    "test images": len(parts["test"]),
                    "mean": f"{100 * mean(accuracies[label]):.1f} %",
                    "against_balanced": difference(accuracies, label),
                    "seconds": f"{median(times):.0f}",
                    "all_seconds": [round(value, 1) for value in times],
                    "data_sha256": hash_of(data)["sha256"] if data.is_dir() else "",
                }
    for label, samples in accuracies.items():
        found = facts[label]
        print(f"{label:40} {mean(samples):.4f}  {found['against_balanced']:>16}  {found['seconds']:>5} s")
    if arguments.record:
        save("accuracy", accuracies, unit="test accuracy", title="presets", facts=facts)


def parts_of(data: Path) -> dict[str, list[tuple[Path, str]]]:
    """The files and labels of the images to draw from (`train`) and of the test."""
    dataset = regraft.scan(data)
    named = {sample.part for sample in dataset.samples}
    if "test" not in named:
        dataset = regraft.split(dataset, train=1 - _TEST, val=0.0, test=_TEST).dataset
    kept = Path(tempfile.mkdtemp(prefix="regraft-images-")) if not Path(str(dataset.root)).is_dir() else None
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "test": []}
    for number, sample in enumerate(dataset.samples):
        if kept is None:
            file = (Path(str(dataset.root)) / sample.path).resolve()
        else:  # images of an archive become files
            file = kept / f"{number:06d}.png"
            regraft_image(dataset.source(sample), file)
        parts["test" if sample.part == "test" else "train"].append((file, sample.label))
    return parts


def regraft_image(source: Any, file: Path) -> None:
    """Write an image as regraft reads it."""
    from PIL import Image

    Image.fromarray(decode_image(source)).save(file)


def write_draw(parts: dict[str, list[tuple[Path, str]]], count: int, draw: int, folder: Path) -> Path:
    """Write a manifest with some training images and all test images; `unlabelled/` has the others as links."""
    names = sorted({label for _, label in parts["train"]})
    labels = np.array([names.index(label) for _, label in parts["train"]])
    order = stratified_order(labels, seed=draw)
    manifest, others = folder / "images.csv", folder / "unlabelled"
    others.mkdir()
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for row in np.sort(order[:count]):
            writer.writerow([*map(str, parts["train"][row]), "train"])
        for path, label in parts["test"]:
            writer.writerow([str(path), label, "test"])
    for row in order[count:]:
        path = parts["train"][row][0]
        (others / f"{row:06d}{path.suffix}").symlink_to(path)
    return manifest


def trained(manifest: Path, preset: str, options: list[str], out: Path) -> tuple[dict[str, Any], float]:
    """Train in a process with an empty cache; returns the metrics, and the seconds of the whole command."""
    with tempfile.TemporaryDirectory(prefix="regraft-cache-") as cache:
        words = ["train", str(manifest), "--preset", preset, "--out", str(out), "--json", *options]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "regraft", *words],
            env={**os.environ, "REGRAFT_CACHE": cache}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        elapsed = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"regraft {' '.join(words)} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout)), elapsed


def difference(accuracies: dict[str, list[float]], label: str) -> str:
    """Mean difference from `balanced` in points over the same draws, with its standard deviation."""
    base = accuracies.get(f"{label.rpartition(': ')[0]}: balanced")
    if base is None or label.endswith(": balanced"):
        return ""
    points = [100 * (ours - theirs) for ours, theirs in zip(accuracies[label], base, strict=True)]
    spread = f" (sd {stdev(points):.1f})" if len(points) > 1 else ""
    return f"{mean(points):+.1f}{spread}"


if __name__ == "__main__":
    main()
