"""An export: a folder that holds a model in one format, and all that is needed to use and to check it.

Enters: such a folder. Leaves: an `ExportedModel` that predicts in the format's own runtime.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError, UsageError
from regraft.exporting.checks import check_file
from regraft.exporting.form import Runtime, first_line
from regraft.exporting.formats import FORMATS
from regraft.files import sha256_of
from regraft.shown import Shown

DESCRIPTION, PARITY, SCRIPT, GOLDEN = "export.json", "parity.json", "predict.py", "golden"
FORMAT = 1


class ExportedModel(Shown, by="regraft.pipeline.notebook.export_of"):
    """A model in another format.

    Attributes:
        path: The export's folder.
        description: What `export.json` says.
        classes: Class names in output order.
        preprocessing: How an image file becomes the input.
        runtime: What runs it.
    """

    def __init__(self, path: Path | str, *, threads: int = 0, trust: bool = False) -> None:
        """Check the files and load them.

        Args:
            path: The export's folder.
            threads: Of the runtime; 0: its own choice.
            trust: Whether a file may be loaded whose format can run code.

        Raises:
            UsageError: There is no such folder, or it needs trust.
            ExportError: It holds no export, or one that is damaged, changed or hostile.
            MissingExtraError: The format's runtime is not installed.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is no folder. Expected that of an export; `regraft export RUN` makes one.")
        self.description = _description(self.path / DESCRIPTION)
        self.classes: tuple[str, ...] = tuple(self.description["classes"])
        self.preprocessing = Preprocessing.from_json(self.description["preprocessing"])
        form = FORMATS[self.description["format"]]
        if form.runs_code and not trust:
            raise UsageError(
                f"{self.path} is of the format {form.name}, which may run code when it is loaded. If you made it, or "
                "trust whoever did, say so: --trust (in Python, trust=True)."
            )
        for name in (*form.files, SCRIPT):
            check_file(self.path / name)
            if any(parent.is_symlink() for parent in list((self.path / name).parents)[: name.count("/")]):
                raise ExportError(f"{self.path / name} lies behind a link, which may lead anywhere.")
            if self.description["sha256"].get(name) != sha256_of(self.path / name):
                raise ExportError(f"{self.path / name} is not the file that was exported: its SHA-256 differs.")
        self.runtime: Runtime = form.open(self.path, threads)

    def __repr__(self) -> str:
        """Name the folder."""
        return f"ExportedModel({str(self.path)!r})"

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 (N, S, S, 3), to probabilities, float64 (N, classes).

        Raises:
            ExportError: The runtime gave something else.
        """
        try:
            found = self.runtime(images)
        except Exception as error:  # each runtime has classes of its own
            raise ExportError(f"{self.path} could not be run: {first_line(error)}") from error
        if found.shape != (len(images), len(self.classes)):
            shape = " x ".join(map(str, found.shape))
            raise ExportError(f"{self.path} gives {shape} numbers; expected {len(images)} x {len(self.classes)}.")
        return found.astype(np.float64)


def is_export(path: Path) -> bool:
    """Whether a folder says that it is an export."""
    return (path / DESCRIPTION).is_file()


def _description(file: Path) -> dict[str, Any]:
    check_file(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, Any] = {
            "classes": [str(name) for name in value["classes"]],
            "preprocessing": dict(value["preprocessing"]),
            "format": str(value["format"]),
            "sha256": {str(k): str(v) for k, v in value["sha256"].items()},
        }
        Preprocessing.from_json(found["preprocessing"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{file} is damaged: {error!r}. Export the run again.") from error
    if value.get("version") != FORMAT or found["format"] not in FORMATS:
        raise ExportError(
            f"{file} is of format {found['format']!r}, version {value.get('version')!r}; expected version {FORMAT} of "
            f"{', '.join(FORMATS)}."
        )
    size, colour = found["preprocessing"]["size"], [*found["preprocessing"]["mean"], *found["preprocessing"]["std"]]
    if not (type(size) is int and 8 <= size <= 4096):
        raise ExportError(f"{file} wants images of {size!r} pixels; expected 8 to 4096.")
    if len(colour) != 6 or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in colour):
        raise ExportError(
            f"{file} has the mean and standard deviation {colour}; expected three numbers of 0 to 1 each."
        )
    return {**value, **found}
