"""`regraft cache`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from regraft.cli.output import console, print_json


def command(
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was used least recently, or everything.")] = False,
    keep_gb: Annotated[float, typer.Option(min=0, help="With --prune: this much may stay, in 10^9 bytes.")] = 0.0,
    older_than_days: Annotated[float, typer.Option(min=0, help="With --prune: only what is as old as that.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """What is kept on this machine so that no image is decoded and no frozen layer run twice."""
    from regraft.store import Store

    store = Store()
    removed = store.prune(to=int(keep_gb * 1e9), older_than=86400 * older_than_days) if prune else []
    entries = store.entries()
    total = sum(entry.size for entry in entries)
    screen = console(json)
    if json:
        print_json(
            {
                "folder": str(store.root),
                "bytes": total,
                "removed": [entry.folder.name for entry in removed],
                "entries": [
                    {
                        "name": entry.folder.name, "kind": entry.kind, "key": dict(entry.key), "rows": entry.rows,
                        "bytes": entry.size, "used": entry.used,
                    }
                    for entry in entries
                ],
            }
        )  # fmt: skip
        return
    if prune:
        freed = sum(entry.size for entry in removed) / 1e6
        screen.print(f"Removed {len(removed)} of {len(removed) + len(entries)} tables, {freed:.0f} MB.")
    if entries:
        table = Table("what", "of", "rows", "MB", "last used", box=None, header_style="bold")
        for entry in entries:
            hours = (time.time() - entry.used) / 3600
            age = f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
            table.add_row(
                entry.kind, escape(_what(entry.kind, entry.key)), str(entry.rows), f"{entry.size / 1e6:.0f}", age
            )
        screen.print(table)
    screen.print(escape(f"{total / 1e6:.0f} MB in {store.root}"))
    if entries and not prune:
        screen.print("regraft cache --prune removes it; nothing is lost but time.")


_PLAIN = {
    "facts": "what reading each image told",
    "thumbs": "a small picture of each image",
    "hashes": "contents of files by their times",
    "twins": "near duplicates of a data set",
}


def _what(kind: str, key: Any) -> str:
    if "precision" in key:
        where = "features" if key["boundary"] == "head" else f"before {key['boundary']}"
        return f"{key['backbone']} {where}, {key['preprocessing']['size']} px, {key['precision']}"
    if kind == "label_errors":
        return f"labels judged by {key['backbone']}"
    if kind == "twin_features":
        return f"near duplicates as {key['backbone']} sees them"
    return f"{key['size']} px, {key['resize']}" if "size" in key else _PLAIN.get(kind, "")
