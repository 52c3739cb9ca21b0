"""`regraft inspect DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from regraft.cli.output import console, print_json
from regraft.errors import UsageError, counted
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from regraft.data.audit import Finding, Inspection

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}
#: Files of a finding, and classes, that the terminal names; the page and `--json` have more.
_FILES, _CLASSES = 4, 20


def command(
    data: Annotated[
        str,
        typer.Argument(help="A folder of labelled images, a manifest, an archive: whatever `regraft train` takes."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("inspect.html"),
    labels: Annotated[
        bool,
        typer.Option(
            help="Look for wrong labels and compare near duplicates, which runs the backbone once over every image."
        ),
    ] = True,
    backbone: Annotated[str, typer.Option(help="Whose features judge the labels.")] = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="auto, wheel, hub, none, or the path of a file.")] = "auto",
    group_by: Annotated[
        str, typer.Option(help="Regular expression on the path: images with the same match belong together.")
    ] = "",
    remote: Annotated[
        bool, typer.Option("--remote", help="Fetch images that a manifest names elsewhere, by URLs.")
    ] = False,
    fail_on: Annotated[
        str | None, typer.Option(help="Leave with exit code 1 if there is a finding of this severity or a graver one.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON; the page is written all the same.")
    ] = False,
) -> None:
    """What is in the data, and what is wrong with it: a page of pictures, and findings with what to do."""
    from regraft.data.audit import SEVERITIES

    if fail_on is not None and fail_on not in SEVERITIES:
        raise UsageError(f"--fail-on {fail_on}: expected {', '.join(SEVERITIES)}.")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; expected the name of an HTML file.")
    screen = console(json)
    with screen.status("Starting"):
        from regraft.pipeline.inspect import inspect
    with listening(screen) as listener:
        inspection = inspect(
            data, labels=labels, backbone=backbone, weights=weights, group_by=group_by, remote=remote,
            listener=listener,
        )  # fmt: skip
        from regraft.report.inspection import write_page

        write_page(inspection, out, progress=lambda done, total: listener.work("page", done, total, "pictures"))
    if json:
        print_json({**inspection.to_json(), "page": str(out)})
    else:
        _print(screen, inspection, data, out)
    bad = SEVERITIES[: SEVERITIES.index(fail_on) + 1] if fail_on else ()
    if inspection.worst in bad:
        raise typer.Exit(1)


def _print(screen: Console, inspection: Inspection, data: str, out: Path) -> None:
    from regraft.data.cleaning import proposed

    facts = inspection.to_json()["statistics"]
    parts = "".join(f", {count:,} {part}" for part, count in facts["parts"].items())
    size = facts["bytes"] / 1e6
    screen.print(
        f"\n[bold]{escape(data)}[/bold]: {counted(facts['images'], 'image')} in "
        f"{counted(len(facts['classes']), 'class', 'classes')}{parts}; {size:,.{int(size < 10)}f} MB."
    )
    most = max((counts["all"] for counts in facts["classes"].values()), default=1) or 1
    width = max((len(name) for name in list(facts["classes"])[:_CLASSES]), default=0)
    for name, counts in list(facts["classes"].items())[:_CLASSES]:
        bar = "█" * max(1, round(40 * counts["all"] / most)) if counts["all"] else ""
        screen.print(f"  {escape(name):<{width}}  {counts['all']:>7,}  [blue]{bar}[/blue]")
    if len(facts["classes"]) > _CLASSES:
        screen.print(f"  and {len(facts['classes']) - _CLASSES:,} more classes")
    if facts["quantiles"]:
        width_, height = facts["quantiles"]["width"], facts["quantiles"]["height"]
        formats = ", ".join(f"{name} {count:,}" for name, count in facts["formats"].items())
        screen.print(
            f"  {width_[0]:.0f} to {width_[-1]:.0f} pixels wide (median {width_[3]:.0f}), {height[0]:.0f} to "
            f"{height[-1]:.0f} high (median {height[3]:.0f}); {formats}."
        )
    screen.print()
    for finding in inspection.findings:
        _print_finding(screen, finding)
    if not inspection.findings:
        screen.print("[green]Nothing was found that is wrong.[/green]\n")
    for note in (*inspection.dataset.notes, *inspection.notes):
        screen.print(f"[dim]{escape(note)}[/dim]")
    screen.print(f"\n[bold]Look at[/bold]  {escape(str(out))}")
    if kinds := ",".join(proposed(inspection.findings)):
        screen.print(f"[bold]Clean[/bold]    regraft clean {escape(data)} --drop {kinds} --out clean.csv")
    screen.print(f"[bold]Train[/bold]    regraft train {escape(data)}")


def _print_finding(screen: Console, finding: Finding) -> None:
    screen.print(
        f"[{_COLOURS[finding.severity]}]{finding.severity:<7}[/]  {escape(finding.title)} [dim]({finding.kind})[/dim]"
    )
    for files, detail in list(zip(finding.files, finding.details, strict=False))[:_FILES]:
        screen.print(f"           {escape(' = '.join(files[:3]))}{' ...' if len(files) > 3 else ''}: {escape(detail)}")
    if not finding.files:
        for detail in finding.details[:_FILES]:
            screen.print(f"           {escape(detail)}")
    if len(finding.files) > _FILES:
        screen.print(f"           and {len(finding.files) - _FILES:,} more")
    screen.print(f"         [dim]{escape(finding.advice)}[/dim]\n")
