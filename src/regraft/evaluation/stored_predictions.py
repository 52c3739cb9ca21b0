"""Predictions in a folder: `predictions.csv`, or `predictions.parquet` where there are many rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regraft.atomic_io import atomic_write
from regraft.data.sources.table import import_parquet
from regraft.errors import DataError, MissingExtraError, cause_of
from regraft.evaluation.predictions import COLUMNS, Predictions, classes_of

CSV, PARQUET = "predictions.csv", "predictions.parquet"
#: Number of rows above which they are stored as Parquet.
MANY_ROWS = 100_000


def write_predictions(predictions: Predictions, folder: Path) -> str:
    """Write predictions into a folder, above `MANY_ROWS` rows as Parquet; predictions that it had are replaced.

    Returns a sentence if they are many and Parquet is not installed, so that they are a CSV file; else "".
    """
    note = ""
    if len(predictions) > MANY_ROWS:
        try:
            import_parquet(f"Writing {len(predictions):,} predictions as Parquet")
        except MissingExtraError as error:
            note = f"The predictions are in {CSV}, which is large and slow to read. {error}"
    name, other = (PARQUET, CSV) if len(predictions) > MANY_ROWS and not note else (CSV, PARQUET)
    (_write_parquet if name == PARQUET else Predictions.write_csv)(predictions, folder / name)
    (folder / other).unlink(missing_ok=True)
    return note


def find_predictions(folder: Path) -> Path | None:
    """The file with the predictions in a folder; None if there is none."""
    return next((folder / name for name in (CSV, PARQUET) if (folder / name).is_file()), None)


def read_predictions(path: Path) -> Predictions:
    """Read a file that `write_predictions` or `Predictions.write_csv` wrote.

    Raises `DataError` for any other file, and `MissingExtraError` for Parquet without its package.
    """
    return _read_parquet(path) if path.suffix == PARQUET.removeprefix("predictions") else Predictions.read_csv(path)


def _write_parquet(predictions: Predictions, path: Path) -> None:
    parquet, arrow = import_parquet("Writing predictions as Parquet"), _arrow()
    names = arrow.array(predictions.classes, arrow.string())
    columns = [
        arrow.array(predictions.ids, arrow.string()),
        *(arrow.DictionaryArray.from_arrays(rows, names) for rows in (predictions.labels, predictions.predicted)),
        arrow.array(predictions.parts, arrow.string()).dictionary_encode(),
        *(arrow.array(column) for column in predictions.probabilities.T),
    ]
    table = arrow.Table.from_arrays(columns, [*COLUMNS, *(f"p({name})" for name in predictions.classes)])
    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def _read_parquet(path: Path) -> Predictions:
    parquet, arrow = import_parquet(f"Reading {path.name}"), _arrow()
    try:
        table = parquet.read_table(path)
        classes = classes_of(table.column_names, path)
        ids, parts = (table[name].cast(arrow.string()).to_pylist() for name in ("id", "part"))
        labels = table["label"].combine_chunks().cast(arrow.string()).dictionary_encode()
        probabilities = [table[name].to_numpy() for name in table.column_names[len(COLUMNS) :]]
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as predictions: {cause_of(error)}") from error
    if empty := [name for name in table.column_names if table[name].null_count]:
        raise DataError(f"{path} has a row without a {empty[0]}. Copy the file again.")
    index = {name: i for i, name in enumerate(classes)}
    names = labels.dictionary.to_pylist()
    if unknown := [name for name in names if name not in index]:
        raise DataError(f"{path}: label {unknown[0]!r}; expected one of {', '.join(classes)}")
    codes = np.array([index[name] for name in names], np.int64)[labels.indices.to_numpy()]
    stacked = np.stack(probabilities, axis=1).astype(np.float64, copy=False)
    return Predictions(tuple(ids), codes, stacked, classes, tuple(parts))


def _arrow() -> Any:
    import pyarrow  # an extra; `import_parquet` has checked that it is there

    return pyarrow
