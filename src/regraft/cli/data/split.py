"""`regraft split SRC DST`."""

from __future__ import annotations

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
    Remote,
)
from regraft.cli.output import console, print_json
from regraft.runs.progress import rich_progress
from regraft.text import in_shell


def command(
    source: Annotated[str, Argument(metavar="SRC", help="Labeled images, as for `regraft train`.")],
    target: Annotated[Path, Argument(metavar="DST", help="A new folder, or an earlier output of this command.")],
    train: Annotated[float | None, Option(help="Share of the images for training.", show_default="0.8")] = None,
    val: Annotated[float | None, Option(help="Share for validation.", show_default="0.1")] = None,
    test: Annotated[float | None, Option(help="Share for the test.", show_default="0.1")] = None,
    seed: Annotated[int, Option(help="Seed of the split.")] = 0,
    link: Annotated[bool, Option("--link", help="Create hard links instead of copies.")] = False,
    keep: Annotated[Path | None, Option(help="A split.csv or a run's folder; its images keep their part.")] = None,
    group_by: GroupBy = None,
    layout: FolderLayout = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    bands: Bands = None,
    task: AskedTask = None,
    label_separator: LabelSeparator = None,
    remote: Remote = False,
    json: Json = False,
) -> None:
    """Copy images to DST/train|val|test/CLASS (of several labels: beside split.csv), with groups in one part."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.studies.write_folders import SPLIT, split_into
    with rich_progress(screen) as reporter:
        parts = split_into(
            source, target, train=train, val=val, test=test, seed=seed, link=link, keep=keep, group_by=group_by or "",
            remote=remote, layout=layout or "auto", image_column=image_column or "", label_column=label_column or "",
            bands=bands or "", task=task or "auto", label_separator=label_separator or "", reporter=reporter,
        )  # fmt: skip
    bad = parts.dataset.bad
    if json:
        counts = {part: parts[part].counts() for part in parts}
        print_json({"folder": str(target), "counts": counts, "bad": [vars(b) for b in bad]})
        return
    for file in bad:
        screen.print(f"[yellow]left out[/yellow] {escape(file.path)}: {escape(file.reason)}")
    screen.print(escape(f"{target}: " + ", ".join(f"{len(parts[part]):,} {part}" for part in parts) + " images."))
    screen.print(escape(f"{target / SPLIT} lists the source of each image."))
    is_table = parts.dataset.task == "multilabel"
    trained = in_shell(target / SPLIT if is_table else target) + (" --task multilabel" if is_table else "")
    options = " --layout tree" if parts.dataset.taxonomy else ""
    options += f" --bands {bands}" if bands else ""
    screen.print(f"\n[bold]Try next[/bold]\n  regraft train {escape(trained + options)}")
