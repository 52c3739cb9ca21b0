"""`regraft train DATA`."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from regraft.cli.options import (
    TRAINING_FLAGS,
    AskedTask,
    BackboneOrAuto,
    Bands,
    Budget,
    By,
    ClusterAddress,
    ClusterCpus,
    ConfigFile,
    FolderLayout,
    GroupBy,
    ImageColumn,
    ImageSize,
    Json,
    LabelColumn,
    LabelSeparator,
    Order,
    PoolBy,
    Remote,
    Settings,
    TaxonomyFile,
    Unlabeled,
    Weights,
    cluster_of,
    refuse_flags_without_effect,
    with_training_flags,
)
from regraft.cli.output import console, parse_seconds, print_distillation, print_json, print_next, print_result
from regraft.cli.training.processes import run_in_processes, starts_processes
from regraft.distributed import launch, process_group
from regraft.errors import Interrupted, RegraftError, UsageError
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.cluster.executor import Cluster
    from regraft.config import Config
    from regraft.runs.run import Run
    from regraft.training.callbacks import ProgressReporter


@with_training_flags
@process_group()
def command(
    data: Annotated[
        str | None, Argument(help="Labeled images: a folder with one folder per class, an archive, a manifest...")
    ] = None,
    backbone: BackboneOrAuto = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    finetune_from: Annotated[
        str | None, Option(help="auto, last, none, all, a stage or layer, or a number of layers.")
    ] = None,
    seed: Annotated[int | None, Option(help="The same data, settings and seed give the same numbers.")] = None,
    budget: Budget = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps.")] = None,
    on_unreadable: Annotated[str | None, Option(help="Unreadable images: skip or error.")] = None,
    group_by: GroupBy = None,
    pool_by: PoolBy = None,
    by: By = None,
    layout: FolderLayout = None,
    taxonomy: TaxonomyFile = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    bands: Bands = None,
    remote: Remote = False,
    unlabeled: Unlabeled = None,
    from_run: Annotated[
        Path | None, Option("--from", metavar="RUN", help="Start from this run: its settings, weights and head.")
    ] = None,
    keep_images: Annotated[
        str | None, Option(metavar="WHICH", help="Whether that run's images train again: all, none or auto.")
    ] = None,
    keep_split: Annotated[str | None, Option(help="A split.csv or a run's folder; its images keep their part.")] = None,
    track: Annotated[
        list[str] | None, Option(metavar="NAME", help="Log to tensorboard, wandb or mlflow; may be repeated.")
    ] = None,
    into: Annotated[
        str | None, Option(metavar="BACKBONE", help="Then train this smaller backbone on what the model says.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, Option(help="The run's folder. Default: a new one under runs/.")] = None,
    resume: Annotated[
        Path | None, Option(help="Continue this interrupted run; or fine-tune it further: --epochs.")
    ] = None,
    processes: Annotated[
        int | None,
        Option(metavar="N", min=1, help="Train in N processes of this machine; torchrun and srun need no N."),
    ] = None,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Train a classifier: the head on features that are computed once, then fine-tuning of the top stages."""
    started, screen = time.monotonic(), console(json)
    overrides = {
        "run.from_run": None if from_run is None else str(from_run), "run.keep_images": keep_images,
        "model.backbone": backbone, "model.weights": weights, "model.image_size": image_size,
        "training.finetune_from": finetune_from, "training.seed": seed,
        "training.budget": None if budget is None else parse_seconds(budget), "training.device": device,
        "data.on_unreadable": on_unreadable, "data.group_by": group_by, "data.pool_by": pool_by,
        "data.by": tuple(by) if by else None,
        "data.keep_split": keep_split,
        "data.remote": remote or None, "data.layout": layout, "data.taxonomy": taxonomy, "data.unlabelled": unlabeled,
        "data.image_column": image_column, "data.label_column": label_column, "data.task": task,
        "data.order": order, "data.label_separator": label_separator, "data.bands": bands, **flags,
    }  # fmt: skip
    if data is not None and resume is not None:
        raise UsageError(f"Received DATA and --resume {resume}, which continues with the run's own data.")
    given = {"config": config, "set": settings, "out": out, "into": into, **overrides, "training.finetune_epochs": None}
    names = {"run.from_run": "--from", **{flag.setting: flag.flag for flag in TRAINING_FLAGS}}
    typed = [
        names.get(key, "--" + key.rpartition(".")[2].replace("_", "-"))
        for key, value in given.items()
        if value not in (None, [])
    ]
    if resume is not None and typed:
        raise UsageError(
            f"--resume {resume} continues with the run's own settings and folder. Received also {', '.join(typed)}; "
            "expected only --epochs, --track, --processes and --json."
        )
    if into is not None and (cluster is not None or processes is not None):
        raise UsageError("--into works in one process, not with --processes or --cluster. Leave out one of them.")
    on_cluster = cluster_of(cluster, cluster_cpus)
    several = not on_cluster and starts_processes(processes)
    with screen.status("Starting") if not several else nullcontext():
        # Settings are checked before PyTorch is imported, which takes seconds.
        from regraft.config import load_config

        resolved = load_config(config, settings or [], {**overrides, "tracking.to": track})
        refuse_flags_without_effect(resolved, flags)
        if resume is None and not (data := data or resolved.run.data):
            raise UsageError("Expected DATA to train on (or run.data in --config), or --resume RUN to continue a run.")
        if several:
            raise Exit(run_in_processes(processes or 1))
        from regraft.runs.train_from import train_from

        if resume is not None:
            from regraft.runs.resume import resume as resume_run

    with rich_progress(screen) as reporter:
        if on_cluster is not None:
            run = _train_on_cluster(on_cluster, processes, data, resolved, out, resume, flags, track, reporter)
        elif resume is not None:
            run = resume_run(resume, finetune_epochs=flags["training.finetune_epochs"], track=track, reporter=reporter)
        elif into is not None:
            from regraft.runs.distill import train_and_distill

            assert data is not None
            folder = out or resolved.run.out or None
            run = train_and_distill(data, resolved, into, folder, reporter=reporter, started=started)
        else:
            assert data is not None
            run = train_from(data, resolved, out or resolved.run.out or None, reporter=reporter, started=started)
    if (launched := launch()) and launched.rank:  # the first process prints the result
        return
    if json:
        print_json({"run": str(run.path), **run.metrics})
    else:
        print_result(screen, run, time.monotonic() - started)
        print_distillation(screen, run)
        print_next(screen, run)
    if run.metrics["training"]["stopped"] == "interrupted":
        raise Interrupted(run.path)


def _train_on_cluster(
    cluster: Cluster,
    processes: int | None,
    data: str | None,
    config: Config,
    out: Path | None,
    resume: Path | None,
    flags: dict[str, Any],
    track: list[str] | None,
    reporter: ProgressReporter,
) -> Run:
    from regraft.runs.cluster_train import train_on_cluster
    from regraft.runs.run_folder import new_folder

    if resume is not None:
        if flags["training.finetune_epochs"] is not None or track is not None:
            raise UsageError("--resume with --cluster finishes a training as it was started; leave out other options.")
        return train_on_cluster(None, None, resume, processes=processes, cluster=cluster, reporter=reporter)
    path = new_folder(out or config.run.out or None, Path(data or "data").stem, config.model.backbone)
    try:
        return train_on_cluster(data, config, path, processes=processes, cluster=cluster, reporter=reporter)
    except RegraftError:
        with suppress(OSError):
            path.rmdir()  # if nothing is in it, the training has not started
        raise
