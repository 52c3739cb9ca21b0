"""`regraft tune DATA`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from regraft.cli.options import (
    AskedTask,
    Backbone,
    Budget,
    ClusterAddress,
    ClusterCpus,
    ConfigFile,
    GroupBy,
    ImageSize,
    Json,
    LabelSeparator,
    Order,
    PoolBy,
    StudyFolder,
    Weights,
    cluster_of,
    with_training_flags,
)
from regraft.cli.output import console, parse_seconds, print_json
from regraft.cli.tasks import OUTPUTS
from regraft.errors import Interrupted, UsageError
from regraft.runs.progress import rich_progress
from regraft.text import in_shell, pluralize

if TYPE_CHECKING:
    from regraft.studies.tune.result import TuneResult

#: Number of trials and settings that the terminal lists.
_ROWS = 5


@with_training_flags
def command(
    data: Annotated[str | None, Argument(help="Labeled images with a validation part, as for train.")] = None,
    trials: Annotated[int, Option(help="Short trainings; the first uses the given settings.")] = 20,
    finalists: Annotated[int, Option(help="Best trials that train in full, beside the given settings.")] = 2,
    budget: Budget = None,
    metric: Annotated[str, Option(help="Validation metric, such as loss, macro_f1, mae or quadratic_kappa.")] = "loss",
    backbone: Backbone = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    group_by: GroupBy = None,
    pool_by: PoolBy = None,
    seed: Annotated[int | None, Option(help="Seed of the search and of every training.")] = None,
    config: ConfigFile = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="One setting, which is then not searched; may be repeated."),
    ] = None,
    out: StudyFolder = None,
    resume: Annotated[Path | None, Option(help="Continue the search in this folder; without DATA.")] = None,
    no_train: Annotated[bool, Option("--no-train", help="Skip the final training and the test.")] = False,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Search for better settings: short trainings on cached features, then the best ones in full."""
    started, screen = time.monotonic(), console(json)
    overrides = {"model.backbone": backbone, "model.weights": weights, "model.image_size": image_size,
                 "data.task": task, "data.order": order, "data.label_separator": label_separator,
                 "data.group_by": group_by, "data.pool_by": pool_by, "training.seed": seed, **flags}  # fmt: skip
    fixed = [setting.partition("=")[0].strip() for setting in settings or []]
    fixed += [key for key, value in overrides.items() if value is not None]
    if (data is None) == (resume is None):
        raise UsageError("Expected DATA to search with, or --resume FOLDER to continue a search.")
    if resume is not None and (fixed or config or out):
        raise UsageError("--resume FOLDER uses the search's own settings and folder. Expected no others.")
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = None if resume is not None else load_config(config, settings or [], overrides)
        from regraft.studies.tune.tune import tune
    with rich_progress(screen) as reporter:
        result = tune(
            data, trials=trials, finalists=finalists, budget=None if budget is None else parse_seconds(budget),
            metric=metric,  # type: ignore[arg-type]  # checked there
            config=resolved, fixed=fixed, out=resume or out, train=not no_train,
            cluster=cluster_of(cluster, cluster_cpus), reporter=reporter, started=started,
        )  # fmt: skip
    if json:
        print_json({"folder": str(result.path), **result.to_json()})
    else:
        _print(screen, result)
        screen.print(f"{time.monotonic() - started:.0f} s in total.")
        _print_next(screen, result)
    if result.stopped == "interrupted":
        raise Interrupted(result.path)


def _print(screen: Console, result: TuneResult) -> None:
    states = [record.state for record in result.trials]
    others = "".join(f", {states.count(state)} {state}" for state in ("pruned", "failed") if state in states)
    first, later = result.frozen_seconds
    screen.print(
        f"\n{pluralize(len(states), 'trial')}{others}; {result.trials_per_minute:.1f} per minute. Decoding and frozen "
        f"layers took {first:.1f} s in the first trial and {later:.1f} s in later ones (median), which read them from "
        "the cache."
    )
    if result.stopped:
        reason = {"time": "The budget is used up", "interrupted": "Interrupted"}[result.stopped]
        screen.print(f"[yellow]{reason}; these are the results so far.[/yellow]")
    screen.print()
    screen.print(_table(result))
    screen.print()
    _print_best(screen, result)
    if result.importance:
        top = list(result.importance.items())[:_ROWS]
        screen.print("Importance: " + escape(", ".join(f"{name} {100 * share:.0f} %" for name, share in top)) + ".")
    else:
        from regraft.studies.tune.result import MIN_TRIALS_FOR_IMPORTANCE as MIN_TRIALS

        complete = states.count("complete")
        screen.print(f"The importance of settings needs {MIN_TRIALS} complete trials; there are {complete}.")
    if result.run is not None and (test := result.run.metrics.get("test")):
        screen.print(f"[bold green]Test {OUTPUTS[result.run.task].describe_test(test)}.")
    if len(states) > 1:
        screen.print(
            f"The validation score of the best of {len(states)} trials is optimistic, because it was selected. "
            "The test set took no part in the selection."
        )


def _print_best(screen: Console, result: TuneResult) -> None:
    best, base = result.best.record, result.base
    if not best.number:
        screen.print("[bold]No trial was better than the given settings.[/bold]")
        return
    screen.print(f"[bold]Trial {best.number} changes[/bold]")
    for name, (before, after) in result.changes.items():
        screen.print(escape(f"  {name:<28} {_text(before)} -> {_text(after)}"))
    if base:
        text = f"{best.describe().capitalize()} (given settings: {base.describe()})"
        if gain := result.gain:
            text += f"; the mean loss per image is lower by {gain[0]:.4f} (standard error {gain[1]:.4f})"
        screen.print(text + ".")


def _table(result: TuneResult) -> Table:
    from regraft.studies.tune.result import METRIC_NAMES, METRICS_OF

    metrics = METRICS_OF[result.best.record.task]
    columns = (
        "trial",
        "trained",
        *(METRIC_NAMES[metric].replace("validation", "val") for metric in metrics),
        "seconds",
        "",
    )
    table = Table(*columns, box=None, header_style="bold")
    for column in table.columns:
        column.no_wrap, column.justify = True, "right"
    table.columns[1].justify = table.columns[-1].justify = "left"
    finalists = sorted((finalist.record for finalist in result.finalists), key=lambda record: record.rank)
    numbers = {record.number for record in finalists}
    others = [record for record in result.trials if record.state == "complete" and record.number not in numbers]
    for record in [*finalists, *sorted(others, key=lambda record: record.rank)][:_ROWS]:
        remark = "base" if not record.number else ""
        if record.number == result.best.record.number:
            remark = f"[bold green]{remark + ', ' if remark else ''}best[/bold green]"
        table.add_row(
            str(record.number),
            "in full" if record.number in numbers else "short",
            *(record.text(metric) for metric in metrics),
            f"{record.seconds:.1f}",
            remark,
        )
    return table


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _print_next(screen: Console, result: TuneResult) -> None:
    path = result.path
    lines = [f"  {path / 'plots' / 'history.png'}      score of each trial"]
    if result.importance:
        lines.append(f"  {path / 'plots' / 'importance.png'}   importance of the settings")
    lines.append(f"  {path / 'trials.csv'}, {path / 'tune.json'}: every trial")
    screen.print("\n[bold]Look at[/bold]\n" + escape("\n".join(lines)))
    commands = [shlex.join(["evaluate", str(result.run.path)])] if result.run is not None else []
    commands.append(f"train DATA --config {in_shell(path / 'best.toml')}")
    commands.append(shlex.join(["tune", "--resume", str(path), "--trials", str(2 * len(result.trials))]))
    screen.print("\n[bold]Try next[/bold]\n" + escape("\n".join(f"  regraft {command}" for command in commands)))
