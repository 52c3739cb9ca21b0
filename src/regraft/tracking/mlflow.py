"""MLflow: a server, or the local database that MLflow itself chooses.

Enters: scalars and pictures. Leaves: a run of the experiment `MLFLOW_EXPERIMENT_NAME` (default `regraft`) at
`MLFLOW_TRACKING_URI` (default, as everywhere in MLflow 3: `mlflow.db` and `mlruns/` in the working directory).
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
#: What MLflow takes in one request.
_MOST_PARAMS = 100
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    """Logs to a run of MLflow."""

    title = "MLflow"

    def __init__(self) -> None:
        """Import mlflow and what its databases need.

        Raises:
            MissingExtraError: A package is not installed.
        """
        mlflow = require("mlflow", "mlflow")
        self._uri: str = mlflow.get_tracking_uri()
        self._chosen: bool = mlflow.tracking.is_tracking_uri_set()
        if self._uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
            require("mlflow", "sqlalchemy", "alembic")
        self._client_of = mlflow.MlflowClient
        self._entities: Any = mlflow.entities
        self._id = ""

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        # Someone who resumes from another working directory means the same database.
        uri = self._uri if self._chosen else known.get("uri", self._uri)
        with _quiet():
            self._client = self._client_of(tracking_uri=uri)
        if "id" in known:
            self._id = known["id"]
            self._client.update_run(self._id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(), run_name=tag(folder.resolve().name))
            self._id = known["id"] = run.info.run_id
            if not self._chosen:
                known["uri"] = uri
            params = [self._entities.Param(name, str(value)) for name, value in settings.items()]
            for first in range(0, len(params), _MOST_PARAMS):
                self._client.log_batch(self._id, params=params[first : first + _MOST_PARAMS])
        return f"run {self._id}" + ("" if self._chosen else f" in {uri}")

    def _experiment(self) -> str:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        self._log(scalars, epoch)

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """See `Tracker.finish`."""
        try:
            self._log(scalars, 0)
            for file in pictures.values():
                self._client.log_artifact(self._id, str(file), "plots")
        finally:
            self._client.set_terminated(self._id, _STATUS[status])

    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in scalars.items()]
        for first in range(0, len(metrics), 500):
            self._client.log_batch(self._id, metrics=metrics[first : first + 500])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow says about the tables of a new database out of the progress bars."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
