"""`regraft summary RUN|BACKBONE`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from regraft.cli.options import Json
from regraft.cli.output import console, print_json
from regraft.errors import UnknownNameError, UsageError
from regraft.runs.progress import rich_progress


def command(
    model: Annotated[
        str | None,
        Argument(metavar="RUN|BACKBONE|DATA", help="A run's folder, a backbone's name, or data with --config."),
    ] = None,
    config: Annotated[
        Path | None, Option(help="Settings as TOML: the model before its training on DATA, with random weights.")
    ] = None,
    finetune_from: Annotated[str, Option(help="For a backbone: where fine-tuning would start.")] = "none",
    stages: Annotated[bool, Option("--stages", help="One row per stage instead of one per layer.")] = False,
    json: Json = False,
) -> None:
    """List the layers with shapes and parameters, trainable or frozen."""
    from regraft.models.classifier import build
    from regraft.models.summary import stages_of, summarize
    from regraft.runs.run import load

    trains = ""
    if config is not None:
        from regraft.config import load_config
        from regraft.runs.summary import model_before_training

        settings = load_config(config)
        if not (data := model or settings.run.data):
            raise UsageError(f"Expected DATA, or run.data in {config}.")
        with rich_progress(console(json)) as reporter:
            classifier, trains = model_before_training(data, settings, reporter)
        title = f"{classifier.spec.name}, {len(classifier.classes)} classes"
    elif model is None:
        raise UsageError("Expected a RUN, a BACKBONE, or DATA with --config FILE.")
    elif Path(model).is_dir():
        classifier = load(model).classifier
        title = f"{model}: {classifier.spec.name}, {len(classifier.classes)} classes"
    else:
        try:
            classifier = build(model, classes=("0", "1"), weights="none")
        except UnknownNameError as error:
            raise UsageError(f"There is no folder of a run {model}, and no such backbone: {error}") from error
        classifier.freeze(classifier.resolve(finetune_from))
        title = f"{classifier.spec.name} with a head for two classes"
    rows = summarize(classifier)
    if json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(box=None, header_style="bold")
    for name in ("#", "stage", "layer", "kind", "output", "parameters", ""):
        table.add_column(name, justify="right" if name in ("#", "parameters") else "left", no_wrap=True)
    if stages:
        for index, (name, _, stage) in enumerate(stages_of(classifier)):
            count = sum(p.numel() for p in stage.parameters())
            is_trainable = index >= classifier.boundary and not classifier.members
            state, aliases = "trainable" if is_trainable else "frozen", ", ".join(stage.aliases)
            table.add_row(str(index), name, aliases, "stage", _shape(stage.shape), f"{count:,}", state)
    else:
        for row in rows:
            state = "" if not row.parameters else "trainable" if row.trainable else "[dim]frozen[/dim]"
            number = "" if row.number is None else str(row.number)
            table.add_row(number, row.stage, row.name, row.kind, _shape(row.shape), f"{row.parameters:,}", state)
    screen = console(json)
    screen.print(escape(title) + "\n")
    screen.print(table)
    total = classifier.parameter_count()
    trainable = sum(p.numel() for _, p in classifier.trainable_parameters())
    screen.print(f"\nTotal parameters      {total:>13,}   ({classifier.megabytes():.1f} MB)")
    screen.print(f"Trainable parameters  {trainable:>13,}")
    screen.print(f"Frozen parameters     {total - trainable:>13,}")
    if trains:
        screen.print(f"\n{trains}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
