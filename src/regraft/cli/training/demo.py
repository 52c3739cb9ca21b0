"""`regraft demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Option

from regraft.cli.options import Json
from regraft.cli.output import console, print_json, print_next, print_result
from regraft.errors import Interrupted
from regraft.runs.progress import rich_progress
from regraft.text import in_shell

_LICENSE = "ELPV data set, Deitsch et al., CC BY-NC-SA 4.0"


def command(
    out: Annotated[Path | None, Option(help="The run's folder. Default: a new one under runs/.")] = None,
    only_images: Annotated[
        int | None, Option(metavar="COUNT", help="Only copy COUNT images to OUT/cells/CLASS and 12 others to OUT/new.")
    ] = None,
    json: Json = False,
) -> None:
    """Train on real images without a network: functional and defective solar cells, from a wheel."""
    from regraft.runs.demo import demo_config, demo_images, write_demo_folder, write_demo_manifest

    started, screen, images = time.monotonic(), console(json), demo_images()
    if only_images is not None:
        cells, new = write_demo_folder(out or Path("solar"), images, only_images)
        if json:
            print_json({"cells": str(cells), "new": str(new)})
        else:
            screen.print(f"[dim]{_LICENSE}: for your own use, do not redistribute.[/dim]")
            screen.print(escape(f"{cells}   {only_images} solar cells, one folder per class\n{new}     12 others"))
            place = in_shell(cells.parent)
            screen.print(escape(f"\nTry next\n  cd {place}\n  regraft inspect cells\n  regraft train cells"))
        return
    with screen.status("Starting"):
        from regraft.runs.run_folder import new_folder
        from regraft.runs.train_from import train_from

    path = new_folder(out, "demo", "solar-cells")
    manifest = write_demo_manifest(path / "demo.csv", images)
    screen.print("Electroluminescence images of solar cells: which of them are defective?")
    screen.print(f"[dim]{_LICENSE}; read from the installed wheel.[/dim]\n")
    with rich_progress(screen) as reporter:
        run = train_from(manifest, demo_config(), path, reporter=reporter)
        if run.metrics["training"]["stopped"] == "interrupted":
            raise Interrupted(path)
        test = run.predictions.part("test")
        chosen = [i for label in range(len(test.classes)) for i in (test.labels == label).nonzero()[0][:2].tolist()]
        predictions = run.predict([Path(test.ids[i]) for i in chosen])
    if json:
        print_json({"run": str(run.path), **run.metrics})
        return
    print_result(screen, run, time.monotonic() - started)
    screen.print("\n[bold]Four test images[/bold]")
    for i, prediction in zip(chosen, predictions, strict=True):
        top = "   ".join(f"{name} {100 * probability:5.1f} %" for name, probability in prediction.top(2))
        screen.print(escape(f"  {Path(prediction.source).name}   {top}   (true: {test.classes[test.labels[i]]})"))
    print_next(screen, run, predictions[0].source)
