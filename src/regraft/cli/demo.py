"""`regraft demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import Clock, console, print_json, print_next, print_result
from regraft.pipeline.listening import listening


def command(
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: a new one under runs/.")] = None,
    only_images: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="Train nothing: copy so many of the images to OUT/cells/CLASS, and twelve others to OUT/new. "
            "Default of --out: solar.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train on real images without a network: functional and defective solar cells, from a wheel."""
    clock = Clock()
    screen = console(json)
    with screen.status("Starting"):
        from regraft.pipeline.demo import demo_config, demo_images, write_demo_folder, write_demo_manifest
        from regraft.pipeline.folder import new_folder
        from regraft.pipeline.train import train_from

    config = demo_config()
    images = demo_images()
    if only_images is not None:
        cells, new = write_demo_folder(out or Path("solar"), images, only_images)
        if json:
            print_json({"cells": str(cells), "new": str(new)})
        else:
            screen.print("[dim]ELPV data set, Deitsch et al., CC BY-NC-SA 4.0: for you, not for passing on.[/dim]")
            screen.print(
                escape(f"{cells}   {only_images} solar cells, a folder of each class\n{new}     twelve others")
            )
            screen.print(escape(f"\nTry next\n  cd {cells.parent}\n  regraft inspect cells\n  regraft train cells"))
        return
    path = new_folder(out, "demo", "solar-cells")
    manifest = write_demo_manifest(path / "demo.csv", images)
    screen.print("Electroluminescence images of solar cells: which of them are defective?")
    screen.print("[dim]ELPV data set, Deitsch et al., CC BY-NC-SA 4.0; read where its wheel lies.[/dim]\n")
    with listening(screen) as listener:
        run = train_from(manifest, config, path, listener=listener)
        test = run.predictions.part("test")
        chosen = [
            i for name in range(len(test.classes)) for i in [k for k in range(len(test)) if test.labels[k] == name][:2]
        ]
        predictions = run.predict([Path(test.ids[i]) for i in chosen])
    if json:
        print_json({"run": str(run.path), **run.metrics})
        return
    print_result(screen, run, clock())
    screen.print("\n[bold]Four cells that it had not seen[/bold]")
    for i, prediction in zip(chosen, predictions, strict=True):
        top = "   ".join(f"{name} {100 * probability:5.1f} %" for name, probability in prediction.top(2))
        screen.print(escape(f"  {Path(prediction.source).name}   {top}   (it is {test.classes[test.labels[i]]})"))
    print_next(screen, run, predictions[0].source)
