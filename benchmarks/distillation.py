"""How much of a teacher's gain a small model keeps: plain, distilled and teacher on the same test images.

    python benchmarks/distillation.py DATA [--teacher a,b] [--into efficientnet_lite0] [--size 160]
        [--unlabelled FOLDER] [--seeds 0,1,2] [--name NAME] [--record]

DATA has test images of its own, as cifar10-1k has. For each seed the teacher is trained, then `regraft distill` trains
the student and the same model on the labels alone, all with their defaults. Prints the accuracies, and the share of
the teacher's gain that the student keeps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evidence import save

from regraft.config import load_config
from regraft.runs.distill import distill_with
from regraft.runs.run import Run
from regraft.runs.train import train_from

MODELS = ("plain", "student", "teacher")


def main() -> None:
    """Train the three models for each seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--teacher", default="efficientnet_lite2")
    parser.add_argument("--into", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--unlabelled", default="")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--name", default="distillation")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    accuracies: dict[str, list[float]] = {model: [] for model in MODELS}
    seconds: dict[str, list[float]] = {model: [] for model in MODELS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            runs = train_three(given, seed, Path(folder) / str(seed))
            for model, run in runs.items():
                accuracies[model].append(run.metrics["test"]["accuracy"])
                seconds[model].append(run.metrics["time"]["train_seconds"])
            print(seed, {model: round(values[-1], 4) for model, values in accuracies.items()}, flush=True)
    for model in MODELS:
        print(f"{model:8} {statistics.mean(accuracies[model]):.4f}  {statistics.mean(seconds[model]):6.1f} s")
    print(f"kept     {kept(accuracies):.2f}")
    if given.record:
        facts = {
            model: {"backbone": given.teacher if model == "teacher" else given.into, "train_seconds": seconds[model]}
            for model in MODELS
        }
        facts["student"]["kept"] = kept(accuracies)
        save(given.name, accuracies, unit="accuracy", title=f"{given.teacher} into {given.into}", facts=facts,
             data=given.data)  # fmt: skip


def train_three(given: argparse.Namespace, seed: int, folder: Path) -> dict[str, Run]:
    """The runs of the teacher, the student and the plain model."""
    common = {"training.seed": seed, "model.image_size": given.size}
    teacher = train_from(
        given.data, load_config(overrides={**common, "model.backbone": given.teacher}), folder / "teacher"
    )
    wanted = {**common, "model.backbone": given.into, "distillation.teacher": str(teacher.path)}
    if given.unlabelled:
        wanted["data.unlabelled"] = given.unlabelled
    student = distill_with(load_config(overrides=wanted), None, folder / "student")
    return {"plain": Run(student.path / "plain"), "student": student, "teacher": teacher}


def kept(accuracies: dict[str, Sequence[float]] | dict[str, list[float]]) -> float:
    """Share of the teacher's mean gain over the plain model that the student keeps."""
    plain, student, teacher = (statistics.mean(accuracies[model]) for model in MODELS)
    return (student - plain) / (teacher - plain)


if __name__ == "__main__":
    main()
