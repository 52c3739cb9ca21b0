"""`regraft crossval DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.options import Backbone, ConfigFile, GroupBy, Settings, Weights, as_settings
from regraft.cli.output import console, print_json
from regraft.errors import counted
from regraft.pipeline.listening import listening

#: Likely wrong labels that the terminal names.
_SHOWN = 8


def command(
    data: Annotated[
        str, typer.Argument(help="Labelled images: whatever `regraft train` takes; parts are put together.")
    ],
    k: Annotated[int, typer.Option("-k", "--folds", help="Folds.")] = 5,
    repeats: Annotated[int, typer.Option(help="Other divisions into folds.")] = 1,
    backbone: Backbone = None,
    weights: Weights = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other folds.")] = None,
    group_by: GroupBy = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the predictions of every image and the suspects.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """How good the solved head is on images that it did not see, by folds; the frozen layers run once."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.config import load_config
        from regraft.pipeline.crossval import cross_validate
    named = {
        "model.backbone": backbone,
        "model.weights": weights,
        "training.seed": seed,
        "data.group_by": group_by,
    }
    resolved = load_config(config, as_settings(settings, named))
    with listening(screen) as listener:
        found = cross_validate(data, k, repeats=repeats, config=resolved, out=out, listener=listener)
    if json:
        print_json(found.to_json())
        return
    screen.print(f"\n{escape(found.evaluation.report())}")
    for number, row in enumerate(found.accuracies, start=1):
        screen.print(f"Repeat {number}: " + "  ".join(f"{100 * value:.1f} %" for value in row))
    low, high = found.accuracy_interval
    screen.print(
        f"[bold green]Accuracy {100 * found.accuracy:.1f} %[/bold green] (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}) on {counted(len(found.predictions), 'image')}; folds differ by "
        f"{100 * found.accuracies.std(ddof=1):.1f} points (standard deviation). The head alone, "
        "without views, augmentation or fine-tuning."
    )
    if found.suspects:
        screen.print(f"\n{counted(len(found.suspects), 'label is', 'labels are')} likely wrong, such as")
        for path, label, like, probability in found.suspects[:_SHOWN]:
            screen.print(escape(f"  {path}: {label}, looks like {like} ({probability:.2f})"))
    spent = found.seconds
    screen.print(
        f"\n{spent['total']:.1f} s: scan {spent['scan']:.1f}, features {spent['features']:.1f}, "
        f"{found.k * len(found.accuracies)} heads {spent['heads']:.1f}."
    )
    if out:
        screen.print(escape(f"{out}: predictions.csv, label_errors.csv, confusion_matrix.png, crossval.json"))
