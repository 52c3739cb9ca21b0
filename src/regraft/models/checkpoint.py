"""A model on disk: safetensors for the numbers, JSON for all that rebuilds it.

Enters: a `Classifier` and a folder, or a folder. Leaves: `model.safetensors`, `model.json`, `class_names.json`, or the `Classifier`
again, giving the same logits.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from regraft.errors import RunError
from regraft.files import replacing, sha256_of, write_json
from regraft.models.classifier import Classifier
from regraft.models.weights import WeightsRecord

FORMAT = 1
_WEIGHTS, _DESCRIPTION, _CLASSES = "model.safetensors", "model.json", "class_names.json"


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write the three files; a kill in between leaves the old model or the new one loadable."""
    folder.mkdir(parents=True, exist_ok=True)
    # The name carries the hash until the description that names it is in place.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / _WEIGHTS) as temporary:
        save_file(tensors, temporary)
        digest = sha256_of(temporary)
        write_json(
            folder / _DESCRIPTION,
            {
                "format": FORMAT,
                **model.description(),
                "weights": asdict(model.weights),
                "calibration": None,
                "versions": versions(),
                "sha256": {_WEIGHTS: digest},
            },
        )
    write_json(folder / _CLASSES, list(model.classes))


def load_classifier(folder: Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Read a model back.

    Raises:
        RunError: The folder holds no model, or its files are damaged or of another format.
    """
    description = read_description(folder)
    file = folder / _WEIGHTS
    if not file.is_file():
        raise RunError(f"{folder} has no {_WEIGHTS}; the run did not finish, or a file was removed.")
    if sha256_of(file) != description["sha256"][_WEIGHTS]:
        raise RunError(f"{file} is not the file that {_DESCRIPTION} describes (their SHA-256 differ): copy the run again.")
    try:
        state = load_file(file)
        model = Classifier.from_description(description, WeightsRecord(**description["weights"]))
        model.load_state_dict(state, strict=True)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{folder} cannot be loaded: {error}") from error
    return model.to(device).eval()


def read_description(folder: Path) -> dict[str, Any]:
    """Read `model.json`.

    Raises:
        RunError: It is missing, damaged, or of another format.
    """
    file = folder / _DESCRIPTION
    if not file.is_file():
        raise RunError(f"{folder} is not a run: it has no {_DESCRIPTION}. `regraft train DATA --out {folder}` would make one.")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise RunError(f"{file} has format {found}; this regraft reads format {FORMAT}.")
    return value


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("regraft", "torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
