"""Run one function in several processes of a cluster that form a process group of PyTorch, through Ray Train."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regraft.atomic_io import write_text
from regraft.cluster.executor import Cluster
from regraft.cluster.ray_executor import resources_of_task, room_for
from regraft.distributed import PeerError
from regraft.errors import ClusterError, MissingExtraError, RegraftError
from regraft.resources import limit_threads

#: Times that all processes start again after one has died.
MAX_FAILURES = 3
#: Times that Ray Train waits a minute for the nodes that all processes need.
_WAITS = 10
#: File with the error that has ended a training.
_FAILED = "error.txt"


def run_group(
    ray: Any,
    function: Callable[[Mapping[str, Any]], None],
    job: Mapping[str, Any],
    *,
    processes: int | None,
    cluster: Cluster,
    storage: Path,
) -> None:
    """Call `function(job)` in each process (None: as many as there is room for).

    After the death of one it is called again in all, at most `MAX_FAILURES` times.

    The function is one of an importable module. Ray writes its own files into `storage`, which all nodes can write.
    Raises the `RegraftError` that the function has raised first, and `ClusterError` if Ray gives up.
    """
    if find_spec("pandas") is None or find_spec("fsspec") is None:
        raise MissingExtraError("Training on a cluster", "ray")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray import train
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        cpus, gpus = resources_of_task(ray, cluster)
        failed = storage.resolve() / _FAILED
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"function": function, "job": dict(job), "failed": failed, "cpus": cpus},
            torch_config=TorchConfig(backend=None if gpus else "gloo"),
            scaling_config=train.ScalingConfig(
                num_workers=processes or room_for(ray, cpus, gpus),
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=train.RunConfig(storage_path=str(storage.resolve()), failure_config=_failure_config(train)),
        )
        try:
            result = trainer.fit()
            failure = result.error
        except Exception as error:  # Ray Train's own, which differ between its versions
            failure = error
    _raise_stored(failed)
    if failure is not None:
        raise ClusterError(f"Ray gave up training on the cluster: {failure}") from failure


def _failure_config(train: Any) -> Any:
    """Start again after deaths, and wait for nodes in the place of dead ones for some minutes instead of for ever."""
    try:
        return train.FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=_WAITS)
    except TypeError:  # an earlier version, which does not wait
        return train.FailureConfig(max_failures=MAX_FAILURES)


def _rank(settings: dict[str, Any]) -> None:
    """What each process runs: an error of regraft's is stored, and ends this and every later try."""
    limit_threads(settings["cpus"])
    _raise_stored(settings["failed"])
    try:
        settings["function"](settings["job"])
    except PeerError:  # another process has died, or says why it failed
        raise
    except RegraftError as error:
        write_text(settings["failed"], str(error))
        raise


def _raise_stored(failed: Path) -> None:
    if failed.is_file():
        raise RegraftError(failed.read_text(encoding="utf-8"))
