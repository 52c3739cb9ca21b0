"""`regraft compare DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Exit, Option

from regraft.cli.options import (
    AskedTask,
    Budget,
    ClusterAddress,
    ClusterCpus,
    ConfigFile,
    ImageSize,
    Json,
    LabelSeparator,
    Order,
    PoolBy,
    Settings,
    StudyFolder,
    Weights,
    cluster_of,
    refuse_flags_without_effect,
    with_training_flags,
)
from regraft.cli.output import console, parse_names, parse_seconds, print_json
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.studies.compare.result import Comparison


@with_training_flags
def command(
    data: Annotated[str | None, Argument(help="Labeled images, as for `train`; not for --runs alone.")] = None,
    backbones: Annotated[
        str, Option(help="Names with commas between, from `regraft backbones` or timm.", show_default=False)
    ] = "",
    baselines: Annotated[
        str, Option("--with", help="Networks with random weights: ann, cnn or ann,cnn.", show_default=False)
    ] = "",
    runs: Annotated[
        list[Path] | None, Option("--runs", help="An existing run with the same split; may be repeated.")
    ] = None,
    budget: Budget = None,
    random_if_missing: Annotated[
        bool, Option("--random-if-missing", help="Use random weights if the pretrained ones are missing.")
    ] = False,
    weights: Weights = None,
    image_size: ImageSize = None,
    pool_by: PoolBy = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: StudyFolder = None,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Train several backbones and plain networks on the same split, and test their differences."""
    screen = console(json)
    seconds = 0.0 if budget is None else parse_seconds(budget)
    given = {
        "model.weights": weights,
        "model.image_size": image_size,
        "data.pool_by": pool_by,
        "data.task": task,
        "data.order": order,
        "data.label_separator": label_separator,
        **flags,
    }
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = load_config(config, settings or [], given)
        refuse_flags_without_effect(resolved, flags)
        from regraft.studies.compare.compare import compare
    with rich_progress(screen) as reporter:
        comparison = compare(
            data, parse_names(backbones), baselines=parse_names(baselines), runs=runs or [], config=resolved,
            budget=seconds, random_if_missing=random_if_missing, out=out, cluster=cluster_of(cluster, cluster_cpus),
            reporter=reporter,
        )  # fmt: skip
    if json:
        print_json(comparison.to_json())
    else:
        _print(screen, comparison)
    for name, reason in comparison.failed.items():
        screen.print(f"[yellow]{escape(name)} could not be trained:[/yellow] {escape(reason)}")
    if comparison.failed:
        raise Exit(1)


def _print(screen: Console, comparison: Comparison) -> None:
    from regraft.report.run_table import folded

    for head, *rows in folded([model.to_json() for model in comparison.models], screen.width):
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number and name != "trained" else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        screen.print()
        screen.print(table)
    screen.print()
    if comparison.caption:
        screen.print(escape(comparison.caption))
    for sentence in comparison.conclusion:
        screen.print(escape(sentence))
    screen.print(
        f"\n{comparison.seconds:.0f} s. [bold]Look at[/bold]  {escape(str(comparison.path))}: comparison.png, "
        "comparison.md, comparison.csv, and one run per model"
    )
