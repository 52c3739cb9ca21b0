"""Networks of `keras.applications` as timm models that compute the same, and the names of their layers.

They differ from the networks of the same name in timm: ResNet50 has its stride in the first 1 x 1 convolution of a
block instead of the 3 x 3 one, MobileNetV2 and EfficientNetB0 pad as TensorFlow's `same`, and the pixels are scaled
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from regraft.quick_imports import quick_imports

with quick_imports():
    from timm.models import generate_default_cfgs, register_model
    from timm.models.efficientnet import EfficientNet, mobilenetv2_100, tf_efficientnet_b0
    from timm.models.resnet import ResNet, resnet50
    from timm.models.vgg import VGG, vgg16


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    `layers` are pairs of a layer's name in Keras and the module's in timm, in the order of Keras's `model.layers`.
    """

    name: str
    layers: tuple[tuple[str, str], ...]
    bn_epsilon: float = 0.0  # of Keras's BatchNormalization
    takes_bgr: bool = False  # blue, green, red instead of red, green, blue
    normalizes: bool = False  # whether a layer Normalization is part of the network


def _vgg16() -> Iterator[tuple[str, str]]:
    index = 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, convolutions + 1):
            yield f"block{block}_conv{number}", f"features.{index}"
            index += 2  # a ReLU follows
        index += 1  # and a pooling


def _resnet50() -> Iterator[tuple[str, str]]:
    yield from (("conv1_conv", "conv1"), ("conv1_bn", "bn1"))
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            keras, timm = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
            parts = [("1_conv", "conv1"), ("1_bn", "bn1"), ("2_conv", "conv2"), ("2_bn", "bn2")]
            parts += [("3_conv", "conv3"), ("3_bn", "bn3")]
            if block == 0:  # Keras sorts layers by their distance from the output
                parts[4:4], parts[6:6] = [("0_conv", "downsample.0")], [("0_bn", "downsample.1")]
            yield from ((f"{keras}_{ours}", f"{timm}.{theirs}") for ours, theirs in parts)


def _mobilenetv2() -> Iterator[tuple[str, str]]:
    yield from (("Conv1", "conv_stem"), ("bn_Conv1", "bn1"))
    number = 0
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(blocks):
            keras, timm = f"block_{number}" if number else "expanded_conv", f"blocks.{stage}.{block}"
            names = ("expand", "depthwise", "project") if number else ("depthwise", "project")
            modules = ("conv_pw", "conv_dw", "conv_pwl") if number else ("conv_dw", "conv_pw")
            for norm, (ours, theirs) in enumerate(zip(names, modules, strict=True), start=1):
                yield f"{keras}_{ours}", f"{timm}.{theirs}"
                yield f"{keras}_{ours}_BN", f"{timm}.bn{norm}"
            number += 1
    yield from (("Conv_1", "conv_head"), ("Conv_1_bn", "bn2"))


def _efficientnetb0() -> Iterator[tuple[str, str]]:
    yield from (("stem_conv", "conv_stem"), ("stem_bn", "bn1"))
    for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for block in range(blocks):
            keras, timm = f"block{stage + 1}{chr(ord('a') + block)}", f"blocks.{stage}.{block}"
            if stage:
                yield from ((f"{keras}_expand_conv", f"{timm}.conv_pw"), (f"{keras}_expand_bn", f"{timm}.bn1"))
            yield from ((f"{keras}_dwconv", f"{timm}.conv_dw"), (f"{keras}_bn", f"{timm}.bn{2 if stage else 1}"))
            yield f"{keras}_se_reduce", f"{timm}.se.conv_reduce"
            yield f"{keras}_se_expand", f"{timm}.se.conv_expand"
            yield f"{keras}_project_conv", f"{timm}.{'conv_pwl' if stage else 'conv_pw'}"
            yield f"{keras}_project_bn", f"{timm}.bn{3 if stage else 2}"
    yield from (("top_conv", "conv_head"), ("top_bn", "bn2"))


#: By name of the backbone, as in `regraft.models.registry.KERAS_BACKBONES`.
APPLICATIONS: Mapping[str, Application] = {
    "keras_vgg16": Application("VGG16", tuple(_vgg16()), takes_bgr=True),
    "keras_resnet50": Application("ResNet50", tuple(_resnet50()), bn_epsilon=1.001e-5, takes_bgr=True),
    "keras_mobilenetv2": Application("MobileNetV2", tuple(_mobilenetv2()), bn_epsilon=1e-3),
    "keras_efficientnetb0": Application("EfficientNetB0", tuple(_efficientnetb0()), bn_epsilon=1e-3, normalizes=True),
}

_CFG = {"input_size": (3, 224, 224), "interpolation": "bilinear", "num_classes": 0}
#: As `keras.applications.imagenet_utils.preprocess_input`: the means of the channels are subtracted, without a scale.
_CAFFE = {**_CFG, "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255), "std": (1 / 255,) * 3}
#: The module attribute from which `register_model` takes the configurations.
default_cfgs = generate_default_cfgs({
    "keras_vgg16": _CAFFE,
    "keras_resnet50": _CAFFE,
    "keras_mobilenetv2": {**_CFG, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    "keras_efficientnetb0": {**_CFG, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
})  # fmt: skip


@register_model
def keras_vgg16(pretrained: bool = False, **options: Any) -> VGG:
    """VGG16, whose pixels have Keras's scale."""
    model: VGG = vgg16(**options)
    return model


@register_model
def keras_resnet50(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet50 with its strides in the first convolution of a block, as in the paper and in Keras."""
    model: ResNet = resnet50(**options)
    for stage in ("layer2", "layer3", "layer4"):
        first, second = (model.get_submodule(f"{stage}.0.conv{number}") for number in (1, 2))
        first.stride, second.stride = second.stride, first.stride
    return model


@register_model
def keras_mobilenetv2(pretrained: bool = False, **options: Any) -> EfficientNet:
    """MobileNetV2 with TensorFlow's padding."""
    model: EfficientNet = mobilenetv2_100(pad_type="same", bn_eps=1e-3, **options)
    return model


@register_model
def keras_efficientnetb0(pretrained: bool = False, **options: Any) -> EfficientNet:
    """EfficientNetB0 with TensorFlow's padding."""
    model: EfficientNet = tf_efficientnet_b0(**options)
    return model
