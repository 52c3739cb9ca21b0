"""The interface of trackers, and their registry."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from regraft.errors import MissingExtraError, UnknownNameError

#: How a training ended.
Status = Literal["finished", "interrupted", "failed"]

_TRACKERS = {
    "tensorboard": ("regraft.tracking.tensorboard", "TensorBoard"),
    "wandb": ("regraft.tracking.wandb", "WeightsAndBiases"),
    "mlflow": ("regraft.tracking.mlflow", "MLflow"),
}


class Tracker(Protocol):
    """A destination for scalars and pictures. `start` is called first; every method may raise, and must not hang."""

    title: str

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """Start, or continue what an earlier process started; return where to look at the results.

        `settings` are plain values by `section.key`; files of the tracker go to `folder / "tracking"`, where `folder`
        is the run's. `known` is saved in the run's folder: empty at first, later what the earlier process stored in it.
        """

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars of an epoch, which counts from 1 within its phase."""

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Log the final scalars and pictures by name, and close."""


def make_tracker(name: str) -> Tracker:
    """Create a tracker that has not started.

    Raises `MissingExtraError` if its package is not installed, `UsageError` if its own settings do not allow it to
    start, and `UnknownNameError` if there is no such tracker.
    """
    if name not in _TRACKERS:
        raise UnknownNameError("tracker", name, _TRACKERS)
    module, class_name = _TRACKERS[name]
    tracker: Tracker = getattr(importlib.import_module(module), class_name)()
    return tracker


def check_trackers(names: Iterable[str]) -> None:
    """Raise now what `make_tracker` would raise later."""
    for name in names:
        make_tracker(name)


def require(extra: str, *packages: str) -> ModuleType:
    """Import the first of the packages, and check that the others are installed; else raise `MissingExtraError`."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        # A folder of the same name, such as W&B and MLflow create, has no origin.
        if spec is None or spec.origin is None:
            raise MissingExtraError(f"Tracking with {extra} ({package})", extra)
    return importlib.import_module(packages[0])
