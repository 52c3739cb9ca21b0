"""Save and load a model: safetensors for the tensors, JSON for the description."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from regraft.atomic_io import atomic_write, sha256_of, write_json
from regraft.data.preprocessing import Preprocessing
from regraft.errors import RunError
from regraft.models.classifier import Classifier
from regraft.models.pretrained import MAX_IMAGE_SIZE
from regraft.models.torch_defaults import torch_defaults
from regraft.models.weights import WeightsRecord
from regraft.text import in_shell

#: Version of the files' format. regraft 0.1 wrote format 1, which `upgrade` converts.
FORMAT = 2
WEIGHTS, _NEXT = "model.safetensors", "model.next.safetensors"
_DESCRIPTION, _CLASSES = "model.json", "class_names.json"
#: Entries that descriptions of all formats have, and their types.
_ENTRIES = {"backbone": dict, "head": dict, "preprocessing": dict, "classes": list, "sha256": dict}
#: What is raised where a value of a description is missing, or is another one than any model has.
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError)


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write the three files; if the process is killed at any moment, the old or the new model can be loaded.

    The description contains the hash of its weights. New weights stay beside the old ones until the description is in
    place, and `load_classifier` reads the file with that hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(folder / _NEXT) as temporary:
        save_file(tensors, temporary)
    description = {
        "format": FORMAT,
        **model.get_config(),
        "weights": asdict(model.weights),
        "calibration": {"temperature": model.head.temperature},
        "versions": versions(),
        "sha256": {WEIGHTS: sha256_of(folder / _NEXT)},
    }
    write_json(folder / _CLASSES, list(model.classes))
    write_json(folder / _DESCRIPTION, description)
    (folder / _NEXT).replace(folder / WEIGHTS)


@torch_defaults()
def load_classifier(folder: Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Load a model in inference mode; RunError if there is none, or it is damaged or of a newer format."""
    original = _read_description(folder)
    expected = original["sha256"][WEIGHTS]
    files = [folder / name for name in (WEIGHTS, _NEXT) if (folder / name).is_file()]
    file = next((file for file in files if sha256_of(file) == expected), None)
    if file is None:
        problem = "is not the file that" if files else "is missing, which"
        raise RunError(
            f"{folder / WEIGHTS} {problem} {_DESCRIPTION} describes (SHA-256 {expected}): copy the run again."
        )
    try:
        description, tensors = upgrade(original, load_file(file))
        with torch.random.fork_rng(devices=[]):  # the initial weights are random
            _check_size(description, folder)
            model = Classifier.from_config(description, WeightsRecord.from_json(description["weights"]))
        model.load_state_dict(tensors, strict=True)
        model.head.temperature = float((description["calibration"] or {"temperature": 1.0})["temperature"])
        if not 0 < model.head.temperature < math.inf:
            raise ValueError(f"the temperature {model.head.temperature}")
    except (SafetensorError, *_DAMAGED) as error:
        reason = str(error) if isinstance(error, (SafetensorError, RuntimeError)) else repr(error)
        raise RunError(f"{folder} cannot be loaded, because {_DESCRIPTION} is damaged: {reason}") from error
    return model.to(device).eval()


def _check_size(description: Mapping[str, Any], folder: Path) -> None:
    """Refuse a size of images that no training allows, and that would fill the memory with the first image."""
    shape = Preprocessing.from_json(description["preprocessing"]).shape
    if max(shape) > MAX_IMAGE_SIZE:
        raise RunError(
            f"{folder / _DESCRIPTION} is damaged: its images have {' x '.join(map(str, shape))} pixels; expected "
            f"{MAX_IMAGE_SIZE} at most. Copy the run again."
        )


def read_model_json(folder: Path) -> dict[str, Any]:
    """Read `model.json` in today's format; RunError if it is missing, damaged, or of a newer format."""
    description, _ = upgrade(_read_description(folder), {})
    return description


def upgrade(
    description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Convert the description and the tensor names of an earlier format to today's."""
    description, tensors = dict(description), dict(tensors)
    if description["format"] == 1:
        description["format"] = FORMAT
        shape = description.pop("familiarity", None)
        arguments = ("classes", "features", "components", "calibration_images")
        description["ood"] = dict(zip(arguments, shape, strict=False)) if shape else None
        weights = dict(description.get("weights") or {})
        weights["license"] = weights.pop("licence", "")
        description["weights"] = weights
        renamed = {"directions": "components", "noise": "noise_variance", "reference": "calibration_distances"}
        for name in [name for name in tensors if name.startswith("familiarity.")]:
            _, _, buffer = name.partition(".")
            tensors[f"ood.{renamed.get(buffer, buffer)}"] = tensors.pop(name)
    if "head" in description:  # early versions had no choice
        head = description["head"] = {"hidden_activation": "relu", **description["head"]}
        if isinstance(head["stages"], list):  # of every network, they read the mean and the maximum of all positions
            head["stages"] = {name: ["mean", "max"] for name in head["stages"]}
    return description, tensors


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / _DESCRIPTION
    if folder.is_file() and (folder.parent / "export.json").is_file():
        raise RunError(
            f"{folder} is a file of an export. Expected a folder: that of the run or, where a command takes exports, "
            f"{folder.parent}."
        )
    if folder.is_file():
        raise RunError(f"{folder} is a file. Expected the folder of a run, such as {folder.parent}.")
    if (folder / "export.json").is_file():
        raise RunError(f"{folder} is an export. Expected the folder of the run that it was made from.")
    if not file.is_file():
        raise RunError(
            f"{folder} is not a run: it has no {_DESCRIPTION}. "
            f"Create one with `regraft train DATA --out {in_shell(folder)}`."
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or nested without end
        raise RunError(f"{file} is damaged: {error}") from error
    number = value.get("format") if isinstance(value, dict) else None
    if not isinstance(number, int) or number < 1:
        raise RunError(f"{file} is damaged: its format is {number!r}; expected a whole number.")
    if number > FORMAT:
        raise RunError(f"{file} has format {number}; this regraft reads formats up to {FORMAT}. Update regraft.")
    assert isinstance(value, dict)
    for name, kind in _ENTRIES.items():
        if not isinstance(value.get(name), kind):
            raise RunError(f"{file} is damaged: it has no {name}. Copy the run again.")
    if not all(isinstance(name, str) for name in (*value["classes"], value["sha256"].get(WEIGHTS))):
        raise RunError(f"{file} is damaged: names of classes or the hash of {WEIGHTS} are no text. Copy the run again.")
    return value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine the numbers."""
    names = ("regraft", "torch", "torchvision", "timm", "numpy", "pillow", "scipy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


@cache
def _version(package: str) -> str:
    """The version of a package, whose file of metadata is read once: a training asks five times."""
    return version(package)
