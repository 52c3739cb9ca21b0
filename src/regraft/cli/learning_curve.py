"""`regraft learning-curve DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from regraft.cli.options import Backbone, ConfigFile, GroupBy, Settings, Weights, as_settings
from regraft.cli.output import console, print_json
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from regraft.pipeline.learning_curve import LearningCurve

#: Classes that the terminal names; the files have all.
_SHOWN = 20


def command(
    data: Annotated[
        str, typer.Argument(help="Labelled images: whatever `regraft train` takes; parts are put together.")
    ],
    repeats: Annotated[
        int | None, typer.Option(help="Divisions into five folds.", show_default="2; 1 above 2,000 images")
    ] = None,
    each: Annotated[
        bool | None,
        typer.Option("--each/--no-each", help="Also double each class alone.", show_default="up to 12 classes"),
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other folds and parts.")] = None,
    group_by: GroupBy = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for learning_curve.png, .csv and .json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What twice the images would bring, in all and of each class; the frozen layers run once."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.config import load_config
        from regraft.pipeline.learning_curve import learning_curve
    named = {
        "model.backbone": backbone,
        "model.weights": weights,
        "training.seed": seed,
        "data.group_by": group_by,
    }
    resolved = load_config(config, as_settings(settings, named))
    with listening(screen) as listener:
        found = learning_curve(data, repeats=repeats, each=each, config=resolved, out=out, listener=listener)
    if json:
        print_json(found.to_json())
        return
    for line in _lines(found):
        screen.print(line)
    if out:
        screen.print(escape(f"{out}: learning_curve.png, learning_curve.csv, learning_curve.json"))


def _lines(found: LearningCurve) -> list[str]:
    from regraft.evaluation.learning_curve import describe_gain
    from regraft.evaluation.names import display_width, one_line, shorten

    lines = ["", "    images   accuracy   (95 %)           macro-F1"]
    first, second = found.accuracy, found.macro_f1
    rows = [(n, a, f, "") for n, a, f in zip(first.sizes, first.measured, second.measured, strict=True)]
    rows += [(n, a, f, "  extrapolated") for n, a, f in zip(first.ahead_sizes, first.ahead, second.ahead, strict=True)]
    lines += [
        f"{n:10,.0f}   {100 * a.value:6.1f} %   {100 * a.low:5.1f} to {100 * a.high:5.1f}   {100 * f.value:8.1f} %"
        f"{word}"
        for n, a, f, word in rows
    ]
    words = describe_gain(first.gain, first.verdict)
    lines += ["", f"[bold green]Twice the images of all classes: {words}[/bold green] of accuracy."]
    shown = sorted(found.classes, key=lambda row: -(row.alone or row.joint.gain).value)[:_SHOWN]
    names = [shorten(one_line(row.name), 28) for row in shown]
    width = max(map(display_width, names))
    for name, row in zip(names, shown, strict=True):
        label = escape(name + " " * (width - display_width(name)))
        text = f"  {label}  recall {100 * row.joint.measured[-1].value:5.1f} %; all doubled: "
        text += describe_gain(row.joint.gain, row.joint.verdict)
        if row.alone and row.alone_verdict and row.alone_macro_f1:
            text += f"; it alone: {describe_gain(row.alone, row.alone_verdict)}"
            low, high = 100 * row.alone_macro_f1.low, 100 * row.alone_macro_f1.high
            text += f", macro-F1 {low:+.1f} to {high:+.1f}"
        lines.append(text)
    if len(found.classes) > len(shown):
        lines.append(f"  and {len(found.classes) - len(shown)} more classes, which gain less (--out, --json)")
    spent = found.seconds
    lines += [
        "",
        "In points, with 95 % intervals; of the head alone, without views, augmentation or fine-tuning.",
        f"{spent['total']:.1f} s: scan {spent['scan']:.1f}, features {spent['features']:.1f}, "
        f"{found.heads} heads {spent['heads']:.1f}, curves {spent['curves']:.1f}.",
    ]
    return lines
