"""`regraft distill RUN --into BACKBONE`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from typer import Argument, Option

from regraft.cli.options import (
    Budget,
    ConfigFile,
    ImageSize,
    Json,
    RunImages,
    Settings,
    Weights,
    refuse_flags_without_effect,
    with_training_flags,
)
from regraft.cli.output import console, parse_seconds, print_distillation, print_json, print_next, print_result
from regraft.errors import Interrupted, UsageError
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.runs.run import Run


@with_training_flags
def command(
    run: Annotated[Path | None, Argument(help="The teacher: the folder of a run.")] = None,
    into: Annotated[
        str | None, Option(metavar="BACKBONE", help="The student's backbone, from `regraft backbones`.")
    ] = None,
    data: RunImages = None,
    unlabeled: Annotated[
        str | None, Option(metavar="FOLDER", help="Images without labels: the teacher alone says what they show.")
    ] = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    finetune_from: Annotated[
        str | None, Option(help="auto, last, none, all, a stage or layer, or a number of layers.")
    ] = None,
    soft_share: Annotated[
        float | None, Option(metavar="P", min=0, max=1, help="Share of the teacher's probabilities in a target.")
    ] = None,
    temperature: Annotated[
        float | None, Option(metavar="T", help="Temperature of the teacher's probabilities.")
    ] = None,
    baseline: Annotated[
        str | None, Option(metavar="WHAT", help="To compare with: train (default) one, none, or a run.")
    ] = None,
    seed: Annotated[int | None, Option(help="The same data, settings and seed give the same numbers.")] = None,
    budget: Budget = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, Option(help="The student's folder. Default: a new one under runs/.")] = None,
    resume: Annotated[Path | None, Option(metavar="STUDENT", help="Continue this interrupted distillation.")] = None,
    json: Json = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Train a small model on what a large one, or several, say of the images."""
    started, screen = time.monotonic(), console(json)
    overrides = {
        "model.backbone": into, "model.weights": weights, "model.image_size": image_size,
        "distillation.teacher": None if run is None else str(run), "distillation.soft_share": soft_share,
        "distillation.temperature": temperature, "distillation.baseline": baseline, "data.unlabelled": unlabeled,
        "training.finetune_from": finetune_from, "training.seed": seed,
        "training.budget": None if budget is None else parse_seconds(budget), "training.device": device, **flags,
    }  # fmt: skip
    given = {"--data": data, "--config": config, "--set": settings or None, "--out": out, **overrides}
    del given["distillation.baseline"]
    if resume is not None and any(value is not None for value in given.values()):
        raise UsageError(
            f"--resume {resume} continues with the settings of that run; expected only --baseline, --json."
        )
    if resume is None and run is None:
        raise UsageError("Expected RUN, the teacher, or --resume STUDENT.")
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = load_config(config, settings or [], overrides)
        refuse_flags_without_effect(resolved, flags)
        if resume is None and into is None:
            raise UsageError("Expected --into BACKBONE, such as --into efficientnet_lite0.")
        from regraft.runs.distill import distill_with, resume_distillation
    with rich_progress(screen) as reporter:
        if resume is not None:
            student = resume_distillation(resume, baseline=baseline, reporter=reporter)
        else:
            student = distill_with(resolved, data, out or resolved.run.out or None, reporter=reporter, started=started)
    if json:
        print_json({"run": str(student.path), **student.metrics})
    else:
        _print(screen, student, time.monotonic() - started)
    if student.metrics["training"]["stopped"] == "interrupted":
        raise Interrupted(student.path)


def _print(screen: Console, student: Run, seconds: float) -> None:
    print_result(screen, student, seconds)
    print_distillation(screen, student)
    print_next(screen, student)
