"""`regraft train DATA`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from regraft.cli.options import Backbone, Budget, ConfigFile, GroupBy, ImageSize, Settings, Weights, as_settings
from regraft.cli.output import Clock, console, print_json, print_next, print_result, seconds_of
from regraft.errors import UsageError
from regraft.pipeline.listening import listening


def command(
    data: Annotated[
        str | None,
        typer.Argument(
            help=(
                "A folder with one folder of images a class, or one with train/val/test folders; a zip or tar archive; "
                "a CSV or Parquet manifest; a Parquet file with images; or the URL of a folder or manifest."
            )
        ),
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    finetune_from: Annotated[
        str | None, typer.Option(help="auto, last, none, all, a stage or layer, or a number of layers.")
    ] = None,
    finetune_epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning; 0: only the head.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same data, settings and seed give the same numbers.")] = None,
    budget: Budget = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    on_bad: Annotated[str | None, typer.Option(help="Unreadable images: skip or error.")] = None,
    group_by: GroupBy = None,
    remote: Annotated[
        bool | None, typer.Option("--remote", help="Fetch images that a manifest names elsewhere, by URLs.")
    ] = None,
    keep_split: Annotated[
        Path | None, typer.Option(help="A split.csv or a run's folder, whose images keep their part.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Tell tensorboard, wandb or mlflow too; may be repeated."),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: a new one under runs/.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run, which was killed or interrupted; alone, without DATA.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a classifier: the head on features that are computed once, then fine-tuning of the top stages."""
    clock = Clock()
    screen = console(json)
    named = {
        "model.backbone": backbone,
        "model.weights": weights,
        "model.image_size": image_size,
        "training.finetune_from": finetune_from,
        "training.finetune_epochs": finetune_epochs,
        "training.seed": seed,
        "training.budget": None if budget is None else seconds_of(budget),
        "training.device": device,
        "data.on_bad": on_bad,
        "data.group_by": group_by,
        "data.keep_split": keep_split,
        "data.remote": None if remote is None else "true",
    }
    chosen = as_settings(settings, named)
    tracked = [f"tracking.to={dumps(track)}"] if track else []
    if (data is None) == (resume is None):
        raise UsageError("Expected DATA to train on, or --resume RUN to go on with a run.")
    if resume is not None and (chosen or config or out):
        raise UsageError("--resume RUN goes on with the run's own settings and folder; expected no others but --track.")
    with screen.status("Starting"):
        from regraft.config import load_config
        from regraft.pipeline.train import resume as resume_run
        from regraft.pipeline.train import train_from

    with listening(screen) as listener:
        if resume is not None:
            names = load_config(None, tracked).tracking.to if tracked else None
            run = resume_run(resume, track=names, listener=listener)
        else:
            assert data is not None
            resolved = load_config(config, [*chosen, *tracked])
            run = train_from(data, resolved, out, listener=listener, started=clock.started)
    if json:
        print_json({"run": str(run.path), **run.metrics})
        return
    print_result(screen, run, clock())
    print_next(screen, run)
