"""`regraft classes RUN`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from rich.table import Table
from typer import Option

from regraft.cli.options import Json, RunFolder, RunImages
from regraft.cli.output import console, print_json, print_next, print_result
from regraft.errors import Interrupted, UsageError
from regraft.runs.progress import rich_progress


def command(
    run: RunFolder,
    rename: Annotated[list[str] | None, Option(metavar="OLD=NEW", help="Rename a class; may be repeated.")] = None,
    merge: Annotated[
        list[str] | None, Option(metavar="A,B=NEW", help="Make one class of several; may be repeated.")
    ] = None,
    drop: Annotated[list[str] | None, Option(metavar="NAME", help="Drop a class; may be repeated.")] = None,
    data: RunImages = None,
    out: Annotated[Path | None, Option(help="The new run's folder. Default: a new one under runs/.")] = None,
    json: Json = False,
) -> None:
    """List the classes of a run; or rename, merge or drop some of them, into a new run."""
    started, screen = time.monotonic(), console(json)
    changes = [*(rename or []), *(merge or []), *(drop or [])]
    if not changes and (given := data or out):
        raise UsageError(f"Received {given} and no change. Expected --rename, --merge or --drop.")
    with screen.status("Starting"):
        from regraft.runs.change_classes import change_classes, class_counts
        from regraft.runs.run import Run

        opened = Run(run)
    if not changes:
        counts = class_counts(opened)
        if json:
            print_json({"classes": counts})
        else:
            screen.print(_table(counts))
        return
    renames, merges, known = dict(map(_pair, rename or [])), dict[str, list[str]](), opened.classes
    for text in merge or []:
        old, new = _pair(text)
        merges[new] = [*merges.get(new, []), *_names(old, known)]
    dropped = [name for text in drop or [] for name in _names(text, known)]
    with rich_progress(screen) as reporter:
        changed = change_classes(
            opened, rename=renames, merge=merges, drop=dropped, data=data, out=out, reporter=reporter
        )
    if json:
        print_json({"run": str(changed.path), **changed.metrics})
    else:
        print_result(screen, changed, time.monotonic() - started)
        print_next(screen, changed)
    if changed.metrics["training"]["stopped"] == "interrupted":
        raise Interrupted(changed.path)


def _pair(text: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise UsageError(f"{text}: expected a new name after =, such as cat=animal, or cat,dog=animal to merge.")
    return old, new


def _names(text: str, known: tuple[str, ...]) -> list[str]:
    """One name, which may have commas, or several with commas between them."""
    return [text] if text in known else [name.strip() for name in text.split(",")]


def _table(counts: dict[str, dict[str, int]]) -> Table:
    table = Table("Class", "Images", "Train", "Val", "Test", box=None, pad_edge=False)
    for name, of_part in counts.items():
        parts = [of_part.get(part, 0) for part in ("train", "val", "test")]
        table.add_row(escape(name), *(f"{number:,}" for number in (sum(parts), *parts)))
    return table
