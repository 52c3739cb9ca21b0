"""How much of a teacher's gain a small model keeps: plain, distilled and teacher on the same test images.

    python benchmarks/distillation.py DATA [DATA ...] [--images 200] [--draws 3] [--teacher a,b] [--into NAME]
        [--size 160] [--held-out N] [--record [NAME]] [-- SETTING=VALUE ...]

DATA is what `regraft train` takes; where it has no train and test parts, a third of it is the test part. Each draw
labels some of the training images, and the others have no label. The teacher learns from the labeled ones, then
`regraft distill` trains the student, with the others as unlabeled images, and the same model on the labels alone; all
have their defaults, or what follows `--`, such as `distillation.temperature=1`, for the student. `--images 0` labels
all. `--held-out N` takes N of the training images for the test images, so that settings can be chosen without these.
Prints the accuracies, and the share of the teacher's mean gain that the student keeps; `--record` writes
`benchmarks/results/distillation.json`, or NAME.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from accuracy import parts_of, write_draw
from evidence import hash_of, save

from regraft.config import load_config
from regraft.runs.distill import distill_with
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.training.backbone_scores import stratified_order

MODELS = ("plain", "student", "teacher")


def main() -> None:
    """Train the three models for each draw, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--teacher", default="efficientnet_lite0,mobilenetv2,efficientnet_lite2")
    parser.add_argument("--into", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--held-out", type=int, default=0)
    parser.add_argument("--record", nargs="?", const="distillation", default="")
    own, settings = sys.argv[1:], list[str]()
    if "--" in own:
        own, settings = own[: own.index("--")], own[own.index("--") + 1 :]
    given = parser.parse_args(own)
    accuracies: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for data in given.data:
        every = parts_of(data)
        count = given.images or len(every["train"]) - given.held_out
        unlabeled = len(every["train"]) - given.held_out - count
        base = ", ".join([data.stem, f"{count:,} labeled, {unlabeled:,} unlabeled", *settings])
        of_set: dict[str, list[float]] = {model: [] for model in MODELS}
        seconds: dict[str, list[float]] = {model: [] for model in MODELS}
        for draw in range(given.draws):
            parts = hold_out(every, given.held_out, draw) if given.held_out else every
            with tempfile.TemporaryDirectory(prefix="regraft-distillation-") as folder:
                manifest = write_draw(parts, count, draw, Path(folder))
                for model, run in train_three(given, settings, manifest, draw).items():
                    of_set[model].append(run.metrics["test"]["accuracy"])
                    seconds[model].append(round(run.metrics["time"]["train_seconds"], 1))
            print(base, draw, {model: round(values[-1], 4) for model, values in of_set.items()}, flush=True)
        for model in MODELS:
            accuracies[f"{base}: {model}"] = of_set[model]
            facts[f"{base}: {model}"] = {
                "backbone": given.teacher if model == "teacher" else given.into,
                "mean": f"{100 * mean(of_set[model]):.1f} %",
                "against_plain": difference(of_set, model),
                "gain_kept": kept(of_set) if model == "student" else "",
                "test images": given.held_out or len(every["test"]),
                "train_seconds": seconds[model],
                "data_sha256": hash_of(data)["sha256"] if data.is_dir() else "",
            }
    for label, found in facts.items():
        print(f"{label:60} {found['mean']:>7} {found['against_plain']:>16} {found['gain_kept']:>6}")
    if given.record:
        save(given.record, accuracies, unit="test accuracy", title="distillation", facts=facts)


def hold_out(parts: Mapping[str, list[tuple[Path, str]]], count: int, draw: int) -> dict[str, list[tuple[Path, str]]]:
    """The same training images, of which some, with the same shares of the classes, are the test images instead."""
    names = sorted({label for _, label in parts["train"]})
    labels = np.array([names.index(label) for _, label in parts["train"]])
    # Another seed than that of the labeled images.
    order = stratified_order(labels, seed=1_000 + draw)
    chosen = set(order[:count].tolist())
    return {
        "train": [image for number, image in enumerate(parts["train"]) if number not in chosen],
        "test": [image for number, image in enumerate(parts["train"]) if number in chosen],
    }


def train_three(given: argparse.Namespace, settings: Sequence[str], data: Path, draw: int) -> dict[str, Run]:
    """The runs of the teacher, the student and the plain model, in the folder of the data."""
    common = {"training.seed": draw, "model.image_size": given.size}
    folder = data.parent
    teacher = train_from(data, load_config(overrides={**common, "model.backbone": given.teacher}), folder / "teacher")
    wanted = {**common, "model.backbone": given.into, "distillation.teacher": str(teacher.path)}
    if any((folder / "unlabelled").iterdir()):
        wanted["data.unlabelled"] = str(folder / "unlabelled")
    student = distill_with(load_config(None, settings, wanted), None, folder / "student")
    return {"plain": Run(student.path / "plain"), "student": student, "teacher": teacher}


def kept(accuracies: Mapping[str, Sequence[float]]) -> str:
    """Share of the teacher's mean gain over the plain model that the student keeps; "no gain" where there is none."""
    plain, student, teacher = (mean(accuracies[model]) for model in MODELS)
    return f"{100 * (student - plain) / (teacher - plain):.0f} %" if teacher > plain else "no gain"


def difference(accuracies: Mapping[str, Sequence[float]], model: str) -> str:
    """Mean difference from the plain model in points over the same draws, with its standard deviation."""
    if model == "plain":
        return ""
    points = [100 * (ours - theirs) for ours, theirs in zip(accuracies[model], accuracies["plain"], strict=True)]
    return f"{mean(points):+.1f}" + (f" (sd {stdev(points):.1f})" if len(points) > 1 else "")


if __name__ == "__main__":
    main()
