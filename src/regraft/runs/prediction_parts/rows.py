"""Predictions as rows of a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from regraft.atomic_io import atomic_write
from regraft.data.sources.table import import_parquet
from regraft.data.taxonomy import Taxonomy
from regraft.models.inference import Prediction
from regraft.models.rejection import RejectionPolicy
from regraft.spreadsheets import guarded_row
from regraft.text import encodable

Format = Literal["parquet", "csv", "jsonl"]

#: Rows of a Parquet file that are in memory at the same time.
_ROWS = 512


def write_rows(
    file: Path,
    kind: Format,
    predictions: Iterable[Prediction],
    classes: Sequence[str],
    policy: RejectionPolicy,
    *,
    several: bool = False,
    tree: Taxonomy | None = None,
) -> None:
    """Write a file as a whole or not at all: one row per prediction, with the probabilities of all classes.

    The answers are one class, or any number of labels if `several`, which are then in the column `labels`. With a tree
    the rows also have the sums of the nodes above the classes. Raises `MissingExtraError` for Parquet without pyarrow.
    """
    with atomic_write(file) as temporary:
        if kind == "parquet":
            _write_parquet(temporary, predictions, classes, policy, several, tree)
            return
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            if kind == "jsonl":
                for prediction in predictions:
                    row = {"path": prediction.source, **policy.to_json(prediction, len(classes))}
                    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                return
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(guarded_row(csv_header(classes, policy, several=several, tree=tree)))
            writer.writerows(guarded_row(csv_row(prediction, policy)) for prediction in predictions)


def csv_header(
    classes: Sequence[str],
    policy: RejectionPolicy,
    *,
    several: bool = False,
    tree: Taxonomy | None = None,
    grouped: bool = False,
) -> list[str]:
    """Names of the columns of `csv_row`, of images or groups with one class or with `several` labels."""
    answer, named = ["labels"] if several else ["label", "confidence"], ["group", "images"] if grouped else ["path"]
    return [*named, *answer, *policy.columns, *_value_columns(classes, tree), "error"]


def csv_row(prediction: Prediction, policy: RejectionPolicy) -> list[Any]:
    """Path, label, confidence, what the policy says, all probabilities and the error; empty where there is none.

    Of a group, it begins with its name and number of images.

    Several labels are one text, as `join_labels` writes them, and have no confidence.
    """
    rejection, is_bad = rejection_cells(policy, prediction), prediction.error is not None
    answer: list[Any] = ["" if is_bad else policy.label(prediction) or ""]
    if not prediction.thresholds:
        answer.append("" if is_bad else policy.answer(prediction)[1])
    values: list[Any] = [*prediction.probabilities.tolist(), *prediction.nodes().values()]
    values = [""] * len(_value_columns(prediction.classes, prediction.taxonomy)) if is_bad else values
    pictures = [] if prediction.pictures is None else [prediction.pictures]
    return [prediction.source, *pictures, *answer, *rejection, *values, prediction.error or ""]


def rejection_cells(policy: RejectionPolicy, prediction: Prediction) -> list[str]:
    """What each active rule of the policy says, as text."""
    texts = {True: "yes", False: "no"}
    values = policy.of(prediction).items()
    cells = {name: texts[v] if isinstance(v, bool) else ", ".join(v) or "none" for name, v in values}
    return [cells.get(name, "") for name in policy.columns]


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Names of the columns with the probabilities."""
    return [f"p({name})" for name in classes]


def _value_columns(classes: Sequence[str], tree: Taxonomy | None) -> list[str]:
    """Names of the columns with numbers of classes and nodes."""
    return [*probability_columns(classes), *_sum_columns(tree.inner if tree else ())]


def _sum_columns(nodes: Iterable[str]) -> list[str]:
    """Names of the columns with the sums of nodes above the classes."""
    return [f"sum({name})" for name in nodes]


def _write_parquet(
    file: Path,
    predictions: Iterable[Prediction],
    classes: Sequence[str],
    policy: RejectionPolicy,
    several: bool,
    tree: Taxonomy | None,
) -> None:
    parquet = import_parquet("Parquet files of predictions")
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    kinds = {"out_of_distribution": pyarrow.bool_(), "accepted": pyarrow.bool_(), "prediction_set": pyarrow.list_(text)}
    answer = {"labels": pyarrow.list_(text)} if several else {"label": text, "confidence": number}
    columns = {"path": text, **answer, "ood_p_value": number}
    columns |= {name: kinds[name] for name in policy.columns}
    columns |= dict.fromkeys(_value_columns(classes, tree), number) | {"error": text}
    schema = pyarrow.schema(list(columns.items()))
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in _chunks(predictions):
            rows = [_plain_row(prediction, classes, policy) for prediction in chunk]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _plain_row(prediction: Prediction, classes: Sequence[str], policy: RejectionPolicy) -> dict[str, Any]:
    path = encodable(prediction.source)  # a file name may be any bytes
    if prediction.error is not None:
        return {"path": path, "error": prediction.error}
    answer: dict[str, Any] = {"labels": policy.labels(prediction)}
    if not prediction.thresholds:
        answer = {"label": policy.label(prediction), "confidence": policy.answer(prediction)[1]}
    return {
        "path": path, **answer, "ood_p_value": prediction.ood_p_value, **policy.of(prediction),
        **dict(zip(probability_columns(classes), prediction.probabilities.tolist(), strict=True)),
        **dict(zip(_sum_columns(nodes := prediction.nodes()), nodes.values(), strict=True)),
    }  # fmt: skip


def _chunks(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    iterator = iter(predictions)
    while chunk := list(itertools.islice(iterator, _ROWS)):
        yield chunk
