"""`regraft tune DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regraft.cli.options import Backbone, Budget, ImageSize, Weights, as_settings
from regraft.cli.output import Clock, console, print_json, seconds_of
from regraft.errors import UsageError
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from regraft.pipeline.tuning import Tuning

#: Trials and settings that the terminal shows.
_SHOWN = 5


def command(
    data: Annotated[
        str | None, typer.Argument(help="Labelled images: whatever `regraft train` takes; val is needed.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Short trainings; the first is by the settings as they are.")] = 20,
    finalists: Annotated[int, typer.Option(help="How many of the best train in full, beside those settings.")] = 2,
    budget: Budget = None,
    metric: Annotated[
        str, typer.Option(help="What validation is judged by: loss (calibrated), accuracy or macro_f1.")
    ] = "loss",
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    seed: Annotated[int | None, typer.Option(help="Of the parameters that are drawn, and of every training.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as TOML, where the search begins; `regraft config` prints all.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting, which is not searched; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The search's folder; one that holds this search goes on. Default: under runs/.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the search in this folder, with its settings; without DATA.")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Do not train the winner; test is not read.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Search for better settings by validation: short trainings from the store, then the best of them in full."""
    clock, screen = Clock(), console(json)
    named = {
        "model.backbone": backbone,
        "model.weights": weights,
        "model.image_size": image_size,
        "training.seed": seed,
    }
    chosen = as_settings(settings, named)
    if (data is None) == (resume is None):
        raise UsageError("Expected DATA to search with, or --resume FOLDER to go on with a search.")
    if resume is not None and (chosen or config or out):
        raise UsageError("--resume FOLDER goes on with the search's own settings and folder; expected no others.")
    seconds = None if budget is None else seconds_of(budget)
    with screen.status("Starting"):
        from regraft.config import load_config
        from regraft.pipeline.tune import tune
    resolved = None if resume is not None else load_config(config, chosen)
    with listening(screen) as listener:
        found = tune(
            data,
            trials=trials,
            finalists=finalists,
            budget=seconds,
            metric=metric,  # type: ignore[arg-type]  # checked there
            config=resolved,
            fixed=[setting.partition("=")[0].strip() for setting in chosen],
            out=resume or out,
            train=not no_train,
            listener=listener,
            started=clock.started,
        )
    if json:
        print_json({"folder": str(found.path), **found.to_json()})
        return
    _print(screen, found)
    screen.print(f"{clock():.0f} s in all.")
    _print_next(screen, found)


def _print(screen: Console, found: Tuning) -> None:
    states = [record.state for record in found.trials]
    lost = "".join(f", {states.count(state)} {state}" for state in ("pruned", "failed") if state in states)
    first, later = found.frozen_seconds
    screen.print(
        f"\n{len(states)} trials{lost}; {found.trials_per_minute:.1f} a minute. Decoding and frozen layers took "
        f"{first:.1f} s in the first and {later:.1f} s in the later ones (median), which find them in the store."
    )
    if found.stopped:
        why = {"time": "The time was up", "interrupted": "Interrupted"}[found.stopped]
        screen.print(f"[yellow]{why}: this is what was found until then.[/yellow]")
    screen.print()
    screen.print(_table(found))
    best, base = found.best.record, found.base
    screen.print()
    if not best.number:
        screen.print("[bold]Nothing was better than the settings as they were.[/bold]")
    else:
        screen.print(f"[bold]Trial {best.number} changes[/bold]")
        for name, (before, after) in found.changes.items():
            screen.print(escape(f"  {name:<28} {_text(before)} -> {_text(after)}"))
        if base:
            against = f"Validation loss {best.loss:.4f} against {base.loss:.4f}, "
            against += f"accuracy {best.accuracy:.4f} against {base.accuracy:.4f}"
            if gain := found.gain:
                against += f"; the loss of an image is lower by {gain[0]:.4f} (standard error {gain[1]:.4f})"
            screen.print(against + ".")
    if found.importance:
        top = list(found.importance.items())[:_SHOWN]
        screen.print("What mattered: " + escape(", ".join(f"{name} {100 * share:.0f} %" for name, share in top)) + ".")
    else:
        from regraft.pipeline.trials import ENOUGH

        complete = states.count("complete")
        screen.print(f"What mattered cannot be told from {complete} complete trials; {ENOUGH} are needed.")
    number = len(found.trials)
    if found.run is not None and (test := found.run.metrics.get("test")):
        low, high = test["accuracy_interval"]
        screen.print(
            f"[bold green]Test accuracy {100 * test['accuracy']:.1f} %[/bold green] (95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f}) on {test['count']} images, macro-F1 {test['macro_f1']:.3f}, log loss "
            f"{test['loss']:.4f}."
        )
    screen.print(
        f"The validation score of the best of {number} trials is optimistic: it was chosen for being high. "
        "The test took no part in the choice."
    )


def _table(found: Tuning) -> Table:
    from regraft.pipeline.trials import value_of

    table = Table("trial", "trained", "val loss", "accuracy", "macro-F1", "seconds", "", box=None, header_style="bold")
    for column in table.columns:
        column.no_wrap, column.justify = True, "right"
    table.columns[1].justify = table.columns[-1].justify = "left"
    finals = sorted((final.record for final in found.finals), key=value_of)
    numbers = {record.number for record in finals}
    others = sorted((r for r in found.trials if r.state == "complete" and r.number not in numbers), key=value_of)
    for record in [*finals, *others][:_SHOWN]:
        about = "base" if not record.number else ""
        if record.number == found.best.record.number:
            about = f"[bold green]{about + ', ' if about else ''}best[/bold green]"
        table.add_row(
            str(record.number),
            "in full" if record.number in numbers else "short",
            *(f"{value:.4f}" for value in (record.loss, record.accuracy, record.macro_f1)),
            f"{record.seconds:.1f}",
            about,
        )
    return table


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _print_next(screen: Console, found: Tuning) -> None:
    path = found.path
    screen.print("\n[bold]Look at[/bold]")
    screen.print(escape(f"  {path / 'plots' / 'history.png'}      what each trial gave"))
    if found.importance:
        screen.print(escape(f"  {path / 'plots' / 'importance.png'}   which settings mattered"))
    screen.print(escape(f"  {path / 'trials.csv'}, {path / 'tune.json'}: every trial"))
    screen.print("\n[bold]Try next[/bold]")
    if found.run is not None:
        screen.print(escape(f"  regraft evaluate {found.run.path}"))
    screen.print(escape(f"  regraft train DATA --config {path / 'best.toml'}"))
    screen.print(escape(f"  regraft tune --resume {path} --trials {2 * len(found.trials)}"))
