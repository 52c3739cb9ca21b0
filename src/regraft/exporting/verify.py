"""Verification of an export on any machine, by a few images that travel with it (its golden images)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.atomic_io import sha256_of, write_json
from regraft.errors import ExportError, cause_of, suggest_names
from regraft.exporting.calibration_data import ParityImages, evenly_spaced
from regraft.exporting.exported_model import DESCRIPTION, GOLDEN, ExportedModel
from regraft.exporting.parity import VERIFY_LIMITS, Parity, compare_predictions, same_answers
from regraft.exporting.validation import check_file
from regraft.models.torch_defaults import torch_defaults

_EXPECTED = "expected.json"
_COUNT = 4
#: Endings of file names by the first bytes of a file.
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"GI": ".gif"}


def write_golden_images(
    folder: Path,
    images: ParityImages,
    model: np.ndarray,
    export: np.ndarray,
    classes: Sequence[str],
    thresholds: Sequence[float] = (),
) -> None:
    """Write a few image files, of different classes if possible, with the probabilities that the export gives.

    `model` and `export` are probabilities (N, C). Images on which both give the same answer come first.
    """
    folder.mkdir()
    deviation = images.deviation
    predicted = _answers(export, classes, thresholds, deviation)
    agreeing = np.flatnonzero(same_answers(model, export, thresholds, deviation).reshape(len(model), -1).all(axis=1))
    candidates = agreeing if len(agreeing) else np.arange(len(predicted))
    one_per_class = candidates[np.unique(images.labels[candidates], axis=0, return_index=True)[1]]
    if deviation is not None:  # in the order of the numbers
        one_per_class = one_per_class[evenly_spaced(len(one_per_class), _COUNT)]
    chosen = [*one_per_class.tolist(), *(i for i in candidates.tolist() if i not in one_per_class)][:_COUNT]
    rows: list[dict[str, Any]] = []
    for number, i in enumerate(chosen):
        content = images.source(images.names[i])
        assert isinstance(content, bytes)  # a run's own images are files
        name = f"{number}{_SUFFIXES.get(content[:2], '.img')}"
        (folder / name).write_bytes(content)
        rows.append({
            "file": name, "sha256": sha256_of(folder / name), "labels" if thresholds else "label": predicted[i],
            "probabilities": export[i].tolist(), "of_the_run": model[i].tolist(),
        })  # fmt: skip
    write_json(folder / _EXPECTED, rows)


def _answers(
    probabilities: np.ndarray, classes: Sequence[str], thresholds: Sequence[float], deviation: float | None
) -> list[Any]:
    """The predicted class of each row, or the list of its labels in class order, or its number as text."""
    if deviation is not None:
        return [f"{value:.6g}" for value in probabilities[:, 0].tolist()]
    if not thresholds:
        return [classes[i] for i in probabilities.argmax(axis=1).tolist()]
    above = probabilities >= np.array(thresholds)
    return [[classes[i] for i in np.flatnonzero(row).tolist()] for row in above]


@suggest_names
@torch_defaults()
def verify(path: Path | str, *, trust: bool = False) -> Parity:
    """Verify an export: the hashes of its files, and its probabilities for the golden images.

    Args:
        path: The export's folder.
        trust: Whether to load a format that can run code from its files.

    Raises:
        UsageError: There is no such folder, or the format needs `trust`.
        ExportError: The export is damaged, changed or unsafe to load, or its probabilities differ beyond the limits.

    Examples:
        >>> regraft.verify("runs/photos/exports/openvino").exceeded_limits
        []
    """
    model = ExportedModel(path, trust=trust)
    file = model.path / GOLDEN / _EXPECTED
    if file.parent.is_symlink():
        raise ExportError(f"{file.parent} is a link. Copy the whole export again.")
    check_file(file)
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        names, hashes = ([str(row[key]) for row in rows] for key in ("file", "sha256"))
        labels = [row["labels" if model.thresholds else "label"] for row in rows]
        expected = np.array([row["probabilities"] for row in rows], np.float64).reshape(len(rows), len(model.classes))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"{file} is damaged: {cause_of(error)}. Export the run again.") from error
    if not names:
        raise ExportError(f"{model.path} has no golden images. Export the run again.")
    for name, digest in zip(names, hashes, strict=True):
        if not re.fullmatch(r"\d+\.\w+", name):
            raise ExportError(f"{file} names the image {name!r}; expected a number and a suffix, such as 0.jpg.")
        check_file(file.parent / name)
        if sha256_of(file.parent / name) != digest:
            raise ExportError(f"{file.parent / name} is not the golden image that was exported: its SHA-256 differs.")
    if labels != _answers(expected, model.classes, model.thresholds, model.deviation):
        raise ExportError(f"The classes in {model.path / DESCRIPTION} are not those of the golden images, in order.")
    precision = str(model.description.get("precision"))
    if precision not in VERIFY_LIMITS:
        raise ExportError(f"{model.path / DESCRIPTION} is damaged: it has the precision {precision!r}.")
    pixels = np.stack([model.preprocessing(file.parent / name) for name in names])
    truth = expected >= np.array(model.thresholds) if model.thresholds else expected.argmax(axis=1)
    truth = truth if model.deviation is None else expected[:, 0]
    parity = compare_predictions(
        names,
        truth,
        expected,
        model.probabilities(pixels),
        precision,
        VERIFY_LIMITS[precision],
        model.thresholds,
        model.deviation,
    )
    if parity.exceeded_limits:
        raise ExportError(
            f"{model.path} does not predict as it did when it was made: {'; '.join(parity.exceeded_limits)}."
        )
    return parity
