"""What a tracker is, and which there are.

Enters: names. Leaves: trackers whose packages are installed, or the command that installs them.
"""

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

_HOMES = {
    "tensorboard": ("regraft.tracking.tensorboard", "TensorBoard"),
    "wandb": ("regraft.tracking.wandb", "WeightsAndBiases"),
    "mlflow": ("regraft.tracking.mlflow", "MLflow"),
}


class Tracker(Protocol):
    """Whoever keeps scalars and pictures. All methods are called from one thread, `start` first, and may raise."""

    title: str

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """Begin, or go on with what an earlier process began.

        Args:
            settings: `section.key` -> a plain value.
            folder: Of the run; what the tracker writes goes into `folder / "tracking"`, if it has no place of its own.
            known: What was noted in this table by the process before; empty at first. It is kept in the run's folder.

        Returns:
            Where it can be looked at, in a sentence.
        """

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """Keep the scalars of one epoch, which counts from 1 within its phase."""

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Keep the numbers and pictures at the end, by their names, and close."""


def make_tracker(name: str) -> Tracker:
    """A tracker that has not started.

    Raises:
        MissingExtraError: Its package is not installed.
        UsageError: It cannot start as things are set.
        UnknownNameError: There is no such tracker.
    """
    if name not in _HOMES:
        raise UnknownNameError("tracker", name, _HOMES)
    module, kind = _HOMES[name]
    tracker: Tracker = getattr(importlib.import_module(module), kind)()
    return tracker


def check_trackers(names: Iterable[str]) -> None:
    """Raise before any work what `make_tracker` would raise."""
    for name in names:
        make_tracker(name)


def require(extra: str, *packages: str) -> ModuleType:
    """Import the first of the packages; the others have to be there.

    Raises:
        MissingExtraError: One is not installed.
    """
    for package in packages:
        found = importlib.util.find_spec(package)
        # A folder of the same name, such as W&B and MLflow leave behind, has no origin.
        if found is None or found.origin is None:
            raise MissingExtraError(f"Tracking with {extra} ({package})", extra)
    return importlib.import_module(packages[0])
