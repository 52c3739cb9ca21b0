"""`regraft inspect DATA`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from typer import Exit, Option

from regraft.cli.options import (
    AskedTask,
    Bands,
    FolderLayout,
    GroupBy,
    ImageColumn,
    Json,
    LabelColumn,
    LabeledData,
    LabelSeparator,
    Order,
    Remote,
    TaxonomyFile,
    Weights,
)
from regraft.cli.output import console, print_json
from regraft.errors import UsageError
from regraft.runs.progress import rich_progress
from regraft.text import in_shell, pluralize

if TYPE_CHECKING:
    from regraft.data.dataset import Dataset
    from regraft.data.quality.findings import Finding, Inspection

_COLORS = {"error": "bold red", "warning": "yellow", "info": "cyan"}
#: Numbers of files per finding and of classes that the terminal lists; the page and `--json` have all.
_FILES, _CLASSES = 4, 20


def command(
    data: LabeledData,
    out: Annotated[Path, Option(help="The page to write.")] = Path("inspect.html"),
    labels: Annotated[bool, Option(help="Look for label errors; runs the backbone on every image.")] = True,
    backbone: Annotated[str, Option(help="Backbone whose features judge the labels.")] = "efficientnet_lite0",
    weights: Weights = "auto",
    group_by: GroupBy = None,
    layout: FolderLayout = None,
    taxonomy: TaxonomyFile = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    bands: Bands = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    remote: Remote = False,
    fail_on: Annotated[str | None, Option(help="Exit with code 1 on a finding of this severity or worse.")] = None,
    json: Json = False,
) -> None:
    """Show what the data contains and what is wrong with it, on a page with images and advice."""
    from regraft.data.quality.findings import SEVERITIES

    if fail_on is not None and fail_on not in SEVERITIES:
        raise UsageError(f"--fail-on {fail_on}: expected {', '.join(SEVERITIES)}.")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; expected the name of an HTML file.")
    screen = console(json)
    with screen.status("Starting"):
        from regraft.studies.inspect.inspect import inspect
    with rich_progress(screen) as reporter:
        inspection = inspect(
            data, labels=labels, backbone=backbone, weights=weights or "auto", group_by=group_by or "", remote=remote,
            layout=layout or "auto", taxonomy=taxonomy, image_column=image_column or "",
            label_column=label_column or "", bands=bands or "", task=task or "auto",
            order=[name.strip() for name in order.split(",")] if order else (),
            label_separator=label_separator or "", reporter=reporter,
        )  # fmt: skip
        from regraft.studies.inspect.page import write_page  # imports Matplotlib

        write_page(inspection, out, progress=lambda done, total: reporter.on_progress("page", done, total, "pictures"))
    if json:
        print_json({**inspection.to_json(), "page": str(out)})
    else:
        asked = {
            "--group-by": group_by, "--layout": layout, "--image-column": image_column, "--label-column": label_column,
            "--bands": bands, "--task": task, "--label-separator": label_separator, "--taxonomy": taxonomy,
        }  # fmt: skip
        _print(screen, inspection, data, out, asked, order)
    # Data without two classes fails here as in every other verb.
    has_failed = fail_on and inspection.worst in SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    if has_failed or inspection.dataset.class_problems:
        raise Exit(1)


def _print(
    screen: Console,
    inspection: Inspection,
    data: str,
    out: Path,
    asked: Mapping[str, str | None],
    order: str | None,
) -> None:
    """Print the findings and the next commands; `asked` are given options of all these, the order that of train."""
    from regraft.data.quality.cleaning import proposed

    _print_statistics(screen, inspection.to_json()["statistics"], data)
    for finding in inspection.findings:
        _print_finding(screen, finding)
    if not inspection.findings:
        screen.print("[green]No problems found.[/green]\n")
    for note in (*inspection.dataset.notes, *inspection.notes):
        screen.print(f"[dim]{escape(note)}[/dim]")
    screen.print(f"\n[bold]Look at[/bold]  {escape(str(out))}")
    dataset = inspection.dataset
    reading = {**asked, "--task": asked["--task"] or _task_of(dataset)}
    if dataset.taxonomy is not None and not asked["--taxonomy"]:
        reading["--layout"] = "tree"
    if kinds := ",".join(proposed(inspection.findings)):
        words = escape(in_shell(data) + _words(reading))
        screen.print(f"[bold]Clean[/bold]    regraft clean {words} --drop {kinds} --out clean.csv")
    if not dataset.class_problems:
        words = escape(in_shell(data) + _words({**reading, "--order": order}))
        screen.print(f"[bold]Train[/bold]    regraft train {words}")


def _task_of(dataset: Dataset) -> str | None:
    """The task to pass to other commands; None for one class an image, which is their default."""
    if dataset.ordered:
        return "ordinal"
    return None if dataset.task == "classification" else dataset.task


def _words(options: Mapping[str, str | None]) -> str:
    """Options as on a command line, after a space; those without a value are left out."""
    return "".join(f" {name} {in_shell(value)}" for name, value in options.items() if value)


def _print_statistics(screen: Console, statistics: dict[str, Any], data: str) -> None:
    parts = "".join(f", {count:,} {part}" for part, count in statistics["parts"].items())
    size, classes = statistics["bytes"] / 1e6, statistics["classes"]
    what = f"in {pluralize(len(classes), 'class', 'classes')}"
    if numbers := statistics.get("numbers"):
        spread = numbers["parts"].get("all")
        ends = "" if spread is None else " from {least:.4g} to {largest:.4g} (mean {mean:.4g})".format(**spread)
        what = f"with {escape(numbers['quantity'])}{ends}"
    screen.print(
        f"\n[bold]{escape(data)}[/bold]: {pluralize(statistics['images'], 'image')} {what}{parts}; "
        f"{size:,.{int(size < 10)}f} MB."
    )
    shown = {name: counts["all"] for name, counts in classes.items()}
    if tree := statistics.get("tree"):
        shown = {"  " * (node["level"] - 1) + node["name"]: node["images"] for node in tree}
    if numbers:
        bars = zip(*numbers["histogram"].values(), strict=False)
        shown = {f"from {edge:.4g}": count for count, edge in bars}
    largest = max(shown.values(), default=1) or 1
    block = "#" if screen.options.ascii_only else "█"
    indent = max(map(len, list(shown)[:_CLASSES]), default=0)
    for name, count in list(shown.items())[:_CLASSES]:
        bar = block * max(1, round(40 * count / largest)) if count else ""
        screen.print(f"  {escape(name):<{indent}}  {count:>7,}  [blue]{bar}[/blue]")
    if len(shown) > _CLASSES:
        screen.print(f"  and {len(shown) - _CLASSES:,} more {'nodes' if tree else 'classes'}")
    if counted := statistics.get("labels_per_image"):
        each = ", ".join(f"{number or 'no'}: {images:,}" for number, images in counted.items())
        screen.print(f"  Labels of an image: {each}.")
    if quantiles := statistics["quantiles"]:
        width, height = quantiles["width"], quantiles["height"]
        formats = ", ".join(f"{name} {count:,}" for name, count in statistics["formats"].items())
        screen.print(
            f"  Width {width[0]:.0f} to {width[-1]:.0f} pixels (median {width[3]:.0f}), height {height[0]:.0f} to "
            f"{height[-1]:.0f} (median {height[3]:.0f}); {formats}."
        )
    screen.print()


def _print_finding(screen: Console, finding: Finding) -> None:
    severity = f"[{_COLORS[finding.severity]}]{finding.severity:<7}[/]"
    screen.print(f"{severity}  {escape(finding.title)} [dim]({finding.kind})[/dim]")
    for files, detail in list(zip(finding.files, finding.details, strict=False))[:_FILES]:
        screen.print(f"           {escape(' = '.join(files[:3]))}{' ...' if len(files) > 3 else ''}: {escape(detail)}")
    if not finding.files:
        for detail in finding.details[:_FILES]:
            screen.print(f"           {escape(detail)}")
    if len(finding.files) > _FILES:
        screen.print(f"           and {len(finding.files) - _FILES:,} more")
    screen.print(f"         [dim]{escape(finding.advice)}[/dim]\n")
