from __future__ import annotations

from pathlib import Path

import pytest

from regraft.config import load_config
from regraft.errors import AmbiguousNameWarning, UnknownNameError, UsageError
from regraft.models.registry import (
    _FAMILIES,
    _KERAS_NAMES,
    BACKBONES,
    DEFAULT_BACKBONE,
    find_backbone,
    hub_file_on_disk,
)

WANTED = [
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "mobilenetv2",
    "mobilenetv3",
    "vgg16",
    "resnet50",
    "efficientnetb0",
    "efficientnetv2b0",
    "vit_s16",
    "vit_b16",
    "convnext_tiny",
    "dinov3_vits16",
]


def test_the_friendly_names() -> None:
    assert set(WANTED) <= set(BACKBONES)
    assert DEFAULT_BACKBONE == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("VGG16", "vgg16"),
        ("ResNet-50", "resnet50"),
        ("MobileNetV2", "mobilenetv2"),
        ("EfficientNet_B0", "efficientnetb0"),
        ("EfficientNetB0", "efficientnetb0"),
        ("EfficientNetV2S", "tf_efficientnetv2_s"),
        ("MobileNetV3Small", "mobilenetv3_small_100"),
        ("InceptionV3", "inception_v3"),
        ("DenseNet121", "densenet121"),
        ("ResNet50V2", "resnetv2_50"),
        ("ResNet18", "resnet18"),
    ],
)
def test_spelling_of_friendly_names_is_forgiven(written: str, meant: str) -> None:
    assert find_backbone(written).name == meant


def test_names_of_keras_are_backbones() -> None:
    for written, name in _KERAS_NAMES.items():
        assert find_backbone(written).name == name


def test_the_name_of_a_family_chooses_a_member_and_says_so() -> None:
    for family, member in _FAMILIES.items():
        with pytest.warns(AmbiguousNameWarning, match=f"'{family}' is taken for {member}"):
            assert find_backbone(family).name == member
    with pytest.warns(AmbiguousNameWarning):
        assert load_config(None, ["model.backbone=MobileNet"]).model.backbone == "mobilenetv2"


def test_any_timm_name_is_a_backbone() -> None:
    assert find_backbone("regnety_008").timm_name == "regnety_008"


def test_a_path_is_said_to_not_exist() -> None:
    with pytest.raises(UsageError, match=r"runs/nothere does not exist. Expected the folder of a run") as caught:
        find_backbone("runs/nothere")
    assert len(str(caught.value)) < 200
    with pytest.raises(UnknownNameError) as unknown:
        find_backbone("zzzzzzzzz")
    assert len(str(unknown.value)) < 200


def test_a_run_is_not_one_of_several_backbones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a backbone alone, and not one of several"):
        find_backbone(f"{tmp_path},mobilenetv2")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="mobilenetv2"):
        find_backbone("mobilnetv2")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenetv2"])
def test_weight_wheels_are_found(name: str) -> None:
    wheel = BACKBONES[name].wheel
    assert wheel is not None
    path = wheel.path()
    assert path is not None
    assert path.is_file()


def test_hub_cache_is_looked_up_without_a_network() -> None:
    assert hub_file_on_disk(BACKBONES["vgg16"]) in (True, False)
    assert not hub_file_on_disk(find_backbone("levit_128s"))
