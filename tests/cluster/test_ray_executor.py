"""Tasks, predictions and studies on a cluster of two nodes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster_tasks
import pytest

from regraft.cluster.executor import Cluster, Task, open_executor
from regraft.errors import ClusterError, UsageError
from regraft.training.callbacks import NullReporter


def one_after_another(tasks: list[Task]) -> Callable[[], Task | None]:
    waiting = iter(tasks)
    return lambda: next(waiting, None)


class Recorder(NullReporter):
    """Records epochs, and raises at one of them."""

    def __init__(self, bad: int = -1) -> None:
        self.epochs: list[int] = []
        self.bad = bad

    def on_epoch_end(self, row: Any) -> None:
        self.epochs.append(row)
        if row == self.bad:
            raise UsageError("pruned")


def test_tasks_run_on_both_nodes_and_report_here(two_nodes) -> None:
    reporter = Recorder(bad=3)
    tasks = [Task(str(i), cluster_tasks.square, (i,), reporter) for i in range(6)]
    tasks.append(Task("fails", cluster_tasks.fail, (), reporter))
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        assert executor.slots == 2
        ended = {task.name: future for task, future in executor.run(one_after_another(tasks))}
    squares = {name: future.result() for name, future in ended.items() if not future.exception()}
    assert {name: value for name, (value, _, _) in squares.items()} == {str(i): i**2 for i in range(6) if i != 3}
    assert {threads for _, _, threads in squares.values()} == {1}
    assert len({process for _, process, _ in squares.values()}) == 2
    assert sorted(reporter.epochs) == list(range(6))
    with pytest.raises(UsageError, match="pruned"):
        ended["3"].result()
    assert "night.png: too dark" in str(ended["fails"].exception())


def test_a_task_that_kills_its_process_fails_after_some_tries(two_nodes, tmp_path) -> None:
    tasks = [Task("deadly", cluster_tasks.die, (tmp_path / "deaths",), NullReporter())]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        ((_, future),) = executor.run(one_after_another(tasks))
    with pytest.raises(ClusterError, match="deadly: its process died 3 times"):
        future.result()
    assert (tmp_path / "deaths").read_text().splitlines() == ["died"] * 3


def test_leaving_the_loop_ends_the_tasks_that_run(two_nodes, tmp_path) -> None:
    class Leaver(NullReporter):
        def on_progress(self, *_: Any) -> None:
            raise KeyboardInterrupt

    tasks = [Task("endless", cluster_tasks.wait, (tmp_path / "pid",), Leaver())]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        with pytest.raises(KeyboardInterrupt):
            list(executor.run(one_after_another(tasks)))
        process = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(process, 0)
                time.sleep(0.1)


def test_more_than_a_node_has_is_refused(two_nodes) -> None:
    with (
        pytest.raises(UsageError, match="A task gets 8 CPUs and 0 GPUs.*The largest node has 1 and 0"),
        open_executor(Cluster(two_nodes.address, cpus=8)),
    ):
        pass


def test_other_versions_are_refused(two_nodes, monkeypatch) -> None:
    from regraft.cluster import ray_executor

    monkeypatch.setattr(ray_executor, "describe_versions", lambda: {"Python": "3.11", "regraft": "9", "torch": "2"})
    tasks = [Task("square", cluster_tasks.square, (1,), NullReporter())]
    with (
        pytest.raises(ClusterError, match=r"The node .* has .*regraft 0.1.0 instead of 9"),
        open_executor(Cluster(two_nodes.address, cpus=1)) as executor,
    ):
        list(executor.run(one_after_another(tasks)))


def test_a_dead_node_costs_its_tasks_in_flight_alone(two_nodes, tmp_path) -> None:
    class Killer(NullReporter):
        def __init__(self) -> None:
            self.killed = threading.Event()

        def on_epoch_end(self, row: Any) -> None:
            if row == 5 and not self.killed.is_set():
                self.killed.set()
                two_nodes.kill_second()

    tasks = [Task(str(i), cluster_tasks.square, (i,), Killer()) for i in range(12)]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        results = [future.result()[0] for _, future in executor.run(one_after_another(tasks))]
    assert sorted(results) == [i**2 for i in range(12)]
