"""Read weights of `keras.applications` from Keras's files into the layout of timm.

Input: HDF5 with names of layers (`model.save("m.h5")`, Keras 2) or with their classes in order (`.weights.h5`), or a
`.keras` archive. Output: the state dict of a timm model that computes the same. Nothing in a file is executed, and its
links are not followed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regraft.errors import MissingExtraError, WeightsError, cause_of
from regraft.models.keras.applications import APPLICATIONS, Application
from regraft.quick_imports import quick_imports
from regraft.text import join_truncated

with quick_imports():
    import timm

SUFFIXES = (".h5", ".hdf5", ".keras")
#: Classes of layers as `.weights.h5` spells them; EfficientNet's Normalization is looked up by its name.
_CONV, _DEPTHWISE, _BN = "conv2d", "depthwise_conv2d", "batch_normalization"
#: Variances of EfficientNet's Normalization with weights for ImageNet: standard deviations, as a Rescaling follows.
_EFFICIENTNET_STD = np.array((0.229, 0.224, 0.225))

#: Mean and standard deviation of red, green and blue on the scale 0..1.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class KerasWeights:
    """A state dict in timm's layout, and what it expects of the pixels.

    `normalization` is None where it is the timm model's own. `left_out` are layers that do not belong to the backbone.
    """

    state: dict[str, torch.Tensor]
    normalization: Normalization | None
    left_out: tuple[str, ...]


def read_keras_weights(file: Path, backbone: str, model: nn.Module) -> KerasWeights:
    """Read the weights of a backbone of `APPLICATIONS` for its timm model.

    Raises:
        MissingExtraError: h5py is not installed.
        WeightsError: The file is damaged, or does not contain this network; the message names its layers.
    """
    with _opened(file) as (root, config):
        application, models = APPLICATIONS[backbone], _read_models(root)
        layers = next(filter(None, (_match(found, application, model) for found in models)), None)
        if layers is None:
            raise WeightsError(_unknown(file.name, models, application))
        normalization = _rescaling(config)
        if application.normalizes:
            names = [name for found in models for name in found if name.startswith("normalization")]
            normalization = _efficientnet_normalization(next(found[names[0]] for found in models if names[0] in found))
        state = _convert(layers, application, model)
        if application.takes_bgr and normalization is None:
            first = f"{application.layers[0][1]}.weight"
            state[first] = state[first].flip(1)
        used = {id(arrays) for arrays in layers.values()}
        left_out = [
            name for found in models for name, arrays in found.items()
            if id(arrays) not in used and not name.startswith("normalization")
        ]  # fmt: skip
    return KerasWeights(state, normalization, tuple(left_out))


def identify(file: Path) -> str | None:
    """Return the name of the backbone of `APPLICATIONS` that a file contains, or None."""
    with _opened(file) as (root, _), torch.device("meta"):
        models = _read_models(root)
        for name, application in APPLICATIONS.items():
            model = timm.create_model(name, num_classes=0)
            if any(_match(found, application, model) for found in models):
                return name
    return None


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file: the root of its HDF5, and the configuration of the model, empty if only weights were saved."""
    if importlib.util.find_spec("h5py") is None:
        raise MissingExtraError(f"{file.name}, a file of Keras (package h5py),", "tensorflow")
    import h5py

    try:
        content: Any = file
        text = "{}"
        if file.suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
                if unpacked > max(_UNPACKED, _RATIO * file.stat().st_size):
                    raise OSError(f"it unpacks to {unpacked:,} bytes, which no weights do")
                text, content = archive.read("config.json").decode(), io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as root:
            yield root, json.loads(root.attrs.get("model_config", text))
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:  # also RecursionError
        raise WeightsError(f"{file} cannot be read as a file of Keras: {cause_of(error)}") from error


#: Bytes, and times the size of the file, above which a file is no archive of weights, which hardly compress.
_UNPACKED, _RATIO = 64 * 2**20, 20
#: Name of a layer, or its class with a number, and its arrays in the order of Keras's `get_weights`.
Layers = dict[str, list[Any]]


def _read_models(root: Any) -> list[Layers]:
    """Return the layers of the model, and those of each model inside it where the file separates them."""
    group = _child(root, "model_weights") or root
    if names := _strings(group, "layer_names"):
        layers: Layers = {}
        for outer in names:
            layer = _child(group, outer)
            for path in _strings(layer, "weight_names"):
                *parents, _ = path.split("/")  # of a model inside the model, its layer's name precedes the variable's
                layers.setdefault(parents[-1] if parents else outer, []).append(_child(layer, path))
        return [layers]
    models: list[Layers] = []
    pending = [root]
    while pending:
        group = pending.pop(0)
        children = {name: child for name in sorted(group, key=_by_number) if (child := _child(group, name)) is not None}
        pending += [child for name, child in children.items() if hasattr(child, "keys") and name != "vars"]
        if group.name.rpartition("/")[2] in ("layers", "_layer_checkpoint_dependencies"):
            variables = {name: _child(child, "vars") for name, child in children.items()}
            models.append({
                name: [_child(values, number) for number in sorted(values, key=_by_number)]
                for name, values in variables.items() if values is not None and len(values)
            })  # fmt: skip
    return models


def _child(group: Any, path: str) -> Any:
    """Return a group or array below a group without following links, which could lead to other files; None: absent."""
    import h5py

    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return None
        group = group[name]
    return group


def _strings(group: Any, name: str) -> list[str]:
    """Return a list of texts among the attributes, which Keras divides into several if it is long."""
    if group is None:
        return []
    numbered = (f"{name}{number}" for number in range(len(group.attrs)))
    keys = [key for key in (name, *numbered) if key in group.attrs]
    return [value.decode() if isinstance(value, bytes) else str(value) for key in keys for value in group.attrs[key]]


def _by_number(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if stem and number.isdigit() else ("", int(name)) if name.isdigit() else (name, 0)


def _match(found: Layers, application: Application, model: nn.Module) -> Layers | None:
    """Return the layers of the application by their names in Keras, or None if one is missing or has another shape."""
    modules = dict(model.named_modules())
    if application.layers[0][0] not in found:  # classes in order instead of names
        counts: dict[str, int] = {}
        renamed: Layers = {}
        for name, path in application.layers:
            module = modules[path]
            kind = _BN if not isinstance(module, nn.Conv2d) else _CONV if module.groups == 1 else _DEPTHWISE
            number = counts[kind] = counts.get(kind, -1) + 1
            renamed[name] = found.get(f"{kind}_{number}" if number else kind, [])
        found = renamed
    layers = {name: found.get(name, []) for name, _ in application.layers}
    return layers if all(_fits(layers[name], modules[path]) for name, path in application.layers) else None


def _fits(arrays: list[Any], module: nn.Module) -> bool:
    return bool(arrays) and arrays[0] is not None and tuple(arrays[0].shape) == _keras_shape(module)


def _keras_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of a layer's first array in Keras."""
    weight = module.get_parameter("weight")
    if not isinstance(module, nn.Conv2d):
        return tuple(weight.shape)
    filters, channels, height, width = weight.shape
    return (height, width, channels, filters) if module.groups == 1 else (height, width, filters, channels)


def _convert(layers: Layers, application: Application, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of the timm model."""
    state = model.state_dict()
    modules, biases = dict(model.named_modules()), {}
    for name, path in application.layers:
        first, *others = map(_array, layers[name])
        module = modules[path]
        if isinstance(module, nn.Conv2d):
            axes = (3, 2, 0, 1) if module.groups == 1 else (2, 3, 0, 1)
            state[f"{path}.weight"] = torch.from_numpy(first.transpose(axes).copy())
            if module.bias is not None:
                state[f"{path}.bias"] = torch.from_numpy(others[0])
            elif others:
                biases[f"{name.removesuffix('conv')}bn"] = others[0]
            continue
        assert isinstance(module, nn.BatchNorm2d)
        beta, mean, variance = others
        # timm's convolution has no bias, and its BatchNorm another epsilon: mean and variance absorb both.
        arrays = {"weight": first, "bias": beta, "running_mean": mean - biases.get(name, 0.0)}
        arrays["running_var"] = variance + np.float32(application.bn_epsilon - module.eps)
        state |= {f"{path}.{key}": torch.from_numpy(value) for key, value in arrays.items()}
    return state


def _array(dataset: Any) -> np.ndarray:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the array {dataset.name} is in another file")
    return np.asarray(dataset, np.float32)


def _rescaling(config: Any) -> Normalization | None:
    """The normalization that is a layer Rescaling of the model itself, if there is exactly one."""
    found: list[Normalization] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "Rescaling":
            scale, offset = (value["config"].get(key, 0.0) for key in ("scale", "offset"))
            if isinstance(scale, float) and scale > 0 and isinstance(offset, (int, float)):
                found.append((((0.0 - offset) / scale / 255,) * 3, (1 / scale / 255,) * 3))  # never -0.0
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            visit(child)

    visit(config)
    return found[0] if len(found) == 1 else None


def _efficientnet_normalization(arrays: list[Any]) -> Normalization:
    """What EfficientNet's layers Rescaling and Normalization do together."""
    mean, variance = (_array(array).reshape(3).astype(float) for array in arrays[:2])
    std = variance if np.allclose(variance, _EFFICIENTNET_STD, atol=1e-4) else np.sqrt(variance)
    return tuple(mean.tolist()), tuple(std.tolist())


def _unknown(file: str, models: list[Layers], application: Application) -> str:
    seen = [f"{name} {tuple(arrays[0].shape)}" for found in models for name, arrays in found.items() if arrays]
    wanted = join_truncated((name for name, _ in application.layers), shown=3)
    return (
        f"{file} does not contain {application.name} of keras.applications, with the layers {wanted}. "
        f"Its layers are: {join_truncated(seen, shown=12) or 'none'}."
    )
