"""The images that a run was made from, where they can still be read.

Enters: a run, and where its images are now. Leaves: what reads one by its name, and only if it is as it was.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.data.decode import ImageSource
from regraft.data.scan import scan
from regraft.data.sources import open_data
from regraft.errors import DataError, ImageError, RegraftError, RunError, UsageError
from regraft.pipeline.run import CONFIG, SOURCE, SPLIT, Run

#: Gives what the decoder reads for an image's name; raises `ImageError` where it is gone or another one.
SourceOf = Callable[[str], ImageSource]


def images_of(run: Run, data: Dataset | Path | str | None = None) -> SourceOf | None:
    """What reads the run's images.

    Args:
        run: Whose images.
        data: Where they are now; default: where the run says that they were.

    Returns:
        None without `data` where they are no longer there, or on another machine.

    Raises:
        UsageError: `data` is nothing that can be read.
        DataError: It is damaged.
        RunError: What the run says of its data is damaged.
    """
    return _of_dataset(data) if isinstance(data, Dataset) else _of_path(run, data)


def data_of(run: Run) -> str:
    """Where the run's images were, as it says; "" where they were in memory."""
    file = run.path / SOURCE
    if not file.is_file():
        return ""
    value = read_json(file)
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        raise RunError(f'{file} is damaged: expected {{"data": "a path or URL"}}. Copy the run again, or remove it.')
    return str(value["data"])


def held_out(run: Run) -> Dataset:
    """The images that the run was tested on (validated, where none were), where they lie now.

    Raises:
        UsageError: The run does not say where they are, or they are there no more.
        DataError: Some of them are gone.
    """
    known, told = data_of(run), run.predictions
    if not known or not Path(known).exists():
        where = f" ({known} does not exist)" if known else ""
        raise UsageError(f"{run.path} does not say where its images are now{where}. Give labelled data.")
    wanted = set(told.part("test" if "test" in told.parts else "val").ids)
    dataset = scan(known, on_bad="skip", twins=False)
    hashes = {row.get("path"): row.get("sha256") for row in split_rows(run.path)}
    found = [s for s in dataset.samples if s.path in wanted and hashes.get(s.path, s.sha256) == s.sha256]
    if len(found) < len(wanted):
        raise DataError(f"{len(wanted) - len(found)} of the {len(wanted)} images are no longer in {known}, or changed.")
    return dataset.with_samples([replace(sample, part=None) for sample in found])


def split_rows(path: Path) -> list[dict[str, str]]:
    """Of the `split.csv` in a run's folder; none where there is no such file."""
    file = path / SPLIT
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_json(file: Path) -> Any:
    """A file of a run.

    Raises:
        RunError: It is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not UTF-8
        raise RunError(f"{file} is damaged: {error}") from error


def _of_dataset(dataset: Dataset) -> SourceOf:
    samples = {sample.path: sample for sample in dataset.samples}

    def source(name: str) -> ImageSource:
        if name not in samples:
            raise ImageError("not in the data", name)
        return dataset.source(samples[name])

    return source


def _of_path(run: Run, data: Path | str | None) -> SourceOf | None:
    """Reads what lies in the data, and only what is as it was when the run was made."""
    known = data_of(run)
    if data is None and not (known and Path(known).exists()):
        return None
    configured = data is not None and (run.path / CONFIG).is_file()
    remote = configured and load_config(run.path / CONFIG).data.remote
    try:
        opened = open_data(data if data is not None else Path(known), remote=remote)
    except RegraftError:
        if data is not None:
            raise
        return None
    there = {found.path for found in opened.layout.found}
    hashes = {row.get("path"): row.get("sha256") for row in split_rows(run.path)}

    def source(name: str) -> ImageSource:
        if name not in there:
            raise ImageError("not in the data", name)
        content = opened.storage.read(name)
        if hashes.get(name) != hashlib.sha256(content).hexdigest():
            raise ImageError("not the image that it was", name)
        return content

    return source
