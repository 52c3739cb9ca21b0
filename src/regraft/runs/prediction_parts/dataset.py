"""Predictions of a labeled data set through a folder of parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.cluster.executor import Cluster
from regraft.data.dataset import Dataset
from regraft.data.sources.table import import_parquet
from regraft.errors import DataError
from regraft.evaluation.tasks import AnyPredictions
from regraft.models.inference import Tta
from regraft.runs.prediction_parts.parts import Listing, Part, PartsOptions, predict_parts
from regraft.runs.prediction_parts.rows import probability_columns
from regraft.runs.run import classifier_of
from regraft.runs.sample_predictions import SamplePredictions
from regraft.training.callbacks import ProgressReporter


def predict_dataset_parts(
    model: Path,
    dataset: Dataset,
    out: Path | str,
    *,
    opener: Callable[[Path], Any] = classifier_of,
    thresholds: tuple[float, ...] = (),
    tta: Tta = "none",
    cluster: Cluster | str | None = None,
    reporter: ProgressReporter | None = None,
) -> AnyPredictions:
    """Predict every image of a data set, in order, as `predict_dataset` does; the arguments are `predict_parts`'s.

    `thresholds` are those of a model that gives an image any number of classes.

    Raises `DataError` if an image can no longer be read since the scan, and as `predict_parts`.
    """
    parts = predict_parts(
        model, Listing.of_dataset(dataset), out, PartsOptions(tta=tta, max_pixels=dataset.max_pixels),
        described={"data": dataset.scanned or str(dataset.root)}, opener=opener, cluster=cluster, reporter=reporter,
    )  # fmt: skip
    if unreadable := parts.unreadable:
        path, reason = unreadable[0]
        raise DataError(f"{path} could be read during the scan, and now cannot: {reason}")
    classes = _classes(parts.parts[0])
    probabilities = np.concatenate([_probabilities(part, classes) for part in parts.parts])
    return SamplePredictions(replace(dataset, classes=classes), probabilities, thresholds, None).of_task()


def _classes(part: Part) -> tuple[str, ...]:
    names: Sequence[str] = import_parquet("Parquet files of predictions").read_schema(part.file).names
    return tuple(name[2:-1] for name in names if name.startswith("p(") and name.endswith(")"))


def _probabilities(part: Part, classes: Sequence[str]) -> np.ndarray:
    """The probabilities of a part's images, float64 (images, classes)."""
    table = import_parquet("Parquet files of predictions").read_table(part.file, columns=probability_columns(classes))
    return np.stack([table.column(name).to_numpy() for name in probability_columns(classes)], axis=1)
