"""`regraft learning-curve DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.studies.learning_curve.learning_curve import LearningCurve

#: Number of classes that the terminal lists.
_CLASSES = 20


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
    for line in _lines(curve):
        screen.print(line)
    if out:
        screen.print(escape(f"{out}: learning_curve.png, learning_curve.csv, learning_curve.json"))


def _lines(curve: LearningCurve) -> list[str]:
    from regraft.studies.learning_curve.extrapolation import describe_gain
    from regraft.text import display_width, one_line, shorten

    kappas, unit = list(curve.quadratic_kappa or ()), curve.unit
    lines = ["", f"{unit:>10}   accuracy   (95 %)           macro-F1{'      kappa' if kappas else ''}"]
    for (kind, n, a), (_, _, f) in zip(curve.accuracy.points(), curve.macro_f1.points(), strict=True):
        if curve.at_chance and kind == "extrapolated":
            continue
        text = f"{n:10,.0f}   {100 * a.value:6.1f} %   {100 * a.low:5.1f} to {100 * a.high:5.1f}"
        remark = "  extrapolated" if kind == "extrapolated" else f"   {kappas.pop(0).value:8.3f}" if kappas else ""
        lines.append(f"{text}   {100 * f.value:8.1f} %{remark}")
    if curve.at_chance:
        return [*lines, "", f"[yellow]{escape(curve.at_chance)} Nothing is extrapolated from it.[/yellow]"]
    gain = describe_gain(curve.accuracy.gain, curve.accuracy.verdict)
    if curve.accuracy.verdict == "unknown":
        gain = f"the effect on accuracy is {gain}[/bold green]."
    else:
        gain += "[/bold green] of accuracy."
    lines += ["", f"[bold green]Twice the {unit} of all classes: {gain}"]
    listed = sorted(curve.classes, key=lambda row: -(row.gain_alone or row.recall.gain).value)[:_CLASSES]
    names = [shorten(one_line(row.name), 28) for row in listed]
    width = max(map(display_width, names))
    for name, row in zip(names, listed, strict=True):
        label = escape(name + " " * (width - display_width(name)))
        text = f"  {label}  recall {100 * row.recall.measured[-1].value:5.1f} %; all doubled: "
        text += describe_gain(row.recall.gain, row.recall.verdict)
        if row.gain_alone and row.verdict_alone and row.gain_alone_macro_f1:
            text += f"; it alone: {describe_gain(row.gain_alone, row.verdict_alone)}"
            low, high = 100 * row.gain_alone_macro_f1.low, 100 * row.gain_alone_macro_f1.high
            text += f", macro-F1 {low:+.1f} to {high:+.1f}"
        lines.append(text)
    if len(curve.classes) > len(listed):
        lines.append(f"  and {len(curve.classes) - len(listed)} more classes with smaller gains (--out, --json)")
    seconds = curve.seconds
    lines += [
        "",
        "In points, with 95 % intervals, for the head alone, without augmentation or fine-tuning.",
        f"{seconds['total']:.1f} s: scan {seconds['scan']:.1f}, features {seconds['features']:.1f}, "
        f"{curve.heads} heads {seconds['heads']:.1f}, curves {seconds['curves']:.1f}.",
    ]
    return lines
