"""Learning curves as a table: a row for each score, class and number of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from regraft.atomic_io import write_csv
from regraft.studies.learning_curve.extrapolation import Curve


def write_curves(
    path: Path,
    curves: Sequence[tuple[str, str, Curve]],
    unit: str,
    *,
    measured_only: bool,
    more: Iterable[Sequence[Any]] = (),
) -> None:
    """Write curves as CSV: the name of the score, that of a class or "", and the curve; `unit` is what is counted.

    Without what is extrapolated if `measured_only`. Further rows (`more`) have the same columns.
    """
    rows: list[Sequence[Any]] = [
        (score, name, images, kind, point.value, point.low, point.high)
        for score, name, curve in curves
        for kind, images, point in curve.points()
        if kind == "measured" or not measured_only
    ]
    write_csv(path, ("score", "class", unit, "kind", "value", "low", "high"), [*rows, *more])
