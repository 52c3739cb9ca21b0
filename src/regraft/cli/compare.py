"""`regraft compare DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from regraft.cli.options import ConfigFile
from regraft.cli.output import console, print_json, seconds_of
from regraft.pipeline.listening import listening

#: Characters that all columns need, and which of them there are with fewer.
_WIDE = 190
_NARROW = ("model", "training", "image, 1", "val", "test (95 %)")


def command(
    data: Annotated[
        str | None, typer.Argument(help="Labelled images: whatever `regraft train` takes; not needed for runs alone.")
    ] = None,
    backbones: Annotated[
        str | None, typer.Option(help="Names with commas between: those of `regraft backbones`, or any timm names.")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option("--with", help="ann, cnn or both (ann,cnn): plain networks from random weights.")
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--runs", help="A run that exists, of the same split; may be repeated.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock limit for all together, such as 10m, shared evenly.")
    ] = None,
    random_if_missing: Annotated[
        bool,
        typer.Option("--random-if-missing", help="Begin with random weights where a backbone's own cannot be had."),
    ] = False,
    config: ConfigFile = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting of all; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder; one that was left unfinished is gone on with. Default: a new one under runs/."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Train several backbones and plain networks on the same split, and say what differs beyond chance."""
    screen = console(json)
    seconds = 0.0 if budget is None else seconds_of(budget)
    with screen.status("Starting"):
        from regraft.config import load_config
        from regraft.pipeline.compare import compare
        from regraft.report.comparison import COLUMNS
    resolved = load_config(config, settings or [])
    with listening(screen) as listener:
        found = compare(
            data,
            _names(backbones),
            baselines=_names(baselines),
            runs=runs or [],
            config=resolved,
            budget=seconds,
            random_if_missing=random_if_missing,
            out=out,
            listener=listener,
        )
    if json:
        print_json(found.to_json())
    else:
        table = Table(box=None, header_style="bold")
        columns = COLUMNS if screen.width >= _WIDE else {name: COLUMNS[name] for name in _NARROW}
        for number, name in enumerate(columns):
            table.add_column(name, justify="right" if number else "left", no_wrap=bool(number))
        for model in found.models:
            row = model.to_json()
            table.add_row(*(escape(cell(row)) for cell in columns.values()))
        screen.print()
        screen.print(table)
        screen.print()
        for sentence in found.conclusion:
            screen.print(escape(sentence))
        screen.print(
            f"\n{found.seconds:.0f} s. [bold]Look at[/bold]  {escape(str(found.path))}: comparison.png, comparison.md, "
            "comparison.csv, and a run for each"
        )
    for name, reason in found.failed.items():
        screen.print(f"[yellow]{escape(name)} could not be trained:[/yellow] {escape(reason)}")
    if found.failed:
        raise typer.Exit(1)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]
