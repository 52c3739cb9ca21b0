"""MLflow: a server, or the local database that MLflow itself chooses.

Metrics go to a run of the experiment `MLFLOW_EXPERIMENT_NAME` (default `regraft`) at `MLFLOW_TRACKING_URI` (default, as
everywhere in MLflow 3: `mlflow.db` and `mlruns/` in the working directory), through MLflow's asynchronous logging.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.tracking.scalars import tag
from regraft.tracking.tracker import Status, require

_EXPERIMENT = "regraft"
#: Limits of one request to MLflow.
_MAX_PARAMS, _MAX_METRICS = 100, 500
#: Limits for an unreachable server, unless the user has set others: MLflow would try for several minutes.
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    """Log to an MLflow run."""

    title = "MLflow"

    def __init__(self) -> None:
        """Import mlflow and what its databases need, or raise `MissingExtraError`."""
        mlflow = require("mlflow", "mlflow")
        self._uri: str = mlflow.get_tracking_uri()
        self._uri_is_set: bool = mlflow.tracking.is_tracking_uri_set()
        if self._uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
            require("mlflow", "sqlalchemy", "alembic")
        self._client_class = mlflow.MlflowClient
        self._entities: Any = mlflow.entities
        self._id = ""
        self._pending: list[Any] = []

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        # A run that is resumed from another working directory continues in the same database.
        uri = self._uri if self._uri_is_set else known.get("uri", self._uri)
        with _warnings_only():
            self._client = self._client_class(tracking_uri=uri)
        if "id" in known:
            self._id = known["id"]
            self._client.update_run(self._id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(), run_name=tag(folder.resolve().name))
            self._id = known["id"] = run.info.run_id
            if not self._uri_is_set:
                known["uri"] = uri
            params = [self._entities.Param(name, str(value)) for name, value in settings.items()]
            for first in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(self._id, params=params[first : first + _MAX_PARAMS])
        return f"run {self._id}" + ("" if self._uri_is_set else f" in {uri}")

    def _experiment(self) -> str:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self._client.create_experiment(name))

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        self._log(scalars, epoch)

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """See `Tracker.finish`."""
        try:
            self._log(scalars, 0)
            for operation in self._pending:
                operation.wait()
            for file in pictures.values():
                self._client.log_artifact(self._id, str(file), "plots")
        finally:
            self._client.set_terminated(self._id, _STATUS[status])

    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in scalars.items()]
        for first in range(0, len(metrics), _MAX_METRICS):
            batch = metrics[first : first + _MAX_METRICS]
            self._pending.append(self._client.log_batch(self._id, metrics=batch, synchronous=False))


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Hide MLflow's messages about the tables of a new database."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
