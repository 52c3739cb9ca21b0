"""An export that is loaded: a folder with a model in one format, and all that is needed to use and verify it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from regraft.atomic_io import sha256_of
from regraft.attribution.evidence import Evidence
from regraft.data.labels import Task
from regraft.data.preprocessing import Preprocessing
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, ExportError, UsageError, as_path
from regraft.exporting.formats import FORMATS
from regraft.exporting.formats.base import Runtime, first_line
from regraft.exporting.validation import check_file
from regraft.models.head import Activation
from regraft.models.torch_defaults import torch_defaults

#: Names of the files and folders of an export beside those of its format.
DESCRIPTION, PARITY, SCRIPT, GOLDEN, README = "export.json", "parity.json", "predict.py", "golden", "README.md"
#: Version of `export.json`.
VERSION = 1


class ExportedModel:
    """A model in an export format, which predicts in that format's own runtime.

    Attributes:
        path: The export's folder.
        description: Contents of `export.json`.
        classes: Class names in output order.
        taxonomy: Tree above the classes; None without one.
        pool_by: What the groups of images are that the model was trained to give one answer each; "" if each image has
            one.
        preprocessing: How an image file becomes an input.
        runtime: The loaded model.
    """

    def __init__(self, path: Path | str, *, threads: int = 0, trust: bool = False) -> None:
        """Check the files and load them.

        Args:
            path: The export's folder.
            threads: Number of threads of the runtime; 0 means one for each usable CPU.
            trust: Whether to load a format that can run code from its files.

        Raises:
            UsageError: There is no such folder, or the format needs `trust`.
            ExportError: The folder is not an export, or its files are damaged, changed or unsafe to load.
            MissingExtraError: The format's runtime is not installed.
        """
        self.path = as_path(path, "The folder of an export")
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is not a folder. Expected an export; `regraft export RUN` makes one.")
        self.description = _read_description(self.path / DESCRIPTION)
        self.classes: tuple[str, ...] = tuple(self.description["classes"])
        self.taxonomy = Taxonomy.from_json(self.description.get("taxonomy"), self.classes)
        self.pool_by = str(self.description.get("pool_by", ""))
        self.preprocessing = Preprocessing.from_json(self.description["preprocessing"])
        export_format = FORMATS[self.description["format"]]
        if export_format.runs_code and not trust:
            text = f"{self.path} is in the format {export_format.name}, whose files can run code when they are loaded."
            raise UsageError(f"{text} If you trust where it comes from, pass --trust (in Python: trust=True).")
        for name in (*export_format.files, SCRIPT):
            check_file(self.path / name)
            if any(parent.is_symlink() for parent in list((self.path / name).parents)[: name.count("/")]):
                raise ExportError(f"{self.path / name} is in a folder that is a link. Copy the whole export again.")
            if self.description["sha256"].get(name) != sha256_of(self.path / name):
                raise ExportError(f"{self.path / name} is not the file that was exported: its SHA-256 differs.")
        self.runtime: Runtime = export_format.open(self.path, threads)

    def __repr__(self) -> str:
        return f"ExportedModel({str(self.path)!r})"

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which on an image is said to have each class; empty if it has one."""
        return tuple(self.description["thresholds"])

    @property
    def task(self) -> Task:
        """Whether the model gives an image one class, any number of them, or a number."""
        task: Task = self.description["task"]
        return task

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order, in which `classes` has them."""
        return bool(self.description.get("ordered"))

    @property
    def temperature(self) -> float:
        """Temperature of the probabilities."""
        return float(self.description["temperature"])

    @property
    def half_width(self) -> float | None:
        """Half the width of the prediction interval about each number; None: there is none."""
        width: float | None = self.description["half_width"]
        return width

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the true numbers of the images that the export was compared on; None of classes."""
        deviation: float | None = self.description["deviation"]
        return deviation if self.task == "regression" else None

    @torch_defaults()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Map images, uint8 (N, S, S, C), to probabilities, float64 (N, classes); of numbers to these, float64 (N, 1).

        Raises:
            ExportError: The runtime failed, or returned another shape.
        """
        try:
            probabilities = self.runtime(images)
        except Exception as error:  # the runtimes' errors have no common base class
            raise ExportError(f"{self.path} failed to predict: {first_line(error)}") from error
        expected = (len(images), len(self.classes))
        if probabilities.shape != expected:
            raise ExportError(f"{self.path} returned an array of shape {probabilities.shape}; expected {expected}.")
        return probabilities.astype(np.float64)

    def check_maps(self) -> dict[str, Any]:
        """Return what an export with maps says of them: `stage`, its name, `grid` and the head's `activation`.

        Raises:
            UsageError: The export has no maps.
        """
        return _maps_of(self.path, self.description)

    @torch_defaults()
    def evidence(self, images: np.ndarray) -> Evidence:
        """Map images, uint8 (N, S, S, C), to probabilities, logits, and the evidence for each class by position.

        Raises:
            UsageError: The export has no maps.
            ExportError: The runtime failed, or returned other outputs or shapes.
        """
        grid = self.check_maps()["grid"]
        assert self.runtime.predict_all is not None
        try:
            values = self.runtime.predict_all(np.ascontiguousarray(images))
        except Exception as error:  # the runtimes' errors have no common base class
            raise ExportError(f"{self.path} failed to predict: {first_line(error)}") from error
        rows = (len(images), len(self.classes))
        expected = {"probabilities": rows, "logits": rows, "evidence": (*rows, *grid)}
        shapes = {name: value.shape for name, value in values.items()}
        if shapes != expected:
            raise ExportError(f"{self.path} returned arrays of the shapes {shapes}; expected {expected}.")
        return Evidence(values["probabilities"].astype(np.float64), values["logits"], values["evidence"])


def open_with_maps(path: Path) -> ExportedModel:
    """Load an export; raises UsageError, before it is loaded, if it has no maps."""
    _maps_of(path, _read_description(path / DESCRIPTION))
    return ExportedModel(path)


def _maps_of(path: Path, description: dict[str, Any]) -> dict[str, Any]:
    maps: dict[str, Any] | None = description["maps"]
    if maps is None or not FORMATS[description["format"]].has_maps:
        raise UsageError(
            f"{path} is an export without maps, which heat maps need. `regraft export RUN --to onnx --with-maps` makes "
            "one with maps, or pass the run that it was exported from."
        )
    return maps


def is_export(path: Path) -> bool:
    """Return whether a folder has the description of an export."""
    return (path / DESCRIPTION).is_file()


def _read_maps(value: Any) -> dict[str, Any] | None:
    """Check what an export says of its maps; raises KeyError, TypeError or ValueError."""
    if value is None:
        return None
    rows, columns = (int(cells) for cells in value["grid"])
    if value["activation"] not in get_args(Activation) or min(rows, columns) < 1:
        raise ValueError(f"maps of {rows} x {columns} cells behind {value['activation']!r}")
    return {"stage": str(value["stage"]), "grid": (rows, columns), "activation": value["activation"]}


def _read_thresholds(value: dict[str, Any]) -> list[float]:
    """Check what an export says of several labels; raises KeyError, TypeError or ValueError."""
    thresholds = [float(limit) for limit in value.get("thresholds", [])]
    task = value.get("task", "classification")  # older exports have none
    expected = len(value["classes"]) if task == "multilabel" else 0
    if task not in get_args(Task) or len(thresholds) != expected:
        raise ValueError(f"{len(thresholds)} thresholds of the task {task!r}; expected {expected}")
    return thresholds


def _read_description(file: Path) -> dict[str, Any]:
    check_file(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        checked: dict[str, Any] = {
            "classes": [str(name) for name in value["classes"]],
            "preprocessing": dict(value["preprocessing"]),
            "format": str(value["format"]),
            "sha256": {str(k): str(v) for k, v in value["sha256"].items()},
            "maps": _read_maps(value.get("maps")),
            "thresholds": _read_thresholds(value),
            "task": str(value.get("task", "classification")),
            **{key: None if value.get(key) is None else float(value[key]) for key in ("half_width", "deviation")},
        }
        channels = Preprocessing.from_json(checked["preprocessing"]).channels
        Taxonomy.from_json(value.get("taxonomy"), checked["classes"])
    except (DataError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{file} is damaged: {error!r}. Export the run again.") from error
    if value.get("version") != VERSION or checked["format"] not in FORMATS:
        raise ExportError(
            f"{file} has the format {checked['format']!r}, version {value.get('version')!r}; expected version "
            f"{VERSION} of {', '.join(FORMATS)}."
        )
    preprocessing = checked["preprocessing"]
    size, color = preprocessing["size"], [*preprocessing["mean"], *preprocessing["std"]]
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if not all(type(side) is int and 8 <= side <= 4096 for side in sides):
        raise ExportError(f"{file} asks for images of {size!r} pixels; expected 8 to 4096.")
    if len(color) != 2 * channels or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in color):
        expected = f"{'three' if channels == 3 else channels} numbers of 0 to 1 each"
        raise ExportError(f"{file} has the mean and standard deviation {color}; expected {expected}.")
    return {**value, **checked}
