"""A model on disk: safetensors for the numbers, JSON for all that rebuilds it.

Enters: a `Classifier` and a folder, or a folder. Leaves: `model.safetensors`, `model.json`, `class_names.json`, or
the `Classifier` again, giving the same logits.
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
WEIGHTS, _NEXT = "model.safetensors", "model.next.safetensors"
_DESCRIPTION, _CLASSES = "model.json", "class_names.json"


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write the three files; after a kill at any moment the old model or the new one can be loaded.

    The description names the hash of its weights. New weights wait beside the old ones until the description is
    in place, and `load_classifier` takes the file that the description means.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / _NEXT) as temporary:
        save_file(tensors, temporary)
    description = {
        "format": FORMAT,
        **model.description(),
        "weights": asdict(model.weights),
        "calibration": {"temperature": model.head.temperature},
        "versions": versions(),
        "sha256": {WEIGHTS: sha256_of(folder / _NEXT)},
    }
    write_json(folder / _CLASSES, list(model.classes))
    write_json(folder / _DESCRIPTION, description)
    (folder / _NEXT).replace(folder / WEIGHTS)


def load_classifier(folder: Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Read a model back.

    Raises:
        RunError: The folder holds no model, or its files are damaged or of another format.
    """
    description = read_description(folder)
    wanted = description["sha256"][WEIGHTS]
    files = [folder / name for name in (WEIGHTS, _NEXT) if (folder / name).is_file()]
    file = next((file for file in files if sha256_of(file) == wanted), None)
    if file is None:
        found = "is not the file that" if files else "is missing, which"
        raise RunError(f"{folder / WEIGHTS} {found} {_DESCRIPTION} describes (SHA-256 {wanted}): copy the run again.")
    try:
        state = load_file(file)
        model = Classifier.from_description(description, WeightsRecord(**description["weights"]))
        model.load_state_dict(state, strict=True)
        model.head.temperature = float((description["calibration"] or {"temperature": 1.0})["temperature"])
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
        raise RunError(
            f"{folder} is not a run: it has no {_DESCRIPTION}. `regraft train DATA --out {folder}` would make one."
        )
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
    names = ("regraft", "torch", "torchvision", "timm", "numpy", "pillow", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
