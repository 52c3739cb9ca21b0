"""`regraft crossval DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Option

from regraft.cli.options import (
    AskedTask,
    Backbone,
    ClassWeights,
    ClusterAddress,
    ClusterCpus,
    ConfigFile,
    FolderLayout,
    GroupBy,
    Json,
    LabeledData,
    LabelSeparator,
    Order,
    PoolBy,
    Settings,
    Unlabeled,
    Weights,
    cluster_of,
)
from regraft.cli.output import console, print_json
from regraft.cli.tasks import OUTPUTS
from regraft.runs.progress import rich_progress


def command(
    data: LabeledData,
    k: Annotated[int, Option("-k", "--folds", help="Number of folds.")] = 5,
    repeats: Annotated[int, Option(help="Number of different divisions into folds.")] = 1,
    backbone: Backbone = None,
    weights: Weights = None,
    seed: Annotated[int | None, Option(help="Seed of the folds.")] = None,
    class_weights: ClassWeights = None,
    group_by: GroupBy = None,
    pool_by: PoolBy = None,
    layout: FolderLayout = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    unlabeled: Unlabeled = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, Option(help="A new folder for the predictions and suspected labels.")] = None,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
) -> None:
    """Cross-validate the linear head on frozen features, which are computed once."""
    screen = console(json)
    overrides = {
        "model.backbone": backbone, "model.weights": weights, "training.seed": seed, "data.group_by": group_by,
        "data.pool_by": pool_by, "data.layout": layout, "data.task": task, "data.order": order,
        "data.label_separator": label_separator,
        "data.unlabelled": unlabeled, "training.class_weights": class_weights,
    }  # fmt: skip
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = load_config(config, settings or [], overrides)
        from regraft.studies.cross_validation import cross_validate
    with rich_progress(screen) as reporter:
        result = cross_validate(
            data, k, repeats=repeats, config=resolved, out=out, cluster=cluster_of(cluster, cluster_cpus),
            reporter=reporter,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
        return
    screen.print()
    OUTPUTS[result.task].print_cross_validation(screen, result)
    seconds, heads = result.seconds, result.k * result.repeats
    screen.print(
        f"\n{seconds['total']:.1f} s: scan {seconds['scan']:.1f}, features {seconds['features']:.1f}, "
        f"{heads} heads {seconds['heads']:.1f}."
    )
    if out:
        screen.print(escape(f"{out}: {', '.join(file.name for file in sorted(out.iterdir()))}"))
