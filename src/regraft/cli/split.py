"""`regraft split SRC DST`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import console, print_json
from regraft.pipeline.listening import listening


def command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Labelled images: whatever `regraft train` takes.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder, or one that was made by this command.")],
    train: Annotated[float, typer.Option(help="Share of the images for training.")] = 0.8,
    val: Annotated[float, typer.Option(help="Share for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    link: Annotated[bool, typer.Option("--link", help="Hard links in place of copies; they take no space.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A split.csv, or a run's folder, whose images keep their part.")
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="Regular expression on the path: images with the same match are not divided.")
    ] = "",
    remote: Annotated[
        bool, typer.Option("--remote", help="Fetch images that a manifest names elsewhere, by URLs.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what went where as JSON.")] = False,
) -> None:
    """Copy labelled images into DST/train|val|test/CLASS; near duplicates and groups are never divided."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.pipeline.arrange import SPLIT, split_into
    with listening(screen) as listener:
        parts = split_into(
            source, target, train=train, val=val, test=test, seed=seed, link=link, keep=keep, group_by=group_by,
            remote=remote, listener=listener,
        )  # fmt: skip
    bad = parts.dataset.bad
    if json:
        counts = {part: parts[part].counts() for part in parts}
        print_json({"folder": str(target), "counts": counts, "bad": [vars(b) for b in bad]})
        return
    for file in bad:
        screen.print(f"[yellow]left out[/yellow] {escape(file.path)}: {escape(file.reason)}")
    screen.print(escape(f"{target}: " + ", ".join(f"{len(parts[part]):,} {part}" for part in parts) + " images."))
    screen.print(escape(f"{target / SPLIT} says where each came from."))
    screen.print(f"\n[bold]Try next[/bold]\n  regraft train {escape(str(target))}")
