"""A Ray cluster of two nodes on this machine, which all tests of this folder share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from regraft.cluster.connection import import_ray


class TwoNodes:
    """A head and a second node, each with one CPU for tasks; the second can be killed and started again."""

    def __init__(self) -> None:
        import_ray()
        from ray.cluster_utils import Cluster

        limits = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        # A dead node is found in a second instead of half a minute.
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
        self._limits = limits
        self._cluster = Cluster(initialize_head=True, head_node_args={**limits, "_system_config": quick})
        self.second: Any = None
        self.start_second()

    @property
    def address(self) -> str:
        """Address of the head."""
        return str(self._cluster.address)

    def start_second(self) -> None:
        """Start the second node, unless it runs."""
        if self.second is None:
            self.second = self._cluster.add_node(**self._limits)

    def kill_second(self) -> None:
        """Kill the second node with all that runs on it."""
        node, self.second = self.second, None
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        """End all processes."""
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def _two_nodes() -> Iterator[TwoNodes]:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        for name in ("OMP_NUM_THREADS", "REGRAFT_THREADS"):
            patch.setenv(name, "1")
        patch.setenv("RAY_worker_niceness", "0")  # instead of 15, with which they wait for the tests beside them
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # instead of 2 seconds, between each two states
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that waits for news of a cloud
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            nodes.stop()


@pytest.fixture
def two_nodes(_two_nodes: TwoNodes) -> TwoNodes:
    """Both nodes of the cluster, also after a test that has killed one."""
    _two_nodes.start_second()
    return _two_nodes


@pytest.fixture
def one_node(_two_nodes: TwoNodes) -> TwoNodes:
    """The head alone, where one task runs at a time."""
    if _two_nodes.second is not None:
        _two_nodes.kill_second()
    return _two_nodes
