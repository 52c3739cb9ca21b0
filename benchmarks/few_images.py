"""Test accuracy with few training images: the head alone, ten epochs, and more steps with averaged weights.

    python benchmarks/few_images.py DATA [DATA ...] [--images 50,100,200] [--draws 2] [--only fast head] [--record]

DATA is a folder with train/CLASS and test/CLASS, as benchmarks/datasets.py makes them. Images are drawn from train/,
and the others of train/ are the test images: those of test/ take no part in a choice of defaults. Each training is the
whole command in a process of its own. `--only` has the first words of the ways that are tried. `--record` adds to
`benchmarks/results/few-images.json`, and does not repeat what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

from draw import link, stratified_order
from evidence import RESULTS, save, shown_command

from regraft.config.config import load_run_config

_ANY_NUMBER = ["--set", "run.finetune_min_images=0"]
_BEST = ["--preset", "best", *_ANY_NUMBER, "--budget", "300"]
#: Way -> options of `regraft train`; EPOCHS are those of the first way.
WAYS = {
    "200 steps, average over 30 %": [],
    "200 steps, average over one epoch": ["--epochs", "EPOCHS"],
    "10 epochs, average over one": ["--epochs", "10"],
    "head alone": ["--epochs", "0"],
    "fast, fine-tuned": ["--preset", "fast", *_ANY_NUMBER],
    "best, heads alone": ["--preset", "best", "--epochs", "0"],
    "best, all fine-tuned": [*_BEST, "--set", "run.finetune_all_min_val=0"],
    "best, the first fine-tuned": _BEST,
}
_FILE = RESULTS / "few-images.json"


def main() -> None:
    """Train, print a table, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--images", type=lambda text: [int(count) for count in text.split(",")], default=[50, 100, 200])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    results, commands = recorded() if arguments.record else ({}, [])
    commands = list(dict.fromkeys([*commands, shown_command()]))
    for data in arguments.data:
        for images, seed in ((images, seed) for images in arguments.images for seed in range(arguments.draws)):
            labels = {way: f"{data.name}, {images} images: {way}" for way in WAYS}
            missing = {
                way: options
                for way, options in WAYS.items()
                if way.startswith(tuple(arguments.only)) and len(results.get(labels[way], [])) <= seed
            }
            if any("EPOCHS" in options for options in missing.values()):  # those of the first way
                missing = dict(list(WAYS.items())[:1]) | missing
            for way, one in accuracies(data, images, seed, missing).items():
                results.setdefault(labels[way], [])[seed:] = [one]
                print(f"{labels[way]}, draw {seed}: {one:.4f}", flush=True)
            if arguments.record:
                facts = {label: {"mean": f"{100 * mean(samples):.1f} %"} for label, samples in results.items()}
                save(
                    "few-images", results, unit="test accuracy", title="few images", facts=facts,
                    command="; ".join(commands),
                )  # fmt: skip
    for label, samples in results.items():
        print(f"{label:55} {100 * mean(samples):.1f} % of {len(samples)}")


def recorded() -> tuple[dict[str, list[float]], list[str]]:
    """Label -> accuracies in the record, and the commands that gave them."""
    if not _FILE.is_file():
        return {}, []
    record = json.loads(_FILE.read_text(encoding="utf-8"))
    return {row["label"]: row["samples"] for row in record["measurements"]}, record["command"].split("; ")


def accuracies(data: Path, images: int, seed: int, ways: dict[str, list[str]]) -> dict[str, float]:
    """Train on a draw of the training images in these ways, and return the accuracies on the others."""
    files = sorted((data / "train").glob("*/*"))
    order = stratified_order([file.parent.name for file in files], seed)
    epochs, found = "", dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="regraft-few-") as place:
        folder = Path(place)
        for rank, i in enumerate(order):
            part = "train" if rank < images else "test"
            link(files[i], folder / "data" / part / files[i].parent.name / files[i].name)
        for number, (way, options) in enumerate(ways.items()):
            run = folder / f"run{number}"
            words = ["train", str(folder / "data"), "--out", str(run), "--json", "--set", f"training.seed={seed}"]
            words += [epochs if word == "EPOCHS" else word for word in options]
            done = subprocess.run(
                [sys.executable, "-m", "regraft", *words],
                env={**os.environ, "REGRAFT_CACHE": str(folder / "cache")}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"regraft {' '.join(words)} failed:\n{done.stderr}")
            epochs = epochs or str(load_run_config(run / "config.toml").training.finetune_epochs)
            found[way] = float(json.loads(done.stdout)["test"]["accuracy"])
    return found


if __name__ == "__main__":
    main()
