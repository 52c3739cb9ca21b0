from __future__ import annotations

import pytest
import timm
import torch

from regraft.errors import UnknownNameError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.stages import resolve_boundary, split_stages

CLASSES = ("a", "b")


@pytest.fixture(scope="module")
def mobilenet() -> Classifier:
    return build("mobilenetv2", classes=CLASSES, weights="none", image_size=64)


@pytest.fixture(scope="module")
def vgg() -> Classifier:
    return build("vgg16", classes=CLASSES, weights="none", image_size=32)


def test_keras_names_of_vgg16(vgg: Classifier) -> None:
    names = [stage.name for stage in vgg.stages]
    assert names[:3] == ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert vgg.stages[vgg.resolve("block5_conv1")].name == "block5_conv1"
    assert vgg.resolve("block5_conv1") == 10
    assert vgg.resolve("features.24") == vgg.resolve("block5_conv1")
    assert vgg.resolve("auto") == vgg.resolve("block5_conv1")


@pytest.mark.parametrize(
    ("backbone", "alias", "stage"),
    [
        ("resnet50", "conv5_block1_out", "layer4.0"),
        ("resnet50", "conv4_block2", "layer3.1"),
        ("efficientnetb0", "block6a_expand_conv", "blocks.5.0"),
        ("efficientnetb0", "block2b", "blocks.1.1"),
        ("mobilenetv2", "block_13_expand", "blocks.5.0"),
        ("mobilenetv2", "block_1_expand", "blocks.1.0"),
        ("mobilenetv2", "blocks.3", "blocks.3.0"),
        ("mobilenetv2", "blocks.3.1.conv_dw", "blocks.3.1"),
        ("mobilenetv2", "auto", "blocks.3.0"),
    ],
)
def test_aliases_find_their_stage(backbone: str, alias: str, stage: str) -> None:
    model = build(backbone, classes=CLASSES, weights="none", image_size=64)
    assert model.stages[model.resolve(alias)].name == stage


def test_all_and_none(mobilenet: Classifier) -> None:
    assert mobilenet.resolve("all") == 0
    assert mobilenet.resolve("none") == len(mobilenet.stages)


def test_numbers_count_layers_as_the_summary_does(mobilenet: Classifier) -> None:
    layers = [(index, name) for index, stage in enumerate(mobilenet.stages) for name, _ in stage.layers()]
    for number in (0, 1, 50, 100, len(layers) - 1):
        assert mobilenet.resolve(number) == layers[number][0]
        assert mobilenet.resolve(str(number)) == layers[number][0]
        assert mobilenet.resolve(number - len(layers)) == (layers[number][0])
    assert mobilenet.resolve(len(layers)) == len(mobilenet.stages)
    with pytest.raises(UsageError, match=f"the backbone has {len(layers)} layers"):
        mobilenet.resolve(len(layers) + 1)


def test_unknown_stage_names_the_nearest(mobilenet: Classifier) -> None:
    with pytest.raises(UnknownNameError, match=r"blocks\.5\.1"):
        mobilenet.resolve("block.5.1")


@pytest.mark.parametrize(
    "name",
    [
        "regnety_004",
        "densenet121",
        "mobilevit_s",
        "resnetv2_50",
        "ghostnet_100",
        "mixer_s16_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_other_timm_models_are_split_too(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    size = 224 if model.pretrained_cfg["fixed_input_size"] else 96
    stages = split_stages(model, (size, size))
    assert len(stages) > 4
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        values = images
        for stage in stages:
            values = stage.forward(values)
        torch.testing.assert_close(values, model(images), rtol=1e-4, atol=1e-4)


def test_a_model_that_is_not_a_chain_is_one_stage() -> None:
    model = timm.create_model("levit_128s", pretrained=False, num_classes=0).eval()
    stages = split_stages(model, (224, 224))
    assert [stage.name for stage in stages] == ["features", "pool"]
    assert resolve_boundary(stages, "auto") == 0


def test_splitting_does_not_change_mode_or_random_state() -> None:
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=0).train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    split_stages(model, (32, 32))
    assert torch.equal(torch.rand(1), expected)
    assert model.training


@pytest.mark.parametrize(
    ("name", "stage"),
    [("efficientnet_lite0", "blocks.5.0"), ("resnet50", "layer4.0"), ("vit_tiny_patch16_224", "blocks.10")],
)
def test_last_is_the_last_resolution(name: str, stage: str) -> None:
    model = build(name, classes=("a", "b"), weights="none", image_size=64)
    assert model.stages[model.resolve("last")].name == stage
    assert model.resolve("auto") < model.resolve("last") < len(model.stages)
