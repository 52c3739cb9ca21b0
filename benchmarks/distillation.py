"""How much of a teacher's gain a small model keeps: plain, distilled and teacher on the same test images.

    python benchmarks/distillation.py DATA [DATA ...] [--images 200] [--draws 3] [--teacher a,b] [--into NAME]
        [--size 160] [--held-out N] [--record [NAME]] [-- SETTING=VALUE ...]

DATA is a folder with train/CLASS and test/CLASS, as benchmarks/datasets.py makes them, or a zip file of one. Each draw
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

from accuracy import count, unpacked
from draw import draw, link, stratified_order
from evidence import hash_of, save

from regraft.config import load_config
from regraft.runs.distill import distill_with
from regraft.runs.run import Run
from regraft.runs.train import train_from

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
        of_set: dict[str, list[float]] = {model: [] for model in MODELS}
        seconds: dict[str, list[float]] = {model: [] for model in MODELS}
        with unpacked(data) as source:
            total = count(source, "train") - given.held_out
            images, tested = given.images or total, given.held_out or count(source, "test")
            base = ", ".join([data.stem, f"{images:,} labeled, {total - images:,} unlabeled", *settings])
            for number in range(given.draws):
                with tempfile.TemporaryDirectory(prefix="regraft-distillation-") as folder:
                    place = Path(folder)
                    drawn = hold_out(source, place / "all", given.held_out, number) if given.held_out else source
                    draw(drawn, place / "labeled", images, number, unlabeled=place / "unlabeled")
                    for model, run in train_three(given, settings, place, number).items():
                        of_set[model].append(run.metrics["test"]["accuracy"])
                        seconds[model].append(round(run.metrics["time"]["train_seconds"], 1))
                print(base, number, {model: round(values[-1], 4) for model, values in of_set.items()}, flush=True)
        for model in MODELS:
            accuracies[f"{base}: {model}"] = of_set[model]
            facts[f"{base}: {model}"] = {
                "backbone": given.teacher if model == "teacher" else given.into,
                "mean": f"{100 * mean(of_set[model]):.1f} %",
                "against_plain": difference(of_set, model),
                "gain_kept": kept(of_set) if model == "student" else "",
                "test images": tested,
                "train_seconds": seconds[model],
                "data_sha256": hash_of(data)["sha256"] if data.is_dir() else "",
            }
    for label, found in facts.items():
        print(f"{label:60} {found['mean']:>7} {found['against_plain']:>16} {found['gain_kept']:>6}")
    if given.record:
        save(given.record, accuracies, unit="test accuracy", title="distillation", facts=facts)


def hold_out(source: Path, out: Path, images: int, number: int) -> Path:
    """The same set without its test images, in whose place are some of the training images."""
    files = sorted((source / "train").glob("*/*"))
    # Another seed than that of the labeled images.
    order = stratified_order([file.parent.name for file in files], 1_000 + number)
    for rank, i in enumerate(order):
        link(files[i], out / ("test" if rank < images else "train") / files[i].parent.name / files[i].name)
    return out


def train_three(given: argparse.Namespace, settings: Sequence[str], folder: Path, number: int) -> dict[str, Run]:
    """The runs of the teacher, the student and the plain model, in the folder of a draw."""
    common = {"training.seed": number, "model.image_size": given.size}
    config = load_config(overrides={**common, "model.backbone": given.teacher})
    teacher = train_from(folder / "labeled", config, folder / "teacher")
    wanted = {**common, "model.backbone": given.into, "distillation.teacher": str(teacher.path)}
    if any((folder / "unlabeled").iterdir()):
        wanted["data.unlabelled"] = str(folder / "unlabeled")
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
