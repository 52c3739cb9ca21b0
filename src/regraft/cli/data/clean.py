"""`regraft clean DATA`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Argument, Option

from regraft.cli.options import (
    AskedTask,
    Bands,
    FolderLayout,
    GroupBy,
    ImageColumn,
    Json,
    LabelColumn,
    LabelSeparator,
    TaxonomyFile,
)
from regraft.cli.output import console, parse_names, print_json
from regraft.runs.progress import rich_progress
from regraft.text import in_shell


def command(
    data: Annotated[str, Argument(help="A folder of labeled images, or a manifest.")],
    drop: Annotated[str, Option(help="Findings of `regraft inspect` to drop: duplicates,unreadable,...")],
    out: Annotated[Path, Option(help="The manifest to write; it must not exist yet.")],
    group_by: GroupBy = None,
    layout: FolderLayout = None,
    taxonomy: TaxonomyFile = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    bands: Bands = None,
    task: AskedTask = None,
    label_separator: LabelSeparator = None,
    json: Json = False,
) -> None:
    """Write a manifest without the images that have certain findings; no image is changed."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.studies.write_folders import clean_into, tree_file
    kinds = parse_names(drop)
    with rich_progress(screen) as reporter:
        _, kept, dropped = clean_into(
            data,
            out,
            kinds,
            group_by=group_by or "",
            layout=layout or "auto",
            taxonomy=taxonomy,
            image_column=image_column or "",
            label_column=label_column or "",
            bands=bands or "",
            task=task or "auto",
            label_separator=label_separator or "",
            reporter=reporter,
        )
    if json:
        print_json({"manifest": str(out), "kept": len(kept), "dropped": [vars(d) for d in dropped]})
        return
    for kind, count in Counter(d.kind for d in dropped).items():
        screen.print(f"  {count:>7,}  {kind}")
    reasons = out.with_suffix(".dropped.csv")
    screen.print(escape(f"{out}: {len(kept):,} images kept. {reasons}: {len(dropped):,} images dropped, with reasons."))
    if "label_error" in kinds:
        screen.print(
            "Images whose label a model disagrees with are often just hard. A test without them is too optimistic: "
            "evaluate the model on images that were not cleaned."
        )
    options = "" if kept.task == "classification" else f" --task {kept.task}"
    options += f" --bands {bands}" if bands else ""
    of_tree = f" --taxonomy {in_shell(tree_file(out))}" if tree_file(out).is_file() else ""
    screen.print(f"\n[bold]Try next[/bold]\n  regraft train {escape(in_shell(out) + of_tree + options)}")
