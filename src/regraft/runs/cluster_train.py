"""Train one model in several processes of a cluster; the run's folder is on storage that all of them see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.cluster.connection import connect
from regraft.cluster.executor import Cluster
from regraft.cluster.ray_executor import resources_of_task
from regraft.config import Config, load_config
from regraft.data.sources.urls import is_url
from regraft.errors import RunError, UsageError, continued_in
from regraft.runs.processes import LOGS, LogReporter
from regraft.runs.resume import resume
from regraft.runs.run import CHECKPOINT, CONFIG, METRICS, SOURCE, Run
from regraft.runs.run_folder import refuse_existing_run
from regraft.runs.train_from import train_from
from regraft.runs.unlabelled import refuse_unlabeled
from regraft.text import in_shell
from regraft.training.callbacks import NullReporter, ProgressReporter


def train_on_cluster(
    data: Path | str | None,
    config: Config | None,
    path: Path,
    *,
    processes: int | None,
    cluster: Cluster | str,
    reporter: ProgressReporter | None = None,
) -> Run:
    """Train in processes of a Ray cluster, or without data continue the run in `path`.

    If a process dies, all start again from the last checkpoint, which gives the same numbers as without the death.

    Args:
        data: Data that `scan` takes, at a path that all nodes see; None: that of the unfinished run in `path`.
        config: The configuration; None: that of the unfinished run.
        path: The run's folder, which all nodes see.
        processes: Number of processes, each with a GPU where there are any; None: as many as there is room for.
        cluster: The cluster, or its address; a client's address (`ray://`) cannot start Ray Train.
        reporter: Receives a message with the file of the progress.

    Raises:
        UsageError: The address is a client's, or the folder has something else.
        ClusterError: The cluster cannot be used, or processes die again and again.
        RegraftError: Any other failure.
    """
    from regraft.cluster.torch_trainer import run_group

    cluster = Cluster(cluster) if isinstance(cluster, str) else cluster
    if cluster.address.startswith("ray://"):
        raise UsageError(
            f"A training on {cluster.address} is started on the cluster itself: run this command there with --cluster "
            "auto, for example by `ray job submit`."
        )
    reporter = reporter or NullReporter()
    if config is not None:
        refuse_unlabeled(config, "regraft train --cluster")
    if data is not None:
        refuse_existing_run(path)
        if (path / SOURCE).is_file():
            raise RunError(f"{path} contains a training that has begun. Continue it with --resume {in_shell(path)}")
    elif not (path / SOURCE).is_file():
        raise RunError(f"{path} has no training to resume.")
    place = str(data) if data is None or is_url(data) else str(Path(data).resolve())
    log = path.resolve() / LOGS / "rank-0.log"
    job = {"data": place, "config": None if config is None else config.with_absolute_weights().to_toml(),
           "path": str(path.resolve()), "cache": _absolute(os.environ.get("REGRAFT_CACHE"))}  # fmt: skip
    with continued_in(path), connect(cluster.address) as ray:
        resources_of_task(ray, cluster)  # refuses what no node has
        reporter.on_message(f"Run: {path}. Progress: {log}")
        run_group(ray, train_rank, job, processes=processes, cluster=cluster, storage=path / LOGS / "ray")
    if not (path / METRICS).is_file():
        raise RunError(f"{path} has no result, although its training has ended. Its log is {log}.")
    return Run(path)


def _absolute(folder: str | None) -> str | None:
    return None if folder is None else str(Path(folder).expanduser().resolve())


def train_rank(job: Mapping[str, Any]) -> None:
    """Train, or continue what an earlier try has begun: the same calls as in a process that torchrun starts."""
    from regraft import distributed

    path = Path(job["path"])
    if job["cache"]:  # which all processes must share
        os.environ["REGRAFT_CACHE"] = job["cache"]
    reporter = NullReporter() if distributed.rank() else LogReporter(path / LOGS / "rank-0.log")
    begun = distributed.broadcast((path / SOURCE).is_file() and (path / CONFIG).is_file())
    is_finished = distributed.broadcast((path / METRICS).is_file() and not (path / CHECKPOINT).is_file())
    if begun and is_finished:
        return
    if begun:
        resume(path, reporter=reporter)
        return
    settings = path / LOGS / "config.toml"
    if not distributed.rank():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(job["config"], encoding="utf-8")
    distributed.barrier()
    train_from(job["data"], load_config(settings), path, reporter=reporter)
