"""`regraft drift RUN PICTURES`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Exit, Option

from regraft.cli.options import Json, RunFolder
from regraft.cli.output import console, print_json
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.studies.drift.choose import ChosenPicture
    from regraft.studies.drift.drift import Drift

#: Classes, and chosen pictures, that the terminal lists.
_CLASSES, _PICTURES = 8, 5
#: Forms of a time.
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def command(
    run: RunFolder,
    pictures: Annotated[str, Argument(help="New pictures, or a log of `regraft serve`.")],
    against: Annotated[str | None, Option(help="Earlier pictures or log. Default: validation.")] = None,
    since: Annotated[
        datetime | None,
        Option(metavar="TIME", formats=_TIMES, help="Of a log: answers since then, UTC."),
    ] = None,
    alpha: Annotated[float, Option(metavar="RATE", help="False alarms of all tests together.")] = 0.01,
    group_by: Annotated[
        str | None, Option(metavar="NAME", help="Column or path pattern: one of a group counts.")
    ] = None,
    label: Annotated[int, Option(metavar="N", min=0, help="Number of pictures to label next.")] = 20,
    out: Annotated[Path, Option(help="Folder for what is written; the run stays as it is.")] = Path("drift"),
    fail_on_drift: Annotated[bool, Option("--fail-on-drift", help="Exit with code 1 on a change.")] = False,
    json: Json = False,
) -> None:
    """Test whether new pictures, or the answers for them, differ from those in validation."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.runs.run_folder import refuse_images
        from regraft.studies.drift.drift import RESULT, drift
    if not (out / RESULT).exists():
        refuse_images(out)
    with rich_progress(screen) as reporter:
        found = drift(
            run, pictures, against=against, since=since, alpha=alpha, group_by=group_by or "", label_count=label,
            reporter=reporter,
        )  # fmt: skip
        files = found.write(out)
    if json:
        print_json({**found.to_json(), "files": [str(file) for file in files]})
    else:
        _print(screen, found, files)
    if fail_on_drift and found.changes.is_drift:
        raise Exit(1)


def _print(screen: Console, found: Drift, files: list[Path]) -> None:
    changes = found.changes
    color = "bold red" if changes.is_drift else "yellow" if changes.are_few else "bold green"
    screen.print(f"\n[{color}]{escape(changes.verdict)}[/{color}]\n")
    for one in changes.tests:
        if one.adjusted <= changes.alpha:
            screen.print(escape(f"  {one.sentence}"))
    headers = ("test", "effect", "95 % interval", "without change", "p-value", "of all tests")
    table = Table(*headers, box=None, header_style="bold")
    for one in changes.tests:
        low, high = one.interval
        table.add_row(
            f"{one.subject}: {one.test}", f"{one.effect:.2f}", f"{low:.2f} to {high:.2f}", f"{one.unchanged:g}",
            f"{one.p_value:.2g}", f"{one.adjusted:.2g}", style="bold" if one.adjusted <= changes.alpha else "",
        )  # fmt: skip
    screen.print()
    screen.print(table)
    if len(changes.shares) > 1:
        shares = Table("answer", changes.reference, "new", "points (95 % for all)", box=None, header_style="bold")
        for share in changes.shares[:_CLASSES]:
            difference = 100 * (share.new - share.reference)
            low, high = (100 * bound for bound in share.interval)
            shares.add_row(
                escape(share.label), f"{100 * share.reference:.1f} %", f"{100 * share.new:.1f} %",
                f"{difference:+.1f} ({low:+.1f} to {high:+.1f})",
            )  # fmt: skip
        screen.print()
        screen.print(shares)
        if len(changes.shares) > _CLASSES:
            screen.print(f"and {len(changes.shares) - _CLASSES:,} more in {escape(str(files[0]))}", style="dim")
    _print_pictures(screen, "Strangest", found.strangest)
    _print_pictures(screen, "Label next", found.label_next, with_reason=True)
    screen.print()
    for note in found.notes:
        screen.print(escape(note), style="dim")
    screen.print(f"[bold]Look at[/bold]  {escape(', '.join(map(str, files)))}")


def _print_pictures(
    screen: Console, title: str, chosen: tuple[ChosenPicture, ...], *, with_reason: bool = False
) -> None:
    if not chosen:
        return
    screen.print(f"\n[bold]{title}[/bold]")
    for one in chosen[:_PICTURES]:
        strange = "" if one.p_value is None else f", p = {one.p_value:.2g}"
        reason = f" (by {one.reason})" if with_reason else ""
        sure = "" if one.confidence is None else f", confidence {one.confidence:.2f}"
        screen.print(escape(f"  {one.name}  {one.answer}{strange}{sure}{reason}"))
    if len(chosen) > _PICTURES:
        screen.print(f"  and {len(chosen) - _PICTURES} more", style="dim")
