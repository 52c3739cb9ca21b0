"""Read the images of a run from their data set, if they are still there and unchanged."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import DataOptions, load_run_config
from regraft.data.band_values import format_numbers
from regraft.data.dataset import Dataset
from regraft.data.decode import ImageSource
from regraft.data.preprocessing import Preprocessing
from regraft.data.scan import scan_source
from regraft.data.sources.earlier import ImagesOrigin, open_origin, select
from regraft.data.sources.open import DataSource
from regraft.data.strings import in_blocks
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, ImageError, RegraftError, RunError, UsageError
from regraft.runs.groups import first_pictures
from regraft.runs.run import CONFIG, SOURCE, SPLIT, Run
from regraft.spreadsheets import read_records

#: Returns the content of an image by its name, or raises `ImageError` if it is missing or has changed.
SourceOf = Callable[[str], ImageSource]


def images_of(run: Run, data: Dataset | Path | str | None = None) -> SourceOf | None:
    """Return a function that reads the run's images, from `data` or from their path in the run.

    Returns None if the path in the run does not exist (any more, or on this machine). Raises `UsageError` if `data`
    cannot be read, `DataError` if it is damaged, and `RunError` if the run's `source.json` is damaged. The name of a
    group that gets one answer stands for its first picture.
    """
    source = _of_dataset(data) if isinstance(data, Dataset) else _of_path(run, data)
    if source is None or not (firsts := first_pictures(run.path)):
        return source
    return lambda name: source(firsts.get(name, name))


def data_of(run: Run) -> str:
    """Return the path or URL of the run's images; "" if they were in memory."""
    file = run.path / SOURCE
    if not file.is_file():
        return ""
    value = read_json(file)
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        raise RunError(f'{file} is damaged: expected {{"data": "a path or URL"}}. Restore or delete it.')
    return str(value["data"])


def origin_of(run: Run) -> ImagesOrigin | None:
    """Where the images of a run are, and those of earlier runs that it was trained on, too; None if in memory."""
    if not (data := data_of(run)):
        return None
    options = load_run_config(run.path / CONFIG).data if (run.path / CONFIG).is_file() else DataOptions()
    earlier = read_json(run.path / SOURCE).get("earlier")
    try:
        return ImagesOrigin(
            data, options.layout, options.image_column, options.label_column, options.grouping, options.remote,
            None if earlier is None else ImagesOrigin.from_json(earlier), run.task, options.label_separator,
        )  # fmt: skip
    except (AttributeError, TypeError) as error:
        raise RunError(f"{run.path / SOURCE} is damaged: {error}. Restore it.") from error


def held_out(run: Run) -> Dataset:
    """The run's test images, else val; `UsageError` without their path, `DataError` if one is missing or changed.

    Of groups that get one answer each, it is the first image.
    """
    source = data_of(run)
    if not source or not Path(source).exists():
        reason = f"{source} does not exist" if source else "it was trained on images in memory"
        raise UsageError(f"The images of {run.path} are not available: {reason}. Give labeled data.")
    predictions = run.predictions_of()
    pairs = zip(predictions.ids, predictions.labels.tolist(), strict=True)
    firsts = first_pictures(run.path)
    wanted = {firsts.get(name, name): (predictions.classes[label], None) for name, label in pairs}
    origin = origin_of(run)
    assert origin is not None
    opened = select(open_origin(origin.for_reading(), run.taxonomy), wanted)
    dataset = scan_source(opened, source, near_duplicates=False, classes=predictions.classes, bands=_bands_setting(run))
    hashes = {row.get("path"): row.get("sha256") for row in split_rows(run.path) if row.get("path") in wanted}
    table = dataset.table
    pairs = zip(in_blocks(table.paths), table.sha256s(), strict=True)
    found = table.take(
        np.array([path in wanted and hashes.get(path, sha256) == sha256 for path, sha256 in pairs], bool)
    )
    if len(found) < len(wanted):
        raise DataError(
            f"{len(wanted) - len(found)} of the {len(wanted)} images in {source} are missing or have changed."
        )
    return dataset.with_samples(found.with_parts(np.full(len(found), -1)))


def _bands_setting(run: Run) -> str:
    bands = Preprocessing.from_json(run.description["preprocessing"]).bands
    return "" if bands is None else format_numbers(bands.numbers)


def split_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of `split.csv` in a run's folder; none if there is no such file."""
    return read_rows(path / SPLIT)


def read_rows(file: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of a run; none if there is no such file. Raises `RunError` if it is damaged."""
    if not file.is_file():
        return
    try:
        with file.open(encoding="utf-8", newline="") as text:
            yield from read_records(text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{file} is damaged: {error}") from error


def read_json(file: Path) -> Any:
    """Read a JSON file of a run. Raises `RunError` if the file is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, nested without end, or not UTF-8
        raise RunError(f"{file} is damaged: {error}") from error


def _of_dataset(dataset: Dataset) -> SourceOf:
    rows = {path: row for row, path in enumerate(in_blocks(dataset.table.paths))}

    def source(name: str) -> ImageSource:
        if name not in rows:
            raise ImageError("not in the data", name)
        return dataset.source(dataset.samples[rows[name]])

    return source


def _of_path(run: Run, data: Path | str | None) -> SourceOf | None:
    """Read from a path, and only images with the hash in `split.csv`."""
    stored = data_of(run)
    if data is None and not (stored and Path(stored).exists()):
        return None
    origin = (origin_of(run) or ImagesOrigin("", task=run.task)).for_reading(None if data is None else str(data))
    try:
        opened = _open_what_is_there(origin, run.taxonomy)
    except RegraftError:
        if data is not None:
            raise
        return None
    there = set(in_blocks(opened.layout.found.paths))
    hashes = {row.get("path"): row.get("sha256") for row in split_rows(run.path)}

    def source(name: str) -> ImageSource:
        if name not in there:
            raise ImageError("not in the data", name)
        content = opened.storage.read(name)
        if hashes.get(name) != hashlib.sha256(content).hexdigest():
            raise ImageError("the image has changed", name)
        return content

    return source


def _open_what_is_there(origin: ImagesOrigin, tree: Taxonomy | None) -> DataSource:
    """Open the images of a run, without those of earlier runs if these cannot be opened."""
    if origin.earlier is not None:
        with suppress(RegraftError):
            return open_origin(origin, tree)
    return open_origin(replace(origin, earlier=None), tree)
