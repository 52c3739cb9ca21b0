"""Where independent tasks run: in this process, one after the other, or on a cluster, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what each task gets of it.

    Attributes:
        address: `ray://HOST:10001`, `HOST:6379`, `auto` for the cluster that this machine belongs to, or `local` for a
            new one of this machine alone.
        cpus: CPUs, and threads, of a task. None: those of a node divided by its GPUs; without GPUs 4, or all of a
            smaller node.
        gpus: GPUs of a task; None: 1 if there are any, else 0.
    """

    address: str
    cpus: int | None = None
    gpus: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A call of `function(*arguments, reporter=...)`.

    For a cluster the function is one of an importable module, and the arguments and the result can be pickled. The
    function gets a reporter that passes what it reports on to `reporter`, here. What a method of `reporter` raises is
    raised in the function, when it reports again; after `on_progress` that may be a moment later.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    reporter: Any


class Executor(Protocol):
    """Runs tasks."""

    @property
    def slots(self) -> int:
        """Number of tasks that run at the same time."""

    def share(self, value: Any) -> Any:
        """A value that many tasks have among their arguments, so that it is sent to each machine once."""

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[tuple[Task, Future[Any]]]:
        """Run tasks, and yield each with its result as soon as it has ended.

        `next_task` is called when there is a free slot; None means that there is no task now. The run ends when no task
        runs and there is none now. Leaving it earlier cancels the tasks that run.
        """


class InProcess:
    """Runs each task in this process when it is asked for."""

    slots = 1

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[tuple[Task, Future[Any]]]:
        """Run the tasks one after the other."""
        while (task := next_task()) is not None:
            future: Future[Any] = Future()
            try:
                future.set_result(task.function(*task.arguments, reporter=task.reporter))
            except Exception as error:
                future.set_exception(error)
            yield task, future


@contextmanager
def open_executor(cluster: Cluster | str | None) -> Iterator[Executor]:
    """The executor for a cluster (a string is its address), or without one that of this process.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: The address is wrong, or no node has as many CPUs and GPUs as a task needs.
        ClusterError: The cluster cannot be reached, or runs other versions of Python or Ray.
    """
    if cluster is None:
        yield InProcess()
        return
    from regraft.cluster.connection import connect
    from regraft.cluster.ray_executor import RayExecutor

    cluster = Cluster(cluster) if isinstance(cluster, str) else cluster
    with connect(cluster.address) as ray:
        executor = RayExecutor(ray, cluster)
        try:
            yield executor
        finally:
            executor.close()
