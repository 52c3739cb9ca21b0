"""`regraft learning-curve DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Option

from regraft.cli.options import (
    AskedTask,
    Backbone,
    ConfigFile,
    FolderLayout,
    GroupBy,
    Json,
    LabeledData,
    LabelSeparator,
    Order,
    PoolBy,
    Settings,
    Weights,
)
from regraft.cli.output import console, print_json
from regraft.cli.tasks import OUTPUTS
from regraft.runs.progress import rich_progress


def command(
    data: LabeledData,
    repeats: Annotated[
        int | None, Option(help="Divisions into five folds.", show_default="2; 1 above 2,000 images")
    ] = None,
    each: Annotated[
        bool | None, Option("--each/--no-each", help="Also double each class alone.", show_default="up to 12 classes")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    seed: Annotated[int | None, Option(help="Seed of the folds and subsets.")] = None,
    group_by: GroupBy = None,
    pool_by: PoolBy = None,
    layout: FolderLayout = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, Option(help="A new folder for plot and tables.")] = None,
    json: Json = False,
) -> None:
    """Estimate what twice the images would gain, in total and per class; the frozen layers run once."""
    screen = console(json)
    overrides = {
        "model.backbone": backbone, "model.weights": weights, "training.seed": seed, "data.group_by": group_by,
        "data.pool_by": pool_by, "data.layout": layout, "data.task": task, "data.order": order,
        "data.label_separator": label_separator,
    }  # fmt: skip
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = load_config(config, settings or [], overrides)
        from regraft.studies.learning_curve.learning_curve import learning_curve
    with rich_progress(screen) as reporter:
        curve = learning_curve(data, repeats=repeats, each=each, config=resolved, out=out, reporter=reporter)
    if json:
        print_json(curve.to_json())
        return
    for line in OUTPUTS[curve.task].learning_curve_lines(curve):
        screen.print(line)
    seconds = curve.seconds
    screen.print(
        "\nIn points, with 95 % intervals, for the head alone, without augmentation or fine-tuning.\n"
        f"{seconds['total']:.1f} s: scan {seconds['scan']:.1f}, features {seconds['features']:.1f}, "
        f"{curve.heads} heads {seconds['heads']:.1f}, curves {seconds['curves']:.1f}."
    )
    if out:
        screen.print(escape(f"{out}: learning_curve.png, learning_curve.csv, learning_curve.json"))
