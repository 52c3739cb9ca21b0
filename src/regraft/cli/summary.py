"""`regraft summary RUN|BACKBONE`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from regraft.cli.output import console, print_json


def command(
    what: Annotated[str, typer.Argument(metavar="RUN|BACKBONE", help="A run's folder, or a backbone's name.")],
    finetune_from: Annotated[str, typer.Option(help="Of a backbone: show what trains from this boundary on.")] = "none",
    stages: Annotated[bool, typer.Option("--stages", help="One row a stage instead of one a layer.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """The layers with shapes and parameters, trainable or frozen."""
    from regraft.models.classifier import build
    from regraft.models.summary import summarise
    from regraft.pipeline.run import load

    if Path(what).is_dir():
        run = load(what)
        model = run.classifier
        title = f"{what}: {model.spec.name}, {len(model.classes)} classes"
    else:
        model = build(what, classes=("0", "1"), weights="none")
        model.freeze(model.resolve(finetune_from))
        title = f"{model.spec.name} with a head for two classes"
    rows = summarise(model)
    if json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(box=None, header_style="bold")
    for name, right in (
        ("#", True),
        ("stage", False),
        ("layer", False),
        ("kind", False),
        ("output", False),
        ("parameters", True),
        ("", False),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    if stages:
        for index, stage in enumerate(model.stages):
            count = sum(p.numel() for p in stage.parameters())
            known = ", ".join(stage.aliases)
            mark = "trainable" if index >= model.boundary else "frozen"
            table.add_row(str(index), stage.name, known, "stage", _shape(stage.shape), f"{count:,}", mark)
    else:
        for row in rows:
            mark = "" if not row.parameters else "trainable" if row.trainable else "[dim]frozen[/dim]"
            number = "" if row.number is None else str(row.number)
            table.add_row(number, row.stage, row.name, row.kind, _shape(row.shape), f"{row.parameters:,}", mark)
    screen = console(json_wanted=False)
    screen.print(escape(title) + "\n")
    screen.print(table)
    total = model.parameter_count()
    trainable = sum(p.numel() for _, p in model.trainable())
    screen.print(f"\nTotal parameters      {total:>13,}   ({model.megabytes():.1f} MB)")
    screen.print(f"Trainable parameters  {trainable:>13,}")
    screen.print(f"Frozen parameters     {total - trainable:>13,}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
