"""`regraft clean DATA`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import console, print_json
from regraft.pipeline.listening import listening


def command(
    data: Annotated[str, typer.Argument(help="A folder of labelled images, or a manifest.")],
    drop: Annotated[
        str, typer.Option(help="What to leave out, as `regraft inspect` names it: duplicates,unreadable,conflict,...")
    ],
    out: Annotated[Path, typer.Option(help="The manifest to write; it must not be there yet.")],
    group_by: Annotated[
        str, typer.Option(help="Regular expression on the path: images with the same match belong together.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print what was left out as JSON.")] = False,
) -> None:
    """Write a manifest without what was found wrong; no image is touched."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.pipeline.arrange import clean_into
    kinds = list(dict.fromkeys(kind.strip() for kind in drop.split(",") if kind.strip()))
    with listening(screen) as listener:
        _, kept, dropped = clean_into(data, out, kinds, group_by=group_by, listener=listener)
    if json:
        print_json({"manifest": str(out), "kept": len(kept), "dropped": [vars(d) for d in dropped]})
        return
    for kind, count in Counter(d.kind for d in dropped).items():
        screen.print(f"  {count:>7,}  {kind}")
    screen.print(
        escape(
            f"{out}: {len(kept):,} images stay. {out.with_suffix('.dropped.csv')}: {len(dropped):,} do not, and why."
        )
    )
    if "label_error" in kinds:
        screen.print(
            "Images whose label a model doubts are often only hard. Without them a test says too much: judge the model "
            "on images that were not cleaned."
        )
    screen.print(f"\n[bold]Try next[/bold]\n  regraft train {escape(str(out))}")
