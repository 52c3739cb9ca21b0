"""`regraft cache`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from rich.markup import escape
from rich.table import Table
from typer import Option

from regraft.cli.options import Json
from regraft.cli.output import console, print_json


def command(
    prune: Annotated[bool, Option("--prune", help="Remove everything, or what the next options say.")] = False,
    keep_gb: Annotated[float, Option(min=0, help="With --prune: keep this many GB of the latest.")] = 0.0,
    older_than_days: Annotated[float, Option(min=0, help="With --prune: remove only what is older.")] = 0.0,
    json: Json = False,
) -> None:
    """Show or remove cached images and features, which spare later runs the decoding and the frozen layers."""
    from regraft.cache import Cache

    cache = Cache()
    removed = cache.prune(to=int(keep_gb * 1e9), older_than=86400 * older_than_days) if prune else []
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    screen = console(json)
    if json:
        rows = [
            {"name": e.folder.name, "kind": e.kind, "key": dict(e.key), "rows": e.rows, "bytes": e.size, "used": e.used}
            for e in entries
        ]
        removed_names = [entry.folder.name for entry in removed]
        print_json({"folder": str(cache.root), "bytes": total, "removed": removed_names, "entries": rows})
        return
    if prune:
        freed = sum(entry.size for entry in removed) / 1e6
        screen.print(f"Removed {len(removed)} of {len(removed) + len(entries)} tables, {freed:.0f} MB.")
    if entries:
        table = Table("kind", "content", "rows", "MB", "last used", box=None, header_style="bold")
        for entry in entries:
            hours = max(0.0, time.time() - entry.used) / 3600  # the clock may have been set back
            age = f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
            content = escape(_content(entry.kind, entry.key))
            table.add_row(entry.kind, content, str(entry.rows), f"{entry.size / 1e6:.0f}", age)
        screen.print(table)
    screen.print(escape(f"{total / 1e6:.0f} MB in {cache.root}"))
    if entries and not prune:
        screen.print("`regraft cache --prune` removes all of it; later runs compute it again.")


_CONTENT = {
    "image_stats": "size, format and brightness of each image",
    "thumbnails": "thumbnails",
    "hashes": "hashes of files, by their times",
    "near_duplicates": "near duplicates of a data set",
}


def _content(kind: str, key: Mapping[str, Any]) -> str:
    if "precision" in key:
        position = "features" if key["boundary"] == "head" else f"before {key['boundary']}"
        return f"{key['backbone']} {position}, {key['preprocessing']['size']} px, {key['precision']}"
    if kind == "label_errors":
        return f"label errors by {key['backbone']}"
    if kind == "near_duplicate_features":
        return f"near duplicates by features of {key['backbone']}"
    return f"{key['size']} px, {key['resize']}" if "size" in key else _CONTENT.get(kind, "")
